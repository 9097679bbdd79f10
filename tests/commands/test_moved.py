"""A SQLite journal that has moved to PostgreSQL is not served again by mistake: two journals would
use one account nonce twice.
"""

import sqlite3
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.journal.migrate import TABLES
from facilitator.journal.schema import APPLICATION_ID
from facilitator.journal.sqlite.store import SQLiteStore
from facilitator.journal.store import StoreError
from tests.support.chain import approve, devnet_payment
from tests.support.commands import facilitator
from tests.support.engines import MOVED
from tests.support.journal import in_file
from tests.support.postgres import PASSWORD, Server
from tests.support.service import environment, launch, serve
from tests.support.tcpproxy import tcp_proxy

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def test_no_command_takes_a_moved_file_until_it_is_reopened(
    devnet: Devnet, tmp_path: Path, target: str, postgres: Server
) -> None:
    """Each says where the journal is and how to go back, without a password."""
    await approve(devnet)
    async with serve(devnet, tmp_path) as service:
        assert (await service.settle(devnet_payment(devnet)))["success"]
    old = environment(devnet, tmp_path)
    file = tmp_path / "facilitator.db"
    before = {name: in_file(file, name) for name in TABLES}
    done = await facilitator(
        "migrate", {**old, "DATABASE_URL": target}, "--from", old["DATABASE_URL"]
    )
    assert done.code == 0, done.errors
    assert f"{file} is marked as moved: no service starts on it any more" in done.output
    place = f"it has moved to postgresql://127.0.0.1:{postgres.port}/{MOVED}"
    async with launch(old) as refused:
        assert await refused.ended() == 1
        [line] = refused.logged("start_refused")
        assert place in line["why"]
        assert "`facilitator migrate --reopen`" in line["why"]
        assert PASSWORD.encode() not in refused.output
    elsewhere = {**old, "DATABASE_URL": postgres.url("elsewhere")}
    for command, variables, *options in (
        ("check", old),
        ("migrate", old),
        ("migrate", old, "--check"),
        ("migrate", elsewhere, "--from", old["DATABASE_URL"]),
        ("recover", old, "--restored"),
    ):
        ended = await facilitator(command, variables, *options)
        assert ended.code == 1
        assert place in ended.output + ended.errors
        assert PASSWORD not in ended.output + ended.errors
    assert {name: in_file(file, name) for name in TABLES} == before
    reopened = await facilitator("migrate", old, "--reopen")
    assert (reopened.code, "is in use again; delete postgresql://" in reopened.output) == (0, True)
    async with serve(devnet, tmp_path) as service:
        assert (await service.settle(devnet_payment(devnet)))["success"]


async def test_a_version_that_knows_nothing_of_the_mark_refuses_the_file(tmp_path: Path) -> None:
    """To it, the file is the database of another program."""
    store = await SQLiteStore.open(tmp_path / "old.db")
    await store.mark_moved("elsewhere")
    await store.close()
    with sqlite3.connect(tmp_path / "old.db") as db:
        (application,) = db.execute("PRAGMA application_id").fetchone()
    db.close()
    assert application not in (0, APPLICATION_ID)
    with pytest.raises(StoreError, match="it has moved to elsewhere"):
        await SQLiteStore.open(tmp_path / "old.db")


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_where_the_commit_is_unknown_the_file_is_not_served_either(
    tmp_path: Path, target: str, postgres: Server, lost: str
) -> None:
    """Rather none of the two than both; whoever has looked goes on this way or that."""
    file = tmp_path / "old.db"
    old = {"DATABASE_URL": f"sqlite:///{file}"}
    await (await SQLiteStore.open(file)).close()
    with sqlite3.connect(file) as db:
        db.execute("INSERT INTO signer (chain_id, address, next_nonce) VALUES (1, x'aa', 7)")
    db.close()
    async with tcp_proxy(postgres.port) as proxy:
        proxy.lose_after = (b"setval", lost)
        unknown = await facilitator(
            "migrate", {"DATABASE_URL": proxy.url(target)}, "--from", old["DATABASE_URL"]
        )
        assert (unknown.code, proxy.lost) == (1, 1)
    assert "the journal may be written" in unknown.error
    with pytest.raises(StoreError, match="it has moved to postgresql://"):
        await SQLiteStore.open(file)
    copied = postgres.execute(MOVED, "SELECT count(*) FROM signer")
    assert copied == ("1" if lost == "reply" else "0")
    assert (await facilitator("migrate", old, "--reopen")).code == 0
    again = await facilitator("migrate", {"DATABASE_URL": target}, "--from", old["DATABASE_URL"])
    assert again.code == (1 if lost == "reply" else 0)


async def test_only_a_moved_file_is_reopened(tmp_path: Path, target: str) -> None:
    file = tmp_path / "old.db"
    variables = {"DATABASE_URL": f"sqlite:///{file}"}
    missing = await facilitator("migrate", variables, "--reopen")
    assert (missing.code, missing.error) == (1, f"error: there is no journal {file}")
    store = await SQLiteStore.open(file)
    used = await facilitator("migrate", variables, "--reopen")
    assert (used.code, "another process uses the journal" in used.error) == (1, True)
    await store.close()
    nothing = await facilitator("migrate", variables, "--reopen")
    assert (nothing.code, nothing.output) == (0, f"{file} has not moved: nothing to do\n")
    wrong = await facilitator("migrate", {"DATABASE_URL": target}, "--reopen")
    assert (wrong.code, "must name the SQLite file" in wrong.error) == (2, True)
    (tmp_path / "other.db").write_bytes(b"no journal" * 1_000)
    broken = await facilitator(
        "migrate", {"DATABASE_URL": f"sqlite:///{tmp_path}/other.db"}, "--reopen"
    )
    assert (broken.code, "cannot open the journal" in broken.error) == (1, True)
