"""Fixtures that every test may use."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import settings

from facilitator.devnet import Devnet, DevnetOptions
from facilitator.store import Store
from facilitator.store.sqlite import SQLiteStore
from tests.chain import approve
from tests.service import Service, serve

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


@pytest.fixture
def engine(tmp_path: Path) -> Callable[[], Awaitable[Store]]:
    """Opens one and the same journal, again and again; another engine joins by a parameter here."""
    return lambda: SQLiteStore.open(tmp_path / "journal.db")


@pytest.fixture
async def store(engine: Callable[[], Awaitable[Store]]) -> AsyncIterator[Store]:
    opened = await engine()
    yield opened
    await opened.close()
