"""Verifies payments on one network: first the checks that ask neither journal nor chain."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from facilitator.domain.payment import PaymentRequirements, Reason, Refusal
from facilitator.domain.schemes import AnyPayment, jeju, scheme_of
from facilitator.domain.schemes.jeju import JejuPayment
from facilitator.domain.settlement import Settlement, may_open_again, repetition_refused
from facilitator.domain.verification import (
    EXACT_TIME_LEFT,
    Terms,
    check_authorization,
    check_offer,
    check_terms,
    check_time,
)
from facilitator.engine.simulate import Simulator
from facilitator.journal.store import Store
from facilitator.telemetry.tracing import span


@dataclass(kw_only=True, eq=False)
class Verifier:
    """Verifies payments on one network and leaves no trace. `clock` is in unix milliseconds.

    `contract` is None where none is configured: then only what was signed can be checked of Jeju
    payments, and in production they are refused.
    """

    simulator: Simulator
    store: Store
    terms: Terms
    contract: bytes | None
    production: bool
    clock: Callable[[], int]

    def check_jeju(
        self, payment: JejuPayment, claimed_payer: bytes | None, requirements: PaymentRequirements
    ) -> JejuPayment | Refusal:
        """Check all that needs only the request, apart from time. Returns the payment with its
        payer, recovered from the signature.
        """
        if self.contract is None and self.production:
            return Refusal(Reason.CONTRACT_NOT_DEPLOYED)
        payer = jeju.recover_payer(payment, claimed_payer)
        if isinstance(payer, Refusal):
            return payer
        signed = replace(payment, payer=payer)
        return check_terms(signed, requirements, self.terms) or signed

    async def check_exact(
        self,
        payment: AnyPayment,
        accepted: PaymentRequirements,
        requirements: PaymentRequirements,
    ) -> AnyPayment | Refusal:
        """Check the same for the standard dialect. Time is checked before the amount, but only
        where something else is wrong: a payment whose only fault is its time may be settled.

        The chain is asked only where the payer's contract must check the signature, since that
        refusal comes before others. Raises ChainUnavailable.
        """
        refusal = check_offer(accepted, requirements, self.terms)
        if refusal is not None:
            return refusal
        signed: AnyPayment = scheme_of(payment).as_signed(payment, self.terms.factories)
        if check_authorization(signed, requirements, self.terms, None) is None:
            return signed
        refusal = check_authorization(signed, requirements, self.terms, self.clock() // 1000)
        assert refusal is not None
        return await self.simulator.forged(signed) or refusal

    async def verify_jeju(
        self, payment: JejuPayment, claimed_payer: bytes | None, requirements: PaymentRequirements
    ) -> AnyPayment | Refusal:
        """Make all checks, in the order in which their refusals come. Raises ChainUnavailable and
        StoreError.
        """
        with span("verify"):
            late = check_time(payment, self.clock() // 1000)
            if late is not None:
                return late
            signed = self.check_jeju(payment, claimed_payer, requirements)
            return signed if isinstance(signed, Refusal) else await self._verify(signed)

    async def verify_exact(
        self,
        payment: AnyPayment,
        accepted: PaymentRequirements,
        requirements: PaymentRequirements,
    ) -> AnyPayment | Refusal:
        """Make all checks, in the order in which their refusals come. Raises ChainUnavailable and
        StoreError.
        """
        with span("verify"):
            signed = await self.check_exact(payment, accepted, requirements)
            if isinstance(signed, Refusal):
                return signed
            late = check_time(signed, self.clock() // 1000, EXACT_TIME_LEFT - 1)
            if late is not None:
                return await self.simulator.forged(signed) or late
            return await self._verify(signed)

    async def _verify(self, payment: AnyPayment) -> AnyPayment | Refusal:
        """Check a payment that passed all other checks against the journal and the chain."""
        scheme = scheme_of(payment)
        settlement = await self._known(payment)
        if settlement is not None:
            if not scheme.reports_conflicts:
                return Refusal(Reason.AUTHORIZATION_USED)
            return await self._refused_as_known(payment, settlement) or payment
        keys = scheme.payment_keys(payment)
        if await self.store.used_by([key for key in keys if key is not None]) is not None:
            return await self.simulator.forged(payment) or Refusal(Reason.AUTHORIZATION_USED)
        if not scheme.is_executable(payment):
            return payment
        return await self.simulator.examine(payment, self.clock() // 1000)

    async def _known(self, payment: AnyPayment) -> Settlement | None:
        """Return the settlement in the journal that has one of this payment's nonces, unless POST
        /settle of this payment would open it again.
        """
        scheme = scheme_of(payment)
        for key in scheme.payment_keys(payment):
            settlement = None if key is None else await self.store.find(key)
            if settlement is None:
                continue
            if not may_open_again(settlement, scheme.request_digest(payment)):
                return settlement
        return None

    async def _refused_as_known(
        self, payment: AnyPayment, settlement: Settlement
    ) -> Refusal | None:
        """Return with what POST /settle would refuse a payment whose nonce `settlement` has; None
        where it would wait for the outcome.
        """
        if settlement.request_digest == scheme_of(payment).request_digest(payment):
            return repetition_refused(settlement, self.clock())
        return await self.simulator.forged(payment) or await self.simulator.nonce_conflict(
            payment, settlement
        )
