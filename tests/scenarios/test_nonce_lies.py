"""An endpoint that counts too many of a signer's transactions opens no gap in its nonces."""

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.endpoints import behind_two, settled
from tests.support.faultproxy import (
    already_known,
    fault_proxy,
    lose_request,
    lying_nonce,
    nonce_too_low,
    refuse_with,
)
from tests.support.service import request, serve
from tests.support.x402_service import nonce_of

pytestmark = pytest.mark.anyio

SEND, COUNT = "eth_sendRawTransaction", "eth_getTransactionCount"
WIDE = 40  # account nonces
BURIED = 14  # blocks: more than it takes to say that something else used an account nonce


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.mark.parametrize("liar", [0, 1], ids=["first", "second"])
async def test_a_count_that_one_endpoint_alone_tells_leaves_no_account_nonce_out(
    devnet: Devnet, tmp_path: Path, liar: int
) -> None:
    """From the first payment on, with a journal that is new: the signer waits, or goes on."""
    await approve(devnet)
    async with fault_proxy(devnet.url) as first, fault_proxy(devnet.url) as second:
        proxies = (first, second)
        proxies[liar].faults["eth_getTransactionCount"] = lying_nonce(by=3)
        urls = ",".join(proxy.url for proxy in proxies)
        async with serve(devnet, tmp_path, JEJU_RPC_URL=urls) as service:
            body = request(devnet_payment(devnet))
            status, reply = await service.post("/settle", body)
            assert (status, reply["success"]) == (503, False)
            assert not service.logged("settlement_submitted")
            proxies[liar].faults.clear()
            async with asyncio.timeout(90):
                while not reply["success"]:
                    await asyncio.sleep(0.5)
                    _, reply = await service.post("/settle", body)
            assert not service.logged("gap_filled")
    assert len(await settled_logs(devnet)) == 1
    assert await nonce_of(devnet) == 1


@pytest.mark.parametrize("by", [10_000, 2**63 - 40])
@pytest.mark.parametrize("says", ["a count", "nonce too low as well"])
async def test_a_count_far_ahead_is_believed_of_no_endpoint_that_is_left_alone(
    devnet: Devnet, tmp_path: Path, by: int, says: str
) -> None:
    """No gap filler closes a gap of that size: the signer waits for a second word instead."""
    await approve(devnet)
    async with behind_two(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="4") as (service, first, second):
        await settled(service, devnet, 1)
        second.faults["*"] = lose_request
        await settled(service, devnet, 1)
        async with asyncio.timeout(30):
            while "endpoint_excluded" not in {line["event"] for line in service.lines}:
                await settled(service, devnet, 1)
        first.faults[COUNT] = lying_nonce(by=by)
        if "too low" in says:
            first.faults[SEND] = nonce_too_low
        header = devnet_payment(devnet)
        status, reply = await service.post("/settle", request(header))
        if "too low" in says:
            assert (status, reply["error"]) == (200, "Settlement pending")
            status, _ = await service.post("/settle", request(devnet_payment(devnet)))
            assert status == 503
            await service.wait_for("signer_paused")
        first.heal()
        second.heal()
        async with asyncio.timeout(30):
            while not reply["success"]:
                await asyncio.sleep(0.5)
                _, reply = await service.post("/settle", request(header))
            status = 503
            while status == 503:  # the signer's next account nonce is looked at now and then
                await asyncio.sleep(0.5)
                status, _ = await service.post("/settle", request(devnet_payment(devnet)))
        await settled(service, devnet, 2)
        assert not service.logged("gap_filled")
        assert not service.logged("superseded")
    assert await nonce_of(devnet) == len(await settled_logs(devnet))


