"""An endpoint that tells of a head far too high: nothing is told before it is deep enough, and
nothing waits for the chain to get there.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.blocks import DEEP, height_of, mine, revoke, stop_mining
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.endpoints import behind
from tests.support.faultproxy import lies
from tests.support.service import Service

pytestmark = pytest.mark.anyio

RAW = "eth_getRawTransactionByHash"

LIE = 4.0  # seconds
SOON = 30.0  # seconds


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture
async def devnet(devnet: Devnet) -> Devnet:
    await approve(devnet)
    return devnet


async def paid(service: Service, header: dict[str, Any]) -> None:
    """Ask until it is."""
    while not (await service.settle(header))["success"]:  # noqa: ASYNC110 - a client
        await asyncio.sleep(0.5)


@pytest.mark.parametrize("by", [100, 1_000_000])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_after_a_lie_about_the_head_payments_settle_soon(
    devnet: Devnet, tmp_path: Path, count: int, by: int
) -> None:
    """Those from the time of the lie as well; one alone is found out by what it shows later."""
    async with behind(devnet, tmp_path, count, SETTLE_TIMEOUT_SECONDS="5") as (service, proxies):
        await paid(service, devnet_payment(devnet))
        proxies[0].faults = lies(by, everywhere=True)
        asked = [asyncio.create_task(paid(service, devnet_payment(devnet))) for _ in range(3)]
        await asyncio.sleep(LIE)
        proxies[0].heal()
        asked += [asyncio.create_task(paid(service, devnet_payment(devnet))) for _ in range(3)]
        async with asyncio.timeout(SOON):
            await asyncio.gather(*asked)
        assert len(service.logged("head_forgotten")) == (count == 1)
        assert not service.logged("settlement_reorged")
    assert len(await settled_logs(devnet)) == 7


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("liar", [0, 1])
async def test_no_success_is_told_before_its_depth_is_real(
    devnet: Devnet, tmp_path: Path, liar: int, everywhere: bool
) -> None:
    async with behind(devnet, tmp_path, 2, CONFIRMATIONS="5") as (service, proxies):
        proxies[liar].faults = lies(9, everywhere=everywhere)
        for _ in range(2):
            reply = await service.settle(devnet_payment(devnet))
            head = await height_of(devnet)
            assert reply["success"]
            [block] = [
                log.block_number
                for log in await settled_logs(devnet)
                if log.transaction_hash == reply["txHash"]
            ]
            assert head - block + 1 >= 5


@pytest.mark.parametrize("liar", [0, 1])
async def test_no_failure_is_told_before_its_depth_is_real(
    devnet: Devnet, tmp_path: Path, liar: int
) -> None:
    """A transaction reverts, and another one of the payment would as well."""
    async with behind(devnet, tmp_path, 2) as (service, proxies):
        await stop_mining(devnet)
        asked = asyncio.create_task(service.settle(devnet_payment(devnet)))
        await service.wait_for("settlement_submitted")
        [line] = service.logged("settlement_submitted")
        async with asyncio.timeout(10):
            while await devnet.rpc(RAW, line["transaction"]) is None:  # noqa: ASYNC110 - a node
                await asyncio.sleep(0.05)
        proxies[liar].faults = lies(20, everywhere=True)
        await revoke(devnet)
        await mine(devnet, DEEP - 1)
        await asyncio.sleep(4)
        assert not service.logged("settlement_failed")
        await mine(devnet, 1)
        reply = await asked
        assert not reply["success"]
        assert str(reply["error"]).startswith("Insufficient allowance")
        assert service.logged("settlement_failed")
    assert await settled_logs(devnet) == []
