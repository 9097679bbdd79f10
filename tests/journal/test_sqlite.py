"""What is SQLite's own: one process a file, group commit, crashes, full disks."""

import asyncio
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from facilitator.journal.sqlite.store import SQLiteStore
from facilitator.journal.store import Claimed, StoreError, StoreLocked
from tests.support.claims import CHAIN, claim, confirm, new_settlement, new_transaction, proof

pytestmark = pytest.mark.anyio

CLAIM_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from facilitator.journal.sqlite.store import SQLiteStore
from tests.support.claims import claim

async def main():
    store = await SQLiteStore.open(Path(sys.argv[1]))
    first = int(sys.argv[2])
    async def work(lane):
        number = first + lane
        while True:
            await claim(store, number)
            print(number, flush=True)
            number += 8
    await asyncio.gather(*(work(lane) for lane in range(8)))

asyncio.run(main())
"""


async def test_kill_9_loses_no_acknowledged_claim_and_leaves_no_nonce_gap(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    acknowledged: list[int] = []
    for life in range(3):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLAIM_FOR_EVER, str(path), str(life * 100_000)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        for _ in range(100):
            acknowledged.append(int(await process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        rest = await process.stdout.read()
        acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line[-1:] == b"\n"]
        await process.wait()
    store = await SQLiteStore.open(path)
    records = (await store.open_work(CHAIN)).records
    keys = {record.settlement.key for record in records}
    assert {f"key-{number}" for number in acknowledged} <= keys
    nonces = sorted(record.transactions[0].account_nonce for record in records)
    assert nonces == list(range(len(records)))
    await store.close()


async def test_a_second_user_of_the_file_is_refused(tmp_path: Path) -> None:
    """Under whatever name it reaches the file; and let in once the first has gone."""
    path = tmp_path / "journal.db"
    link = tmp_path / "link.db"
    store = await SQLiteStore.open(path)
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(StoreLocked, match="another process uses the journal"):
            await SQLiteStore.open(name)
    await store.close()
    await (await SQLiteStore.open(path)).close()


async def test_waiters_do_not_outlive_their_process(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    store = await SQLiteStore.open(path)
    await claim(store, waiter_until=2**62)
    await store.close()
    store = await SQLiteStore.open(path)
    found = await store.find("key-1")
    assert found is not None
    assert found.waiter is None
    await store.close()


async def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """StoreError for what did not fit, and what was acknowledged stays."""
    path = tmp_path / "journal.db"
    store = await SQLiteStore.open(path)
    kept = 0

    async def fill_up() -> None:
        nonlocal kept
        for number in range(10_000):
            await claim(store, number)
            kept += 1

    def limit(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages + 20}")

    await store._writer.run(limit)
    with pytest.raises(StoreError):
        await fill_up()
    assert kept > 0
    for number in range(kept):
        assert await store.find(f"key-{number}") is not None
    assert await store.find(f"key-{kept}") is None
    await store.close()
    store = await SQLiteStore.open(path)
    claimed = await claim(store, kept)
    assert claimed.transaction.account_nonce == kept
    await store.close()


async def test_a_newer_schema_by_one_is_accepted_and_by_two_is_not(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await (await SQLiteStore.open(path)).close()
    for accepted in (True, False):
        with sqlite3.connect(path) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            db.execute(f"PRAGMA user_version = {version + 1}")
        db.close()
        if accepted:
            await (await SQLiteStore.open(path)).close()
        else:
            with pytest.raises(StoreError, match="too new"):
                await SQLiteStore.open(path)


async def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="cannot open the journal"):
        await SQLiteStore.open(path)
    with pytest.raises(StoreError, match="cannot open the journal"):
        await SQLiteStore.open(tmp_path / "no" / "folder.db")


async def test_the_cost_of_the_hot_statements_does_not_grow_with_what_is_finished(
    tmp_path: Path,
) -> None:
    """No statement of a claim or of a turn of the loop scans the finished rows."""
    path = tmp_path / "journal.db"
    store = await SQLiteStore.open(path)
    seen: list[str] = []
    await store._writer.run(lambda db: db.set_trace_callback(seen.append))
    claimed = await claim(store, second_key="second")
    await store.open_work(CHAIN)
    await store.watched(CHAIN, 1)
    await store.in_flight(CHAIN)
    await confirm(store, claimed, proof())
    await store.finalize(CHAIN, 1)
    await store.become_waiter(claimed.settlement.id, "you", 1, 1)
    await store.mark_success_replied(claimed.settlement.id, "me", 1)
    await store._writer.run(lambda db: db.set_trace_callback(None))
    await store.close()
    db = sqlite3.connect(path)
    checked = 0
    for statement in seen:
        if statement.split()[0] in ("SELECT", "UPDATE"):
            plan = db.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            steps = [str(step[3]) for step in plan]
            # A constant, and a list that is a parameter, are gone through.
            fine = ("SCAN CONSTANT", "SCAN json_each")
            bad = [each for each in steps if each.startswith("SCAN") and not each.startswith(fine)]
            assert not bad, (statement, steps)
            checked += 1
    db.close()
    assert checked > 15


async def test_closing_finishes_what_was_asked(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path / "journal.db")
    asked = [
        asyncio.ensure_future(store.claim(new_settlement(n), new_transaction(), 1))
        for n in range(50)
    ]
    await asyncio.sleep(0)
    await store.close()
    assert all(isinstance(result, Claimed) for result in await asyncio.gather(*asked))
