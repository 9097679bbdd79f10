"""A connection to PostgreSQL, on which operations run; and what they do in another way here."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from facilitator.domain.settlement import Attempt
from facilitator.journal.engine import Row
from facilitator.journal.records import NewTransaction
from facilitator.journal.rows import attempt_columns


class Driver(Protocol):
    """What is used of asyncpg's connection."""

    async def fetch(self, query: str, *args: object) -> Sequence[Row]: ...

    async def fetchrow(self, query: str, *args: object) -> Row | None: ...

    async def fetchval(self, query: str, *args: object) -> Any: ...

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str: ...

    async def copy_records_to_table(
        self,
        table_name: str,
        *,
        records: Iterable[tuple[object, ...]],
        columns: Sequence[str],
        timeout: float,
    ) -> str: ...

    def terminate(self) -> None: ...


class PostgresConnection:
    """`Connection` on asyncpg's, inside a transaction."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.fetch = driver.fetch
        self.fetchrow = driver.fetchrow
        self.fetchval = driver.fetchval

    async def execute(self, sql: str, *parameters: object, timeout: float | None = None) -> int:
        """As the protocol says; within so many seconds, where a number is given."""
        # The last word of the status is how many rows it was, as in "UPDATE 3".
        _, _, rows = (await self.driver.execute(sql, *parameters, timeout=timeout)).rpartition(" ")
        return int(rows) if rows.isdigit() else 0

    async def lock(self, sql: str, *parameters: object) -> None:
        """As the protocol says."""
        await self.driver.execute(sql, *parameters)

    async def insert_signed(
        self,
        new: NewTransaction,
        account_nonce: int,
        attempt: Attempt,
        carried: Sequence[str],
        now: int,
    ) -> int:
        """As the protocol says, in one round trip, since the signer's row is locked meanwhile."""
        transaction_id = await self.fetchval(
            """WITH made AS (
                   INSERT INTO "transaction" (chain_id, signer, account_nonce, kind, target,
                       calldata, gas_limit, l1_fee, state, created_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', $9) RETURNING id
               ), bytes AS (
                   INSERT INTO attempt (hash, transaction_id, raw, max_fee_per_gas,
                       max_priority_fee_per_gas, signed_at)
                   SELECT $10, id, $11, $12::bigint, $13::bigint, $14::bigint FROM made
               ), carried AS (
                   INSERT INTO settlement_transaction (settlement_id, transaction_id, position)
                   SELECT settlement_id, id, place - 1 FROM made,
                       unnest($15::text[]) WITH ORDINALITY AS listed (settlement_id, place)
               ) SELECT id FROM made""",
            *(new.chain_id, new.signer, account_nonce, new.kind),
            *(new.call.target, new.call.calldata, new.gas_limit, str(new.l1_fee), now),
            *attempt_columns(attempt),
            list(carried),
        )
        return int(transaction_id)

    async def add_to_spent(self, chain_id: int, signer: bytes, day: int, wei: int) -> None:
        """As the protocol says, in one statement, since others add at the same time."""
        await self.execute(
            """INSERT INTO gas_spent (chain_id, signer, day, wei) VALUES ($1, $2, $3, $4)
               ON CONFLICT (chain_id, signer, day) DO UPDATE
                   SET wei = (gas_spent.wei::numeric + excluded.wei::numeric)::text""",
            chain_id,
            signer,
            day,
            str(wei),
        )
