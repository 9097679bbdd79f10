"""What a database engine gives the operations: transactions to run in, and the errors it raises.

An operation is a coroutine that takes a `Connection`, inside a transaction. Its SQL is written
once, for PostgreSQL; SQLite's connection translates the few words that differ. On SQLite a
connection never waits, so the thread that writes runs an operation without an event loop.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from facilitator.domain.settlement import Attempt
from facilitator.journal.records import NewTransaction

T = TypeVar("T")


class StoreError(Exception):
    """The database did not do what it was asked; whether it was written is unknown."""


class StoreLocked(StoreError):
    """Another process has this database open."""


class LostLease(StoreError):
    """Nothing was written: another process watches the chain by now."""


class Undo(Exception):
    """Raised by an operation to roll its transaction back and return `result` to the caller."""

    def __init__(self, result: object) -> None:
        super().__init__()
        self.result = result


class Row(Protocol):
    """A row, as every driver returns it."""

    def __getitem__(self, column: str, /) -> Any: ...


class Connection(Protocol):
    """A database, inside a transaction. Parameters are $1, $2 and so on; a list is one parameter,
    matched by `= ANY($1)`. Whatever is formatted into a statement is a constant of the program.
    """

    async def fetch(self, sql: str, *parameters: object) -> Sequence[Row]:
        """All rows."""

    async def fetchrow(self, sql: str, *parameters: object) -> Row | None:
        """The first row."""

    async def fetchval(self, sql: str, *parameters: object) -> Any:
        """The first column of the first row; None where there is no row."""

    async def execute(self, sql: str, *parameters: object) -> int:
        """Run a statement that changes rows; return how many it changed."""

    async def lock(self, sql: str, *parameters: object) -> None:
        """Lock the rows that a SELECT ... FOR UPDATE finds, in its order; do nothing on an engine
        with a single writer.
        """

    async def insert_signed(
        self,
        new: NewTransaction,
        account_nonce: int,
        attempt: Attempt,
        carried: Sequence[str],
        now: int,
    ) -> int:
        """Insert a transaction with its first attempt, and which settlements it carries, in their
        order; return its id.
        """

    async def add_to_spent(self, chain_id: int, signer: bytes, day: int, wei: int) -> None:
        """Add `wei` to what the FINAL transactions of a chain, a signer and a day have cost."""


Operation = Callable[[Connection], Awaitable[T]]


class Engine(Protocol):
    """Runs operations, each in a transaction of its own. All raise StoreError."""

    async def write(self, operation: Operation[T]) -> T:
        """Return the operation's result, once it is committed, or once Undo has rolled it back."""

    async def read(self, operation: Operation[T]) -> T:
        """Return the result of an operation that only reads, from one state of the database."""

    async def look_up(self, operation: Operation[T]) -> T:
        """Return the result of one statement that reads a few rows by an index."""

    async def close(self) -> None:
        """Finish what was asked, then release the database."""


_SIGNED = (
    "on PostgreSQL one statement inserts what is signed, since every round trip holds up whoever"
    " waits for the signer's row; SQLite has no statement that inserts into several tables"
)
_SPENT = (
    "PostgreSQL adds wei up in the statement, since others add at the same time; SQLite's integers"
    " have 64 bits"
)
# The operations of the store whose SQL differs between the engines, and why. Beside these,
# PostgreSQL is asked what became of a commit in doubt (`mark_success_replied`, `claim_group`); on a
# file none is.
DIFFERENCES = {
    "claim": _SIGNED,
    "claim_group": _SIGNED,
    "settle_again": _SIGNED,
    "fill": _SIGNED,
    "revive": _SPENT,
    "replace_with_filler": _SPENT,
    "finalize": _SPENT,
    "record": "the other processes on a PostgreSQL database are notified",
    "mark_all_replied": "leases show who else uses a PostgreSQL database; a file has a lock",
    "settlement_counts": "on PostgreSQL the tally has many rows, which are folded now and then",
    "ping": "the version is rewritten unchanged, and each engine keeps it in another place",
}
