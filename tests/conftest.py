"""Fixtures that every test may use."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.journal.store import Store
from tests.support.chain import approve
from tests.support.engines import DATABASE, ENGINES, MOVED, Engine, engine_of
from tests.support.postgres import Server, running_bouncer, running_server
from tests.support.service import Service, serve

# A deadline per example would measure the machine, not the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def devnet_options() -> DevnetOptions:
    """Which chain `devnet` is; a module or a parametrization may say otherwise."""
    return DevnetOptions(port=0, block_time=None)


@pytest.fixture
async def devnet(devnet_options: DevnetOptions) -> AsyncIterator[Devnet]:
    """A chain of this test's own: it starts in a tenth of a second, so none is shared."""
    async with Devnet.start(devnet_options) as chain:
        yield chain


@pytest.fixture(scope="module")
async def chain() -> AsyncIterator[Devnet]:
    """One chain for a module whose tests do not depend on what another one did. It mines on demand,
    and the payer has approved the contract.
    """
    async with Devnet.start(DevnetOptions(port=0, block_time=None)) as devnet:
        await approve(devnet)
        yield devnet


@pytest.fixture(scope="module")
async def service(
    chain: Devnet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """The service on `chain`, one process for a module."""
    async with serve(chain, tmp_path_factory.mktemp("journal")) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; it takes a second to start, so all tests of a process share it."""
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
