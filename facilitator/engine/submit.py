"""Take a payment on: look at the chain, wait for a signer, then have it claimed and sent
(`claiming`), alone or with others that wait. From there on the settlement belongs to the loop
(`watcher`).
"""

import logging
from collections.abc import Callable

import anyio

from facilitator.chain.client import Chain
from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.verification import check_time
from facilitator.engine.claiming import Claimer, Submitted
from facilitator.engine.loop import Watcher
from facilitator.engine.payment_search import PaymentSearch
from facilitator.engine.requests import SettleReply, SettleRequest
from facilitator.engine.signers import UNFIT, QueueFull, SignerPool
from facilitator.engine.simulate import Simulator
from facilitator.journal.store import NewSettlement, Store
from facilitator.telemetry.logs import event, get_logger
from facilitator.telemetry.tracing import current_traceparent, span

_log = get_logger(__name__)

# Milliseconds that a waiter counts for, unless it says that it still waits.
WAITER_LEASE_MS = 15_000


class Submitter:
    """Takes on payments of one network. `clock` is in unix milliseconds."""

    def __init__(
        self,
        *,
        chain: Chain,
        simulator: Simulator,
        store: Store,
        signers: SignerPool,
        watcher: Watcher,
        search: PaymentSearch,
        batch_max: int,
        clock: Callable[[], int],
    ) -> None:
        self._claimer = Claimer(
            chain=chain,
            simulator=simulator,
            store=store,
            signers=signers,
            watcher=watcher,
            too_late=self._too_late,
            batch_max=batch_max,
            clock=clock,
        )
        self._simulator = simulator
        self._store = store
        self._signers = signers
        self._watcher = watcher
        self._search = search
        self._clock = clock

    async def submit(
        self, request: SettleRequest, request_digest: bytes, waiter: str, until: float
    ) -> Submitted:
        """A reply where nothing was claimed, the settlement that was there already where somebody
        else was faster. It waits for a place until `until` on the event loop's clock. Raises
        ChainUnavailable and StoreError.
        """
        late = self._too_late(request.payment)
        if late is not None:
            return await self.refused_before_nonce(request.payment) or late
        looked = await self._look(request, request_digest, waiter)
        if isinstance(looked, SettleReply):
            return looked
        await self._signers.ready()
        await self._claimer.ready()
        until = min(until, self._deadline(looked[0].payment))
        try:
            with span("claim"):
                return await self._claim_with_any(*looked, until)
        except (QueueFull, TimeoutError):
            refused = SettleReply(refusal=Refusal(Reason.OVERLOADED))
            return self._too_late(request.payment) or refused

    async def forged(self, payment: AnyPayment) -> SettleReply | None:
        """What is told about a signature that the payer's contract does not take, and about nothing
        else. Raises ChainUnavailable.
        """
        refusal = await self._simulator.forged(payment)
        return None if refusal is None else SettleReply(refusal=refusal)

    async def refused_before_nonce(self, payment: AnyPayment) -> SettleReply | None:
        """What an authorization is told before anything about its nonce: that it is forged, or too
        late. Raises ChainUnavailable.
        """
        return await self.forged(payment) or self._too_late(payment)

    async def is_used(self, payment: AnyPayment) -> bool:
        """Whether the chain shows its nonce as used. Raises ChainUnavailable."""
        return (await self._simulator.look(payment)).facts.authorization_used

    async def _look(
        self, request: SettleRequest, request_digest: bytes, waiter: str
    ) -> tuple[NewSettlement, Reason] | SettleReply:
        """What is to be claimed, and what to say where other payments have taken the money."""
        paid = request.payment
        with span("verify"):
            others = await self._store.outstanding(paid.chain_id, paid.asset, paid.payer)
            beside = [each.payment for each in others]
            examined, used = await self._simulator.look_beside(paid, beside)
        payment, facts = examined.payment, examined.facts
        if facts.refusal is not None:
            return await self._refused(payment, facts.refusal)
        key = request.idempotency_key
        payment_key, second_key = scheme_of(payment).payment_keys(payment)
        new = NewSettlement(
            key=payment_key,
            second_key=second_key,
            request_digest=request_digest,
            dialect=request.dialect,
            payment=payment,
            available=facts.spendable,
            outstanding={
                other.id: 0 if was_used else other.payment.amount
                for other, was_used in zip(others, used, strict=True)
            },
            waiter=waiter,
            waiter_until=self._clock() + WAITER_LEASE_MS,
            idempotency_key=None if key is None else key.key,
            body_digest=None if key is None else key.body_digest,
            traceparent=current_traceparent(),
        )
        return new, facts.limit

    async def _refused(self, payment: AnyPayment, refusal: Refusal) -> SettleReply:
        if refusal.reason is Reason.AUTHORIZATION_USED_ELSEWHERE:
            # The money sits in the contract, and only its owner can give it back.
            event(_log, logging.CRITICAL, "authorization_used_elsewhere", payer=payment.payer)
        if refusal.reason is not Reason.AUTHORIZATION_USED:
            return SettleReply(refusal=refusal)
        found = await self._search.transaction_of(payment)
        return SettleReply(refusal=refusal, transaction_hash=found)

    def _too_late(self, payment: AnyPayment) -> SettleReply | None:
        late = check_time(payment, self._clock() // 1000, self._watcher.settle_margin)
        return None if late is None else SettleReply(refusal=late)

    def _deadline(self, payment: AnyPayment) -> float:
        """When a payment that waits for a place can be told that it has come too late, on the event
        loop's clock.
        """
        left = payment.deadline - self._watcher.settle_margin + 1 - self._clock() // 1000
        return anyio.current_time() + min(left, 2**31)

    async def _claim_with_any(self, new: NewSettlement, limit: Reason, until: float) -> Submitted:
        """Claim with the signer whose turn it is; with the next one while that cannot pay for gas
        and another one may.
        """
        for _ in self._signers.addresses[1:]:
            told = await self._claim_in_turn(new, limit, until)
            refusal = told.refusal if isinstance(told, SettleReply) else None
            unfit = refusal is not None and refusal.reason in UNFIT
            if not unfit or not self._signers.has_another():
                return told
        return await self._claim_in_turn(new, limit, until)

    async def _claim_in_turn(self, new: NewSettlement, limit: Reason, until: float) -> Submitted:
        member = self._claimer.member(new, limit)
        if member is not None:
            async with self._signers.place(until, member) as place:
                if place is None:
                    told = await member.answer()
                elif place.company:
                    told = await self._claimer.claim_group(member, place)
                else:
                    told = await self._claimer.claim(new, limit, place)
            if told is not None:
                return told
        async with self._signers.place(until) as place:
            assert place is not None
            return await self._claimer.claim(new, limit, place)
