"""Settlement over real wires: a real chain, the real service, judged by the chain's own logs."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from facilitator.commands.devnet import Account, Devnet, DevnetOptions
from tests.support.chain import (
    approve,
    balance,
    deploy_legacy,
    devnet_authorization,
    devnet_payment,
    load_artifact,
    settle_call,
    settled_logs,
    unhex,
)
from tests.support.encoding import calldata
from tests.support.service import request, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def nonce_of(devnet: Devnet, account: Account) -> int:
    count = await devnet.rpc("eth_getTransactionCount", "0x" + account.address.hex(), "latest")
    return int(str(count), 16)


async def test_a_payment_moves_the_amount_less_the_fee(devnet: Devnet, tmp_path: Path) -> None:
    """What /verify calls valid, /settle settles: payer -1, recipient +0.995, fees +0.005."""
    await approve(devnet)
    header = devnet_payment(devnet)
    parties = (devnet.payer, devnet.seller, devnet.fee_recipient)
    before = [await balance(devnet, party.address) for party in parties]
    async with serve(devnet, tmp_path) as service:
        verified = await service.verify(header)
        assert verified == {
            "isValid": True,
            "invalidReason": None,
            "payer": header["payer"],
            "amount": "1000000",
            "timestamp": verified["timestamp"],
        }
        reply = await service.settle(header)
    [log] = await settled_logs(devnet)
    assert reply == {
        "success": True,
        "txHash": log.transaction_hash,
        "networkId": "jeju",
        "settlementId": "0x" + log.payment_id.hex(),
        "payer": header["payer"],
        "recipient": header["payTo"],
        "amount": {"human": "1", "base": "1000000", "symbol": "USDC", "decimals": 6},
        "fee": {"human": "0.005", "base": "5000", "bps": 50},
        "net": {"human": "0.995", "base": "995000"},
        "error": None,
        "timestamp": reply["timestamp"],
    }
    assert abs(reply["timestamp"] - time.time() * 1000) < 60_000
    after = [await balance(devnet, party.address) for party in parties]
    moved = [now - then for now, then in zip(after, before, strict=True)]
    assert moved == [-1_000_000, 995_000, 5_000]


async def test_64_settlements_at_once_all_succeed_on_one_signer(
    devnet: Devnet, tmp_path: Path
) -> None:
    """64 concurrent distinct payments: 64 successes, 64 logs, no gap in the account nonces."""
    await approve(devnet)
    first = await nonce_of(devnet, devnet.signer)
    async with serve(devnet, tmp_path) as service:
        headers = [devnet_payment(devnet) for _ in range(64)]
        replies = await asyncio.gather(*(service.settle(header) for header in headers))
    assert [reply["error"] for reply in replies] == [None] * 64
    logs = await settled_logs(devnet)
    assert len(logs) == 64
    assert {log.transaction_hash for log in logs} == {reply["txHash"] for reply in replies}
    assert {"0x" + log.payment_id.hex() for log in logs} == {
        reply["settlementId"] for reply in replies
    }
    assert await nonce_of(devnet, devnet.signer) == first + 64


async def test_more_payments_than_a_signer_may_have_in_flight_wait_their_turn(
    devnet: Devnet, tmp_path: Path
) -> None:
    await approve(devnet)
    async with serve(devnet, tmp_path) as service:
        headers = [devnet_payment(devnet) for _ in range(150)]
        replies = await asyncio.gather(*(service.settle(header) for header in headers))
    assert [reply["error"] for reply in replies] == [None] * 150
    assert len(await settled_logs(devnet)) == 150


async def test_one_payment_posted_50_times_at_once_pays_once_and_succeeds_once(
    devnet: Devnet, tmp_path: Path
) -> None:
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as service:
        replies = await asyncio.gather(*(service.settle(header) for _ in range(50)))
        afterwards = await service.settle(header)
        verified = await service.verify(header)
    [log] = await settled_logs(devnet)
    assert sum(reply["success"] for reply in replies) == 1
    assert {reply["txHash"] for reply in replies} == {log.transaction_hash}
    errors = {reply["error"] for reply in replies if not reply["success"]}
    assert errors <= {"Nonce is being processed", "Nonce has already been used"}
    assert (afterwards["success"], afterwards["error"], afterwards["txHash"]) == (
        False,
        "Nonce has already been used",
        log.transaction_hash,
    )
    assert verified["invalidReason"] == "Nonce has already been used"


async def test_another_payment_under_the_same_nonce_never_hears_success(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Two sellers, one nonce: the second payment is refused, whatever has become of the first."""
    await approve(devnet)
    first = devnet_payment(devnet)
    second = devnet_payment(devnet, amount=1, nonce=first["nonce"])
    async with serve(devnet, tmp_path) as service:
        one, other = await asyncio.gather(service.settle(first), service.settle(second))
        late = await service.settle(second)
    assert sorted([one["success"], other["success"]]) == [False, True]
    assert len(await settled_logs(devnet)) == 1
    assert late["success"] is False
    assert late["error"] == "Nonce has already been used"


