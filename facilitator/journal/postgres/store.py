"""The journal in a PostgreSQL database, which any number of processes share.

What is done here in another way than by the facade: claims take advisory locks, the other
processes are notified of what was recorded, and a commit whose reply was lost is looked up.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import blake2b
from time import monotonic

import asyncpg
from msgspec.structs import replace

from facilitator.config.database import PostgreSQL
from facilitator.domain.settlement import (
    Attempt,
    Settlement,
    SettlementChange,
    SettlementCounts,
    TransactionChange,
)
from facilitator.journal import operations, queries
from facilitator.journal.engine import Connection, StoreError
from facilitator.journal.postgres import leases
from facilitator.journal.postgres.leases import FencedPool
from facilitator.journal.postgres.notify import PostgresNotices, notify
from facilitator.journal.postgres.pool import CommitUnknown, Operation, Pool, T
from facilitator.journal.postgres.schema import migrate, refuse_forgetful
from facilitator.journal.records import (
    BudgetSpent,
    Claimed,
    ClaimedOrNot,
    IdempotencyKeyTaken,
    NewSettlement,
    NewTransaction,
    Overcommitted,
    Taken,
)
from facilitator.journal.store import Fence, SharedStore, reads, writes

# Seconds for the database to come back and say what became of a commit.
UNKNOWN_FOR = 15.0
LOOK_AGAIN = 0.25

# Above so many rows of a chain the tally is folded; and so many at a time.
TALLY_ROWS = 1_000
FOLD_LIMIT = 50_000


class PostgresStore(SharedStore):
    """`SharedStore` on one database. Use `PostgresStore.open`."""

    def __init__(self, pool: Pool | FencedPool, notices: PostgresNotices) -> None:
        super().__init__(pool)
        self._pool = pool
        self._notices = notices

    @classmethod
    async def open(cls, settings: PostgreSQL) -> "PostgresStore":
        """Connect, and bring the tables up to date. Raises StoreError."""
        pool = await Pool.open(settings)
        try:
            await refuse_forgetful(pool)
            await migrate(pool)
        except StoreError as error:
            await pool.close()
            raise StoreError(f"cannot open the journal {settings}: {error}") from None
        return cls(pool, PostgresNotices(settings.listens_at, pool))

    async def claim_group(
        self,
        group: Sequence[NewSettlement],
        transaction: Callable[[tuple[int, ...]], NewTransaction],
        now: int,
    ) -> tuple[ClaimedOrNot, ...] | BudgetSpent:
        """As the operation says, under the locks that `locks_of` names."""
        ours: list[bytes] = []

        def noted(claimed: tuple[int, ...]) -> NewTransaction:
            new = transaction(claimed)

            def sign(account_nonce: int) -> Attempt:
                attempt = new.sign(account_nonce)
                ours.append(attempt.hash)
                return attempt

            return replace(new, sign=sign)

        locks = locks_of(group)
        try:
            return await self._pool.write(
                lambda db: operations.claim_group(db, group, noted, now), locks
            )
        except CommitUnknown as unknown:
            found = await self._once_known(lambda db: group_claimed(db, group, ours[-1]), locks)
            if found is None:
                raise StoreError(f"nothing was written: {unknown}") from None
            return found

    async def _once_known(self, operation: Operation[T], locks: Sequence[int] = ()) -> T:
        """The result of an operation that waits for the locks of one whose commit is unknown, so
        that it sees what became of it; asked until the database is back, for a while.
        """
        until = monotonic() + UNKNOWN_FOR
        while True:
            try:
                return await self._pool.write(operation, locks)
            except StoreError:
                if monotonic() > until:
                    raise
            await asyncio.sleep(LOOK_AGAIN)

    async def record(
        self,
        transactions: Sequence[TransactionChange],
        settlements: Sequence[SettlementChange],
        now: int,
    ) -> tuple[Settlement, ...]:
        """As the operation says, and the other processes are notified."""

        async def record(db: Connection) -> tuple[Settlement, ...]:
            changed = await operations.record(db, transactions, settlements, now)
            await notify(db, [settlement.id for settlement in changed])
            return changed

        try:
            return await self._pool.write(record)
        except StoreError as error:
            if not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                raise
        # Somebody else has recorded the same proof at the same time, and now it can be seen.
        return await self._pool.write(record)

    async def mark_success_replied(
        self, settlement_id: str, waiter: str, now: int, reply: bytes | None = None
    ) -> bool:
        """As the operation says."""
        mark = partial(
            operations.mark_success_replied,
            settlement_id=settlement_id,
            waiter=waiter,
            now=now,
            reply=reply,
        )

        async def mark_or_marked(db: Connection) -> bool:
            # Nobody else has this waiter's name: if the mark is there, it is ours.
            return await mark(db) or bool(
                await db.fetchval(
                    """SELECT true FROM settlement
                       WHERE id = $1 AND listener = $2 AND replied_success_at = $3""",
                    settlement_id,
                    waiter,
                    now,
                )
            )

        try:
            return await self._pool.write(mark)
        except CommitUnknown:
            return await self._once_known(mark_or_marked)

    async def mark_all_replied(self, now: int) -> int:
        """As the operation says, once no lease shows another process."""

        async def mark(db: Connection) -> int:
            await leases.keep_others_out(db)
            return await operations.mark_all_replied(db, now)

        return await self._pool.write(mark)

    async def settlement_counts(self, chain_id: int) -> SettlementCounts:
        """As the query says; the tally has a row for each change, until they are folded."""

        async def count(db: Connection) -> tuple[SettlementCounts, int]:
            rows = "SELECT count(*) FROM settlement_tally WHERE chain_id = $1"
            counts = await queries.settlement_counts(db, chain_id)
            return counts, await db.fetchval(rows, chain_id)

        counts, rows = await self._pool.read(count)
        if rows > TALLY_ROWS:
            await self._pool.write(lambda db: _fold_tally(db, chain_id))
        return counts

    async def ping(self) -> None:
        """As the facade says. Rewriting the version that is there is a real write, and changes
        nothing.
        """
        await self._pool.write(
            lambda db: db.execute("UPDATE facilitator_schema SET version = version")
        )

    lead = writes(leases.lead)
    step_down = writes(leases.step_down)
    refuse_shared = reads(leases.refuse_shared)

    def fenced(self, fence: Fence) -> "PostgresStore":
        """As the facade says."""
        return PostgresStore(FencedPool(self._pool, fence), self._notices)

    @property
    def notices(self) -> PostgresNotices:
        """As the facade says."""
        return self._notices


def locks_of(group: Iterable[NewSettlement]) -> list[int]:
    """The advisory locks of a claim: nobody else claims with these keys, idempotency keys included,
    nor for the same payer and asset, whose pending payments are counted. Advisory, since rows that
    are not there yet cannot be locked; two names that fall on one number only wait for each other.
    """
    about: set[str] = set()
    for new in group:
        payment = new.payment
        about.add(f"payer {payment.chain_id} {payment.asset.hex()} {payment.payer.hex()}")
        about.update(f"key {key}" for key in (new.key, new.second_key) if key is not None)
        if new.idempotency_key is not None:
            about.add(f"idempotency {new.tenant} {new.idempotency_key}")
    digests = (blake2b(name.encode(), digest_size=8).digest() for name in about)
    return sorted({int.from_bytes(digest, signed=True) for digest in digests})


async def group_claimed(
    db: Connection, group: Sequence[NewSettlement], signed_hash: bytes
) -> tuple[ClaimedOrNot, ...] | None:
    """What `claim_group` has answered, if these are the bytes that it had signed."""
    if await queries.find_transaction(db, signed_hash) is None:
        return None
    answers: list[ClaimedOrNot] = []
    for new in group:
        settlement, other = await operations.find_taken(db, new)
        record = None if settlement is None else await queries.get(db, settlement.id)
        carriers = () if record is None else record.transactions
        ours = [each for each in carriers if each.attempts[0].hash == signed_hash]
        if settlement is not None and ours:
            answers.append(Claimed(settlement, ours[0]))
        elif settlement is not None and (other is None or not new.reopens(settlement)):
            answers.append(Taken(settlement))
        elif other is not None:
            answers.append(IdempotencyKeyTaken(other))
        else:
            left = new.available - await operations.committed(db, new)
            answers.append(Overcommitted(left))
    return tuple(answers)


async def _fold_tally(db: Connection, chain_id: int) -> None:
    """Make few rows of many, beside others that do the same: each takes rows of its own."""
    await db.execute(
        """WITH taken AS (
               DELETE FROM settlement_tally WHERE ctid = ANY (ARRAY(
                   SELECT ctid FROM settlement_tally WHERE chain_id = $1 LIMIT $2
                   FOR UPDATE SKIP LOCKED))
               RETURNING state, number
           ) INSERT INTO settlement_tally
             SELECT $1::bigint, state, sum(number) FROM taken GROUP BY state""",
        chain_id,
        FOLD_LIMIT,
    )
