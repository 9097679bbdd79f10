"""Settle this payment, and say what became of it: the part that a request sees.

Submitting claims the payment, signs and stores its transaction in one database transaction, and
only then sends it. From there on the settlement belongs to the loop (`watcher`); the request
merely waits for it, and may go away. Who waits is in the journal: at most one request is told of
success.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from msgspec import Struct

from facilitator.chain import Chain, Reverted
from facilitator.ethereum.addresses import checksum
from facilitator.listeners import Listener, Listeners
from facilitator.payments import Proof, Reason, Refusal
from facilitator.schemes import jeju
from facilitator.schemes.jeju import JejuPayment
from facilitator.settlement import Settlement, SettlementState, TransactionKind
from facilitator.signing import QueueFull, SignerPool
from facilitator.store import (
    Claimed,
    NewSettlement,
    Overcommitted,
    Ride,
    Store,
    StoreError,
)
from facilitator.telemetry import event, get_logger
from facilitator.verification import check_facts, check_time
from facilitator.watcher import Watcher

_log = get_logger(__name__)

# A listener's lease outlasts the longest wait by this much, so that it never ends before the reply.
LEASE_SLACK_MS = 15_000


class SettleReply(Struct, frozen=True):
    """What a request is told: a proof of payment, or why there is none (yet).

    `transaction_hash` is set as soon as there is a transaction, whatever became of it;
    `retry_after` is seconds, for refusals that pass.
    """

    proof: Proof | None = None
    refusal: Refusal | None = None
    transaction_hash: bytes | None = None
    retry_after: float | None = None


class Settler:
    """Settles payments on one network. `timeout` is in seconds, `clock` in unix milliseconds."""

    def __init__(
        self,
        *,
        chain: Chain,
        store: Store,
        signers: SignerPool,
        watcher: Watcher,
        listeners: Listeners,
        timeout: int,
        clock: Callable[[], int],
    ) -> None:
        self._chain = chain
        self._store = store
        self._signers = signers
        self._watcher = watcher
        self._listeners = listeners
        self._timeout = timeout
        self._clock = clock
        self._turns: dict[str, _Turn] = {}

    async def settle(
        self, payment: JejuPayment, request_digest: bytes, listener: Listener
    ) -> SettleReply:
        """Settle a payment whose signature and terms are checked; wait for the outcome until
        `timeout` seconds have passed.

        `request_digest` tells identical requests from others that use up the same nonce. Raises
        ChainUnavailable and StoreError only while this request has sent nothing.
        """
        until = anyio.current_time() + self._timeout
        key, _ = jeju.payment_keys(payment)
        async with self._turn(key):
            found = await self._store.find(key)
            if found is None or _may_open_again(found, request_digest):
                submitted = await self._submit(payment, request_digest, listener, until)
                if isinstance(submitted, SettleReply):
                    return submitted
                found = submitted
        ride = await self._ride(found.id)
        if found.request_digest != request_digest:
            return _duplicate(ride, over=found.state in _ENDED)
        return await self._follow(ride, listener, until)

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
        self, payment: JejuPayment, request_digest: bytes, listener: Listener, until: float
    ) -> SettleReply | Settlement:
        """Look at the chain, wait for a place, simulate, claim, send: a reply where nothing was
        claimed.
        """
        late = self._too_late(payment)
        if late is not None:
            return late
        answers = await self._chain.read(jeju.fact_calls(payment))
        facts = jeju.read_facts(payment, answers)
        refusal = check_facts(payment, facts)
        if refusal is not None:
            if refusal.reason is Reason.AUTHORIZATION_USED_ELSEWHERE:
                # The money sits in the contract, and only its owner can give it back.
                event(_log, logging.CRITICAL, "authorization_used_elsewhere", payer=payment.payer)
            return SettleReply(refusal=refusal)
        key, second_key = jeju.payment_keys(payment)
        spendable = (
            facts.balance if facts.allowance is None else min(facts.balance, facts.allowance)
        )
        new = NewSettlement(
            key=key,
            second_key=second_key,
            request_digest=request_digest,
            dialect="jeju",
            payment=payment,
            available=spendable,
            listener=listener.id,
            listener_until=self._lease(),
        )
        await self._signers.ready()
        try:
            async with self._signers.place(until) as signer:
                return self._too_late(payment) or await self._claim(new, signer)
        except (QueueFull, TimeoutError):
            return SettleReply(refusal=Refusal(Reason.OVERLOADED))

    def _too_late(self, payment: JejuPayment) -> SettleReply | None:
        late = check_time(payment, self._clock() // 1000, self._watcher.settle_margin)
        return None if late is None else SettleReply(refusal=late)

    def _lease(self) -> int:
        return self._clock() + self._timeout * 1000 + LEASE_SLACK_MS

    async def _claim(self, new: NewSettlement, signer: bytes) -> SettleReply | Settlement:
        payment = new.payment
        call = jeju.settlement_call(payment)
        prepared = await self._signers.prepare(call, signer)
        if isinstance(prepared, Reverted):
            return SettleReply(refusal=await self._why(payment, prepared))
        if isinstance(prepared, Refusal):
            return SettleReply(refusal=prepared)
        transaction = self._signers.transaction(TransactionKind.SETTLE, call, signer, *prepared)
        claimed = await self._store.claim(new, transaction, self._clock())
        if isinstance(claimed, Overcommitted):
            left = str(max(claimed.left, 0))
            short = Refusal(Reason.INSUFFICIENT_BALANCE, left, str(payment.amount))
            return SettleReply(refusal=short)
        if isinstance(claimed, Claimed):
            self._signers.claimed(signer)
            sent, attempt = claimed.transaction, claimed.transaction.attempts[-1]
            event(
                _log,
                logging.INFO,
                "settlement_submitted",
                settlement=claimed.settlement.id,
                transaction=attempt.hash,
                signer=checksum(signer),
                account_nonce=sent.account_nonce,
            )
            await self._watcher.send(sent, attempt)
        return claimed.settlement

    async def _why(self, payment: JejuPayment, reverted: Reverted) -> Refusal:
        """The contract says little about a transfer that failed: the facts may have changed since
        they were read.
        """
        answers = await self._chain.read(jeju.fact_calls(payment))
        refusal = check_facts(payment, jeju.read_facts(payment, answers))
        return refusal or jeju.explain_revert(payment, reverted.data, self._clock() // 1000)

    async def _follow(self, ride: Ride, listener: Listener, until: float) -> SettleReply:
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
            if ride.settlement.state is SettlementState.CONFIRMED and not listener.gone:
                now = self._clock()
                told = await self._store.mark_success_told(settlement.id, listener.id, now)
            return _reply(ride, told=told)
        except StoreError:
            # What was sent stays sent: that the journal is out of reach fails no payment.
            pending = Refusal(Reason.SETTLEMENT_PENDING)
            return SettleReply(refusal=pending, transaction_hash=_hash_of(ride))
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
    reason = Reason.AUTHORIZATION_USED if over else Reason.BEING_SETTLED
    return SettleReply(refusal=Refusal(reason), transaction_hash=_hash_of(ride))


def _reply(ride: Ride, *, told: bool) -> SettleReply:
    """The listener's reply; `told` where it has taken the right to say success."""
    settlement, transaction_hash = ride.settlement, _hash_of(ride)
    if settlement.state is SettlementState.CONFIRMED:
        if told:
            return SettleReply(proof=settlement.proof, transaction_hash=transaction_hash)
        return _duplicate(ride, over=True)
    refusal = settlement.refusal or Refusal(Reason.SETTLEMENT_PENDING)
    return SettleReply(refusal=refusal, transaction_hash=transaction_hash)


def _hash_of(ride: Ride) -> bytes:
    """The transaction that paid, or else the last one that was signed to."""
    proof = ride.settlement.proof
    return proof.transaction_hash if proof else ride.transactions[-1].attempts[-1].hash
