"""The standard dialect and time: what a crash, a late answer or a deadline make of a payment."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.faultproxy import (
    Answer,
    Call,
    Fault,
    Forward,
    fault_proxy,
    lose_reply,
    lose_request,
)
from tests.support.service import Service, serve
from tests.support.x402 import v1_body, v2_body
from tests.support.x402_chain import transfers
from tests.support.x402_service import (
    BALANCE,
    EARLY,
    EXPIRED,
    TOO_MANY_BLOCKS,
    USED,
    nonce_of,
    refused,
    resume_mining,
    settle,
    stop_mining,
    verify,
)

pytestmark = pytest.mark.anyio

VERSIONS = pytest.mark.parametrize("make", [v1_body, v2_body], ids=["v1", "v2"])


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def settle_and_die(service: Service, body: object) -> str:
    """Ask for the settlement and kill the service once it is signed and stored; its hash."""
    posting = asyncio.create_task(service.post("/settle", body))
    await service.wait_for("settlement_submitted")
    await service.stop(signal.SIGKILL)
    with pytest.raises(aiohttp.ClientError):
        await posting
    [submitted] = service.logged("settlement_submitted")
    return str(submitted["transaction"])


async def attempts_of(service: Service, reply: dict[str, Any]) -> set[str]:
    """The hashes of everything that was signed for the settlement that a reply tells of."""
    _, found = await service.get("/settlements/" + reply["extra"]["settlementId"])
    [transaction] = found["transactions"]
    return {attempt["transaction"] for attempt in transaction["attempts"]}


@VERSIONS
async def test_kill_9_between_send_and_receipt_loses_and_doubles_nothing(
    make: Any, devnet: Devnet, tmp_path: Path
) -> None:
    """The same request in the next life: success with the hash of the first."""
    body, first = make(devnet), await nonce_of(devnet)
    async with serve(devnet, tmp_path) as one:
        await stop_mining(devnet)
        sent = await settle_and_die(one, body)
    async with serve(devnet, tmp_path) as other:
        await resume_mining(devnet)
        reply, again = await settle(other, body), await settle(other, body)
        [paid] = await transfers(devnet)
        # On a slow machine it is replaced meanwhile, at the same account nonce.
        assert {sent, paid.transaction_hash} <= await attempts_of(other, reply)
    assert (reply["success"], reply["transaction"]) == (True, paid.transaction_hash)
    assert (again["errorReason"], again["transaction"]) == (USED, paid.transaction_hash)
    assert await nonce_of(devnet) == first + 1


async def test_kill_9_before_the_send_still_pays(devnet: Devnet, tmp_path: Path) -> None:
    """What was stored is sent by the next life, though nobody asks again."""
    body = v2_body(devnet)
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_sendRawTransaction"] = lose_request
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as one:
            sent = await settle_and_die(one, body)
        assert await transfers(devnet) == []
        proxy.faults.clear()
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as other:
            await other.wait_for("settlement_confirmed")
            reply = await settle(other, body)
            [paid] = await transfers(devnet)
            assert {sent, paid.transaction_hash} <= await attempts_of(other, reply)
    assert (reply["success"], reply["transaction"]) == (True, paid.transaction_hash)


async def test_a_send_whose_answer_is_lost_is_no_failure(devnet: Devnet, tmp_path: Path) -> None:
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_sendRawTransaction"] = lose_reply
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            reply = await settle(service, v1_body(devnet))
    [paid] = await transfers(devnet)
    assert (reply["success"], reply["transaction"]) == (True, paid.transaction_hash)


async def test_the_outcome_is_told_after_the_deadline_as_well(
    devnet: Devnet, tmp_path: Path
) -> None:
    """A payment that was made in time is not expired for who asks late."""
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="1") as service:
        await stop_mining(devnet)
        body = v2_body(devnet, authorization={"validBefore": str(int(time.time()) + 20)})
        sent = (await settle(service, body))["transaction"]
        await resume_mining(devnet)
        await service.wait_for("settlement_confirmed")
        await asyncio.sleep(20)
        reply = await settle(service, body)
        assert {sent, reply["transaction"]} <= await attempts_of(service, reply)
    assert reply["success"] is True


async def test_a_payment_that_expires_while_it_waits_is_expired_for_good(
    devnet: Devnet, tmp_path: Path
) -> None:
    """No transaction can settle it any more, so none is sent."""
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_sendRawTransaction"] = lose_request
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            body = v2_body(devnet, authorization={"validBefore": str(int(time.time()) + 15)})
            waiting = asyncio.create_task(settle(service, body))
            await service.wait_for("settlement_submitted")
            await asyncio.sleep(15)
            proxy.faults.clear()
            await devnet.rpc("anvil_mine", hex(1))
            await asyncio.sleep(5)
            await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
            failed = await waiting
            again = await settle(service, body)
            assert len(service.logged("settlement_submitted")) == 1
            assert service.logged("settled_again") == []
    assert (failed["success"], failed["errorReason"]) == (False, EXPIRED)
    assert (again["errorReason"], again["transaction"]) == (EXPIRED, failed["transaction"])
    assert await transfers(devnet) == []


async def test_what_is_not_valid_yet_or_any_more_sends_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """From validAfter on, until 6 seconds before validBefore, as official facilitators have it."""
    first, now = await nonce_of(devnet), int(time.time())
    async with serve(devnet, tmp_path) as service:
        for changes, code in (
            ({"validAfter": str(now + 30)}, EARLY),
            ({"validAfter": str(2**256 - 1)}, EARLY),
            ({"validAfter": str(now + 30), "validBefore": "1"}, EXPIRED),
            ({"validBefore": str(now + 4)}, EXPIRED),
            ({"validBefore": "1"}, EXPIRED),
            ({"validBefore": "0"}, EXPIRED),
        ):
            assert await refused(service, v2_body(devnet, authorization=changes)) == code
        for changes in (
            {"validAfter": str(int(time.time()) - 2)},
            {"validBefore": str(int(time.time()) + 20)},
            {"validBefore": str(2**256 - 1)},
        ):
            body = v2_body(devnet, authorization=changes)
            assert (await verify(service, body))["isValid"] is True
            assert (await settle(service, body))["success"] is True
    assert await nonce_of(devnet) == first + 3


async def without_pending(call: Call, forward: Forward) -> Answer:
    """A node that has no block to come."""
    if "pending" in call["params"]:
        error = {"code": -32000, "message": "pending state is not available"}
        return {"jsonrpc": "2.0", "id": call["id"], "error": error}
    return await forward(call)


async def latest_for_pending(call: Call, forward: Forward) -> Answer:
    """A node that says pending of its latest block, as those of rollups do."""
    params = ["latest" if each == "pending" else each for each in call["params"]]
    return await forward({**call, "params": params})


async def test_a_payment_that_begins_after_the_latest_block_is_settled_in_the_next(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with serve(devnet, tmp_path) as service:
        await stop_mining(devnet)
        await asyncio.sleep(4)
        body = v2_body(devnet, authorization={"validAfter": str(int(time.time()) - 2)})
        assert (await verify(service, body))["isValid"] is True
        waiting = asyncio.create_task(settle(service, body))
        await service.wait_for("settlement_submitted")
        await resume_mining(devnet)
        assert (await waiting)["success"] is True


@pytest.mark.parametrize("fault", [without_pending, latest_for_pending])
async def test_where_the_node_has_no_block_to_come_it_is_early_and_passes(
    fault: Fault, devnet: Devnet, tmp_path: Path
) -> None:
    """It is told to ask again, and not that the token refuses it; what it lacks besides is told."""
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        proxy.faults["eth_call"] = proxy.faults["eth_estimateGas"] = fault
        await stop_mining(devnet)
        await asyncio.sleep(4)
        begun = {"validAfter": str(int(time.time()) - 2)}
        body = v2_body(devnet, authorization=begun)
        assert await refused(service, body) == EARLY
        assert (await settle(service, body))["errorMessage"].endswith("next block on: ask again")
        dear = v2_body(devnet, requirements={"amount": "9" * 20}, authorization=begun)
        assert await refused(service, dear) == BALANCE
        await resume_mining(devnet)
        await asyncio.sleep(3)
        assert (await settle(service, body))["success"] is True
