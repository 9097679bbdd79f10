"""The writer thread: whatever an operation does, every caller gets an answer, and a true one."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from facilitator.journal.sqlite.connection import connect
from facilitator.journal.sqlite.writer import Writer
from facilitator.journal.store import StoreError
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio

PATIENCE = 60  # seconds: a caller without an answer is a failure, not a test without an end


def insert(db: sqlite3.Connection, number: int) -> int:
    db.execute("INSERT INTO entry (number) VALUES (?)", (number,))
    return number


def numbers(db: sqlite3.Connection) -> list[int]:
    return [number for (number,) in db.execute("SELECT number FROM entry ORDER BY number")]


@pytest.fixture
def connection(tmp_path: Path) -> sqlite3.Connection:
    opened = connect(tmp_path / "file.db")
    opened.execute("PRAGMA journal_mode = WAL")
    opened.execute("CREATE TABLE entry (number INTEGER UNIQUE, text TEXT)")
    return opened


@pytest.fixture
async def writer(connection: sqlite3.Connection) -> AsyncIterator[Writer]:
    running = Writer(connection)
    yield running
    await running.close()


async def test_what_is_asked_during_a_commit_shares_the_next(
    connection: sqlite3.Connection, writer: Writer
) -> None:
    """200 callers cost a few commits, not 200."""
    seen: list[str] = []
    await writer.run(lambda db: db.set_trace_callback(seen.append))
    results = await asyncio.gather(
        *(writer.run(lambda db, n=n: insert(db, n)) for n in range(200))  # type: ignore[misc]
    )
    await writer.run(lambda db: db.set_trace_callback(None))
    assert results == list(range(200))
    assert 1 <= seen.count("COMMIT") <= 20


@pytest.mark.parametrize("kind", [KeyError, SystemExit, KeyboardInterrupt, StopIteration])
async def test_whatever_an_operation_raises_reaches_its_caller_alone(
    writer: Writer, kind: type[BaseException]
) -> None:
    """Also what no future could carry; its work is undone, and the thread goes on."""

    def break_off(db: sqlite3.Connection) -> None:
        insert(db, 100)
        raise kind

    async with asyncio.timeout(PATIENCE):
        before, broken, after = await asyncio.gather(
            writer.run(lambda db: insert(db, 1)),
            writer.run(break_off),
            writer.run(lambda db: insert(db, 2)),
            return_exceptions=True,
        )
    assert (before, after) == (1, 2)
    assert isinstance(broken, KeyError if kind is KeyError else StoreError)
    assert await writer.run(numbers) == [1, 2]


async def test_a_refused_statement_undoes_its_operation_only(writer: Writer) -> None:
    def twice(db: sqlite3.Connection) -> None:
        insert(db, 7)
        insert(db, 7)

    results = await asyncio.gather(
        *(writer.run(lambda db, n=n: insert(db, n)) for n in range(3)),  # type: ignore[misc]
        writer.run(twice),
        return_exceptions=True,
    )
    assert results[:3] == [0, 1, 2]
    assert isinstance(results[3], StoreError)
    assert await writer.run(numbers) == [0, 1, 2]


async def test_where_sqlite_undoes_the_whole_commit_nobody_is_told_that_it_was_done(
    writer: Writer,
) -> None:
    """SQLite may roll back everything by itself; what comes later must not run outside of a
    transaction.
    """

    def undo_everything(db: sqlite3.Connection) -> None:
        db.execute("INSERT OR ROLLBACK INTO entry (number) VALUES (0)")

    await writer.run(lambda db: insert(db, 0))
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(
            *(writer.run(lambda db, n=n: insert(db, n)) for n in range(1, 6)),  # type: ignore[misc]
            writer.run(undo_everything),
            *(writer.run(lambda db, n=n: insert(db, n)) for n in range(6, 11)),  # type: ignore[misc]
            return_exceptions=True,
        )
    told = [0] + [result for result in results if isinstance(result, int)]
    assert isinstance(results[5], StoreError)
    assert await writer.run(numbers) == told
    assert await writer.run(lambda db: insert(db, 99)) == 99


async def test_a_full_disk_fails_what_did_not_fit(writer: Writer) -> None:
    """What was told done is there, what failed is not, and space makes it go on."""

    def limit(db: sqlite3.Connection, pages: int) -> None:
        (used,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {used + pages}")

    def insert_long(db: sqlite3.Connection, number: int) -> int:
        db.execute("INSERT INTO entry VALUES (?, ?)", (number, "x" * 3_000))
        return number

    await writer.run(lambda db: limit(db, 10))
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(
            *(writer.run(lambda db, n=n: insert_long(db, n)) for n in range(600)),  # type: ignore[misc]
            return_exceptions=True,
        )
    done = [result for result in results if isinstance(result, int)]
    assert 0 < 600 - len(done) == sum(isinstance(result, StoreError) for result in results)
    assert await writer.run(numbers) == done
    await writer.run(lambda db: limit(db, 10_000))
    assert await writer.run(lambda db: insert_long(db, 1_000)) == 1_000
    assert await writer.run(lambda db: db.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"


async def test_another_writer_that_holds_the_file_for_long_is_an_error(
    connection: sqlite3.Connection, writer: Writer, tmp_path: Path
) -> None:
    """Say, somebody's SQLite shell; afterwards the journal goes on."""
    await writer.run(lambda db: db.execute("PRAGMA busy_timeout = 50").fetchone()[0])
    other = sqlite3.connect(tmp_path / "file.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        await writer.run(lambda db: insert(db, 1))
    other.execute("ROLLBACK")
    other.close()
    assert await writer.run(lambda db: insert(db, 1)) == 1


UNCLOSED = """
import asyncio, sys
from pathlib import Path
from facilitator.journal.sqlite.connection import connect
from facilitator.journal.sqlite.writer import Writer

async def main():
    writer = Writer(connect(Path(sys.argv[1])))
    await writer.run(lambda db: db.execute("CREATE TABLE entry (number)").rowcount)
    asyncio.ensure_future(writer.run(lambda db: db.execute("SELECT 1").rowcount))
    await asyncio.sleep(0)

asyncio.run(main())
print("ended")
"""


def test_an_event_loop_that_ends_without_closing_ends_the_process(tmp_path: Path) -> None:
    """Nobody waits for an answer any more, and no thread keeps the process."""
    ended = subprocess.run(
        [sys.executable, "-c", UNCLOSED, str(tmp_path / "file.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")
