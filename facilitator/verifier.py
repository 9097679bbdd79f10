"""Would this payment settle? The checks of one network, those that ask nobody first."""

from collections.abc import Callable

from msgspec.structs import replace

from facilitator.chain import Chain
from facilitator.payments import Quote, Reason, Refusal
from facilitator.schemes import jeju
from facilitator.schemes.jeju import JejuPayment
from facilitator.settlement import SettlementState
from facilitator.store import Store
from facilitator.verification import Terms, check_facts, check_terms, check_time


class Verifier:
    """Verifies payments on one network and leaves no trace. `clock` is in unix milliseconds.

    `contract` is None where none is configured: then only what was signed can be checked, and in
    production not even that is of use. `sender` is the signer that a settlement would come from.
    """

    def __init__(
        self,
        *,
        chain: Chain,
        store: Store,
        terms: Terms,
        contract: bytes | None,
        production: bool,
        sender: bytes | None,
        clock: Callable[[], int],
    ) -> None:
        self._chain = chain
        self._store = store
        self._terms = terms
        self._contract = contract
        self._production = production
        self._sender = sender
        self._clock = clock

    def check_request(
        self, payment: JejuPayment, claimed_payer: bytes | None, quote: Quote
    ) -> JejuPayment | Refusal:
        """The checks that need nothing but the request, time excepted. The payment with its payer,
        who signed it.
        """
        if self._contract is None and self._production:
            return Refusal(Reason.CONTRACT_NOT_DEPLOYED)
        payer = jeju.recover_payer(payment, claimed_payer)
        if isinstance(payer, Refusal):
            return payer
        signed = replace(payment, payer=payer)
        return check_terms(signed, quote, self._terms) or signed

    async def verify(
        self, payment: JejuPayment, claimed_payer: bytes | None, quote: Quote
    ) -> JejuPayment | Refusal:
        """All checks, in the order of their words. Raises ChainUnavailable and StoreError."""
        now = self._clock() // 1000
        late = check_time(payment, now)
        if late is not None:
            return late
        signed = self.check_request(payment, claimed_payer, quote)
        if isinstance(signed, Refusal):
            return signed
        if await self._is_known(signed):
            return Refusal(Reason.AUTHORIZATION_USED)
        return await self._check_chain(signed, now) or signed

    async def _is_known(self, payment: JejuPayment) -> bool:
        for key in jeju.payment_keys(payment):
            settlement = None if key is None else await self._store.find(key)
            if settlement is not None and settlement.state is not SettlementState.FAILED:
                return True
        return False

    async def _check_chain(self, payment: JejuPayment, now: int) -> Refusal | None:
        """What the chain would say, from facts and a simulation read in one round trip."""
        if self._contract is None:
            return None
        call = jeju.settlement_call(payment)
        answers, reverted = await self._chain.read_and_simulate(
            jeju.fact_calls(payment), call, self._sender or bytes(20)
        )
        refusal = check_facts(payment, jeju.read_facts(payment, answers))
        if refusal is None and reverted is not None:
            refusal = jeju.explain_revert(payment, reverted.data, now)
        return refusal
