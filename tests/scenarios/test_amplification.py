"""However often a payment is asked about, the chain is asked little."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.blocks import height_of
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.faultproxy import fault_proxy
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio

REPEATED = 1_000
# What only a look at a payment asks for, and sending it: nine calls, and some more where a node did
# not answer in time. However long it all takes, that is what 2,000 requests come to.
OF_A_PAYMENT = ("eth_call", "eth_getCode", "eth_estimateGas", "eth_sendRawTransaction")
AT_MOST = 40
# All else: the start, and the loop's own turns, which ask for two things a block.
AT_MOST_AT_ONCE, AT_MOST_A_BLOCK = 30, 5


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
        first = await height_of(devnet)
        replies = await asyncio.gather(*(answered(service, body) for _ in range(REPEATED)))
        assert sum(reply["success"] for reply in replies) == 1
        used = {"Nonce has already been used", "Nonce is being processed", None}
        assert {reply["error"] for reply in replies} <= used
        again = await asyncio.gather(*(answered(service, body) for _ in range(REPEATED)))
        assert {reply["error"] for reply in again} == {"Nonce has already been used"}
        of_payments = sum(proxy.calls[name] for name in OF_A_PAYMENT)
        assert of_payments < AT_MOST, proxy.calls
        blocks = await height_of(devnet) - first
        others = sum(proxy.calls.values()) - of_payments
        assert others < AT_MOST_AT_ONCE + AT_MOST_A_BLOCK * blocks, proxy.calls
    [log] = await settled_logs(devnet)
    assert {reply["txHash"] for reply in replies} == {log.transaction_hash}
