"""However often a payment is asked about, the chain is asked little."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.faultproxy import fault_proxy
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio

REPEATED = 1_000
# A payment that is looked at takes ten calls, and one that a node did not answer in time some more.
AT_MOST = 100
# Of the loop's own turns, while the requests are answered; there are one or two a second.
AT_MOST_A_SECOND = 20


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def answered(service: Service, body: object) -> dict[str, Any]:
    """The reply, asked for again as a seller does where the service is busy or its node is: this
    process is client and node, and slow while it is a thousand clients.
    """
    while True:
        status, reply = await service.post("/settle", body)
        if status != 503:
            return reply
        await asyncio.sleep(1)


async def test_a_thousand_identical_requests_cost_the_chain_no_more_than_one(
    devnet: Devnet, tmp_path: Path
) -> None:
    """While it is pending and after its end: all answered from the journal, one with success."""
    await approve(devnet)
    body = request(devnet_payment(devnet))
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        before, began = sum(proxy.calls.values()), time.monotonic()
        replies = await asyncio.gather(*(answered(service, body) for _ in range(REPEATED)))
        assert sum(reply["success"] for reply in replies) == 1
        used = {"Nonce has already been used", "Nonce is being processed", None}
        assert {reply["error"] for reply in replies} <= used
        again = await asyncio.gather(*(answered(service, body) for _ in range(REPEATED)))
        assert {reply["error"] for reply in again} == {"Nonce has already been used"}
        turns = AT_MOST_A_SECOND * (time.monotonic() - began)
        assert sum(proxy.calls.values()) - before < AT_MOST + turns
    [log] = await settled_logs(devnet)
    assert {reply["txHash"] for reply in replies} == {log.transaction_hash}
