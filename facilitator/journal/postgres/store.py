"""The journal in a PostgreSQL database, which any number of processes share."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

import asyncpg
from msgspec.structs import replace

from facilitator.config.database import PostgreSQL
from facilitator.domain.settlement import Attempt, Settlement, SettlementCounts, Transaction
from facilitator.journal.postgres import (
    claims,
    forgetting,
    leases,
    listeners,
    queries,
    signed,
    tally,
)
from facilitator.journal.postgres.claims import ClaimedOrNot
from facilitator.journal.postgres.leases import FencedPool
from facilitator.journal.postgres.notify import PostgresNotices
from facilitator.journal.postgres.pool import CommitUnknown, Operation, Pool, T
from facilitator.journal.postgres.schema import migrate, refuse_forgetful
from facilitator.journal.store import (
    BudgetSpent,
    Claimed,
    Fence,
    IdempotencyKeyTaken,
    KeptReply,
    NewSettlement,
    NewTransaction,
    OpenWork,
    Overcommitted,
    SettlementChange,
    SettlementRecord,
    StoreError,
    Taken,
    TransactionChange,
)

# Seconds for the database to come back and say what became of a commit.
UNKNOWN_FOR = 15.0
LOOK_AGAIN = 0.25


class PostgresStore:
    """`Store` on one database. Use `PostgresStore.open`."""

    def __init__(self, pool: Pool | FencedPool, notices: PostgresNotices) -> None:
        self._pool = pool
        self.notices = notices

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

    async def close(self) -> None:
        await self._pool.close()

    async def claim(
        self, new: NewSettlement, transaction: NewTransaction, now: int
    ) -> Claimed | Taken | IdempotencyKeyTaken | Overcommitted | BudgetSpent:
        told = await self.claim_group((new,), lambda _: transaction, now)
        return told if isinstance(told, BudgetSpent) else told[0]

    async def claim_group(
        self,
        group: Sequence[NewSettlement],
        transaction: Callable[[tuple[int, ...]], NewTransaction],
        now: int,
    ) -> tuple[ClaimedOrNot, ...] | BudgetSpent:
        ours: list[bytes] = []

        def noted(claimed: tuple[int, ...]) -> NewTransaction:
            new = transaction(claimed)

            def sign(account_nonce: int) -> Attempt:
                attempt = new.sign(account_nonce)
                ours.append(attempt.hash)
                return attempt

            return replace(new, sign=sign)

        locks = claims.locks_of(group)
        try:
            return await self._pool.write(partial(claims.claim_group, group, noted, now), locks)
        except CommitUnknown as unknown:
            found = await self._once_known(partial(claims.group_claimed, group, ours[-1]), locks)
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

    async def settle_again(
        self, settlement_id: str, version: int, transaction: NewTransaction, now: int
    ) -> Transaction | BudgetSpent | None:
        return await self._pool.write(
            partial(claims.settle_again, settlement_id, version, transaction, now)
        )

    async def fill(
        self, transaction: NewTransaction, account_nonce: int, now: int
    ) -> Transaction | None:
        return await self._pool.write(partial(signed.fill, transaction, account_nonce, now))

    async def revive(self, chain_id: int, signer: bytes, account_nonce: int) -> bool:
        return await self._pool.write(partial(signed.revive, chain_id, signer, account_nonce))

    async def replace_with_filler(
        self,
        transaction: NewTransaction,
        account_nonce: int,
        outbid: Callable[[Attempt], Attempt],
        now: int,
    ) -> Transaction | None:
        return await self._pool.write(
            partial(signed.replace_with_filler, transaction, account_nonce, outbid, now)
        )

    async def add_attempt(
        self,
        transaction_id: int,
        attempt: Attempt,
        gas_budget: int | None,
        now: int,
        gas_limit: int | None = None,
    ) -> bool:
        return await self._pool.write(
            partial(signed.add_attempt, transaction_id, attempt, gas_budget, now, gas_limit)
        )

    async def record(
        self,
        transactions: Sequence[TransactionChange],
        settlements: Sequence[SettlementChange],
        now: int,
    ) -> tuple[Settlement, ...]:
        operation = partial(claims.record, transactions, settlements, now)
        try:
            return await self._pool.write(operation)
        except StoreError as error:
            if not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                raise
        # Somebody else has recorded the same proof at the same time, and now it can be seen.
        return await self._pool.write(operation)

    async def finalize(self, chain_id: int, block_number: int) -> int:
        return await self._pool.write(partial(signed.finalize, chain_id, block_number))

    async def forget(
        self, chain_id: int, *, horizon: int, before: int, now: int, limit: int
    ) -> int:
        return await self._pool.write(
            partial(forgetting.forget, chain_id, horizon, before, now, limit)
        )

    async def used_by(self, keys: Sequence[str]) -> bytes | None:
        return await self._pool.read(partial(forgetting.used_by, keys))

    async def gas_spent(self, chain_id: int, signer: bytes, now: int) -> int:
        return await self._pool.read(partial(signed.gas_spent, chain_id, signer, now))

    async def find(self, key: str) -> Settlement | None:
        return await self._pool.read(partial(queries.find, key))

    async def get(self, settlement_id: str) -> SettlementRecord | None:
        return await self._pool.read(partial(queries.get_record, settlement_id))

    async def find_transaction(self, transaction_hash: bytes) -> Settlement | None:
        return await self._pool.read(partial(queries.find_transaction, transaction_hash))

    async def open_work(self, chain_id: int) -> OpenWork:
        return await self._pool.read(partial(queries.open_work, chain_id))

    async def watched(self, chain_id: int, horizon: int) -> OpenWork:
        return await self._pool.read(partial(queries.watched, chain_id, horizon))

    async def outstanding(
        self, chain_id: int, asset: bytes, payer: bytes
    ) -> tuple[Settlement, ...]:
        return await self._pool.read(partial(queries.outstanding, chain_id, asset, payer))

    async def become_waiter(
        self, settlement_id: str, listener: str, until: int, now: int
    ) -> Settlement:
        return await self._pool.write(
            partial(listeners.listen, settlement_id, listener, until, now)
        )

    async def renew(self, settlement_id: str, listener: str, until: int) -> bool:
        return await self._pool.write(partial(listeners.renew, settlement_id, listener, until))

    async def let_go(self, settlement_id: str, listener: str) -> None:
        await self._pool.write(partial(listeners.let_go, settlement_id, listener))

    async def mark_success_replied(
        self, settlement_id: str, listener: str, now: int, reply: bytes | None = None
    ) -> bool:
        mark = partial(listeners.mark_success_replied, settlement_id, listener, now, reply)
        try:
            return await self._pool.write(mark)
        except CommitUnknown:
            # Nobody else has this listener's name: if the mark is there, it is ours.
            return await self._once_known(partial(mark, again=True))

    async def mark_all_replied(self, now: int) -> int:
        return await self._pool.write(partial(listeners.mark_all_replied, now))

    async def keep_reply(self, settlement_id: str, reply: bytes) -> None:
        await self._pool.write(partial(listeners.keep_reply, settlement_id, reply))

    async def find_reply(self, tenant: str, idempotency_key: str) -> KeptReply | None:
        return await self._pool.read(partial(queries.find_reply, tenant, idempotency_key))

    async def raise_nonce_floor(self, chain_id: int, signer: bytes, floor: int) -> int:
        return await self._pool.write(partial(signed.raise_nonce_floor, chain_id, signer, floor))

    async def in_flight(self, chain_id: int) -> dict[bytes, int]:
        return await self._pool.read(partial(queries.in_flight, chain_id))

    async def settlement_counts(self, chain_id: int) -> SettlementCounts:
        told, rows = await self._pool.read(partial(tally.counts, chain_id))
        if rows > tally.TALLY_ROWS:
            await self._pool.write(partial(tally.fold, chain_id))
        return told

    async def ping(self) -> None:
        # Rewriting the version that is there is a real write, and changes nothing.
        await self._pool.write(
            lambda db: db.execute("UPDATE facilitator_schema SET version = version")
        )

    async def lead(self, chain_id: int, holder: str, lease_ms: int) -> int | None:
        return await self._pool.write(partial(leases.lead, chain_id, holder, lease_ms))

    async def step_down(self, chain_id: int, holder: str) -> None:
        await self._pool.write(partial(leases.step_down, chain_id, holder))

    async def refuse_shared(self) -> None:
        await self._pool.read(leases.refuse_shared)

    def fenced(self, fence: Fence) -> "PostgresStore":
        return PostgresStore(FencedPool(self._pool, fence), self.notices)

    async def ended(self, settlement_ids: Sequence[str]) -> frozenset[str]:
        return await self._pool.read(partial(queries.ended, settlement_ids))
