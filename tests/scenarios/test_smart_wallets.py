"""Payers that are contracts pay once, and cost nobody else anything."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import to_checksum_address

from facilitator.commands.devnet import Account, Devnet
from tests.support.chain import balance, load_artifact
from tests.support.encoding import calldata
from tests.support.faultproxy import Answer, Call, Forward, fault_proxy
from tests.support.service import Service, serve
from tests.support.x402 import AMOUNT, Reshape, long_form, v1_body, v2_body, wrap_6492
from tests.support.x402_chain import (
    FUNDS,
    Behaviour,
    Counterfactual,
    code_at,
    counterfactual,
    delegate,
    deploy_factory,
    deploy_rogue_wallet,
    deploy_token,
    deploy_wallet,
    deployed_by,
    mint,
    transfers,
)
from tests.support.x402_service import (
    SIGNATURE,
    TOO_MANY_BLOCKS,
    USED,
    nonce_of,
    refused,
    resume_mining,
    send,
    settle,
    stop_mining,
    tokens_setting,
    verify,
)

pytestmark = pytest.mark.anyio

UNLISTED = "eip6492_factory_not_allowed"


@pytest.fixture
async def factory(devnet: Devnet) -> bytes:
    return await deploy_factory(devnet)


@pytest.fixture
async def service(devnet: Devnet, factory: bytes, tmp_path: Path) -> AsyncIterator[Service]:
    """One that lists the factory."""
    allowed = {"EIP6492_ALLOWED_FACTORIES": to_checksum_address(factory)}
    async with serve(devnet, tmp_path, **allowed) as running:
        yield running


async def pays_once(devnet: Devnet, service: Service, wallet: bytes, body: Any) -> dict[str, Any]:
    """Verified, settled, and told so once; the first reply."""
    first = await nonce_of(devnet)
    assert (await verify(service, body))["isValid"] is True
    reply = await settle(service, body)
    assert reply["success"] is True, reply
    again = await settle(service, body)
    assert (again["errorReason"], again["transaction"]) == (USED, reply["transaction"])
    assert await balance(devnet, wallet) == FUNDS - AMOUNT
    [paid] = [each for each in await transfers(devnet) if each.sender == wallet]
    assert (paid.recipient, paid.transaction_hash) == (devnet.seller.address, reply["transaction"])
    assert await nonce_of(devnet) == first + 1
    return reply


@pytest.mark.parametrize("make", [v1_body, v2_body], ids=["v1", "v2"])
@pytest.mark.parametrize("long", [False, True], ids=["65 bytes", "long"])
async def test_a_deployed_wallet_pays_once(
    make: Any, long: bool, devnet: Devnet, service: Service
) -> None:
    owner = devnet.accounts[4]
    wallet = await deploy_wallet(devnet, owner)
    reshape: dict[str, Any] = {"signature": long_form(owner)} if long else {}
    await pays_once(devnet, service, wallet, make(devnet, payer=owner, owner=wallet, **reshape))
    forged = make(devnet, payer=devnet.payer, owner=wallet, **reshape)
    assert await refused(service, forged) == SIGNATURE


async def test_an_account_that_delegates_pays_as_its_code_says(
    devnet: Devnet, service: Service
) -> None:
    """EIP-7702: by its key where its code takes that; not where the code knows no signatures."""
    payer = devnet.accounts[4]
    asks = await devnet.deploy(load_artifact("Delegate7702"))
    silent = await devnet.deploy(load_artifact("SilentDelegate7702"))
    await delegate(devnet, payer, asks)
    first = await nonce_of(devnet)
    body = v2_body(devnet, payer=payer)
    assert (await verify(service, body))["isValid"] is True
    replies = await asyncio.gather(*(settle(service, body) for _ in range(8)))
    assert sum(reply["success"] for reply in replies) == 1
    assert len(await transfers(devnet)) == 1
    assert await nonce_of(devnet) == first + 1
    await delegate(devnet, payer, silent)
    assert await refused(service, v2_body(devnet, payer=payer)) == SIGNATURE
    await delegate(devnet, payer)
    assert (await settle(service, v2_body(devnet, payer=payer)))["success"] is True


@pytest.mark.parametrize("make", [v1_body, v2_body], ids=["v1", "v2"])
@pytest.mark.parametrize("once", [False, True], ids=["idempotent", "once"])
async def test_a_wallet_is_deployed_with_its_first_payment(
    make: Any, once: bool, devnet: Devnet, service: Service, factory: bytes
) -> None:
    """In one transaction, in which the factory does not see our signer; later payments need it no
    more, wrapped or not.
    """
    owner = devnet.accounts[4]
    wallet = await counterfactual(devnet, factory, owner, once=once)
    body = make(devnet, payer=owner, owner=wallet.address, signature=wallet.wrap)
    await pays_once(devnet, service, wallet.address, body)
    assert await deployed_by(devnet, wallet) == devnet.multicall3
    for reshape in (wallet.wrap, None):
        more: dict[str, Any] = {} if reshape is None else {"signature": reshape}
        body = make(devnet, payer=owner, owner=wallet.address, **more)
        reply = await settle(service, body)
        assert reply["success"] is True
        sent: Any = await devnet.rpc("eth_getTransactionByHash", reply["transaction"])
        assert sent["to"] == "0x" + devnet.usdc.hex()


async def test_nothing_is_deployed_without_a_payment(
    devnet: Devnet, service: Service, factory: bytes
) -> None:
    """Nor by /verify. A forged signature deploys nothing."""
    owner = devnet.accounts[4]
    wallet = await counterfactual(devnet, factory, owner)
    good = v2_body(devnet, payer=owner, owner=wallet.address, signature=wallet.wrap)
    assert (await verify(service, good))["isValid"] is True
    forged = v2_body(devnet, payer=devnet.payer, owner=wallet.address, signature=wallet.wrap)
    code = "invalid_exact_evm_transaction_simulation_failed"
    assert await refused(service, forged) == code
    assert await code_at(devnet, wallet.address) == b""


async def test_a_factory_that_is_not_listed_is_never_called(
    devnet: Devnet, service: Service
) -> None:
    """Whatever its call would do, and whoever the payer is."""
    owner, other = devnet.accounts[4], await deploy_factory(devnet)
    wallet = await counterfactual(devnet, other, owner)
    first = await nonce_of(devnet)
    drain = calldata("transfer(address,uint256)", owner.address, AMOUNT)
    for reshape in (
        wallet.wrap,
        wrap_6492(devnet.usdc, drain),
        wrap_6492(devnet.multicall3, wallet.call),
        wrap_6492(bytes(20), b""),
    ):
        for account in (wallet.address, owner.address):
            body = v2_body(devnet, payer=owner, owner=account, signature=reshape)
            assert await refused(service, body) == UNLISTED
    assert await code_at(devnet, wallet.address) == b""
    assert await nonce_of(devnet) == first


async def test_without_a_list_no_factory_is_called(devnet: Devnet, tmp_path: Path) -> None:
    owner, factory = devnet.accounts[4], await deploy_factory(devnet)
    wallet = await counterfactual(devnet, factory, owner)
    body = v2_body(devnet, payer=owner, owner=wallet.address, signature=wallet.wrap)
    async with serve(devnet, tmp_path) as service:
        assert await refused(service, body) == UNLISTED


@pytest.mark.parametrize("once", [False, True], ids=["idempotent", "once"])
async def test_a_wallet_that_is_deployed_meanwhile_pays_once(
    once: bool, devnet: Devnet, service: Service, factory: bytes
) -> None:
    """By somebody else, between /verify and /settle, or between the simulation and the block."""
    owner = devnet.accounts[4]
    first, second = [
        await counterfactual(devnet, factory, owner, salt=bytes([number]) * 32, once=once)
        for number in (1, 2)
    ]
    body = v2_body(devnet, payer=owner, owner=first.address, signature=first.wrap)
    assert (await verify(service, body))["isValid"] is True
    await devnet.transact(devnet.accounts[6], factory, first.call)
    await pays_once(devnet, service, first.address, body)

    body = v2_body(devnet, payer=owner, owner=second.address, signature=second.wrap)
    await stop_mining(devnet)
    waiting = asyncio.create_task(settle(service, body))
    await service.wait_for("settlement_submitted", 2)
    await send(devnet, devnet.accounts[6], factory, second.call, gas=2_000_000)
    await resume_mining(devnet)
    assert (await waiting)["success"] is True
    assert await balance(devnet, second.address) == FUNDS - AMOUNT


@pytest.mark.parametrize("behaviour", list(Behaviour))
async def test_a_wallet_that_misbehaves_is_refused_and_holds_nobody_up(
    behaviour: Behaviour, devnet: Devnet, tmp_path: Path
) -> None:
    """Quickly, with bounded gas in every question, while an honest payer is served."""
    wallet = await deploy_rogue_wallet(devnet, behaviour)
    asked: list[int] = []

    async def note(call: Call, forward: Forward) -> Answer | None:
        asked.append(int(call["params"][0].get("gas", "0x0"), 16))
        return await forward(call)

    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        for method in ("eth_call", "eth_estimateGas"):
            proxy.faults[method] = note
        first, began = await nonce_of(devnet), time.monotonic()
        long: Reshape = lambda made: made * 50  # noqa: E731
        for body in (v2_body(devnet, owner=wallet), v2_body(devnet, owner=wallet, signature=long)):
            assert await refused(service, body) == SIGNATURE
        assert time.monotonic() - began < 10
        assert await nonce_of(devnet) == first
        assert (await settle(service, v2_body(devnet)))["success"] is True
    assert asked
    assert all(0 < gas <= 1_000_000 for gas in asked), max(asked)
    assert await balance(devnet, wallet) == FUNDS


async def test_a_wallet_that_takes_its_word_back_is_a_failure(
    devnet: Devnet, service: Service
) -> None:
    """Between the simulation and the block, then for good."""
    owner = devnet.accounts[4]
    wallet = await deploy_wallet(devnet, owner)
    body = v2_body(devnet, payer=owner, owner=wallet)
    await stop_mining(devnet)
    waiting = asyncio.create_task(settle(service, body))
    await service.wait_for("settlement_submitted")
    change = calldata("changeOwner(address)", devnet.accounts[5].address)
    await send(devnet, owner, wallet, change)
    await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
    await resume_mining(devnet)
    failed = await waiting
    assert (failed["success"], failed["errorReason"]) == (False, SIGNATURE)
    assert failed["transaction"] != ""
    assert await balance(devnet, wallet) == FUNDS


async def test_a_forged_signature_never_hears_the_true_ones_outcome(
    devnet: Devnet, service: Service
) -> None:
    """Only the wallet knows whose signature counts, so another signature is another request: it
    never becomes the waiter, not even of an outcome that nobody has heard.
    """
    owner = devnet.accounts[4]
    wallet = await deploy_wallet(devnet, owner)
    true = v2_body(devnet, payer=owner, owner=wallet)
    forgeries = [forged(true, shape) for shape in ("00", "ff" * 65, "12" * 65)]
    await stop_mining(devnet)
    waiting = asyncio.create_task(settle(service, true))
    await service.wait_for("settlement_submitted")
    for body in forgeries:
        assert await refused(service, body) == SIGNATURE
    waiting.cancel()
    await asyncio.sleep(0.3)
    asking = [asyncio.create_task(settle(service, body)) for body in forgeries]
    assert [(await one)["success"] for one in asking] == [False] * 3
    await resume_mining(devnet)
    await service.wait_for("settlement_confirmed")
    for body in forgeries:
        assert (await settle(service, body))["success"] is False
    assert (await settle(service, true))["success"] is True


def forged(body: dict[str, Any], signature: str) -> dict[str, Any]:
    payment = body["paymentPayload"]
    payload = {**payment["payload"], "signature": "0x" + signature}
    return {**body, "paymentPayload": {**payment, "payload": payload}}


async def test_a_token_that_takes_keys_only_is_told_of_no_wallet(
    devnet: Devnet, tmp_path: Path
) -> None:
    token = await deploy_token(devnet, "SplitSignatureToken")
    owner: Account = devnet.accounts[4]
    wallet = await deploy_wallet(devnet, owner)
    for account in (wallet, owner.address):
        await mint(devnet, token, account)
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens_setting(token)) as service:
        body = v2_body(devnet, token=token, payer=owner, owner=wallet)
        code = "invalid_exact_evm_transaction_simulation_failed"
        assert await refused(service, body) == code
        assert (await settle(service, v2_body(devnet, token=token, payer=owner)))["success"] is True


async def test_many_wallets_of_one_owner_pay_at_once(
    devnet: Devnet, service: Service, factory: bytes
) -> None:
    owner = devnet.accounts[4]
    wallets: list[Counterfactual] = [
        await counterfactual(devnet, factory, owner, salt=bytes([number]) * 32)
        for number in range(16)
    ]
    shapes: list[Reshape] = [wallet.wrap for wallet in wallets]
    bodies = [
        v2_body(devnet, payer=owner, owner=wallet.address, signature=shape)
        for wallet, shape in zip(wallets, shapes, strict=True)
    ]
    replies = await asyncio.gather(*(settle(service, body) for body in bodies))
    assert [reply.get("errorReason") for reply in replies] == [None] * 16
    for wallet in wallets:
        assert await deployed_by(devnet, wallet) == devnet.multicall3
        assert await balance(devnet, wallet.address) == FUNDS - AMOUNT


async def test_wallets_that_answer_at_length_hold_nobody_up(
    devnet: Devnet, service: Service
) -> None:
    """Eight bytes of code answer with 650 kB for the gas of one question; 64 of them asked at once
    would be more than is taken of any node's answer.
    """
    chatty, grumpy = b"\xab" * 20, b"\xac" * 20
    for wallet, ending in ((chatty, "f3"), (grumpy, "fd")):  # RETURN, REVERT
        code = "0x62" + (650_000).to_bytes(3).hex() + "6000" + ending
        await devnet.rpc("anvil_setCode", "0x" + wallet.hex(), code)
    rogues = [v2_body(devnet, owner=wallet) for wallet in (chatty, grumpy) for _ in range(32)]
    honest = [v2_body(devnet) for _ in range(8)]
    replies = await asyncio.gather(*(verify(service, body) for body in (*rogues, *honest)))
    assert [reply.get("invalidReason") for reply in replies] == [SIGNATURE] * 64 + [None] * 8


async def test_a_listed_factory_chooses_no_network(devnet: Devnet, tmp_path: Path) -> None:
    """It says which wallets may be deployed, not where money is settled."""
    async with serve(devnet, tmp_path, EIP6492_ALLOWED_FACTORIES="0x" + "66" * 20) as service:
        [started] = service.logged("started")
        assert started["settling"] == ["jeju"]
