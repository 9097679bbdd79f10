"""The file of the SQLite journal: what is taken for one, what is refused, and with which words."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from facilitator.domain.settlement import SettlementState as State
from facilitator.journal.schema import KNOWN_VERSION
from facilitator.journal.sqlite.store import SQLiteStore
from facilitator.journal.store import StoreError, StoreLocked
from tests.support.journal import CHAIN_ID, NOW, claimed, filled, filler, moved, payment
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio

TABLES = (
    *("settlement", "transaction", "attempt", "settlement_transaction", "signer", "gas_spent"),
    "used_key",
)


def change_file(path: Path, *statements: str) -> None:
    """As somebody else's program would."""
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


async def test_what_the_next_schema_adds_does_not_stop_this_one(tmp_path: Path) -> None:
    """A newer release has added columns and was rolled back: every operation goes on."""
    path = tmp_path / "journal.db"
    await (await SQLiteStore.open(path)).close()
    change_file(
        path,
        *(f'ALTER TABLE "{table}" ADD COLUMN later TEXT' for table in TABLES),
        f"PRAGMA user_version = {KNOWN_VERSION + 1}",
    )
    store = await SQLiteStore.open(path)
    first = await claimed(store, payment(token_nonce=b"\x01" * 32))
    assert await store.add_attempt((await filled(store)).id, filler().sign(7), None, NOW)
    confirmed = await moved(store, first.settlement, State.CONFIRMED)
    assert await store.find(first.settlement.key) == confirmed
    await store.close()


@pytest.mark.parametrize(
    "newer",
    [
        "UPDATE settlement SET state = 'paused'",
        "UPDATE settlement SET payment = '{}'",
        "UPDATE settlement SET refusal = '[]'",
    ],
)
async def test_a_settlement_that_only_a_newer_release_understands_is_a_store_error(
    tmp_path: Path, newer: str
) -> None:
    """Never an exception that the loop of a chain does not expect."""
    path = tmp_path / "journal.db"
    store = await SQLiteStore.open(path)
    first = await claimed(store)
    change_file(path, newer)
    with pytest.raises(StoreError, match=f"settlement {first.settlement.id} cannot be read"):
        await store.open_work(CHAIN_ID)
    await store.close()


async def test_a_transaction_that_only_a_newer_release_understands_is_a_store_error(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.db"
    store = await SQLiteStore.open(path)
    await filled(store)
    change_file(path, """UPDATE "transaction" SET kind = 'bundle'""")
    with pytest.raises(StoreError, match="transaction 1 cannot be read"):
        await store.open_work(CHAIN_ID)
    await store.close()


async def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    change_file(path, "CREATE TABLE orders (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="the database of another program"):
        await SQLiteStore.open(path)
    assert path.read_bytes() == before


def no_directory(folder: Path) -> Path:
    return folder / "missing" / "journal.db"


def a_directory(folder: Path) -> Path:
    (folder / "journal.db").mkdir()
    return folder / "journal.db"


def under_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "journal.db"


def garbage(folder: Path) -> Path:
    (folder / "journal.db").write_bytes(b"PK\x03\x04" * 2_000)
    return folder / "journal.db"


@pytest.mark.parametrize("place", [no_directory, a_directory, under_a_file, garbage])
async def test_a_place_that_does_not_do_is_named_in_one_line(
    tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    """And nothing is left locked or open."""
    path = place(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreError) as refused:
            await SQLiteStore.open(path)
        assert not isinstance(refused.value, StoreLocked)
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)


OPEN_AS_NOBODY = """
import asyncio, os, sys
from facilitator.journal.sqlite.store import SQLiteStore
from facilitator.journal.store import StoreError

if os.geteuid() == 0:
    os.setuid(65534)
try:
    asyncio.run(SQLiteStore.open(sys.argv[1]))
except StoreError as error:
    print(error)
"""


def test_a_folder_that_may_not_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "read only"
    folder.mkdir(mode=0o555)
    path = folder / "journal.db"
    told = subprocess.run(
        [sys.executable, "-c", OPEN_AS_NOBODY, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == f"cannot open the journal {path}: Permission denied\n"


async def test_the_files_are_nobody_elses_to_read(tmp_path: Path) -> None:
    """Signed payments stand in them."""
    path = tmp_path / "journal.db"
    store = await SQLiteStore.open(path)
    await claimed(store)
    for ending in ("", "-wal", "-shm", ".lock"):
        assert stat.S_IMODE(os.stat(f"{path}{ending}").st_mode) == 0o600, ending
    await store.close()


async def test_closing_twice_closes_nothing_else(tmp_path: Path) -> None:
    """The number of a closed file may be somebody's socket by now."""
    store = await SQLiteStore.open(tmp_path / "journal.db")
    await asyncio.gather(store.close(), store.close())
    reader, writer = os.pipe()
    await store.close()
    os.write(writer, b"x")
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.close(writer)


async def test_what_heard_success_costs_no_start_anything(tmp_path: Path) -> None:
    """At the start waiters are forgotten: of what is unfinished, not of all that ever was."""
    store = await SQLiteStore.open(tmp_path / "journal.db")
    told, untold = await claimed(store), await claimed(store)
    for first in (told, untold):
        await moved(store, first.settlement, State.CONFIRMED)
    assert await store.mark_success_replied(told.settlement.id, "waiter", NOW)
    await store.close()
    store = await SQLiteStore.open(tmp_path / "journal.db")
    heard, unheard = [await store.find(each.settlement.key) for each in (told, untold)]
    assert heard is not None
    assert unheard is not None
    assert (heard.waiter, unheard.waiter) == ("waiter", None)
    await store.close()


HOLD = """
import asyncio, sys
from facilitator.journal.sqlite.store import SQLiteStore

async def main():
    store = await SQLiteStore.open(sys.argv[1])
    print("open", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """With one line that says what to do; and a killed process holds nothing."""
    path = tmp_path / "journal.db"
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD, str(path)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"open\n"
    with pytest.raises(StoreLocked, match=r"stop it first, or give this one a file") as refused:
        await SQLiteStore.open(path)
    assert "\n" not in str(refused.value)
    holder.kill()
    await holder.wait()
    await (await SQLiteStore.open(path)).close()
