"""What takes too long for every run: 800 requests at once while replicas and database fall over."""

from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.replicated import all_settle_once

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def test_600_payments_and_200_twins_are_settled_once(devnet: Devnet, tmp_path: Path) -> None:
    """One replica is killed, the database crashes, another replica is cut off from it for 10 s, and
    the third is frozen as long.
    """
    await all_settle_once(devnet, tmp_path, distinct=600, identical=200, outage=10)
