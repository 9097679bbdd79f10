"""`facilitator migrate --from`: a journal moves from SQLite to PostgreSQL whole, or not at all."""

import asyncio
import sqlite3
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from msgspec.structs import replace

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.settlement import SettlementState, TransactionState
from facilitator.journal.engine import Connection
from facilitator.journal.migrate import LEASES, TABLES, TALLY
from facilitator.journal.postgres.pool import Pool
from facilitator.journal.postgres.store import PostgresStore
from facilitator.journal.sqlite.store import SQLiteStore
from facilitator.journal.store import Store, TransactionChange
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.commands import facilitator
from tests.support.journal import (
    ALICE,
    CHAIN_ID,
    LEASE,
    NOW,
    OTHER_CHAIN_ID,
    SIGNERS,
    claimed,
    filled,
    in_file,
    moved,
    next_nonce,
    payment,
    signing,
)
from tests.support.postgres import PASSWORD, settings
from tests.support.service import environment, request, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def fill(store: Store) -> None:
    """Some of everything that a journal may hold."""
    gone = await claimed(store, replace(payment(), deadline=2**63))
    final = TransactionChange(id=gone.transaction.id, state=TransactionState.FINAL)
    await store.record([final], [], NOW)
    await moved(store, gone.settlement, SettlementState.CONFIRMED)
    later = NOW + LEASE + 1
    assert await store.forget(CHAIN_ID, horizon=99, before=later, now=later, limit=9) == 1
    records = [await claimed(store) for _ in range(5)]
    await claimed(store, payment(chain_id=OTHER_CHAIN_ID, amount=2**256 - 1))
    await claimed(store, payment(token_nonce=b"\x05" * 32, nonce="\u0000 \ud7ff é"))
    await filled(store)
    again = records[1]
    call = again.transaction.call
    dearer = signing(SIGNERS[0], call, fees=again.transaction.attempts[0].fees.__class__(9, 9))
    attempt = dearer(again.transaction.account_nonce)
    assert await store.add_attempt(again.transaction.id, attempt, None, NOW)
    for record, state in zip(
        records[2:], (SettlementState.CONFIRMED, SettlementState.FAILED), strict=False
    ):
        await moved(store, record.settlement, state)
        ended = TransactionChange(
            id=record.transaction.id,
            state=TransactionState.MINED,
            block_number=9,
            gas_cost=2**80,
        )
        await store.record([ended], [], NOW + 2)
    await store.finalize(CHAIN_ID, 9)


async def in_database(url: str, name: str, columns: list[str]) -> list[tuple[Any, ...]]:
    async def read(db: Connection) -> list[tuple[Any, ...]]:
        names = ", ".join(f'"{column}"' for column in columns)
        found = await db.fetch(f'SELECT {names} FROM "{name}"')  # noqa: S608 - a table of ours
        return [tuple(row[column] for column in columns) for row in found]

    pool = await Pool.open(settings(url))
    try:
        return await pool.read(read)
    finally:
        await pool.close()


async def open_work(store: Store) -> list[object]:
    """What can still change, in one order."""
    work = await store.open_work(CHAIN_ID)
    return [sorted(work.records, key=lambda record: record.settlement.id), work.fillers]


async def test_every_row_arrives_as_it_was(tmp_path: Path, target: str) -> None:
    """And the numbering goes on after it: the next account nonce, the next transaction."""
    file = tmp_path / "old.db"
    store = await SQLiteStore.open(file)
    await fill(store)
    await store.close()
    store = await SQLiteStore.open(file)  # nobody waits for an answer any more
    nonce = await next_nonce(store)
    work = await open_work(store)
    counts = await store.settlement_counts(CHAIN_ID)
    assert {"pending", "confirmed", "failed"} <= set(counts.states)
    await store.close()
    done = await facilitator("migrate", {"DATABASE_URL": target}, "--from", f"sqlite:///{file}")
    assert done.code == 0, done.errors
    for name in TABLES:
        columns, rows = in_file(file, name)
        assert rows, f"nothing in {name} to compare"
        assert sorted(await in_database(target, name, columns)) == sorted(rows), name
        assert f"  {name} {len(rows)}" in done.output
    moved_to = await PostgresStore.open(settings(target))
    assert await open_work(moved_to) == work
    assert await next_nonce(moved_to) == nonce
    assert await moved_to.settlement_counts(CHAIN_ID) == counts
    fresh = await claimed(moved_to)
    assert fresh.transaction.account_nonce == nonce
    assert fresh.transaction.signer == ALICE
    await moved_to.close()
    assert PASSWORD not in done.output


