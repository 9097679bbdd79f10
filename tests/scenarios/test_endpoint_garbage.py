"""Endpoints that garble their answers: nothing is valid because of it, and no payment is lost."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.endpoints import behind_two, settled
from tests.support.faultproxy import (
    fault_proxy,
)
from tests.support.postfaults import HARMLESS, POST_FAULTS
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.mark.parametrize("share", [1.0, 0.3])
async def test_no_garbage_from_a_lone_endpoint_makes_anything_valid(
    devnet: Devnet, tmp_path: Path, share: float
) -> None:
    """Each family by itself: 503, or the truth."""
    await approve(devnet)
    bad = devnet_payment(devnet, amount=10**18)  # more than the payer has
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        for seed, (name, fault) in enumerate(POST_FAULTS.items()):
            proxy.mix(seed, {name: fault}, share)
            for path in ("/verify", "/settle"):
                status, reply = await service.post(path, request(bad))
                assert status in (200, 503), reply
                assert reply.get("isValid", reply.get("success")) is False, (name, reply)
                if name in HARMLESS and share == 1.0:
                    assert reply.get("invalidReason", reply.get("error")) is not None
    assert await settled_logs(devnet) == []


async def test_garbage_of_every_family_costs_no_payment(devnet: Devnet, tmp_path: Path) -> None:
    """The first endpoint fails in each way in turn, the second is honest."""
    await approve(devnet)
    async with behind_two(devnet, tmp_path) as (service, first, _second):
        for fault in POST_FAULTS.values():
            first.post_fault = fault
            await settled(service, devnet, 2)
            first.heal()


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_faults_of_both_endpoints_lose_and_double_nothing(
    devnet: Devnet, tmp_path: Path, seed: int
) -> None:
    """Each payment is asked for until it is told a final word, while a fifth of all POSTs fails in
    any way at either endpoint: it is paid once, and at most one reply said success.
    """
    await approve(devnet)
    headers = [devnet_payment(devnet) for _ in range(12)]
    async with behind_two(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="5") as (service, first, second):
        first.mix(seed, POST_FAULTS, 0.2)
        second.mix(seed + 1000, POST_FAULTS, 0.2)
        told = await asyncio.gather(*(_until_told(service, header) for header in headers))
    assert sum(first.drawn.values()) > 0
    assert sorted(told) == sorted(log.transaction_hash for log in await settled_logs(devnet))


async def _until_told(service: Service, header: dict[str, Any]) -> str:
    """The transaction of the one reply that says success."""
    async with asyncio.timeout(60):
        while True:
            status, reply = await service.post("/settle", request(header))
            if reply["success"]:
                return str(reply["txHash"])
            assert status == 503 or reply["error"] == "Settlement pending", reply
            await asyncio.sleep(0.3)
