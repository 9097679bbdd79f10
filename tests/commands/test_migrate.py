"""The command `migrate`, as a process, on both engines."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from facilitator.journal.open import open_store
from facilitator.journal.postgres.store import PostgresStore
from facilitator.journal.schema import FIRST_VERSION, KNOWN_VERSION
from facilitator.journal.sqlite.store import SQLiteStore
from facilitator.journal.store import StoreError
from tests.support.commands import facilitator
from tests.support.journal import CHAIN_ID, claimed
from tests.support.postgres import PASSWORD, Server, settings
from tests.support.releases import later_release, python_path

pytestmark = pytest.mark.anyio


@pytest.fixture(params=("sqlite", "postgres"))
def variables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment with a journal that is not there yet."""
    if request.param == "sqlite":
        yield {"DATABASE_URL": f"sqlite:///{tmp_path}/journal.db"}
        return
    server: Server = request.getfixturevalue("postgres")
    server.create("migrated")
    yield {"DATABASE_URL": server.url("migrated")}
    server.drop("migrated")


async def test_the_tables_are_brought_up_to_date_once(variables: dict[str, str]) -> None:
    checked = await facilitator("migrate", variables, "--check")
    assert checked.code == 1
    assert f"schema version 0, this program has {KNOWN_VERSION}" in checked.output
    assert "1 to make" in checked.output
    migrated = await facilitator("migrate", variables)
    assert migrated.code == 0
    assert migrated.output.splitlines()[1] == f"migrated to {KNOWN_VERSION}"
    for option in ([], ["--check"]):
        again = await facilitator("migrate", variables, *option)
        assert (again.code, again.output.splitlines()[1]) == (0, "nothing to do")
    assert PASSWORD not in checked.output + migrated.output


async def test_a_schema_one_version_newer_is_left_as_it_is(
    variables: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert (await facilitator("migrate", variables)).code == 0
    for code in (0, 1):
        if variables["DATABASE_URL"].startswith("sqlite"):
            with sqlite3.connect(tmp_path / "journal.db") as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
                db.execute(f"PRAGMA user_version = {version + 1}")
            db.close()
        else:
            server: Server = request.getfixturevalue("postgres")
            server.execute("migrated", "UPDATE facilitator_schema SET version = version + 1")
        done = await facilitator("migrate", variables)
        assert done.code == code
        assert ("nothing to do" in done.output) == (code == 0)
        assert ("too new" in done.errors) == (code == 1)


async def test_a_file_in_use_is_looked_at_and_not_migrated_a_second_time(tmp_path: Path) -> None:
    variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/journal.db"}
    store = await SQLiteStore.open(tmp_path / "journal.db")
    done = await facilitator("migrate", variables)
    assert (done.code, done.output.splitlines()[1]) == (0, "nothing to do")
    await store.close()
    (tmp_path / "other.db").write_bytes(b"no journal" * 1_000)
    failed = await facilitator("migrate", {"DATABASE_URL": f"sqlite:///{tmp_path}/other.db"})
    assert failed.code == 1
    assert "cannot read the journal" in failed.error


async def test_replicas_of_the_version_before_go_on_while_the_tables_change(
    postgres: Server,
) -> None:
    """Statements that were prepared before, on tables that have more columns now."""
    postgres.create("rolling")
    store = await PostgresStore.open(settings(postgres.url("rolling"), pool_size=2))
    await claimed(store)
    await store.open_work(CHAIN_ID)
    postgres.execute(
        "rolling",
        """BEGIN; ALTER TABLE settlement ADD COLUMN later TEXT;
           ALTER TABLE "transaction" ADD COLUMN later TEXT NOT NULL DEFAULT '';
           ALTER TABLE attempt ADD COLUMN later BIGINT; UPDATE facilitator_schema
           SET version = version + 1; COMMIT""",
    )
    before = [await claimed(store) for _ in range(3)]
    assert len((await store.open_work(CHAIN_ID)).records) == 1 + len(before)
    await store.close()
    postgres.drop("rolling")


async def test_a_journal_of_no_release_is_refused(
    variables: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By the service as well, before anything is touched: its tables are not what they seem."""
    url = variables["DATABASE_URL"]
    sqlite = url.startswith("sqlite")
    database = tmp_path / "journal.db" if sqlite else settings(url)
    await (await open_store(database)).close()
    if sqlite:
        with sqlite3.connect(tmp_path / "journal.db") as db:
            db.execute(f"PRAGMA user_version = {FIRST_VERSION - 1}")
        db.close()
    else:
        server: Server = request.getfixturevalue("postgres")
        server.execute("migrated", "UPDATE facilitator_schema SET version = version - 1")
    refused = f"schema version {FIRST_VERSION - 1} is of no release of this program"
    failed = await facilitator("migrate", variables)
    assert failed.code == 1
    assert refused in failed.error
    with pytest.raises(StoreError, match=refused):
        await open_store(database)


async def test_a_step_that_fails_takes_back_none_before_it(
    postgres: Server, tmp_path: Path
) -> None:
    """And an index that was made by hand, without keeping writers out, is taken as it is."""
    postgres.create("stepping")
    variables = {"DATABASE_URL": postgres.url("stepping")}
    assert (await facilitator("migrate", variables)).code == 0
    index = "settlement_dialect ON settlement (dialect);"
    later = later_release(
        tmp_path, f"CREATE INDEX {index}", "CREATE TABLE later (id INTEGER) STRICT;"
    )
    postgres.execute("stepping", f"CREATE INDEX CONCURRENTLY {index}")
    postgres.execute("stepping", "CREATE TABLE later (somebody_elses TEXT)")
    by_hand = postgres.execute("stepping", "SELECT 'settlement_dialect'::regclass::oid")
    version = "SELECT version FROM facilitator_schema"
    variables |= python_path(later)
    failed = await facilitator("migrate", variables)  # the table of the last step is there
    assert failed.code == 1
    assert "already exists" in failed.error
    assert postgres.execute("stepping", version) == str(KNOWN_VERSION + 1)
    postgres.execute("stepping", "DROP TABLE later")
    assert (await facilitator("migrate", variables)).code == 0
    assert postgres.execute("stepping", version) == str(KNOWN_VERSION + 2)
    now = postgres.execute("stepping", "SELECT 'settlement_dialect'::regclass::oid")
    assert now == by_hand
    postgres.drop("stepping")


async def test_a_database_that_is_not_there_is_one_line(postgres: Server) -> None:
    failed = await facilitator("migrate", {"DATABASE_URL": postgres.url("nowhere")})
    assert failed.code == 1
    assert "cannot open the journal" in failed.error
    assert PASSWORD not in failed.error
