"""Tells whether a payment would settle, as far as its chain can tell.

Facts and a simulation of the very call that settling it would send, in one round trip; where the
simulation fails, one more names the cause.
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
    """Simulates payments on one chain. `sender` is the account that simulations come from. Its
    methods raise ChainUnavailable.
    """

    chain: Chain
    sender: bytes

    async def look(self, payment: AnyPayment, block: int | None = None) -> Examined:
        """Return the facts about a payment, at the latest block unless a number is given. Of one
        that brings its payer's deployment along, that is left out once it has happened.
        """
        answers = await self.chain.read(scheme_of(payment).fact_calls(payment), block)
        return await self._examined(payment, answers, block)

    async def look_beside(
        self, payment: AnyPayment, others: Sequence[AnyPayment]
    ) -> tuple[Examined, tuple[bool, ...]]:
        """Return the same, and which of the other payments had been executed by then: what the
        payer can spend does not show yet what those take that had not.
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
        """Return why a signature does not count of which only code of the payer's can tell whose it
        is, None where nothing speaks against it. This comes before all other refusals but that of
        the recipient. As long as the wallet that a listed factory would deploy is not there, only a
        simulation can tell.
        """
        if not scheme_of(payment).signed_by_code(payment):
            return None
        refusal = (await self.look(payment)).facts.refusal
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
        """Return what was `found` as of the latest block; where that reverts since the payment is
        only valid in a later one, what `ask` finds as of the pending block. The token wants a block
        that is strictly later than validAfter, and the clock may be ahead of the latest block.

        The second value says that even the pending block is too early, or that there is none.
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
        """Return why a payment is refused whose nonce `settlement`, of another payment, has."""
        used = True
        if settlement.state is SettlementState.FAILED and scheme_of(payment).reports_conflicts:
            used = (await self.look(payment)).facts.authorization_used
        return nonce_conflict(settlement, authorization_used=used)

    async def simulate(self, payment: AnyPayment, block: str = "latest") -> Reverted | None:
        """Run the call that would settle it, as of a block's tag."""
        scheme = scheme_of(payment)
        call, gas_cap = scheme.settlement_call(payment), scheme.gas_cap(payment)
        return await self.chain.simulate(call, self.sender, gas_cap, block)

    async def diagnose(
        self, payment: AnyPayment, reverted: Reverted, now: int, *, early: bool = False
    ) -> Refusal:
        """Return why that call reverted: what was read before may have changed since. `early`:
        there is no block yet in which it is valid.
        """
        scheme = scheme_of(payment)
        answers = await self.chain.read(scheme.diagnosis_calls(payment))
        refusal: Refusal = scheme.diagnose(payment, answers, reverted.data, now)
        if early and refusal.reason is Reason.TRANSACTION_REVERTED:
            return Refusal(Reason.BEFORE_NEXT_BLOCK)
        return refusal