async def test_no_table_is_forgotten(tmp_path: Path) -> None:
    await (await SQLiteStore.open(tmp_path / "new.db")).close()
    _, rows = in_file(tmp_path / "new.db", "sqlite_master")
    tables = {row[1] for row in rows if row[0] == "table"}
    assert tables == {*TABLES, TALLY, LEASES}


async def test_nothing_is_written_where_something_is_there_or_in_use(
    tmp_path: Path, target: str
) -> None:
    """A second time, from a file that is open, from none, and into a file."""
    file = tmp_path / "old.db"
    there, source = {"DATABASE_URL": target}, f"sqlite:///{file}"
    missing = await facilitator("migrate", there, "--from", source)
    assert (missing.code, missing.error) == (1, f"error: there is no journal {file}")
    assert not file.exists()
    store = await SQLiteStore.open(file)
    await fill(store)
    used = await facilitator("migrate", there, "--from", source)
    assert used.code == 1
    assert "another process uses the journal" in used.error
    await store.close()
    copyfile(file, tmp_path / "twin.db")
    assert (await facilitator("migrate", there, "--from", source)).code == 0
    twin = f"sqlite:///{tmp_path}/twin.db"
    for _ in range(2):  # a refused copy leaves the file as it is
        again = await facilitator("migrate", there, "--from", twin)
        assert again.code == 1
        assert "is not empty: there are rows in settlement" in again.error
    for name in TABLES:
        columns, rows = in_file(file, name)
        assert len(await in_database(target, name, columns)) == len(rows)
    for wrong in ({"DATABASE_URL": f"sqlite:///{tmp_path}/b.db"}, there):
        place = source if wrong is not there else target
        refused = await facilitator("migrate", wrong, "--from", place)
        assert refused.code == 2
        assert PASSWORD not in refused.errors


async def test_a_newer_journal_is_not_copied(tmp_path: Path, target: str) -> None:
    """It may have columns that would be left behind."""
    file = tmp_path / "old.db"
    await (await SQLiteStore.open(file)).close()
    with sqlite3.connect(file) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        db.execute(f"PRAGMA user_version = {version + 1}")
    db.close()
    refused = await facilitator("migrate", {"DATABASE_URL": target}, "--from", f"sqlite:///{file}")
    assert refused.code == 1
    assert "copy with the newer program" in refused.error


async def test_what_is_in_flight_is_settled_from_the_new_journal(
    devnet: Devnet, tmp_path: Path, target: str
) -> None:
    """Sent on SQLite, confirmed on PostgreSQL: each payment once, with the next one after them."""
    await approve(devnet)
    headers = [devnet_payment(devnet) for _ in range(4)]
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="2") as old:
        await devnet.rpc("evm_setIntervalMining", 0)
        pending = await asyncio.gather(*(old.settle(header) for header in headers))
        assert {reply["error"] for reply in pending} == {"Settlement pending"}
        assert await old.stop() == 0
    source = environment(devnet, tmp_path)["DATABASE_URL"]
    done = await facilitator(
        "migrate", environment(devnet, tmp_path, DATABASE_URL=target), "--from", source
    )
    assert done.code == 0, done.errors
    async with serve(devnet, tmp_path, DATABASE_URL=target) as new:
        await devnet.rpc("evm_setIntervalMining", 1)
        headers.append(devnet_payment(devnet))
        replies = await asyncio.gather(*(new.post("/settle", request(each)) for each in headers))
    assert [reply["success"] for _, reply in replies] == [True] * 5
    hashes = [reply["txHash"] for _, reply in replies]
    assert sorted(log.transaction_hash for log in await settled_logs(devnet)) == sorted(hashes)
