"""Replicas that do not have the same keys: while keys are rotated, one replica after the other."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.engines import DATABASE, empty
from tests.support.faultproxy import fault_proxy, refuse_with
from tests.support.postgres import Server
from tests.support.service import environment, launch

pytestmark = pytest.mark.anyio

SEND = "eth_sendRawTransaction"


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def transactions_of(devnet: Devnet, address: bytes) -> int:
    count = await devnet.rpc("eth_getTransactionCount", f"0x{address.hex()}", "latest")
    return int(str(count), 16)


async def test_a_leader_without_the_key_takes_another_replica_s_transactions_to_their_end(
    devnet: Devnet, postgres: Server, tmp_path: Path
) -> None:
    """It sends again what is signed, and signs nothing in its place: neither where a replacement
    would be due, nor where the chain calls the account nonce too low.
    """
    empty(postgres)
    await approve(devnet)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(fault_proxy(devnet.url))
        told = environment(
            devnet,
            tmp_path,
            DATABASE_URL=postgres.url(DATABASE),
            SETTLE_TIMEOUT_SECONDS="3",
            JEJU_RPC_URL=proxy.url,
        )
        one, other = (f"0x{key.hex()}" for key in (devnet.signer.key, devnet.accounts[6].key))
        leader = await stack.enter_async_context(launch({**told, "FACILITATOR_PRIVATE_KEY": one}))
        await leader.started()
        await leader.wait_for("watching")
        replica = await stack.enter_async_context(
            launch({**told, "FACILITATOR_PRIVATE_KEY": other})
        )
        await replica.started()
        header = devnet_payment(devnet)
        for said in ((-32000, "transaction underpriced"), (-32000, "nonce too low")):
            proxy.faults[SEND] = refuse_with(*said)
            assert (await replica.settle(header))["error"] == "Settlement pending"
            # A replacement is due after 10 s.
            await asyncio.sleep(9)
        proxy.heal()
        async with asyncio.timeout(30):
            while not (reply := await leader.settle(header))["success"]:
                assert reply["error"] == "Settlement pending"
        assert (await leader.settle(devnet_payment(devnet)))["success"]
        assert (await replica.settle(devnet_payment(devnet)))["success"]
        for each in (leader, replica):
            assert not each.logged("turn_broken")
    assert len(await settled_logs(devnet)) == 3
    for account in (devnet.signer, devnet.accounts[6]):
        assert await transactions_of(devnet, account.address) > 0
