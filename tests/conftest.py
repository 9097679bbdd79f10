"""Fixtures that every test may use, and `--fast`.

What starts a chain, the service or a database is imported by the fixture that does so: a test of a
pure module loads none of it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.engines import DATABASE, ENGINES, MOVED, engine_of
from tests.support.fast import Guard, is_fast

if TYPE_CHECKING:
    from facilitator.commands.devnet import Devnet, DevnetOptions
    from facilitator.journal.store import Store
    from tests.support.engines import Engine
    from tests.support.postgres import Server
    from tests.support.service import Service

# A deadline per example would measure the machine, not the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

GUARD = Guard()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="only tests that need no chain, service or database"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave slow files out, unread, where only fast ones are wanted."""
    if not config.getoption("fast") or collection_path.suffix != ".py":
        return None
    return True if not is_fast(collection_path) else None


def pytest_unconfigure() -> None:
    """End what was kept ready for all tests of this process."""
    if forks := sys.modules.get("tests.support.forks"):
        forks.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """No test of a fast file may start a process."""
    GUARD.test = item.nodeid if is_fast(item.path) else None
    try:
        return (yield)
    finally:
        GUARD.test = None


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def devnet_options() -> DevnetOptions:
    """Which chain `devnet` is; a module or a parametrization may say otherwise."""
    from facilitator.commands.devnet import DevnetOptions

    return DevnetOptions(port=0, block_time=None)


@pytest.fixture
async def devnet(devnet_options: DevnetOptions) -> AsyncIterator[Devnet]:
    """A chain of this test's own: it starts in a tenth of a second, so none is shared."""
    from facilitator.commands.devnet import Devnet

    async with Devnet.start(devnet_options) as chain:
        yield chain


@pytest.fixture(scope="module")
async def chain() -> AsyncIterator[Devnet]:
    """One chain for a module whose tests do not depend on what another one did. It mines on demand,
    and the payer has approved the contract.
    """
    from facilitator.commands.devnet import Devnet, DevnetOptions
    from tests.support.chain import approve

    async with Devnet.start(DevnetOptions(port=0, block_time=None)) as devnet:
        await approve(devnet)
        yield devnet


@pytest.fixture(scope="module")
async def service(
    chain: Devnet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """The service on `chain`, one process for a module."""
    from tests.support.service import serve

    async with serve(chain, tmp_path_factory.mktemp("journal")) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; it takes a second to start, so all tests of a process share it."""
    from tests.support.postgres import running_server

    with running_server() as server:
        server.create(DATABASE)
        yield server


@pytest.fixture
def target(postgres: Server) -> Iterator[str]:
    """The URL of an empty database, for a journal that moves."""
    postgres.create(MOVED)
    yield postgres.url(MOVED)
    postgres.drop(MOVED)


@pytest.fixture(scope="session")
def pgbouncer(postgres: Server) -> Iterator[Server]:
    """PgBouncer before it, in transaction mode."""
    from tests.support.postgres import running_bouncer

    with running_bouncer(postgres) as bouncer:
        yield bouncer


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """Opens one and the same journal, again and again, on every engine."""
    return engine_of(request.param, request, tmp_path)


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[Store]:
    opened = await engine()
    yield opened
    await opened.close()