async def test_a_payment_settled_for_one_seller_is_refused_to_another(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The same header under other requirements is a mismatch, not a duplicate to wait for."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as service:
        assert (await service.settle(header))["success"]
        reply = await service.settle(header, resource="/another")
    assert reply["error"] == f"Resource mismatch: {header['resource']} !== /another"
    assert reply["txHash"] is None


async def test_upto_pays_what_the_payer_signed(devnet: Devnet, tmp_path: Path) -> None:
    await approve(devnet)
    header = devnet_payment(devnet, scheme="upto", amount=7)
    async with serve(devnet, tmp_path) as service:
        reply = await service.settle(header, maxAmountRequired="1000000")
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["amount"]["base"], log.amount) == (True, "7", 7)
    assert reply["fee"] == {"human": "0", "base": "0", "bps": 50}


async def test_gasless_needs_no_allowance(devnet: Devnet, tmp_path: Path) -> None:
    """The payer's authorization of the token stands in for the allowance."""
    header = devnet_payment(devnet)
    authorization = devnet_authorization(devnet)
    async with serve(devnet, tmp_path) as service:
        body = {**request(header), "authParams": authorization}
        status, verified = await service.post("/verify", body)
        assert (status, verified["isValid"]) == (200, True), verified
        status, reply = await service.post("/settle/gasless", body)
        assert (status, reply["error"]) == (200, None)
        without = await service.verify(devnet_payment(devnet))
    [log] = await settled_logs(devnet)
    assert reply["txHash"] == log.transaction_hash
    assert without["invalidReason"] == "Insufficient allowance: 0 < 1000000"


async def test_an_authorization_used_outside_the_contract_is_told_and_alerted(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Front-run: the money sits in the contract, and only its owner can give it back."""
    header = devnet_payment(devnet)
    authorization = devnet_authorization(devnet)
    direct = calldata(
        "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
        devnet.payer.address,
        devnet.contract,
        1_000_000,
        int(authorization["validAfter"]),
        int(authorization["validBefore"]),
        unhex(authorization["authNonce"]),
        unhex(authorization["authSignature"]),
    )
    await devnet.transact(devnet.accounts[5], devnet.usdc, direct)
    async with serve(devnet, tmp_path) as service:
        body = {**request(header), "authParams": authorization}
        words = "Authorization was used outside the contract"
        status, verified = await service.post("/verify", body)
        assert (status, verified["invalidReason"]) == (200, words)
        status, reply = await service.post("/settle/gasless", body)
        assert (status, reply["success"], reply["error"]) == (200, False, words)
        await service.wait_for("authorization_used_elsewhere")
        [alert] = service.logged("authorization_used_elsewhere")
        assert alert["level"] == "critical"
    assert await settled_logs(devnet) == []


async def test_one_authorization_pays_one_payment(devnet: Devnet, tmp_path: Path) -> None:
    """Two payments, one authorization of the token, at once: one success, one transfer."""
    authorization = devnet_authorization(devnet)
    bodies = [{**request(devnet_payment(devnet)), "authParams": authorization} for _ in range(8)]
    async with serve(devnet, tmp_path) as service:
        replies = await asyncio.gather(*(service.post("/settle/gasless", body) for body in bodies))
    assert [status for status, _ in replies] == [200] * 8
    assert sum(reply["success"] for _, reply in replies) == 1
    assert len(await settled_logs(devnet)) == 1


async def test_the_contract_that_is_deployed_already_settles(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Against the ABI and the three-argument constructor of the existing deployment."""
    legacy = await deploy_legacy(devnet)
    await approve(devnet, spender=legacy)
    header = devnet_payment(devnet, contract=legacy)
    changes = {"X402_FACILITATOR_ADDRESS": "0x" + legacy.hex()}
    async with serve(devnet, tmp_path, **changes) as service:
        reply = await service.settle(header)
    [log] = await settled_logs(devnet, legacy)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)


async def test_a_balance_for_one_settles_one_and_burns_no_gas_on_the_rest(
    devnet: Devnet, tmp_path: Path
) -> None:
    """16 payments against a balance for one: one transaction, one success."""
    await approve(devnet)
    whole = await balance(devnet, devnet.payer.address)
    first = await nonce_of(devnet, devnet.signer)
    async with serve(devnet, tmp_path) as service:
        headers = [devnet_payment(devnet, amount=whole) for _ in range(16)]
        replies = await asyncio.gather(*(service.settle(header) for header in headers))
    assert sum(reply["success"] for reply in replies) == 1
    errors = {reply["error"] for reply in replies if not reply["success"]}
    assert errors == {f"Insufficient balance: 0 < {whole}"}
    assert await nonce_of(devnet, devnet.signer) == first + 1


