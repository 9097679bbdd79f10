"""Settle this payment, and say what became of it: the part that a request sees.

Submitting claims the payment, signs and stores its transaction in one database transaction, and
only then sends it (`submission`). From there on the settlement belongs to the loop (`watcher`); the
request merely waits for it, and may go away. Who waits is in the journal: at most one request is
told of success.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from msgspec.structs import replace

from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes import AnyPayment, scheme_of
from facilitator.domain.schemes.eip3009 import Eip3009Payment
from facilitator.domain.settlement import ENDED, Settlement, SettlementState
from facilitator.engine.requests import (
    Order,
    Repetition,
    SettleReply,
    about,
    duplicate,
    may_open_again,
    reply_of,
)
from facilitator.engine.submit import LISTENER_LEASE_MS, Submitter
from facilitator.engine.waiters import Listener, Listeners
from facilitator.journal.store import SettlementRecord, Store, StoreError
from facilitator.telemetry.tracing import span

__all__ = ["Order", "Repetition", "SettleReply", "Settler"]

# Seconds after which a listener says that it still waits: often enough that a journal that is out
# of reach once or twice does not end its lease.
RENEW_EVERY = 4.0


class Settler:
    """Settles payments on one network. `timeout` is in seconds, `clock` in unix milliseconds."""

    def __init__(
        self,
        *,
        submitter: Submitter,
        store: Store,
        listeners: Listeners,
        timeout: int,
        clock: Callable[[], int],
    ) -> None:
        self._submitter = submitter
        self._store = store
        self._listeners = listeners
        self._timeout = timeout
        self._clock = clock
        self._turns: dict[str, _Turn] = {}

    async def settle(self, order: Order, listener: Listener) -> SettleReply:
        """Settle a payment; wait for the outcome until `timeout` seconds have passed. Raises
        ChainUnavailable and StoreError only while this request has sent nothing.
        """
        until = anyio.current_time() + self._timeout
        scheme = scheme_of(order.payment)
        keys = tuple(key for key in scheme.payment_keys(order.payment) if key is not None)
        key = keys[0]
        request_digest: bytes = scheme.request_digest(order.payment)
        async with self._turn(key):
            known = await self._store.find(key)
            used_by = None if known is not None else await self._store.used_by(keys)
            if used_by is not None:
                forged = await self._submitter.forged(order.payment)
                if forged is not None:
                    return forged
                refusal = Refusal(Reason.AUTHORIZATION_USED)
                return SettleReply(refusal=refusal, transaction_hash=used_by)
            found: SettlementRecord | Settlement
            if known is None or may_open_again(known, request_digest):
                submitted = await self._submitter.submit(order, request_digest, listener.id, until)
                if isinstance(submitted, SettleReply):
                    # What failed before keeps its hash, whatever speaks against it by now.
                    return submitted if known is None else await self._still(known, submitted)
                found = submitted
            else:
                found = known
        record = found if isinstance(found, SettlementRecord) else await self._record(found.id)
        if record.settlement.request_digest != request_digest:
            return await self._told_beside(order.payment, record)
        return await self._follow(order, record, listener, until)

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[None]:
        """One request at a time looks at one payment: a thousand identical ones cost one look at
        the chain. Between processes the journal's unique keys keep them apart.
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

    async def _follow(
        self, order: Order, record: SettlementRecord, listener: Listener, until: float
    ) -> SettleReply:
        """Be the one to hear the outcome, if nobody else is."""
        settlement = record.settlement
        if settlement.waiter != listener.id:
            now = self._clock()
            try:
                settlement = await self._store.become_waiter(
                    settlement.id, listener.id, now + LISTENER_LEASE_MS, now
                )
            except LookupError:
                raise StoreError("a settlement has just left the journal") from None
        if settlement.waiter != listener.id:
            return duplicate(record, over=settlement.replied_success_at is not None)
        self._listeners.add(settlement.id, listener)
        told = False
        try:
            with span("wait", settlement=settlement.id):
                record = await self._outcome(settlement.id, listener, until)
            reply = reply_of(record)
            if order.repetition and order.repetition.key == settlement.idempotency_key:
                reply = replace(reply, body=await order.encode(reply))
            if reply.proof is None:
                if record.settlement.state in ENDED and reply.body is not None:
                    await self._store.keep_reply(settlement.id, reply.body)
                return reply
            if not listener.gone:
                now = self._clock()
                told = await self._store.mark_success_replied(
                    settlement.id, listener.id, now, reply.body
                )
            return reply if told else duplicate(record, over=True)
        except StoreError:
            # What was sent stays sent: that the journal is out of reach fails no payment.
            return about(record, Refusal(Reason.SETTLEMENT_PENDING))
        finally:
            self._listeners.remove(settlement.id, listener)
            if not told:
                with anyio.CancelScope(shield=True), suppress(StoreError):
                    await self._store.let_go(settlement.id, listener.id)

    async def _told_beside(self, payment: AnyPayment, record: SettlementRecord) -> SettleReply:
        """What a payment is told whose nonce another payment has."""
        state = record.settlement.state
        if isinstance(payment, Eip3009Payment):
            refused = await self._submitter.refused_before_nonce(payment)
            if refused is not None:
                return refused
            if state is SettlementState.FAILED and not await self._submitter.is_used(payment):
                return about(record, Refusal(Reason.NONCE_TAKEN))
        return duplicate(record, over=state in ENDED)

    async def _outcome(
        self, settlement_id: str, listener: Listener, until: float
    ) -> SettlementRecord:
        record = await self._record(settlement_id)
        with anyio.move_on_at(until):
            while record.settlement.state not in ENDED and not listener.gone:
                with anyio.move_on_after(RENEW_EVERY) as pause:
                    await listener.wait()
                if pause.cancelled_caught and not await self._renew(settlement_id, listener):
                    break
                record = await self._record(settlement_id)
        return record

    async def _still(self, failed: Settlement, told: SettleReply) -> SettleReply:
        assert told.refusal is not None
        used = told.refusal.reason is Reason.AUTHORIZATION_USED
        # Used in vain: what it failed for says more.
        still = about(await self._record(failed.id), failed.refusal if used else told.refusal)
        return replace(still, retry_after=told.retry_after)

    async def _renew(self, settlement_id: str, listener: Listener) -> bool:
        """Whether this request still is the one to hear the outcome."""
        until = self._clock() + LISTENER_LEASE_MS
        with suppress(StoreError):  # the lease outlasts a journal that is out of reach for a while
            return await self._store.renew(settlement_id, listener.id, until)
        return True

    async def _record(self, settlement_id: str) -> SettlementRecord:
        record = await self._store.get(settlement_id)
        if record is None:
            raise StoreError("a settlement has vanished from the journal")
        return record


class _Turn:
    """A lock and how many hold it or wait for it."""

    __slots__ = ("holders", "lock")

    def __init__(self) -> None:
        self.holders = 0
        self.lock = anyio.Lock()
