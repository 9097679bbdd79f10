"""Nodes that fail, lie or garble: never valid because of garbage, never lost because of silence."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.faultproxy import (
    Answer,
    Call,
    Forward,
    answer_with,
    fault_proxy,
    lose_reply,
    lose_request,
    refuse_with,
)
from tests.support.scraping import scrape
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio

GWEI = 10**9


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def nonce_of_signer(devnet: Devnet) -> int:
    address = "0x" + devnet.signer.address.hex()
    return int(str(await devnet.rpc("eth_getTransactionCount", address, "latest")), 16)


async def test_a_lost_send_reply_is_not_a_failure(devnet: Devnet, tmp_path: Path) -> None:
    """The node took the transaction; that nobody heard so changes nothing."""
    await approve(devnet)
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_sendRawTransaction"] = lose_reply
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            reply = await service.settle(devnet_payment(devnet))
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)


async def test_a_send_that_never_arrived_is_sent_again(devnet: Devnet, tmp_path: Path) -> None:
    await approve(devnet)
    async with fault_proxy(devnet.url) as proxy:
        lost = 0

        async def lose_first(call: Call, forward: Forward) -> Answer | None:
            nonlocal lost
            lost += 1
            return await (lose_request if lost == 1 else _pass_on)(call, forward)

        proxy.faults["eth_sendRawTransaction"] = lose_first
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            reply = await service.settle(devnet_payment(devnet))
            assert len(service.logged("settlement_submitted")) == 1
    assert lost >= 2
    assert reply["success"] is True
    assert len(await settled_logs(devnet)) == 1


async def _pass_on(call: Call, forward: Forward) -> Answer | None:
    return await forward(call)


async def test_what_the_pool_drops_is_sent_again(devnet: Devnet, tmp_path: Path) -> None:
    await approve(devnet)
    async with serve(devnet, tmp_path) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(devnet_payment(devnet)))
        await service.wait_for("settlement_submitted")
        [submitted] = service.logged("settlement_submitted")
        await asyncio.sleep(0.5)
        assert await devnet.rpc("anvil_dropTransaction", submitted["transaction"]) is not None
        await devnet.rpc("evm_setIntervalMining", 1)
        reply = await waiting
    assert (reply["success"], reply["txHash"]) == (True, submitted["transaction"])


async def test_a_stuck_transaction_is_replaced_at_higher_fees(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The base fee rises 20 times after the send: the next attempt pays for it, under the cap."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path, MAX_FEE_PER_GAS_GWEI="200") as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        [submitted] = service.logged("settlement_submitted")
        await asyncio.sleep(0.5)
        sent: Any = await devnet.rpc("eth_getTransactionByHash", submitted["transaction"])
        first_fee = int(sent["maxFeePerGas"], 16)
        await devnet.rpc("anvil_setNextBlockBaseFeePerGas", hex(20 * GWEI))
        await devnet.rpc("evm_setIntervalMining", 1)
        reply = await waiting
        _, told = await service.get(f"/settlements/{submitted['transaction']}")
    [transaction] = told["transactions"]
    attempts = transaction["attempts"]
    assert [attempt["transaction"] for attempt in attempts] == [
        submitted["transaction"],
        reply["txHash"],
    ]
    for name in ("maxFeePerGas", "maxPriorityFeePerGas"):
        before, after = (int(attempt[name]) for attempt in attempts)
        print(name, before, "wei, then", after)  # for who looks (pytest -rP)
        assert before * 9 <= after * 8
    assert all(int(attempt["maxFeePerGas"]) <= 200 * GWEI for attempt in attempts)
    assert int(transaction["gasCost"]) > 0
    assert reply["success"] is True
    assert reply["txHash"] != submitted["transaction"]
    mined: Any = await devnet.rpc("eth_getTransactionByHash", reply["txHash"])
    assert int(mined["nonce"], 16) == int(sent["nonce"], 16)
    assert first_fee * 1125 // 1000 <= int(mined["maxFeePerGas"], 16) <= 200 * GWEI
    assert len(await settled_logs(devnet)) == 1


async def test_a_nonce_that_something_else_took_is_survived(devnet: Devnet, tmp_path: Path) -> None:
    """Another program uses the signer's key: the payment is settled again at a new nonce."""
    await approve(devnet)
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_sendRawTransaction"] = lose_request
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            waiting = asyncio.create_task(service.settle(devnet_payment(devnet)))
            await service.wait_for("settlement_submitted")
            [submitted] = service.logged("settlement_submitted")
            transfer = {"from": "0x" + devnet.signer.address.hex(), "to": "0x" + "11" * 20}
            await devnet.rpc("eth_sendTransaction", {**transfer, "gas": hex(21_000)})
            await devnet.rpc("anvil_mine", hex(20))
            proxy.faults.clear()
            reply = await waiting
            assert service.logged("superseded")
            seen = await scrape(service)
            assert seen.values("facilitator_superseded_total", network="jeju") == [1]
            assert service.logged("settled_again")
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)
    assert reply["txHash"] != submitted["transaction"]


