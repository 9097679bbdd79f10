"""What passes is a 503 that claims nothing; what the operator has left out is said; what somebody
else did to a nonce is told as such.
"""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, devnet_payment, settle_call, settled_logs
from tests.support.encoding import calldata
from tests.support.faultproxy import Answer, Call, Forward, answer_with, fault_proxy, lose_request
from tests.support.jeju import refusal
from tests.support.scraping import scrape
from tests.support.service import Service, environment, launch, request, serve

pytestmark = pytest.mark.anyio

MAX_IN_FLIGHT = 64  # transactions of one signer


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def unavailable(service: Service, path: str, body: object) -> dict[str, Any]:
    """The reply to a request that is a 503 and says when to come back."""
    async with service.session.post(service.url + path, json=body) as response:
        reply: dict[str, Any] = await response.json()
        assert response.status == 503, reply
        assert int(response.headers["Retry-After"]) >= 1
        assert reply.get("isValid", reply.get("success")) is False
        return reply


async def test_without_a_contract_nothing_is_settled(devnet: Devnet, tmp_path: Path) -> None:
    """With none configured, or with no code at its address; /verify checks what was signed."""
    bare = environment(devnet, tmp_path)
    del bare["X402_FACILITATOR_ADDRESS"]
    words = "Facilitator contract not configured"
    async with launch(bare) as launched:
        service = await launched.started()
        unsettled = devnet_payment(devnet, contract=bytes(20))
        assert (await service.verify(unsettled))["isValid"] is True
        reply = await service.settle(unsettled)
        assert (reply["success"], reply["error"], reply["txHash"]) == (False, words, None)
        assert reply["payer"] == unsettled["payer"]
        status, ready = await service.get("/ready")
        assert (status, ready["wallet"], ready["facilitator"]) == (503, True, False)
        stats = (await service.get("/stats"))[1]
        told = (stats["totalSettlements"], stats["totalVolumeUSD"], stats["protocolFeeBps"])
        assert told == ("0", "0", 50)
        assert (await service.get("/"))[1]["facilitatorAddress"] == "0x" + "0" * 40
    empty = b"\x77" * 20
    changes = {"X402_FACILITATOR_ADDRESS": "0x" + empty.hex()}
    async with serve(devnet, tmp_path, **changes) as service:
        assert await refusal(service, devnet_payment(devnet, contract=empty)) == words


async def test_without_a_key_nothing_is_settled(devnet: Devnet, tmp_path: Path) -> None:
    """A 503 with no time to come back at: an operator is needed. What is wrong with a payment is
    told all the same, as /verify tells it.
    """
    await approve(devnet)
    header = devnet_payment(devnet)
    keyless = environment(devnet, tmp_path)
    del keyless["FACILITATOR_PRIVATE_KEY"]
    async with launch(keyless) as launched:
        service = await launched.started()
        status, ready = await service.get("/ready")
        assert (status, ready["status"]) == (503, "not_ready")
        assert (ready["wallet"], ready["facilitator"]) == (False, True)
        assert (await service.verify(header))["isValid"] is True
        url = service.url + "/settle"
        async with service.session.post(url, json=request(header)) as response:
            reply = await response.json()
            assert (response.status, reply["error"]) == (503, "Settlement wallet not configured")
            assert "Retry-After" not in response.headers
            assert reply["success"] is False
        # the payment is good, and so are the parties that are named
        assert (reply["payer"], reply["recipient"]) == (header["payer"], header["payTo"])
        assert reply["amount"]["base"] == "1000000"
        poor = devnet_payment(devnet, payer=devnet.accounts[4])
        bad: tuple[tuple[dict[str, Any], dict[str, Any], str], ...] = (
            ({**header, "signature": "0x12"}, {}, "Invalid signature: "),
            (header, {"resource": "/other"}, "Resource mismatch: "),
            (header, {"network": "nope"}, "Unsupported network: nope"),
            (poor, {}, "Insufficient allowance: 0 < 1000000"),
        )
        for payment, changes, words in bad:
            assert (await refusal(service, payment, **changes)).startswith(words), words
        old = devnet_payment(devnet, timestamp=header["timestamp"] - 999)
        told = await service.settle(old)
        assert told["error"].startswith("Payment expired (")
        assert told["payer"] is told["amount"] is None