async def test_one_that_is_left_alone_is_believed_when_it_has_said_so_for_long(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Something else did take the account nonce, and the second endpoint never comes back."""
    await approve(devnet)
    async with behind_two(devnet, tmp_path) as (service, first, second):
        await settled(service, devnet, 1)
        first.faults[SEND] = second.faults["*"] = lose_request
        waiting = asyncio.create_task(service.settle(devnet_payment(devnet)))
        await service.wait_for("settlement_submitted", 2)
        transfer = {"from": "0x" + devnet.signer.address.hex(), "to": "0x" + "11" * 20}
        await devnet.rpc("eth_sendTransaction", {**transfer, "gas": hex(21_000)})
        await devnet.rpc("anvil_mine", hex(BURIED))
        async with asyncio.timeout(30):
            while "endpoint_excluded" not in {line["event"] for line in service.lines}:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await asyncio.sleep(3)
        assert not service.logged("superseded")
        await devnet.rpc("anvil_mine", hex(BURIED))
        await service.wait_for("superseded")
        first.faults.clear()
        assert (await waiting)["success"]
    assert len(await settled_logs(devnet)) == 2


async def test_a_count_is_believed_of_no_endpoint_because_another_one_was_read(
    devnet: Devnet, tmp_path: Path
) -> None:
    """It limits our rate for one question, so that the other one is asked that."""
    await approve(devnet)
    async with behind_two(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="6") as (service, first, _):
        await settled(service, devnet, 1)
        first.faults[COUNT] = lying_nonce(by=2**40)
        first.faults["eth_feeHistory"] = refuse_with(-32005, "rate limit")
        await settled(service, devnet, 2)
        first.heal()
        await settled(service, devnet, 2)
        assert not service.logged("gap_filled")
    assert await nonce_of(devnet) == 5


@pytest.mark.parametrize("liar", [0, 1], ids=["first", "second"])
async def test_no_transaction_is_superseded_by_what_one_endpoint_alone_counts(
    devnet: Devnet, tmp_path: Path, liar: int
) -> None:
    """However deep it says so."""
    await approve(devnet)
    await devnet.rpc("anvil_mine", hex(20))
    async with fault_proxy(devnet.url) as first, fault_proxy(devnet.url) as second:
        proxies = (first, second)
        urls = ",".join(proxy.url for proxy in proxies)
        async with serve(devnet, tmp_path, JEJU_RPC_URL=urls) as service:
            for proxy in proxies:
                proxy.faults[SEND] = already_known
            asked = asyncio.create_task(service.settle(devnet_payment(devnet)))
            await service.wait_for("settlement_submitted")
            proxies[liar].faults[COUNT] = lying_nonce(by=3)
            await asyncio.sleep(4)
            for proxy in proxies:
                proxy.heal()
            assert (await asked)["success"]
            assert not service.logged("superseded")
    assert len(await settled_logs(devnet)) == 1
    assert await nonce_of(devnet) == 1


async def test_what_a_lie_superseded_is_sent_again(devnet: Devnet, tmp_path: Path) -> None:
    """With one endpoint nobody contradicts it. Once it tells the truth, the chain still wants the
    account nonce: the transaction was not ended after all.
    """
    await approve(devnet)
    await devnet.rpc("anvil_mine", hex(20))
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        proxy.faults[SEND] = already_known
        asked = asyncio.create_task(service.settle(devnet_payment(devnet)))
        await service.wait_for("settlement_submitted")
        proxy.faults[COUNT] = lying_nonce(by=3)
        await service.wait_for("superseded")
        await asyncio.sleep(2)
        proxy.heal()
        assert (await asked)["success"]
        await service.wait_for("gap_reopened")
        await service.wait_for("gap_filled", 2)
        await asyncio.sleep(2.5)
        assert await nonce_of(devnet) == 4
    assert len(await settled_logs(devnet)) == 1


async def test_a_wide_gap_that_a_lie_opened_is_closed_at_once(
    devnet: Devnet, tmp_path: Path
) -> None:
    """By the only endpoint: it is filled in one turn, not a nonce a block."""
    await approve(devnet)
    await devnet.rpc("anvil_mine", hex(20))
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        await settled(service, devnet, 1)
        proxy.faults[COUNT] = lying_nonce(by=WIDE)
        asked = asyncio.create_task(service.settle(devnet_payment(devnet)))
        await service.wait_for("settlement_submitted", 2)
        proxy.heal()
        await service.wait_for("gap_filled", WIDE)
        filled = [line["time"] for line in service.logged("gap_filled")]
        assert (await asked)["success"]
        await settled(service, devnet, 1)
    first, last = (datetime.fromisoformat(each) for each in (min(filled), max(filled)))
    assert (last - first).total_seconds() < WIDE / 2
    assert await nonce_of(devnet) == 3 + WIDE