async def test_a_reorg_after_the_reply_is_repaired_and_never_silent(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The block that paid leaves the chain: alarm, and the same bytes are mined again."""
    await approve(devnet)
    await devnet.rpc("anvil_mine", hex(5))  # the approval stays
    async with serve(devnet, tmp_path) as service:
        reply = await service.settle(devnet_payment(devnet))
        assert reply["success"] is True
        await asyncio.sleep(1.2)
        await devnet.rpc("anvil_reorg", 4, [])
        await service.wait_for("settlement_reorged")
        assert service.logged("settlement_reorged")[0]["level"] == "critical"
        await service.wait_for("settlement_confirmed", 2)
    [log] = await settled_logs(devnet)
    assert log.transaction_hash == reply["txHash"]


async def test_with_the_rpc_down_nothing_is_claimed_and_nothing_is_valid(
    devnet: Devnet, tmp_path: Path
) -> None:
    """503 with Retry-After; local refusals go on; once it is back the same payment settles."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        proxy.faults["*"] = lose_request
        for path, member in (("/verify", "invalidReason"), ("/settle", "error")):
            url = service.url + path
            async with service.session.post(url, json=request(header)) as response:
                reply = await response.json()
                assert (response.status, reply[member]) == (503, "Chain unavailable")
                assert int(response.headers["Retry-After"]) >= 1
                assert reply.get("isValid", reply.get("success")) is False
        mismatch = await service.verify(header, resource="/other")
        assert mismatch["invalidReason"].startswith("Resource mismatch")
        assert (await service.get("/health"))[0] == 200
        assert (await service.get("/"))[1]["status"] == "degraded"
        status, ready = await service.get("/ready")
        assert (status, ready["rpc"]) == (200, False)
        proxy.faults.clear()
        await asyncio.sleep(5.1)  # the endpoint's penalty
        reply = await service.settle(header)
    assert reply["success"] is True
    assert len(await settled_logs(devnet)) == 1


async def test_a_signer_without_gas_money_claims_nothing(devnet: Devnet, tmp_path: Path) -> None:
    await approve(devnet)
    header = devnet_payment(devnet)
    address = "0x" + devnet.signer.address.hex()
    async with serve(devnet, tmp_path) as service:
        await devnet.rpc("anvil_setBalance", address, hex(1000))
        status, reply = await service.post("/settle", request(header))
        assert (status, reply["error"]) == (503, "Settlement wallet is out of gas money")
        await devnet.rpc("anvil_setBalance", address, hex(10**18))
        assert (await service.settle(header))["success"] is True


async def test_fees_above_the_cap_claim_nothing(devnet: Devnet, tmp_path: Path) -> None:
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path, MAX_FEE_PER_GAS_GWEI="1") as service:
        await devnet.rpc("anvil_setNextBlockBaseFeePerGas", hex(50 * GWEI))
        await asyncio.sleep(2.1)
        status, reply = await service.post("/settle", request(header))
    assert (status, reply["error"]) == (503, "Network fees above the configured maximum")
    assert await nonce_of_signer(devnet) == 0


