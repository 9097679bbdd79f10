"""The journal: the truth about what was taken on, signed, sent and said.

One facade, the same laws on every engine. Every method is one database transaction; when it
returns, what it wrote survives a crash. Settlement states change by compare-and-set on `version`,
so nothing is overwritten that another reader has decided since. Times are unix milliseconds.
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
    """The method that runs an operation in a transaction of its own."""

    @wraps(operation)
    async def method(self: "Store", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._engine.write(lambda db: operation(db, *args, **kwargs))

    return method


def reads(operation: _Operation[P, T]) -> _Method[P, T]:
    """The method that asks several questions of one state of the database."""

    @wraps(operation)
    async def method(self: "Store", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._engine.read(lambda db: operation(db, *args, **kwargs))

    return method


def looks_up(operation: _Operation[P, T]) -> _Method[P, T]:
    """The method that asks one question, about a few rows that an index finds."""

    @wraps(operation)
    async def method(self: "Store", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._engine.look_up(lambda db: operation(db, *args, **kwargs))

    return method


class Store(ABC):
    """What a journal is asked. All methods raise StoreError; what each promises stands with its
    operation.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def claim(
        self, new: NewSettlement, transaction: NewTransaction, now: int
    ) -> Claimed | Taken | IdempotencyKeyTaken | Overcommitted | BudgetSpent:
        """Insert the settlement, hand out the account nonce, sign and store the attempt: all or
        nothing. A FAILED settlement of the same key and request digest is opened again instead
        (PENDING, refusal and kept reply cleared, waiter set, version + 1; an idempotency key that
        comes with the request takes the place of the one before, which is free from then on).
        Nothing but Claimed leaves a trace.
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
    """Whose turn it is to watch a chain, as this process knows it. `token` is the fencing token of
    its lease, None while another process has it.
    """

    __slots__ = ("chain_id", "token")

    def __init__(self, chain_id: int) -> None:
        self.chain_id = chain_id
        self.token: int | None = None


class Notices(Protocol):
    """Notices of settlements that `record` has changed, in whichever process. Some may be missed,
    so who waits for one looks in the journal as well, now and then.
    """

    @property
    def arrive(self) -> bool:
        """Whether they do at present, as far as is known."""

    def subscribe(self, tell: Callable[[str], None]) -> None:
        """`tell` is called with the id of each, while `run` runs."""

    async def run(self) -> None:
        """Listen for them, and again whenever that breaks off; return where nothing can be heard.
        Raises nothing of the database.
        """

    async def prove(self) -> str | None:
        """Instead of `run`, once: why none arrive here, without any password; None if they do."""


class SharedStore(Store):
    """A journal that several processes have open. One of them at a time watches a chain."""

    @abstractmethod
    async def lead(self, chain_id: int, holder: str, lease_ms: int) -> int | None:
        """Take the lease of a chain's loop, or prolong it, for so many milliseconds from now by
        the database's clock. Its fencing token, which rises whenever the lease goes to another
        holder; None where another one has it.
        """

    @abstractmethod
    async def step_down(self, chain_id: int, holder: str) -> None:
        """End the lease, if the holder has it: another one may take it at once."""

    @abstractmethod
    async def refuse_shared(self) -> None:
        """Raise StoreLocked where another process uses the journal, as far as leases show: one is
        held, or has ended within the seconds in which its holder may come back to it.
        """

    @abstractmethod
    def fenced(self, fence: Fence) -> Store:
        """The same journal for the loop of a chain: nothing is written, and LostLease raised,
        unless the lease is still the one of the token that the fence had when it was asked.
        """

    @property
    @abstractmethod
    def notices(self) -> Notices:
        """Of what any of the processes records."""

    ended = reads(queries.ended)