async def test_a_header_signed_for_the_zero_contract_is_told_so(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The service before this one verified against verifyingContract zero, and settled nothing."""
    await approve(devnet)
    header = devnet_payment(devnet, contract=bytes(20))
    zero = "0x" + "0" * 40
    async with serve(devnet, tmp_path) as service:
        expected = service.logged("started")[0]["contract"]
        words = f"Invalid signature: signed for verifyingContract {zero}, expected {expected}"
        assert (await service.verify(header))["invalidReason"] == words
        assert (await service.settle(header))["error"] == words


async def test_a_random_signature_never_verifies(devnet: Devnet, tmp_path: Path) -> None:
    """Any 65 bytes may recover to somebody; nobody that they recover to has approved anything."""
    await approve(devnet)
    rng = random.Random(1)  # noqa: S311 - a seed, so that a failure can be repeated
    async with serve(devnet, tmp_path) as service:
        replies = []
        for _ in range(100):
            header = devnet_payment(devnet)
            noise = rng.randbytes(32) + rng.randrange(1, 2**254).to_bytes(32) + b"\x1b"
            forged = {**header, "signature": "0x" + noise.hex()}
            del forged["payer"]
            replies.append(await service.verify(forged))
            named = await service.verify({**header, "signature": "0x" + noise.hex()})
            assert named["isValid"] is False
            assert named["invalidReason"].startswith("Invalid signature: ")
    assert not any(reply["isValid"] for reply in replies)


async def test_anybody_may_settle_first_and_the_seller_still_hears_success(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Front-run: somebody else sends the payer's payment; its log proves it all the same."""
    await approve(devnet)
    header = devnet_payment(devnet)
    async with serve(devnet, tmp_path) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        transaction = {
            "from": "0x" + devnet.accounts[5].address.hex(),
            "to": "0x" + devnet.contract.hex(),
            "data": "0x" + settle_call(header).hex(),
            "gas": hex(400_000),
            "maxPriorityFeePerGas": hex(100 * 10**9),
            "maxFeePerGas": hex(400 * 10**9),
        }
        foreign = await devnet.rpc("eth_sendTransaction", transaction)
        await devnet.rpc("evm_setIntervalMining", 1)
        reply = await waiting
    [log] = await settled_logs(devnet)
    assert log.transaction_hash == foreign
    assert (reply["success"], reply["txHash"]) == (True, foreign)


async def test_a_revert_after_a_good_simulation_is_a_failure_with_its_reason(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The payer moves the money away while the payment waits to be mined."""
    await approve(devnet)
    header = devnet_payment(devnet)
    whole = await balance(devnet, devnet.payer.address)
    async with serve(devnet, tmp_path) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        waiting = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        away = calldata("transfer(address,uint256)", devnet.accounts[5].address, whole)
        transaction = {
            "from": "0x" + devnet.payer.address.hex(),
            "to": "0x" + devnet.usdc.hex(),
            "data": "0x" + away.hex(),
            "maxPriorityFeePerGas": hex(100 * 10**9),
            "maxFeePerGas": hex(400 * 10**9),
        }
        await devnet.rpc("eth_sendTransaction", transaction)
        # A failure is final only where no reorg can undo the revert.
        await devnet.rpc("anvil_mine", hex(20))
        await devnet.rpc("evm_setIntervalMining", 1)
        reply = await waiting
    assert (reply["success"], reply["error"]) == (False, "Insufficient balance: 0 < 1000000")
    assert reply["txHash"] is not None
    assert await settled_logs(devnet) == []


async def test_a_token_that_moves_nothing_never_gives_success(
    devnet: Devnet, tmp_path: Path
) -> None:
    """transferFrom answers false and moves nothing: refused in the simulation, at no gas."""
    token = await devnet.deploy(load_artifact("FalseReturningToken"))
    call = calldata("setTokenSupported(address,bool)", token, True)
    await devnet.transact(devnet.deployer, devnet.contract, call)
    header = devnet_payment(devnet, asset=token)
    first = await nonce_of(devnet, devnet.signer)
    async with serve(devnet, tmp_path) as service:
        verified = await service.verify(header)
        reply = await service.settle(header)
    assert verified["isValid"] is False
    assert reply["success"] is False
    assert reply["error"] == verified["invalidReason"]
    assert await nonce_of(devnet, devnet.signer) == first
