"""Settle this payment, and say what became of it: the part that a request sees.

Submitting claims the payment, signs and stores its transaction in one database transaction, and
only then sends it. From there on the settlement belongs to the loop (`watcher`); the request
merely waits for it, and may go away. Who waits is in the journal: at most one request is told of
success.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from msgspec import Struct
from msgspec.structs import replace

from facilitator.chain import Reverted
from facilitator.ethereum.addresses import checksum
from facilitator.examination import Examiner
from facilitator.listeners import Listener, Listeners
from facilitator.payments import Proof, Reason, Refusal
from facilitator.schemes import AnyPayment, scheme_of
from facilitator.settlement import Settlement, SettlementState, TransactionKind
from facilitator.signing import QueueFull, SignerPool
from facilitator.store import (
    Claimed,
    IdempotencyKeyTaken,
    NewSettlement,
    NewTransaction,
    Overcommitted,
    Ride,
    Store,
    StoreError,
)
from facilitator.telemetry import event, get_logger
from facilitator.verification import check_time
from facilitator.watcher import Watcher

_log = get_logger(__name__)

# A listener's lease outlasts the longest wait by this much, so that it never ends before the reply.
LEASE_SLACK_MS = 15_000


class SettleReply(Struct, frozen=True):
    """What a request is told: a proof of payment, or why there is none (yet).

    `transaction_hash` is set as soon as there is a transaction, whatever became of it, and with it
    the settlement's id and state; `retry_after` is seconds, for refusals that pass. `body` is the
    reply as the journal keeps it, where the request has an idempotency key of its own.
    """

    proof: Proof | None = None
    refusal: Refusal | None = None
    transaction_hash: bytes | None = None
    settlement_id: str | None = None
    state: SettlementState | None = None
    retry_after: float | None = None
    body: bytes | None = None


class Repetition(Struct, frozen=True):
    """A request's idempotency key, and the digest of what came with it."""

    key: str
    body_digest: bytes


class Order(Struct, frozen=True):
    """A request to settle a payment whose signature and terms are checked.

    `dialect` names who asks in the journal; `encode` writes a final reply as the request will get
    it, to be kept where it may be repeated.
    """

    payment: AnyPayment
    dialect: str
    encode: Callable[[SettleReply], Awaitable[bytes]]
    repetition: Repetition | None = None


