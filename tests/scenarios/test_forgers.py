"""A node that makes up a whole payment, our transaction's receipt with the very log that proves it,
and does what it can so that nobody else is asked.
"""

import asyncio
from pathlib import Path

import pytest
from eth_abi.abi import encode

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.ethereum.keccak import keccak256
from tests.support.chain import (
    PAYMENT_SETTLED,
    approve,
    devnet_payment,
    settle_call,
    settled_logs,
    unhex,
)
from tests.support.endpoints import behind, behind_two, settled
from tests.support.faultproxy import (
    Answer,
    Call,
    Fault,
    Forward,
    already_known,
    leave_out,
    lose_reply,
    refuse_with,
)
from tests.support.x402_service import nonce_of

pytestmark = pytest.mark.anyio

LIMITED = refuse_with(-32005, "rate limit exceeded")


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


def forged_payment(devnet: Devnet, header: dict[str, str]) -> Fault:
    """For eth_getTransactionReceipt: what is not mined has paid `header` in the newest block."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        answer = await forward(call)
        if answer["result"] is not None:
            return answer
        latest = {"method": "eth_getBlockByNumber", "params": ["latest", False]}
        block = (await forward({**call, **latest}))["result"]
        timestamp = int(block["timestamp"], 16)
        payer, pay_to = unhex(header["payer"]), unhex(header["payTo"])
        payment_id = keccak256(
            payer + pay_to + header["nonce"].encode() + timestamp.to_bytes(32, "big")
        )
        topics = [PAYMENT_SETTLED, payment_id, bytes(12) + payer, bytes(12) + pay_to]
        types = ["address", "uint256", "uint256", "string", "uint256"]
        told = [devnet.usdc, int(header["amount"]), 0, header["resource"], timestamp]
        where = {
            "transactionHash": call["params"][0],
            "blockNumber": block["number"],
            "blockHash": block["hash"],
        }
        log = {
            **where,
            "address": f"0x{devnet.contract.hex()}",
            "data": f"0x{encode(types, told).hex()}",
            "topics": [f"0x{topic.hex()}" for topic in topics],
            "logIndex": "0x0",
        }
        costs = {"gasUsed": hex(100_000), "effectiveGasPrice": hex(10**9), "status": "0x1"}
        return {**answer, "result": {**where, **costs, "logs": [log]}}

    return fault


@pytest.mark.parametrize(
    "trick",
    [None, LIMITED, leave_out, lose_reply],
    ids=["none", "limits", "leaves out", "hangs up"],
)
@pytest.mark.parametrize("liar", [0, 1], ids=["first", "second"])
async def test_a_payment_that_one_endpoint_makes_up_is_never_a_success(
    devnet: Devnet, tmp_path: Path, liar: int, trick: Fault | None
) -> None:
    """Whatever else it answers, so that the honest one is read last, or it is excluded itself."""
    await approve(devnet)
    await devnet.rpc("anvil_mine", hex(60), hex(1))
    async with behind_two(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="5") as (service, *pair):
        header = devnet_payment(devnet)
        for proxy in pair:
            proxy.faults["eth_sendRawTransaction"] = already_known  # and it is in no pool
        asked = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        pair[liar].faults["eth_getTransactionReceipt"] = forged_payment(devnet, header)
        if trick is not None:
            pair[liar].faults["eth_getTransactionCount"] = trick
        reply = await asked
        assert (reply["success"], reply["error"]) == (False, "Settlement pending")
        assert await settled_logs(devnet) == []
        for proxy in pair:
            proxy.heal()
        assert (await service.settle(header))["success"]
    assert len(await settled_logs(devnet)) == 1


async def nothing_is_used(call: Call, forward: Forward) -> Answer | None:
    """For eth_call: simulations revert, no nonce is used, and no contract knows anything."""
    if "from" in call["params"][0]:
        return await refuse_with(3, "execution reverted")(call, forward)
    return {"jsonrpc": "2.0", "id": call["id"], "result": f"0x{bytes(32).hex()}"}


async def every_nonce_is_used(call: Call, forward: Forward) -> Answer | None:
    """For eth_call."""
    return {"jsonrpc": "2.0", "id": call["id"], "result": f"0x{(1).to_bytes(32).hex()}"}


async def no_logs(call: Call, forward: Forward) -> Answer | None:
    """For eth_getLogs."""
    return {"jsonrpc": "2.0", "id": call["id"], "result": []}


@pytest.mark.parametrize(
    ("liar", "lies"),
    [
        (0, {"eth_call": nothing_is_used}),
        (0, {"eth_getLogs": no_logs}),
        (0, {"eth_call": every_nonce_is_used, "eth_getLogs": no_logs}),
        (1, {"eth_call": nothing_is_used, "eth_getLogs": no_logs}),
    ],
    ids=["not paid", "no proof", "paid without a proof", "the second one"],
)
async def test_a_payment_that_somebody_else_made_is_no_failure_because_one_endpoint_says_so(
    devnet: Devnet, tmp_path: Path, liar: int, lies: dict[str, Fault]
) -> None:
    await approve(devnet)
    async with behind_two(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="30") as (service, *pair):
        header = devnet_payment(devnet)
        for proxy in pair:
            proxy.faults["eth_sendRawTransaction"] = already_known  # and it is in no pool
        asked = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        stranger = {"from": f"0x{devnet.accounts[5].address.hex()}", "gas": hex(500_000)}
        call = {"to": f"0x{devnet.contract.hex()}", "data": f"0x{settle_call(header).hex()}"}
        await devnet.rpc("eth_sendTransaction", {**stranger, **call})
        async with asyncio.timeout(20):
            while not await settled_logs(devnet):  # noqa: ASYNC110 - blocks come by themselves
                await asyncio.sleep(0.1)
        pair[liar].faults = {**lies}
        pair[1 - liar].faults = {}
        async with asyncio.timeout(40):
            while await nonce_of(devnet) == 0:  # noqa: ASYNC110 - it is sent again by itself
                await asyncio.sleep(0.1)
        # Ours was mined, and failed. How the payment ended is found out a few blocks later.
        await asyncio.sleep(12)
        assert not service.logged("settlement_failed")
        pair[liar].heal()
        reply = await asked
        if not reply["success"]:
            assert reply["error"] == "Settlement pending"
            assert (await service.settle(header))["success"]
    assert len(await settled_logs(devnet)) == 1


def told_otherwise(**changes: object) -> Fault:
    """For eth_getTransactionReceipt: of what is mined, the truth but for `changes`."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        answer = await forward(call)
        if answer["result"] is None:
            return answer
        return {**answer, "result": {**answer["result"], **changes}}

    return fault


@pytest.mark.parametrize(
    "changes",
    [
        {"logs": []},
        {"logs": [], "status": "0x0"},
        {"blockHash": "0x" + "77" * 32},
        {"blockNumber": "0x1"},
        {"transactionHash": "0x" + "77" * 32},
    ],
    ids=["no logs", "a failure", "another block", "another height", "another transaction"],
)
async def test_of_three_endpoints_one_that_lies_in_receipts_holds_up_nothing(
    devnet: Devnet, tmp_path: Path, changes: dict[str, object]
) -> None:
    """It is the one that is read from; the others overrule it."""
    await approve(devnet)
    async with behind(devnet, tmp_path, 3) as (service, proxies):
        proxies[0].faults["eth_getTransactionReceipt"] = told_otherwise(**changes)
        await settled(service, devnet, 5)
        assert not service.logged("settled_again")
    assert await nonce_of(devnet) == 5
