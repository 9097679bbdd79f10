"""However often a payment is asked about, the chain is asked little."""

import asyncio
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.faultproxy import fault_proxy
from tests.support.service import request, serve

pytestmark = pytest.mark.anyio

REPEATED = 1_000
# The loop's own turns while the requests are answered; a payment that is looked at takes ten calls.
AT_MOST = 100


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


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
        before = sum(proxy.calls.values())
        posts = [service.post("/settle", body) for _ in range(REPEATED)]
        replies = [reply for _, reply in await asyncio.gather(*posts)]
        assert sum(reply["success"] for reply in replies) == 1
        used = {"Nonce has already been used", "Nonce is being processed", None}
        assert {reply["error"] for reply in replies} <= used
        again = await asyncio.gather(*(service.post("/settle", body) for _ in range(REPEATED)))
        assert {reply["error"] for _, reply in again} == {"Nonce has already been used"}
        assert sum(proxy.calls.values()) - before < AT_MOST
    [log] = await settled_logs(devnet)
    assert {reply["txHash"] for reply in replies} == {log.transaction_hash}
