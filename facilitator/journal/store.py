"""The journal: the truth about what was claimed, signed, sent and replied.

One facade, the same laws on every engine. Every method is one database transaction; when it
returns, what it wrote survives a crash. Settlement states change by compare-and-set on `version`,
so no change overwrites one that was decided meanwhile. Times are unix milliseconds.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from facilitator.domain.settlement import (
    OpenWork,
    SettlementChange,
    SettlementRecord,
    TransactionChange,
)
from facilitator.journal import operations, pruning, queries
from facilitator.journal.engine import Connection, Engine, LostLease, StoreError, StoreLocked
from facilitator.journal.records import (
    BudgetSpent,
    Claimed,
    ClaimedOrNot,
    IdempotencyKeyTaken,
    KeptReply,
    NewSettlement,
    NewTransaction,
    Overcommitted,
    Taken,
)

# What the other rooms use: they need not know in which file it is.
__all__ = [
    "BudgetSpent",
    "Claimed",
    "ClaimedOrNot",
    "Fence",
    "IdempotencyKeyTaken",
    "KeptReply",
    "LostLease",
    "NewSettlement",
    "NewTransaction",
    "Notices",
    "OpenWork",
    "Overcommitted",
    "SettlementChange",
    "SettlementRecord",
    "SharedStore",
    "Store",
    "StoreError",
    "StoreLocked",
    "Taken",
    "TransactionChange",
]

P = ParamSpec("P")
T = TypeVar("T")
_Operation = Callable[Concatenate[Connection, P], Coroutine[Any, Any, T]]
_Method = Callable[Concatenate["Store", P], Coroutine[Any, Any, T]]


def writes(operation: _Operation[P, T]) -> _Method[P, T]:
    """Make a method of an operation: it runs in a transaction of its own, committed on return."""

    @wraps(operation)
    async def method(self: "Store", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._engine.write(lambda db: operation(db, *args, **kwargs))

    return method


def reads(operation: _Operation[P, T]) -> _Method[P, T]:
    """Make a method of an operation whose statements all read one state of the database."""

    @wraps(operation)
    async def method(self: "Store", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._engine.read(lambda db: operation(db, *args, **kwargs))

    return method


def looks_up(operation: _Operation[P, T]) -> _Method[P, T]:
    """Make a method of an operation that is one statement, and reads a few rows by an index."""

    @wraps(operation)
    async def method(self: "Store", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._engine.look_up(lambda db: operation(db, *args, **kwargs))

    return method


class Store(ABC):
    """A journal. All methods raise StoreError; what each promises is written at its operation."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def claim(
        self, new: NewSettlement, transaction: NewTransaction, now: int
    ) -> Claimed | Taken | IdempotencyKeyTaken | Overcommitted | BudgetSpent:
        """Insert the settlement, hand out the account nonce, sign and store the attempt: all or
        nothing. A FAILED settlement of the same key and request digest is opened again instead:
        PENDING, refusal and kept reply cleared, waiter set, version + 1. An idempotency key of the
        request then replaces the one before, which is free again. Nothing but Claimed leaves a
        trace.
        """
        answer = await self.claim_group((new,), lambda _: transaction, now)
        return answer if isinstance(answer, BudgetSpent) else answer[0]

    claim_group = writes(operations.claim_group)
    settle_again = writes(operations.settle_again)
    fill = writes(operations.fill)
    revive = writes(operations.revive)
    replace_with_filler = writes(operations.replace_with_filler)
    add_attempt = writes(operations.add_attempt)
    raise_nonce_floor = writes(operations.raise_nonce_floor)
    record = writes(operations.record)
    finalize = writes(operations.finalize)
    forget = writes(pruning.forget)

    become_waiter = writes(operations.become_waiter)
    renew = writes(operations.renew)
    let_go = writes(operations.let_go)
    mark_success_replied = writes(operations.mark_success_replied)
    mark_all_replied = writes(operations.mark_all_replied)
    keep_reply = writes(operations.keep_reply)

    find = looks_up(queries.find)
    find_reply = looks_up(queries.find_reply)
    outstanding = looks_up(queries.outstanding)
    settlement_counts = looks_up(queries.settlement_counts)
    used_by = looks_up(pruning.used_by)

    get = reads(queries.get)
    find_transaction = reads(queries.find_transaction)
    open_work = reads(queries.open_work)
    watched = reads(queries.watched)
    in_flight = reads(queries.in_flight)

    @abstractmethod
    async def ping(self) -> None:
        """Raise StoreError unless the database can be written."""

    async def close(self) -> None:
        """Finish what was asked, then release the database."""
        await self._engine.close()


class Fence:
    """What this process knows of the lease of a chain's loop. `token` is the fencing token of the
    lease, None while another process has it.
    """

    __slots__ = ("chain_id", "token")

    def __init__(self, chain_id: int) -> None:
        self.chain_id = chain_id
        self.token: int | None = None


class Notices(Protocol):
    """Notices of settlements that `record` has changed, in whichever process. Some may be missed,
    so whoever waits for one must read the journal now and then as well.
    """

    @property
    def arrive(self) -> bool:
        """Whether notices arrive at present, as far as is known."""

    def subscribe(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called with the id of each settlement, while `run` runs."""

    async def run(self) -> None:
        """Receive notices, and connect again whenever that fails; return where they cannot arrive.
        Raises no error of the database.
        """

    async def prove(self) -> str | None:
        """Try once, instead of `run`: return why no notices arrive, without any password; None if
        they do.
        """


class SharedStore(Store):
    """A journal that several processes have open. One of them at a time watches a chain."""

    @abstractmethod
    async def lead(self, chain_id: int, holder: str, lease_ms: int) -> int | None:
        """Take the lease of a chain's loop, or prolong it, to end `lease_ms` milliseconds from now
        by the database's clock. Return its fencing token, which rises whenever the lease goes to
        another holder; None where another one has it.
        """

    @abstractmethod
    async def step_down(self, chain_id: int, holder: str) -> None:
        """End the lease, if `holder` has it, so that another one may take it at once."""

    @abstractmethod
    async def refuse_shared(self) -> None:
        """Raise StoreLocked where another process uses the journal, as far as leases show: one is
        held, or ended so short a time ago that its holder may still come back.
        """

    @abstractmethod
    def fenced(self, fence: Fence) -> Store:
        """Return the same journal for the loop of a chain. It writes nothing and raises LostLease
        where the lease's token is no longer the one that the fence had when the write was asked
        for.
        """

    @property
    @abstractmethod
    def notices(self) -> Notices:
        """Notices of what any of the processes records."""

    ended = reads(queries.ended)