async def test_production_without_a_contract_verifies_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """After time and network, before the signature."""
    bare = environment(devnet, tmp_path, FACILITATOR_ENV="production")
    del bare["X402_FACILITATOR_ADDRESS"]
    async with launch(bare) as launched:
        service = await launched.started()
        header = {**devnet_payment(devnet), "signature": "0x"}
        words = "Facilitator contract not deployed - verification unavailable"
        assert await refusal(service, header) == words
        assert await refusal(service, header, network="base") == "Unsupported network: base"
        ahead = {**header, "timestamp": header["timestamp"] + 999}
        assert await refusal(service, ahead) == "Payment timestamp is in the future"


async def test_a_journal_out_of_reach_is_a_503_and_claims_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Its tables are gone under the running service; once they are back, the payment settles."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as service:
        rename_table(tmp_path, "settlement", "elsewhere")
        for path, member in (("/verify", "invalidReason"), ("/settle", "error")):
            reply = await unavailable(service, path, request(header))
            assert reply[member] == "Settlement journal unavailable"
        seen = await scrape(service)  # of what is in memory, whatever is out of reach
        assert seen.value("facilitator_store_errors_total") >= 2
        mismatch = await service.verify(header, resource="/other")
        assert mismatch["invalidReason"].startswith("Resource mismatch")
        assert (await service.get("/health"))[0] == 200
        assert await settled_logs(devnet) == []
        rename_table(tmp_path, "elsewhere", "settlement")
        assert (await service.settle(header))["success"] is True
    assert len(await settled_logs(devnet)) == 1


def rename_table(folder: Path, table: str, name: str) -> None:
    with sqlite3.connect(folder / "facilitator.db") as journal:
        # whatever refers to the table keeps doing so by its own name
        journal.execute("PRAGMA legacy_alter_table = ON")
        journal.execute(f"ALTER TABLE {table} RENAME TO {name}")
    journal.close()


