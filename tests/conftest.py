"""Fixtures that every test may use."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import settings

from facilitator.devnet import Devnet, DevnetOptions

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
