"""A node that shows no receipts: what one endpoint hides is mined all the same."""

import asyncio
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.endpoints import behind, behind_two
from tests.support.faultproxy import (
    Answer,
    Call,
    Fault,
    Forward,
    answer_with,
    fault_proxy,
    lying_nonce,
    refuse_with,
)
from tests.support.journal import in_file
from tests.support.service import serve

pytestmark = pytest.mark.anyio

RECEIPT = "eth_getTransactionReceipt"
HIDDEN = answer_with(None)
BURIED = 14  # blocks: more than it takes to say that something else used an account nonce


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_of_three_endpoints_one_alone_hides_no_payment(
    devnet: Devnet, tmp_path: Path, place: int
) -> None:
    await approve(devnet)
    async with behind(devnet, tmp_path, 3) as (service, proxies):
        proxies[place].faults[RECEIPT] = HIDDEN
        replies = await asyncio.gather(*(service.settle(devnet_payment(devnet)) for _ in range(5)))
        assert all(reply["success"] for reply in replies)
    assert len(await settled_logs(devnet)) == 5


async def test_one_that_denies_all_that_is_mined_delays_it_until_a_replacement_would_be_due(
    devnet: Devnet, tmp_path: Path
) -> None:
    await approve(devnet)
    async with behind(devnet, tmp_path, 3) as (service, proxies):
        assert (await service.settle(devnet_payment(devnet)))["success"]
        proxies[0].faults[RECEIPT] = HIDDEN
        proxies[0].faults["eth_getTransactionCount"] = lying_nonce(by=-1)
        assert (await service.settle(devnet_payment(devnet)))["success"]
    assert len(await settled_logs(devnet)) == 2


@pytest.mark.parametrize("place", [0, 1])
async def test_where_two_endpoints_contradict_each_other_a_payment_stays_pending(
    devnet: Devnet, tmp_path: Path, place: int
) -> None:
    """One makes a receipt up, or the other one hides it: until they agree, neither success nor
    failure is told, and nothing is signed a second time for the payment.
    """
    await approve(devnet)
    payment = devnet_payment(devnet)
    async with behind(devnet, tmp_path, 2, SETTLE_TIMEOUT_SECONDS="3") as (service, proxies):
        proxies[place].faults[RECEIPT] = HIDDEN
        assert "pending" in str(await service.settle(payment))
        await devnet.rpc("anvil_mine", hex(BURIED))
        assert "pending" in str(await service.settle(payment))
        proxies[place].faults.clear()
        assert (await service.settle(payment))["success"]
        assert not service.logged("superseded")
    assert len(await settled_logs(devnet)) == 1
    assert len(in_file(tmp_path / "facilitator.db", "transaction")[1]) == 1


async def test_what_one_endpoint_hides_has_not_left_the_chain(
    devnet: Devnet, tmp_path: Path
) -> None:
    """It tells of another head as well, as after a reorg."""
    await approve(devnet)
    async with behind_two(devnet, tmp_path) as (service, *pair):
        assert (await service.settle(devnet_payment(devnet)))["success"]
        pair[0].faults = {RECEIPT: HIDDEN, "eth_getBlockByNumber": other_heads(3)}
        asked = pair[1].calls[RECEIPT]
        async with asyncio.timeout(20):
            while pair[1].calls[RECEIPT] < asked + 2:  # noqa: ASYNC110 - until it was looked for
                await asyncio.sleep(0.1)
        await asyncio.sleep(3)
        assert not service.logged("settlement_reorged")


async def test_a_receipt_that_is_missing_once_supersedes_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """It could not be read until its block was buried, and then it is null, once."""
    await approve(devnet)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        proxy.faults[RECEIPT] = refuse_with(-32603, "try again")
        settling = asyncio.create_task(service.settle(devnet_payment(devnet)))
        async with asyncio.timeout(20):
            while not await settled_logs(devnet):  # noqa: ASYNC110 - the chain's, not ours
                await asyncio.sleep(0.1)
        await devnet.rpc("anvil_mine", hex(BURIED))
        proxy.faults[RECEIPT] = null_once()
        assert (await settling)["success"]
        assert not service.logged("superseded")


def other_heads(count: int) -> Fault:
    """For eth_getBlockByNumber: so many times the latest block has a hash that no chain has."""
    told = 0

    async def fault(call: Call, forward: Forward) -> Answer | None:
        nonlocal told
        answer = await forward(call)
        if call["params"][0] == "latest" and told < count:
            told += 1
            answer = {**answer, "result": {**answer["result"], "hash": "0x" + "ee" * 32}}
        return answer

    return fault


def null_once() -> Fault:
    """For any method: the first answer is null."""
    told = False

    async def fault(call: Call, forward: Forward) -> Answer | None:
        nonlocal told
        if told:
            return await forward(call)
        told = True
        return await HIDDEN(call, forward)

    return fault