async def test_a_journal_that_cannot_be_written_is_not_ready(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Somebody holds its lock for longer than anybody waits."""
    async with serve(devnet, tmp_path) as service:
        holder = sqlite3.connect(tmp_path / "facilitator.db", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        status, ready = await service.get("/ready")
        holder.execute("ROLLBACK")
        holder.close()
        assert (status, ready["status"], ready["journal"]) == (503, "not_ready", False)
        async with asyncio.timeout(60):  # what was found is kept for two seconds
            while (await service.get("/ready"))[0] != 200:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)


async def test_more_than_a_signer_may_have_in_flight_is_a_503_at_the_end_of_the_wait(
    devnet: Devnet, tmp_path: Path
) -> None:
    """With no block in sight 64 are pending; the 65th waits its turn in vain, claims nothing, and
    settles when asked again.
    """
    await approve(devnet)
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="2") as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        headers = [devnet_payment(devnet) for _ in range(MAX_IN_FLIGHT)]
        pending = await asyncio.gather(*(service.settle(header) for header in headers))
        assert {reply["error"] for reply in pending} == {"Settlement pending"}
        header = devnet_payment(devnet)
        reply = await unavailable(service, "/settle", request(header))
        assert (reply["error"], reply["txHash"]) == ("Too many settlements in progress", None)
        await devnet.rpc("evm_setIntervalMining", 1)
        await service.wait_for("settlement_confirmed", MAX_IN_FLIGHT)
        for again in (*headers, header):
            assert (await service.settle(again))["success"] is True
    assert len(await settled_logs(devnet)) == MAX_IN_FLIGHT + 1


async def only_the_latest(call: Call, forward: Forward) -> Answer | None:
    """For questions about blocks: it has no other one."""
    if call["params"][0] == "latest":
        return await forward(call)
    return await answer_with(None)(call, forward)


async def test_a_node_that_fails_amid_the_proof_delays_the_answer_and_changes_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The receipt is there and its block is not to be had: neither success nor failure is told."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url, SETTLE_TIMEOUT_SECONDS="4") as service,
    ):
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        await asyncio.sleep(0.5)
        for method in ("eth_getBlockByHash", "eth_getBlockByNumber"):
            proxy.faults[method] = only_the_latest
        await devnet.rpc("anvil_mine", hex(5))  # at once: only the last is ever seen as the head
        reply = await waiting
        [log] = await settled_logs(devnet)
        assert (reply["success"], reply["error"]) == (False, "Settlement pending")
        assert reply["txHash"] == log.transaction_hash
        proxy.faults.clear()
        reply = await service.settle(header)
        assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)
        assert (await service.settle(header))["error"] == "Nonce has already been used"
    assert len(await settled_logs(devnet)) == 1


async def test_stats_need_the_node(devnet: Devnet, tmp_path: Path) -> None:
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        proxy.faults["*"] = lose_request
        async with service.session.get(service.url + "/stats") as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            reply = await response.json()
        assert reply == {"error": "Chain unavailable", "timestamp": reply["timestamp"]}


async def test_a_nonce_that_another_payment_used_on_chain_is_told_so(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Front-run with another payment under the same nonce, while this one waits to be mined."""
    await approve(devnet)
    header = devnet_payment(devnet)
    other = devnet_payment(devnet, nonce=header["nonce"], resource="/other")
    async with serve(devnet, tmp_path) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        await front_run(devnet, devnet.contract, settle_call(other))
        # a failure is final only where no reorg can undo it
        await devnet.rpc("anvil_mine", hex(20))
        await devnet.rpc("evm_setIntervalMining", 1)
        reply = await waiting
        [submitted] = service.logged("settlement_submitted")
        later = await service.verify(header)
    assert (reply["success"], reply["error"]) == (False, "Nonce already used on-chain")
    assert reply["txHash"] == submitted["transaction"]
    assert later["invalidReason"] == "Nonce has already been used"
    assert [log.resource for log in await settled_logs(devnet)] == ["/other"]


async def front_run(devnet: Devnet, to: bytes, call: bytes) -> None:
    """Somebody else's transaction, whose fees put it before all that wait."""
    transaction = {
        "from": "0x" + devnet.accounts[5].address.hex(),
        "to": "0x" + to.hex(),
        "data": "0x" + call.hex(),
        "gas": hex(400_000),
        "maxPriorityFeePerGas": hex(100 * 10**9),
        "maxFeePerGas": hex(400 * 10**9),
    }
    await devnet.rpc("eth_sendTransaction", transaction)


async def test_a_live_duplicate_is_being_processed_and_names_the_transaction(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Whether it is the same request or another payment under the same nonce; the /verify of either
    is told that the nonce is used.
    """
    await approve(devnet)
    header = devnet_payment(devnet)
    other = devnet_payment(devnet, nonce=header["nonce"], resource="/other")
    async with serve(devnet, tmp_path) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        [submitted] = service.logged("settlement_submitted")
        for duplicate in (header, other):
            reply = await service.settle(duplicate)
            assert (reply["success"], reply["error"]) == (False, "Nonce is being processed")
            assert reply["txHash"] == submitted["transaction"]
            verified = await service.verify(duplicate)
            assert verified["invalidReason"] == "Nonce has already been used"
        await devnet.rpc("evm_setIntervalMining", 1)
        assert (await waiting)["success"] is True
        for duplicate in (header, other):
            reply = await service.settle(duplicate)
            assert (reply["success"], reply["error"]) == (False, "Nonce has already been used")
            assert reply["txHash"] == submitted["transaction"]


async def test_a_payment_that_lost_its_token_while_it_waited_is_refused_with_its_reason(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The contract's owner takes the token off the list, past a simulation that passed."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        call = calldata("setTokenSupported(address,bool)", devnet.usdc, False)
        transaction = {
            "from": "0x" + devnet.deployer.address.hex(),
            "to": "0x" + devnet.contract.hex(),
            "data": "0x" + call.hex(),
            "maxPriorityFeePerGas": hex(100 * 10**9),
            "maxFeePerGas": hex(400 * 10**9),
        }
        await devnet.rpc("eth_sendTransaction", transaction)
        await devnet.rpc("anvil_mine", hex(20))
        await devnet.rpc("evm_setIntervalMining", 1)
        reply = await waiting
    assert (reply["success"], reply["error"]) == (
        False,
        f"Token not supported: {header['asset']}",
    )
    assert reply["txHash"] is not None
