"""Measure what the journal takes and how long it makes wait: `python -m tests.bench.store`.

A settlement is what it is to the service: claimed with a signed transaction, recorded as
confirmed, told of, each a commit of its own on a disk that is waited for. Every replica is a
process, with IN_FLIGHT payments of as many payers at a time; all share SIGNERS keys.
"""

import argparse
import asyncio
import hashlib
import math
import multiprocessing
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from msgspec import Struct

from facilitator.config.database import PostgreSQL
from facilitator.domain.settlement import SettlementState, TransactionState
from facilitator.ethereum.secp256k1 import Signer
from facilitator.journal.open import open_store
from facilitator.journal.store import Claimed, Store, TransactionChange
from tests.support.journal import NOW, change, payment, settlement_of, transaction_of
from tests.support.postgres import Server, running_bouncer, running_server, settings

IN_FLIGHT = 32
SIGNERS = tuple(Signer(bytes((number,)) * 32) for number in range(1, 9))
REPLICAS = (1, 2, 4)
DATABASE = "bench"


class Figures(Struct, frozen=True):
    """Settlements a second of all replicas together; milliseconds for one."""

    per_second: float
    p50: float
    p99: float

    @classmethod
    def of(cls, latencies: list[float], seconds: float) -> "Figures":
        """Of seconds that each settlement took."""
        ordered = sorted(latencies)
        at = (math.ceil(len(ordered) * share) - 1 for share in (0.5, 0.99))
        return cls(len(ordered) / seconds, *(1000 * ordered[place] for place in at))

    def cells(self) -> str:
        """For a table."""
        return f"{self.per_second:,.0f} | {self.p50:.1f} | {self.p99:.1f}"


async def settle(store: Store, number: int) -> None:
    """One payment from its claim to its reply; its transaction is watched for a reorg no more."""
    paid = payment(payer=secrets.token_bytes(20))
    signer = SIGNERS[number % len(SIGNERS)]
    claimed = await store.claim(settlement_of(paid), transaction_of(paid, signer=signer), NOW)
    assert isinstance(claimed, Claimed)
    final = TransactionChange(
        id=claimed.transaction.id,
        state=TransactionState.FINAL,
        block_number=17,
        gas_cost=10**14,
    )
    confirmed = change(claimed.settlement, SettlementState.CONFIRMED)
    await store.record([final], [confirmed], NOW)
    assert await store.mark_success_replied(claimed.settlement.id, "waiter", NOW)


async def load(database: Path | PostgreSQL, seconds: float) -> list[float]:
    """Settle for so long: the seconds that each took."""
    store = await open_store(database)
    latencies: list[float] = []
    until = time.monotonic() + seconds

    async def one_after_another(number: int) -> None:
        while (started := time.monotonic()) < until:
            await settle(store, number)
            latencies.append(time.monotonic() - started)

    await asyncio.gather(*(one_after_another(number) for number in range(IN_FLIGHT)))
    await store.close()
    return latencies


def replica(database: Path | PostgreSQL, seconds: float) -> list[float]:
    """One process's part."""
    return asyncio.run(load(database, seconds))