GARBAGE: list[object] = [None, {}, [], "", "0x", "0xzz", "garbage", 7, True, {"number": None}]
ASKED = (
    *("eth_call", "eth_estimateGas", "eth_feeHistory", "eth_getBalance"),
    *("eth_getTransactionCount", "eth_getBlockByNumber"),
)


async def test_garbage_makes_nothing_valid(devnet: Devnet, tmp_path: Path) -> None:
    """Whatever a node answers to whatever it is asked: 200 with a refusal, 503, or the truth."""
    await approve(devnet)
    header = devnet_payment(devnet, amount=10**18)  # more than the payer has
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        for method in ASKED:
            for garbage in GARBAGE:
                proxy.faults = {method: answer_with(garbage)}
                await _stays_invalid(service, header)
        proxy.faults = {"eth_call": refuse_with(-32000, "header not found")}
        await _stays_invalid(service, header)
        proxy.faults = {}
        for raw in (b"", b"null", b"[]", b"<html></html>", b'[{"id":1', b"[" * 50_000):
            proxy.raw = raw
            await _stays_invalid(service, header)
        assert not service.logged("unhandled_error")
    assert await settled_logs(devnet) == []


async def _stays_invalid(service: Service, header: dict[str, Any]) -> None:
    for path in ("/verify", "/settle"):
        status, reply = await service.post(path, request(header))
        assert status in (200, 503), reply
        assert reply.get("isValid", reply.get("success")) is False, reply


@pytest.mark.parametrize("method", ["eth_getTransactionCount", "eth_getBlockByNumber"])
async def test_a_number_that_the_journal_cannot_hold_is_no_answer(
    devnet: Devnet, tmp_path: Path, method: str
) -> None:
    """An account nonce or block number of 2^63: nothing is broken by it, and nothing lost."""
    await approve(devnet)

    async def exaggerate(call: Call, forward: Forward) -> Answer | None:
        answer = await forward(call)
        if isinstance(block := answer["result"], dict):
            return {**answer, "result": {**block, "number": hex(2**63)}}
        return {**answer, "result": hex(2**63)}

    async with fault_proxy(devnet.url) as proxy:
        proxy.faults[method] = exaggerate
        async with serve(
            devnet, tmp_path, JEJU_RPC_URL=proxy.url, SETTLE_TIMEOUT_SECONDS="2"
        ) as service:
            header = devnet_payment(devnet)
            _, reply = await service.post("/settle", request(header))
            assert reply["error"] in ("Chain unavailable", "Settlement pending")
            proxy.faults.clear()
            await asyncio.sleep(2)
            assert (await service.settle(header))["success"]
            assert not service.logged("unhandled_error")
            assert not service.logged("turn_broken")
    assert len(await settled_logs(devnet)) == 1


async def test_an_outage_is_never_called_a_bad_signature(devnet: Devnet, tmp_path: Path) -> None:
    """Nor is a node's limit on our rate anybody's fault but the node's."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        for fault in (
            refuse_with(-32005, "rate limit exceeded"),
            refuse_with(-32000, "header not found"),
            refuse_with(-32603, "internal error"),
        ):
            proxy.faults["eth_call"] = fault
            status, reply = await service.post("/verify", request(header))
            assert (status, reply["invalidReason"]) == (503, "Chain unavailable")


async def test_no_secret_reaches_a_log(devnet: Devnet, tmp_path: Path) -> None:
    """Not the key, not a signature, not the credential in the RPC URL, whatever goes wrong."""
    await approve(devnet)
    header = devnet_payment(devnet)
    api_key = "4f9c1d7e8a2b4c6d"
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_sendRawTransaction"] = refuse_with(-32000, f"no {proxy.url}?k={api_key}")
        url = f"{proxy.url}?key={api_key}"
        changes = {"JEJU_RPC_URL": url, "LOG_LEVEL": "DEBUG", "SETTLE_TIMEOUT_SECONDS": "1"}
        async with serve(devnet, tmp_path, **changes) as service:
            await service.settle(header)
            proxy.raw = b"x"
            await service.post("/settle", request(devnet_payment(devnet)))
        output = service.output.decode()
    assert "settlement_submitted" in output
    assert devnet.signer.key.hex() not in output
    assert header["signature"][2:] not in output
    assert api_key not in output
