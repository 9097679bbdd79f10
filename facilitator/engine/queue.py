"""The bounded queue before the signers of one chain.

Each signer may have only so many transactions in flight. `Account` is the state of one signer. A
payment that comes while all signers are full waits in `Queue`, first come, first served. When its
turn comes, payments behind it that can share its transaction leave the queue together with it.
"""

import contextvars
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio

from facilitator.domain.nonces import MAX_IN_FLIGHT
from facilitator.domain.payment import Reason
from facilitator.journal.store import NewSettlement

QUEUE_LIMIT = 1024
# Milliseconds for which a signer that could not pay for gas is not used where another one can.
UNFIT_FOR_MS = 15_000
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Account:
    """One signer's state.

    `reserved` slots are held by requests that have claimed nothing yet. `pending` transactions are
    in the journal and not mined; the loop has not yet read `unseen` of them. `floor` is the least
    account nonce that the chain would still accept. The signer signs only while it is `synced`: its
    next account nonce is certain. It is `doubted` once a node has refused one as too low;
    `looked_at` is when its account nonce was last read and not certain. `unfit` is why it could not
    pay for gas at the last check, which counts until `unfit_until` (both times in unix
    milliseconds); `balance` is what it had then, in wei.
    """

    address: bytes
    retires: bool
    reserved: int = 0
    pending: int = 0
    unseen: int = 0
    floor: int = 0
    balance: int | None = None
    synced: bool = False
    doubted: bool = False
    looked_at: int | None = None
    unfit: Reason | None = None
    unfit_until: int = 0

    @property
    def is_paused(self) -> bool:
        """Return whether it signs nothing, as its next account nonce was not certain when it was
        last read.
        """
        return not self.synced and self.looked_at is not None

    @property
    def load(self) -> int:
        """Return how many transactions are in flight, or about to be."""
        return self.reserved + self.pending

    def can_pay(self, cost: int) -> bool:
        """Return whether it had this many wei, and as many for each other transaction in flight:
        all of them may cost as much.
        """
        return self.balance is not None and self.balance >= cost * max(self.load, 1)

    def is_fit(self, now: int) -> bool:
        """Return whether it can pay for gas, as far as is known."""
        return self.unfit is None or now >= self.unfit_until


def among(accounts: Iterable[Account], now: int) -> list[Account]:
    """Return those that may take the next transaction, in the order of preference: those that can
    pay for gas, or all where none can; the least loaded first. Where every key retires, retiring
    ones count as well: what was taken on must still be finished.
    """
    certain = [account for account in accounts if account.synced]
    active = [account for account in certain if not account.retires] or certain
    fit = [account for account in active if account.is_fit(now)] or active
    return sorted(fit, key=lambda account: account.load)


def with_room(accounts: Iterable[Account], now: int) -> Account | None:
    """Return the account that takes the next transaction; None where none has room."""
    chosen = among(accounts, now)
    return chosen[0] if chosen and chosen[0].load < MAX_IN_FLIGHT else None


class QueueFull(Exception):
    """QUEUE_LIMIT payments are waiting for a signer already."""


class Member(Generic[T]):
    """A payment that may share a transaction. `limit` is the reason for a refusal where other
    payments have taken the money; it has `withdrawn` once nobody waits for it any more.
    """

    def __init__(self, new: NewSettlement, limit: Reason) -> None:
        self.new = new
        self.limit = limit
        self.withdrawn = False
        # The log fields and trace of its request, for work that another request does for it.
        self.context = contextvars.copy_context()
        self._result: T | Exception | None = None
        self._resolved = anyio.Event()

    def resolve(self, result: T | Exception | None) -> None:
        """Set the result, or the fault that prevented one; None: it must be claimed alone. Only
        the first call counts.
        """
        if not self._resolved.is_set():
            self._result = result
            self._resolved.set()

    async def result(self) -> T | None:
        """Wait for the result and return it. Raises the fault where there was one."""
        try:
            await self._resolved.wait()
        except BaseException:  # cancelled
            self.withdrawn = True
            raise
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


@dataclass(slots=True)
class Slot(Generic[T]):
    """A slot reserved with a signer, and the payments that share it. It is `taken` once there is a
    transaction in it.
    """

    account: Account
    company: tuple[Member[T], ...] = ()
    taken: bool = False

    @property
    def signer(self) -> bytes:
        """Return the signer's address."""
        return self.account.address

    def take(self) -> None:
        """Note that the slot has become a transaction in the journal."""
        self.taken = True
        self.account.reserved -= 1
        self.account.pending += 1
        self.account.unseen += 1

    def give_back(self) -> None:
        """Free the slot, unless it was taken. Payments that shared it are claimed alone."""
        if not self.taken:
            self.account.reserved -= 1
        for member in self.company:
            member.resolve(None)


@dataclass(slots=True, eq=False)
class _Queued(Generic[T]):
    member: Member[T] | None
    granted: anyio.Event = field(default_factory=anyio.Event)
    slot: Slot[T] | None = None


class Queue(Generic[T]):
    """First come, first served. `reserve` reserves a slot with a signer, or returns None where all
    are full; at most `most` payments share a slot.
    """

    def __init__(self, reserve: Callable[[], Account | None], most: int) -> None:
        self._reserve = reserve
        self._most = most
        self._queued: deque[_Queued[T]] = deque()

    def __len__(self) -> int:
        return len(self._queued)

    def admit(self) -> None:
        """Give free slots to those that have waited longest."""
        while self._queued:
            account = self._reserve()
            if account is None:
                return
            queued = self._queued.popleft()
            company = () if queued.member is None else tuple(self._company())
            queued.slot = Slot(account, company)
            queued.granted.set()

    def _company(self) -> Iterable[Member[T]]:
        sharing = [each for each in self._queued if each.member is not None][: self._most - 1]
        for queued in sharing:
            self._queued.remove(queued)
            queued.granted.set()
            assert queued.member is not None
            yield queued.member

    async def wait(self, member: Member[T] | None) -> Slot[T] | None:
        """Wait in turn for a reserved slot. Returns None where `member` shares the slot of another
        one, which resolves it. Raises QueueFull when too many wait already.
        """
        if len(self._queued) >= QUEUE_LIMIT:
            raise QueueFull
        queued = _Queued(member)
        self._queued.append(queued)
        try:
            await queued.granted.wait()
        except BaseException:  # cancelled: give back what may have been granted in the meantime
            if queued.slot is not None:
                queued.slot.give_back()
                self.admit()
            elif queued in self._queued:
                self._queued.remove(queued)
            elif member is not None:
                member.withdrawn = True
            raise
        return queued.slot