def measure(database: Path | PostgreSQL, replicas: int, seconds: float) -> Figures:
    """So many processes at once."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(replicas, mp_context=spawn) as pool:
        parts = [pool.submit(replica, database, seconds) for _ in range(replicas)]
        return Figures.of([each for part in parts for each in part.result()], seconds)


# In both engines' words; the last settlement that was really made is what all are copies of.
_COPIES = """WITH RECURSIVE copy (n) AS (
            SELECT {low} UNION ALL SELECT n + 1 FROM copy WHERE n < {high})"""
_KEPT = (
    "request_digest, dialect, chain_id, asset, amount, payment, state, version, listener_until,"
    " replied_success_at, proof_log_index, proof_block_number, proof_reference, proof_fee,"
    " traceparent, created_at, updated_at"
)
_OLD = "decode('00000000000000000000000000000000000000ff', 'hex')"
FINISHED = (
    f"""INSERT INTO settlement (id, key, tenant, payer, proof_transaction, {_KEPT})
        {_COPIES} SELECT md5(CAST(n AS TEXT)), md5('key ' || CAST(n AS TEXT)), '', payer,
            sha256(convert_to('proof ' || CAST(n AS TEXT), 'UTF8')), {_KEPT}
        FROM copy, (SELECT * FROM settlement WHERE replied_success_at > 0 LIMIT 1) AS one""",
    f"""INSERT INTO "transaction" (chain_id, signer, account_nonce, kind, target, calldata,
            gas_limit, state, block_number, created_at, gas_cost)
        {_COPIES} SELECT chain_id, {_OLD}, n, kind, target, calldata, gas_limit, state,
            block_number, created_at, gas_cost
        FROM copy, (SELECT * FROM "transaction" WHERE state = 'final' LIMIT 1) AS one""",
    f"""INSERT INTO attempt (hash, transaction_id, raw, max_fee_per_gas,
            max_priority_fee_per_gas, signed_at)
        SELECT sha256(convert_to('hash ' || CAST(made.id AS TEXT), 'UTF8')), made.id, raw,
            max_fee_per_gas, max_priority_fee_per_gas, signed_at
        FROM "transaction" AS made, (SELECT * FROM attempt LIMIT 1) AS one
        WHERE signer = {_OLD} AND account_nonce BETWEEN {{low}} AND {{high}}""",
    f"""INSERT INTO settlement_transaction (settlement_id, transaction_id, position)
        SELECT md5(CAST(account_nonce AS TEXT)), id, 0 FROM "transaction"
        WHERE signer = {_OLD} AND account_nonce BETWEEN {{low}} AND {{high}}""",
)


def finish_in_file(path: Path, low: int, high: int) -> None:
    """Put finished settlements into a SQLite file."""
    with closing(sqlite3.connect(path)) as db:
        db.create_function("md5", 1, lambda text: hashlib.md5(text.encode()).hexdigest())  # noqa: S324
        db.create_function("sha256", 1, lambda text: hashlib.sha256(text).digest())
        db.create_function("convert_to", 2, lambda text, _: text.encode())
        db.create_function("decode", 2, lambda text, _: bytes.fromhex(text))
        for statement in FINISHED:
            db.execute(statement.format(low=low, high=high))
        db.commit()


def finish_on_server(server: Server, low: int, high: int) -> None:
    """Put finished settlements into the database."""
    for statement in FINISHED:
        server.execute(DATABASE, statement.format(low=low, high=high))
    server.execute(DATABASE, "VACUUM ANALYZE")


@contextmanager
def fresh(server: Server) -> Iterator[PostgreSQL]:
    """The database without anything in it."""
    server.create(DATABASE)
    yield settings(server.url(DATABASE))
    server.drop(DATABASE)


def compare(server: Server, folder: Path, seconds: float) -> Iterator[str]:
    """Each engine, and several replicas on one PostgreSQL."""
    yield "| journal | replicas | settlements/s | p50, ms | p99, ms |"
    yield "|---|--:|--:|--:|--:|"
    yield f"| SQLite | 1 | {measure(folder / 'one.db', 1, seconds).cells()} |"
    for replicas in REPLICAS:
        with fresh(server) as database:
            yield f"| PostgreSQL | {replicas} | {measure(database, replicas, seconds).cells()} |"
    with running_bouncer(server) as bouncer, fresh(server):
        database = settings(bouncer.url(DATABASE), statement_cache=0)
        yield f"| PostgreSQL, PgBouncer | 1 | {measure(database, 1, seconds).cells()} |"
        bouncer.stop()


def grow(server: Server, folder: Path, seconds: float, rows: list[int]) -> Iterator[str]:
    """One replica, with ever more settlements that are finished."""
    yield "| finished settlements | journal | settlements/s | p50, ms | p99, ms |"
    yield "|--:|---|--:|--:|--:|"
    path = folder / "growing.db"
    with fresh(server) as database:
        before = 0
        for number in rows:
            if number > before:
                finish_in_file(path, before + 1, number)
                finish_on_server(server, before + 1, number)
            before = max(before, number)
            yield f"| {number:,} | SQLite | {measure(path, 1, seconds).cells()} |"
            yield f"| {number:,} | PostgreSQL | {measure(database, 1, seconds).cells()} |"


def main() -> None:
    """Print both tables, line by line as they are measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each figure")
    parser.add_argument("--rows", type=int, default=1_000_000, help="finished ones at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_server(durable=True) as server:
        folder = Path(name)
        for line in compare(server, folder, options.seconds):
            print(line, flush=True)
        print()
        for line in grow(server, folder, options.seconds, [0, options.rows // 10, options.rows]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
