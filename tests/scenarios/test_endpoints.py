"""Two endpoints of one chain, the first of which is dead, lies or lags: payments settle all the
same, none wrongly, and nothing is said of where the endpoints are.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from facilitator.chain.client import Chain
from facilitator.chain.quorum import Agreement
from facilitator.chain.rpc import RPC
from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.ethereum.fees import GWEI
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.endpoints import behind, behind_two, changes_of, reads_of, settled
from tests.support.faultproxy import (
    Answer,
    Call,
    Fault,
    Forward,
    already_known,
    delay,
    drop_request,
    fault_proxy,
    forged_receipt,
    head_ahead,
    leave_out,
    lose_request,
    lying_nonce,
    nonce_too_low,
    on_chain,
    refuse_with,
    replacement_underpriced,
    stale_by,
)
from tests.support.postfaults import rate_limited
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio


# Blocks that are mined at once, a second each, so that the newest one is from just now.
PAST = 60


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1, genesis_age=PAST)


@pytest.fixture
async def devnet(devnet: Devnet) -> Devnet:
    await approve(devnet)
    await devnet.rpc("anvil_mine", hex(PAST), hex(1))
    return devnet


async def test_a_first_endpoint_that_is_dead_then_on_another_chain_then_stale_harms_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with behind_two(devnet, tmp_path) as (service, first, second):
        await settled(service, devnet, 2)
        assert reads_of(first) > 0
        assert reads_of(second) == 0
        first.post_fault = drop_request
        await settled(service, devnet, 4)
        first.heal()
        first.faults = on_chain(1)
        await _excluded(service, "wrong_chain")
        reads = reads_of(first)
        await settled(service, devnet, 4)
        assert reads_of(first) == reads  # nothing was even asked of it
        first.faults = {"*": stale_by(50)}
        await _excluded(service, "stale")
        reads = reads_of(first)
        await settled(service, devnet, 4)
        assert reads_of(first) == reads
        first.heal()
        await service.wait_for("endpoint_recovered")
        reads = reads_of(second)
        await settled(service, devnet, 2)
        assert reads_of(first) > 0
        assert reads_of(second) == reads
        assert {name for name, _ in changes_of(service, "endpoint_excluded")} == {"jeju#0"}
        assert changes_of(service, "endpoint_recovered")[-1] == ("jeju#0", None)
    assert len(await settled_logs(devnet)) == 16


async def _excluded(service: Service, fault: str) -> None:
    """Until the service has found out: it looks at its endpoints while it is asked something."""
    async with asyncio.timeout(90):
        while ("jeju#0", fault) not in changes_of(service, "endpoint_excluded"):
            await service.get("/stats")
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("lie", ["dead", "wrong chain", "50 blocks stale", "hanging"])
async def test_a_first_endpoint_that_was_never_right_is_never_read(
    devnet: Devnet, tmp_path: Path, lie: str
) -> None:
    lies: dict[str, dict[str, Fault]] = {
        "dead": {"*": lose_request},
        "wrong chain": on_chain(8453),
        "50 blocks stale": {"*": stale_by(50)},
        "hanging": {"*": delay(600)},
    }
    async with fault_proxy(devnet.url) as first, fault_proxy(devnet.url) as second:
        first.faults = lies[lie]
        urls = f"{first.url},{second.url}"
        async with serve(devnet, tmp_path, JEJU_RPC_URL=urls) as service:
            await settled(service, devnet, 3)
            assert len(changes_of(service, "endpoint_excluded")) <= 1
    assert reads_of(first) == 0


async def test_with_every_endpoint_down_nothing_is_claimed(devnet: Devnet, tmp_path: Path) -> None:
    """Liveness stays, `/` is degraded, verify and settle are 503s before any claim; few questions
    are asked of those that are down; once one is back the same payment settles.
    """
    header = devnet_payment(devnet)
    lies = on_chain(1)
    async with behind_two(devnet, tmp_path, second_faults=lies) as (service, first, second):
        first.post_fault = drop_request
        for _ in range(10):
            for path, member in (("/verify", "invalidReason"), ("/settle", "error")):
                status, reply = await service.post(path, request(header))
                assert (status, reply[member]) == (503, "Chain unavailable")
        assert (await service.get("/health"))[0] == 200
        assert (await service.get("/"))[1]["status"] == "degraded"
        status, ready = await service.get("/ready")
        assert (status, ready["rpc"]) == (200, False)
        assert first.posts < 15
        assert second.posts < 15
        second.heal()
        await asyncio.sleep(5.1)  # the longest pause
        await settled_once(service, devnet, header)


async def settled_once(service: Service, devnet: Devnet, header: dict[str, Any]) -> None:
    reply = await service.settle(header)
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)


async def test_a_429_is_obeyed_while_payments_settle(devnet: Devnet, tmp_path: Path) -> None:
    async with behind_two(devnet, tmp_path) as (service, first, _second):
        await settled(service, devnet, 1)
        first.post_fault = rate_limited(4)
        posts, started = first.posts, time.monotonic()
        while time.monotonic() - started < 3:
            await settled(service, devnet, 2)
        assert 1 <= first.posts - posts <= 3  # it was told once, or several times at once
        first.heal()
        await asyncio.sleep(4)
        await settled(service, devnet, 1)
        await service.wait_for("endpoint_recovered")


async def test_a_lone_endpoint_s_429_reaches_the_client(devnet: Devnet, tmp_path: Path) -> None:
    """With its Retry-After, and without a further question until then."""
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        await settled(service, devnet, 1)
        proxy.post_fault = rate_limited(3)
        await asyncio.sleep(2.5)  # the loop, which watches for reorgs, is told
        posts = proxy.posts
        body = request(devnet_payment(devnet))
        async with service.session.post(f"{service.url}/verify", json=body) as response:
            assert response.status == 503
            assert 1 <= int(response.headers["Retry-After"]) <= 3
        assert proxy.posts - posts <= 1


@pytest.mark.parametrize(
    "fault",
    [nonce_too_low, already_known, replacement_underpriced, lose_request, leave_out, delay(20)],
    ids=["nonce too low", "already known", "underpriced", "lost", "missing", "slow"],
)
async def test_what_one_endpoint_says_of_a_send_is_not_the_last_word(
    devnet: Devnet, tmp_path: Path, fault: Fault
) -> None:
    """The other one takes it."""
    async with behind_two(devnet, tmp_path) as (service, first, second):
        first.faults["eth_sendRawTransaction"] = fault
        await settled(service, devnet, 3)
        assert second.calls["eth_sendRawTransaction"] >= 3


async def test_a_second_endpoint_contradicts_what_the_first_one_forges(devnet: Devnet) -> None:
    """On a real chain: the block, the account nonce, and a block that the second has not seen."""
    address = devnet.payer.address
    async with fault_proxy(devnet.url) as first, fault_proxy(devnet.url) as second:
        chain = Chain(
            RPC(
                [first.url, second.url],
                name="jeju",
                session=first.session,
                chain_id=devnet.chain_id,
            )
        )
        await devnet.rpc("evm_setIntervalMining", 0)  # what is forged is as high as the head
        head = await chain.head()
        assert await chain.quorum.block(head.number, head.hash) is Agreement.AGREED
        first.faults["eth_getTransactionCount"] = lying_nonce(7)
        lied = await chain.account_nonce(address, head.number)
        agreed = await chain.quorum.account_nonce(address, head.number)
        assert (agreed.value, agreed.alone) == (lied - 7, False)
        first.faults["eth_getTransactionReceipt"] = forged_receipt(succeeded=True)
        receipts = await chain.receipts([b"\x11" * 32])
        forged = receipts[b"\x11" * 32]
        assert forged.succeeded
        other = await chain.quorum.block(forged.block_number, b"\x22" * 32)
        assert other is not Agreement.AGREED
        receipt = await chain.quorum.receipt(forged.transaction_hash)
        assert (receipt.agreed, receipt.value) == (False, forged)
        second.faults["*"] = stale_by(5)
        assert await chain.quorum.block(head.number, head.hash) is not Agreement.AGREED
        older = await chain.quorum.block(head.number - 9, head.parent_hash)
        assert older is not Agreement.AGREED


async def test_a_failure_that_one_endpoint_makes_up_is_never_told(
    devnet: Devnet, tmp_path: Path
) -> None:
    """However deep the block is in which it says that our transaction failed."""
    async with behind_two(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="6") as (service, *pair):
        pair[0].faults["eth_getTransactionReceipt"] = forged_receipt(succeeded=False)
        headers = [devnet_payment(devnet) for _ in range(3)]
        posting = [asyncio.create_task(service.settle(each)) for each in headers]
        await service.wait_for("settlement_submitted", 3)
        async with asyncio.timeout(90):
            while len(await settled_logs(devnet)) < 3:  # noqa: ASYNC110 - blocks come by themselves
                await asyncio.sleep(0.1)
        await devnet.rpc("anvil_mine", hex(20))
        replies = await asyncio.gather(*posting)
        assert {each["error"] for each in replies} == {"Settlement pending"}
        assert service.logged("receipt_not_confirmed")
        pair[0].heal()
        assert [(await service.settle(each))["success"] for each in headers] == [True] * 3
        assert not service.logged("settlement_failed")
    assert len(await settled_logs(devnet)) == 3


@pytest.mark.parametrize("liar", [0, 1], ids=["first", "second"])
async def test_a_head_that_one_endpoint_makes_up_silences_no_other(
    devnet: Devnet, tmp_path: Path, liar: int
) -> None:
    """One that is read first delays what is final, since the other one knows no such block; the
    other way round it is not even noticed. Whatever is told is true.
    """
    async with behind_two(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="8") as (service, *pair):
        await settled(service, devnet, 2)
        pair[liar].faults["eth_getBlockByNumber"] = head_ahead(1_000)
        await asyncio.sleep(11)  # it is looked at again
        if liar:
            await settled(service, devnet, 4)
        else:
            headers = [devnet_payment(devnet) for _ in range(4)]
            replies = await asyncio.gather(*(service.settle(each) for each in headers))
            shown = {log.transaction_hash for log in await settled_logs(devnet)}
            assert {each["txHash"] for each in replies if each["success"]} <= shown
            unsure = [each for each in replies if not each["success"]]
            assert {each["error"] for each in unsure} <= {"Settlement pending"}
            pair[liar].heal()
            retried = [
                await service.settle(header)
                for header, reply in zip(headers, replies, strict=True)
                if not reply["success"]
            ]
            assert [each["success"] for each in retried] == [True] * len(unsure)
        assert changes_of(service, "endpoint_excluded") == []
    assert len(await settled_logs(devnet)) == 6


@pytest.mark.parametrize("count", [2, 3])
async def test_a_tip_that_one_endpoint_makes_up_is_not_paid(
    devnet: Devnet, tmp_path: Path, count: int
) -> None:
    """From the first payment on, and after the endpoints agreed on another one."""
    async with behind(devnet, tmp_path, count) as (service, proxies):
        for before in (0, 1):
            await settled(service, devnet, before)
            proxies[0].faults["eth_feeHistory"] = tips_of(300 * GWEI)
            reply = await service.settle(devnet_payment(devnet))
            assert reply["success"]
            mined: Any = await devnet.rpc("eth_getTransactionByHash", reply["txHash"])
            assert int(mined["maxPriorityFeePerGas"], 16) <= 2 * GWEI
            proxies[0].heal()


def tips_of(wei: int) -> Fault:
    """For eth_feeHistory: each block's tips were so many wei."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        answer = await forward(call)
        rewards = [[hex(wei)] for _ in answer["result"]["reward"]]
        return {**answer, "result": {**answer["result"], "reward": rewards}}

    return fault


@pytest.mark.parametrize(
    ("method", "code", "message"),
    [
        ("eth_getTransactionReceipt", -32000, "transaction indexing is in progress"),
        ("eth_getTransactionReceipt", -32601, "the method does not exist"),
        ("eth_feeHistory", -32601, "the method does not exist"),
        ("eth_estimateGas", -32603, "internal error"),
        ("eth_getTransactionCount", -32000, "state is pruned"),
        ("eth_getBalance", -32603, "internal error"),
    ],
)
async def test_what_the_first_endpoint_refuses_is_asked_of_the_next(
    devnet: Devnet, tmp_path: Path, method: str, code: int, message: str
) -> None:
    """Of three. An error of the node is not the chain's answer."""
    async with behind(devnet, tmp_path, 3) as (service, proxies):
        proxies[0].faults[method] = refuse_with(code, message)
        await settled(service, devnet, 3)
