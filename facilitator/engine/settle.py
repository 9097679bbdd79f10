"""Settle a payment and reply with its outcome: the part that a request sees.

Submitting claims the payment, signs and stores its transaction in one database transaction, and
only then sends it (`submit`). From there on the settlement belongs to the loop (`loop`); the
request merely waits for it, and may go away. Who waits is in the journal: at most one request
without an idempotency key reports success.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import anyio
from msgspec.structs import replace

from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.settlement import ENDED, Settlement, SettlementRecord, may_open_again
from facilitator.engine.requests import SettleReply, SettleRequest, about, duplicate, reply_of
from facilitator.engine.simulate import Simulator
from facilitator.engine.submit import WAITER_LEASE_MS, Submitter
from facilitator.engine.waiters import Waiter, Waiters
from facilitator.journal.store import Store, StoreError
from facilitator.telemetry.tracing import span

# Seconds after which a waiter renews its lease: it lasts three to four times as long, so that it
# survives one or two failures of the journal.
RENEW_EVERY = 4.0


@dataclass(eq=False)
class Settling:
    """One request's settlement, until its reply is sent: `reply`, unless `deliver` returns another.

    `record` is set where this request reports the outcome; `keeps_body` where the reply is stored,
    to be repeated to requests with the same idempotency key.
    """

    reply: SettleReply
    waiter: Waiter
    store: Store
    clock: Callable[[], int]
    record: SettlementRecord | None = None
    keeps_body: bool = False
    replied_success: bool = field(default=False, init=False)

    async def deliver(self, body: bytes) -> SettleReply:
        """Record that the reply is sent: `body` is `reply` as encoded. Must be called directly
        before the reply's first byte.

        Returns the reply that may be sent: `reply`, or another one where success must not be
        reported: the client is gone, another request has reported it, or the journal is out of
        reach.
        """
        if self.record is None:
            return self.reply
        settlement, kept = self.record.settlement, body if self.keeps_body else None
        try:
            if self.reply.proof is None:
                if settlement.state in ENDED and kept is not None:
                    await self.store.keep_reply(settlement.id, kept)
                return self.reply
            if not self.waiter.gone:
                self.replied_success = await self.store.mark_success_replied(
                    settlement.id, self.waiter.id, self.clock(), kept
                )
        except StoreError:
            return about(self.record, Refusal(Reason.SETTLEMENT_PENDING))
        return self.reply if self.replied_success else duplicate(self.record, over=True)


@dataclass(kw_only=True, eq=False)
class Settler:
    """Settles payments on one network. `timeout` is in seconds, `clock` in unix milliseconds."""

    simulator: Simulator
    submitter: Submitter
    store: Store
    waiters: Waiters
    timeout: int
    clock: Callable[[], int]
    _turns: "dict[str, _Turn]" = field(default_factory=dict, init=False)

    @asynccontextmanager
    async def settle(self, request: SettleRequest, waiter: Waiter) -> AsyncIterator[Settling]:
        """Settle a payment, and wait for the outcome for `timeout` seconds at most. The caller's
        block encodes the reply and delivers it: until its end no other request can report the
        outcome. Raises ChainUnavailable and StoreError only while this request has sent nothing.
        """
        until = anyio.current_time() + self.timeout
        request_digest: bytes = scheme_of(request.payment).request_digest(request.payment)
        found = await self._take_on(request, request_digest, waiter, until)
        if isinstance(found, SettlementRecord):
            if found.settlement.request_digest != request_digest:
                found = await self._refuse_conflict(request.payment, found)
            else:
                found = await self._become_waiter(found, waiter)
        if isinstance(found, SettleReply):
            yield Settling(found, waiter, self.store, self.clock)
            return
        async with self._follow(request, found, waiter, until) as settling:
            yield settling

    async def _take_on(
        self, request: SettleRequest, request_digest: bytes, waiter: Waiter, until: float
    ) -> SettlementRecord | SettleReply:
        """Submit the payment where no settlement has its nonce, or one that may be opened again.
        Returns the settlement that has the nonce then, or the reply where there is none.
        """
        scheme = scheme_of(request.payment)
        keys = tuple(key for key in scheme.payment_keys(request.payment) if key is not None)
        async with self._turn(keys[0]):
            known = await self.store.find(keys[0])
            used_by = None if known is not None else await self.store.used_by(keys)
            if used_by is not None:
                forged = await self.simulator.forged(request.payment)
                if forged is not None:
                    return SettleReply(refusal=forged)
                refusal = Refusal(Reason.AUTHORIZATION_USED)
                return SettleReply(refusal=refusal, transaction_hash=used_by)
            found: SettlementRecord | Settlement
            if known is None or may_open_again(known, request_digest):
                submitted = await self.submitter.submit(request, request_digest, waiter.id, until)
                if isinstance(submitted, SettleReply):
                    # A settlement that failed keeps its hash in the reply, whatever the refusal.
                    return submitted if known is None else await self._still(known, submitted)
                found = submitted
            else:
                found = known
        return found if isinstance(found, SettlementRecord) else await self._record(found.id)

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[None]:
        """Let one request at a time check one payment: a thousand identical ones read the chain
        once. Between processes, the journal's unique keys let only one claim it.
        """
        turn = self._turns.setdefault(key, _Turn())
        turn.holders += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.holders -= 1
            if turn.holders == 0:
                del self._turns[key]

    async def _become_waiter(
        self, record: SettlementRecord, waiter: Waiter
    ) -> SettlementRecord | SettleReply:
        """Become the one request that reports the outcome. Returns a reply where another one is."""
        settlement, now = record.settlement, self.clock()
        if settlement.waiter != waiter.id:
            try:
                settlement = await self.store.become_waiter(
                    settlement.id, waiter.id, now + WAITER_LEASE_MS, now
                )
            except LookupError:
                raise StoreError("a settlement has just left the journal") from None
        if settlement.waiter != waiter.id:
            return duplicate(record, over=settlement.replied_success_at is not None)
        return record

    @asynccontextmanager
    async def _follow(
        self, request: SettleRequest, record: SettlementRecord, waiter: Waiter, until: float
    ) -> AsyncIterator[Settling]:
        """Wait for the outcome. At the end of the block, unless it reported success, let another
        request wait for it.
        """
        settlement, key = record.settlement, request.idempotency_key
        self.waiters.add(settlement.id, waiter)
        hearing = partial(Settling, waiter=waiter, store=self.store, clock=self.clock)
        settling = hearing(about(record, Refusal(Reason.SETTLEMENT_PENDING)))
        try:
            # The payment is sent: a journal that is out of reach does not make it fail.
            with suppress(StoreError), span("wait", settlement=settlement.id):
                record = await self._ended(settlement.id, waiter, until)
                keeps_body = key is not None and key.key == settlement.idempotency_key
                settling = hearing(reply_of(record), record=record, keeps_body=keeps_body)
            yield settling
        finally:
            self.waiters.remove(settlement.id, waiter)
            if not settling.replied_success:
                with anyio.CancelScope(shield=True), suppress(StoreError):
                    await self.store.let_go(settlement.id, waiter.id)

    async def _refuse_conflict(self, payment: AnyPayment, record: SettlementRecord) -> SettleReply:
        """Return the reply to a payment whose nonce another payment has. To one that is forged or
        too late, nothing is disclosed about that.
        """
        if scheme_of(payment).reports_conflicts:
            refused = await self.submitter.refused_before_nonce(payment)
            if refused is not None:
                return refused
        conflict = await self.simulator.nonce_conflict(payment, record.settlement)
        return about(record, conflict)

    async def _ended(self, settlement_id: str, waiter: Waiter, until: float) -> SettlementRecord:
        """Return the settlement once it has ended, the time is up, or nobody waits any more."""
        record = await self._record(settlement_id)
        with anyio.move_on_at(until):
            while record.settlement.state not in ENDED and not waiter.gone:
                with anyio.move_on_after(RENEW_EVERY) as pause:
                    await waiter.wait()
                if pause.cancelled_caught and not await self._renew(settlement_id, waiter):
                    break
                record = await self._record(settlement_id)
        return record

    async def _still(self, failed: Settlement, reply: SettleReply) -> SettleReply:
        assert reply.refusal is not None
        used = reply.refusal.reason is Reason.AUTHORIZATION_USED
        # Its own nonce is used, without paying it: the reason why it failed explains more.
        still = about(await self._record(failed.id), failed.refusal if used else reply.refusal)
        return replace(still, retry_after=reply.retry_after)

    async def _renew(self, settlement_id: str, waiter: Waiter) -> bool:
        """Renew the lease. Return whether this request is still the one to report the outcome."""
        until = self.clock() + WAITER_LEASE_MS
        with suppress(StoreError):  # the lease outlasts a journal that is out of reach for a while
            return await self.store.renew(settlement_id, waiter.id, until)
        return True

    async def _record(self, settlement_id: str) -> SettlementRecord:
        record = await self.store.get(settlement_id)
        if record is None:
            raise StoreError("a settlement has vanished from the journal")
        return record


class _Turn:
    """A lock and how many hold it or wait for it."""

    __slots__ = ("holders", "lock")

    def __init__(self) -> None:
        self.holders = 0
        self.lock = anyio.Lock()