class Settler:
    """Settles payments on one network. `timeout` is in seconds, `clock` in unix milliseconds."""

    def __init__(
        self,
        *,
        examiner: Examiner,
        store: Store,
        signers: SignerPool,
        watcher: Watcher,
        listeners: Listeners,
        timeout: int,
        clock: Callable[[], int],
    ) -> None:
        self._examiner = examiner
        self._store = store
        self._signers = signers
        self._watcher = watcher
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
        key, _ = scheme.payment_keys(order.payment)
        request_digest: bytes = scheme.request_digest(order.payment)
        async with self._turn(key):
            known = await self._store.find(key)
            found: Ride | Settlement
            if known is None or _may_open_again(known, request_digest):
                submitted = await self._submit(order, request_digest, listener, until)
                if isinstance(submitted, SettleReply):
                    # What failed before keeps its hash, whatever speaks against it by now.
                    return submitted if known is None else await self._still(known, submitted)
                found = submitted
            else:
                found = known
        ride = found if isinstance(found, Ride) else await self._ride(found.id)
        if ride.settlement.request_digest != request_digest:
            return _duplicate(ride, over=ride.settlement.state in _ENDED)
        return await self._follow(order, ride, listener, until)

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

    async def _submit(
        self, order: Order, request_digest: bytes, listener: Listener, until: float
    ) -> SettleReply | Ride | Settlement:
        """Look at the chain, wait for a place, simulate, claim, send: a reply where nothing was
        claimed, the settlement that was there already where somebody else was faster.
        """
        late = self._too_late(order.payment)
        if late is not None:
            return late
        examined = await self._examiner.look(order.payment)
        payment, facts = examined.payment, examined.facts
        if facts.refusal is not None:
            if facts.refusal.reason is Reason.AUTHORIZATION_USED_ELSEWHERE:
                # The money sits in the contract, and only its owner can give it back.
                event(_log, logging.CRITICAL, "authorization_used_elsewhere", payer=payment.payer)
            return SettleReply(refusal=facts.refusal)
        key, second_key = scheme_of(payment).payment_keys(payment)
        new = NewSettlement(
            key=key,
            second_key=second_key,
            request_digest=request_digest,
            dialect=order.dialect,
            payment=payment,
            available=facts.spendable,
            listener=listener.id,
            listener_until=self._lease(),
            idempotency_key=None if order.repetition is None else order.repetition.key,
            body_digest=None if order.repetition is None else order.repetition.body_digest,
        )
        await self._signers.ready()
        try:
            async with self._signers.place(until) as signer:
                return self._too_late(payment) or await self._claim(new, signer)
        except (QueueFull, TimeoutError):
            return SettleReply(refusal=Refusal(Reason.OVERLOADED))

    def _too_late(self, payment: AnyPayment) -> SettleReply | None:
        late = check_time(payment, self._clock() // 1000, self._watcher.settle_margin)
        return None if late is None else SettleReply(refusal=late)

    def _lease(self) -> int:
        return self._clock() + self._timeout * 1000 + LEASE_SLACK_MS

    async def _claim(self, new: NewSettlement, signer: bytes) -> SettleReply | Ride | Settlement:
        payment, scheme = new.payment, scheme_of(new.payment)
        call = scheme.settlement_call(payment)
        prepared = await self._signers.prepare(call, signer, scheme.gas_cap(payment))
        if isinstance(prepared, Reverted):
            now = self._clock() // 1000
            return SettleReply(refusal=await self._examiner.diagnose(payment, prepared, now))
        if isinstance(prepared, Refusal):
            return SettleReply(refusal=prepared)
        transaction = self._signers.transaction(TransactionKind.SETTLE, call, signer, *prepared)
        # What is claimed is sent, even if the request is cancelled in between.
        with anyio.CancelScope(shield=True):
            told = await self._claim_and_send(new, transaction)
        return told

    async def _claim_and_send(
        self, new: NewSettlement, transaction: NewTransaction
    ) -> SettleReply | Ride | Settlement:
        claimed = await self._store.claim(new, transaction, self._clock())
        if isinstance(claimed, Overcommitted):
            left, asked = str(max(claimed.left, 0)), str(new.payment.amount)
            return SettleReply(refusal=Refusal(Reason.INSUFFICIENT_BALANCE, left, asked))
        if isinstance(claimed, IdempotencyKeyTaken):
            return SettleReply(refusal=Refusal(Reason.IDEMPOTENCY_CONFLICT))
        if not isinstance(claimed, Claimed):
            return claimed.settlement
        self._signers.claimed(transaction.signer)
        await self._send(claimed)
        return Ride(claimed.settlement, (claimed.transaction,))

    async def _send(self, claimed: Claimed) -> None:
        sent, attempt = claimed.transaction, claimed.transaction.attempts[-1]
        event(
            _log,
            logging.INFO,
            "settlement_submitted",
            settlement=claimed.settlement.id,
            transaction=attempt.hash,
            signer=checksum(sent.signer),
            account_nonce=sent.account_nonce,
        )
        await self._watcher.send(sent, attempt)

    async def _follow(
        self, order: Order, ride: Ride, listener: Listener, until: float
    ) -> SettleReply:
        """Be the one to hear the outcome, if nobody else is."""
        settlement = ride.settlement
        if settlement.listener != listener.id:
            now = self._clock()
            settlement = await self._store.listen(settlement.id, listener.id, self._lease(), now)
        if settlement.listener != listener.id:
            return _duplicate(ride, over=settlement.replied_success_at is not None)
        self._listeners.add(settlement.id, listener)
        told = False
        try:
            ride = await self._outcome(settlement.id, listener, until)
            reply = _reply(ride)
            if order.repetition and order.repetition.key == settlement.idempotency_key:
                reply = replace(reply, body=await order.encode(reply))
            if reply.proof is None:
                if ride.settlement.state in _ENDED and reply.body is not None:
                    await self._store.keep_reply(settlement.id, reply.body)
                return reply
            if not listener.gone:
                now = self._clock()
                told = await self._store.mark_success_told(
                    settlement.id, listener.id, now, reply.body
                )
            return reply if told else _duplicate(ride, over=True)
        except StoreError:
            # What was sent stays sent: that the journal is out of reach fails no payment.
            return _about(ride, Refusal(Reason.SETTLEMENT_PENDING))
        finally:
            self._listeners.remove(settlement.id, listener)
            if not told:
                with anyio.CancelScope(shield=True), suppress(StoreError):
                    await self._store.let_go(settlement.id, listener.id)

    async def _outcome(self, settlement_id: str, listener: Listener, until: float) -> Ride:
        ride = await self._ride(settlement_id)
        with anyio.move_on_at(until):
            while ride.settlement.state not in _ENDED and not listener.gone:
                await listener.wait()
                ride = await self._ride(settlement_id)
        return ride

    async def _still(self, failed: Settlement, told: SettleReply) -> SettleReply:
        assert told.refusal is not None
        used = told.refusal.reason is Reason.AUTHORIZATION_USED
        # Used in vain: what it failed for says more.
        about = _about(await self._ride(failed.id), failed.refusal if used else told.refusal)
        return replace(about, retry_after=told.retry_after)

    async def _ride(self, settlement_id: str) -> Ride:
        ride = await self._store.get(settlement_id)
        if ride is None:
            raise StoreError("a settlement has vanished from the journal")
        return ride


class _Turn:
    """A lock and how many hold it or wait for it."""

    __slots__ = ("holders", "lock")

    def __init__(self) -> None:
        self.holders = 0
        self.lock = anyio.Lock()


_ENDED = frozenset({SettlementState.CONFIRMED, SettlementState.FAILED, SettlementState.LOST})


def _may_open_again(settlement: Settlement, request_digest: bytes) -> bool:
    failed = settlement.state is SettlementState.FAILED
    return failed and settlement.request_digest == request_digest


def _duplicate(ride: Ride, *, over: bool) -> SettleReply:
    """What a request is told that is not the one to hear the outcome."""
    return _about(ride, Refusal(Reason.AUTHORIZATION_USED if over else Reason.BEING_SETTLED))


def _reply(ride: Ride) -> SettleReply:
    """What the one who hears the outcome is told."""
    settlement = ride.settlement
    if settlement.state is SettlementState.CONFIRMED:
        return replace(_about(ride, None), proof=settlement.proof)
    return _about(ride, settlement.refusal or Refusal(Reason.SETTLEMENT_PENDING))


def _about(ride: Ride, refusal: Refusal | None) -> SettleReply:
    settlement = ride.settlement
    return SettleReply(
        refusal=refusal,
        transaction_hash=_hash_of(ride),
        settlement_id=settlement.id,
        state=settlement.state,
    )


def _hash_of(ride: Ride) -> bytes:
    """The transaction that paid, or else the last one that was signed to."""
    proof = ride.settlement.proof
    return proof.transaction_hash if proof else ride.transactions[-1].attempts[-1].hash
