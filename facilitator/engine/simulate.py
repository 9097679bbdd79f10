"""Find out whether a payment would settle, from the state of its chain.

One round trip reads the facts and simulates the very call that would settle it; where that reverts,
another one finds the cause.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain, Reverted
from facilitator.domain.payment import Facts, Reason, Refusal
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.settlement import Settlement, SettlementState, nonce_conflict
from facilitator.ethereum.smart_wallets import accepts

T = TypeVar("T")
_SIGNATURE_REASONS = frozenset({Reason.INVALID_SIGNATURE, Reason.UNLISTED_FACTORY})


class Examined(Struct, frozen=True):
    """A payment as its settlement would carry it, and what the chain shows about it."""

    payment: AnyPayment
    facts: Facts


@dataclass(kw_only=True, eq=False)
class Simulator:
    """Simulates payments on one chain, as calls from the account `sender`. Its methods raise
    ChainUnavailable.
    """

    chain: Chain
    sender: bytes

    async def read_facts(self, payment: AnyPayment, block: int | None = None) -> Examined:
        """Return the facts about a payment, as of the latest block or the given one. Where the
        payer's contract is deployed by then, the payment is returned without its deployment.
        """
        answers = await self.chain.read(scheme_of(payment).fact_calls(payment), block)
        return await self._examined(payment, answers, block)

    async def read_facts_beside(
        self, payment: AnyPayment, others: Sequence[AnyPayment]
    ) -> tuple[Examined, tuple[bool, ...]]:
        """Return the facts, and which of the payer's other payments were executed as of the same
        block: the spendable amount still includes what the remaining ones will take.
        """
        calls = scheme_of(payment).fact_calls(payment)
        asked = [scheme_of(other).used_call(other) for other in others]
        answers = await self.chain.read([*calls, *asked])
        used = tuple(bool(int.from_bytes(answer)) for answer in answers[len(calls) :])
        return await self._examined(payment, answers[: len(calls)]), used

    async def _examined(
        self, payment: AnyPayment, answers: tuple[bytes, ...], block: int | None = None
    ) -> Examined:
        scheme = scheme_of(payment)
        facts: Facts = scheme.facts(payment, answers)
        question = scheme.wallet_question(payment, answers)
        if question is None:
            return Examined(payment, facts)
        [answer] = await self.chain.read([question], block)
        if not accepts(answer):
            refused = Refusal(Reason.INVALID_SIGNATURE, "the payer's contract does not accept it")
            facts = replace(facts, refusal=refused)
        return Examined(scheme.as_deployed(payment), facts)

    async def forged(self, payment: AnyPayment) -> Refusal | None:
        """Return why a signature that only the payer's contract can check is not valid, None where
        no fault was found. This refusal comes before all others but that of the recipient. While
        the wallet that a listed factory would deploy is not there, only a simulation finds a fault.
        """
        if not scheme_of(payment).signed_by_code(payment):
            return None
        refusal = (await self.read_facts(payment)).facts.refusal
        return refusal if refusal is not None and refusal.reason in _SIGNATURE_REASONS else None

    async def examine(self, payment: AnyPayment, now: int) -> AnyPayment | Refusal:
        """Return the payment as it would settle, or why it would not; `now` in unix seconds."""
        scheme = scheme_of(payment)
        call, gas_cap = scheme.settlement_call(payment), scheme.gas_cap(payment)
        answers, reverted = await self.chain.read_and_simulate(
            scheme.fact_calls(payment), call, self.sender, gas_cap
        )
        examined = await self._examined(payment, answers)
        if examined.facts.refusal is not None:
            return examined.facts.refusal
        if examined.payment != payment:
            payment = examined.payment
            reverted = await self.simulate(payment)
        reverted, early = await self.or_in_next_block(
            payment, reverted, partial(self.simulate, payment)
        )
        if reverted is not None:
            return await self.diagnose(payment, reverted, now, early=early)
        return payment

    async def or_in_next_block(
        self,
        payment: AnyPayment,
        found: T,
        ask: Callable[[str], Awaitable[T]],
    ) -> tuple[T, bool]:
        """Return what was `found` as of the latest block or, where that is a revert because the
        payment is only valid in a later block, what `ask` finds as of the pending block. The token
        requires a block strictly later than validAfter, and our clock may be ahead of the chain.

        The second value is True where even the pending block is too early, or where there is none.
        """
        valid_after = scheme_of(payment).valid_after(payment)
        if not isinstance(found, Reverted) or valid_after is None:
            return found, False
        if (await self.chain.head()).timestamp > valid_after:
            return found, False
        try:
            later = await ask("pending")
        except ChainUnavailable:  # a node need not have a pending block
            return found, True
        return later, later == found

    async def nonce_conflict(self, payment: AnyPayment, settlement: Settlement) -> Refusal:
        """Return why a payment is refused where `settlement`, of another payment, has its nonce."""
        used = True
        if settlement.state is SettlementState.FAILED and scheme_of(payment).reports_conflicts:
            used = (await self.read_facts(payment)).facts.authorization_used
        return nonce_conflict(settlement, authorization_used=used)

    async def simulate(self, payment: AnyPayment, block: str = "latest") -> Reverted | None:
        """Simulate the call that would settle it, as of a block's tag; return its revert."""
        scheme = scheme_of(payment)
        call, gas_cap = scheme.settlement_call(payment), scheme.gas_cap(payment)
        return await self.chain.simulate(call, self.sender, gas_cap, block)

    async def diagnose(
        self, payment: AnyPayment, reverted: Reverted, now: int, *, early: bool = False
    ) -> Refusal:
        """Return why that call reverted, from facts read again, as they may have changed. `early`:
        the payment is not valid yet, not even in the pending block.
        """
        scheme = scheme_of(payment)
        answers = await self.chain.read(scheme.diagnosis_calls(payment))
        refusal: Refusal = scheme.diagnose(payment, answers, reverted.data, now)
        if early and refusal.reason is Reason.TRANSACTION_REVERTED:
            return Refusal(Reason.BEFORE_NEXT_BLOCK)
        return refusal
