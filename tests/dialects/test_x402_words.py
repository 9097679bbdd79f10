"""Every error string of the standard dialect, in both versions, and which comes first."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import to_checksum_address

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import balance, load_artifact
from tests.support.encoding import calldata
from tests.support.service import Service, serve
from tests.support.x402 import Token, high_s, payload_of, usdc, v1_body, v2_body, wrap_6492
from tests.support.x402_chain import Fault, deploy_token, transfer_call, transfers
from tests.support.x402_service import (
    BALANCE,
    DUPLICATE,
    EARLY,
    EXPIRED,
    MISMATCH,
    SIGNATURE,
    TOO_MANY_BLOCKS,
    USED,
    nonce_in,
    nonce_of,
    refused,
    resume_mining,
    send,
    settle,
    stop_mining,
    tokens_setting,
)

pytestmark = pytest.mark.anyio

Changes = dict[str, Any]
NOWHERE = Token(b"\x11" * 20, "Nowhere", "1")
UNLISTED = "0x" + "22" * 20
LEAST = 10  # MIN_PAYMENT_AMOUNT of this service
AMOUNT_CODES = {
    1: "invalid_exact_evm_authorization_value",
    2: "invalid_exact_evm_payload_authorization_value_mismatch",
}


@pytest.fixture(scope="module")
async def old_token(chain: Devnet) -> Token:
    """A token without EIP-3009."""
    return Token(await chain.deploy(load_artifact("NoReturnToken")), "Old", "1")


@pytest.fixture(scope="module")
async def service(
    chain: Devnet, old_token: Token, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    changes = {
        "JEJU_TOKENS": tokens_setting(NOWHERE, old_token),
        "MIN_PAYMENT_AMOUNT": str(LEAST),
    }
    async with serve(chain, tmp_path_factory.mktemp("journal"), **changes) as running:
        yield running


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def offered(version: int, **members: Any) -> Changes:
    """What the payer accepted, where it differs from what is asked."""
    return {"accepted": members} if version == 2 else {"payment": members}


def price(version: int, amount: str) -> Changes:
    return {"requirements": {"amount" if version == 2 else "maxAmountRequired": amount}}


def network(version: int, chain_id: int) -> str:
    return f"eip155:{chain_id}" if version == 2 else f"chain-{chain_id}"


def faults(devnet: Devnet, version: int, used: bytes) -> list[tuple[str, Changes]]:
    """One thing wrong each, in the order in which POST /verify tells them."""
    elsewhere, later = network(version, 999), str(int(time.time()) + 1000)
    asset, whole = to_checksum_address(devnet.usdc), "9" * 20
    mismatch = ("accepted_requirements_mismatch", {"accepted": {"amount": "1"}})
    return [
        ("unsupported_scheme", {"requirements": {"scheme": "upto"}}),
        ("invalid_network", {"requirements": {"network": elsewhere}}),
        ("invalid_exact_evm_scheme", offered(version, scheme="upto")),
        ("invalid_exact_evm_missing_eip712_domain", {"requirements": {"extra": None}}),
        ("invalid_exact_evm_network_mismatch", offered(version, network=elsewhere)),
        *([mismatch] if version == 2 else []),
        ("unsupported_asset", {"requirements": {"asset": UNLISTED}}),
        (SIGNATURE, {"signature": high_s}),
        ("invalid_exact_evm_recipient_mismatch", {"authorization": {"to": "0x" + "33" * 20}}),
        ("invalid_payer", {"payer": devnet.signer}),
        (EXPIRED, {"authorization": {"validBefore": "1"}}),
        (EARLY, {"authorization": {"validAfter": later}}),
        (AMOUNT_CODES[version], {"authorization": {"value": "77"}}),
        ("amount_below_minimum", price(version, str(LEAST - 1))),
        ("invalid_pay_to", {"requirements": {"payTo": asset}}),
        (USED, {"authorization": {"nonce": "0x" + used.hex()}}),
        (BALANCE, price(version, whole)),
    ]


def together(*changes: Changes) -> Changes | None:
    """All of them at once; None where two change the same member."""
    merged: Changes = {}
    for one in changes:
        for name, value in one.items():
            if not isinstance(value, dict):
                merged[name] = value
            elif set(value) & set(merged.get(name, {})):
                return None
            else:
                merged[name] = {**merged.get(name, {}), **value}
    return merged


def body_of(devnet: Devnet, version: int, changes: Changes) -> dict[str, Any]:
    make = v2_body if version == 2 else v1_body
    return make(devnet, **changes)


async def use_nonce(devnet: Devnet, version: int) -> bytes:
    """One of the payer's, used without the service."""
    body = body_of(devnet, version, {})
    await devnet.transact(devnet.accounts[6], devnet.usdc, transfer_call(payload_of(body)))
    return nonce_in(body)


async def test_every_fault_has_its_code(chain: Devnet, service: Service, version: int) -> None:
    """From both endpoints, with the payer as it was given, and nothing is sent."""
    first = await nonce_of(chain)
    for code, changes in faults(chain, version, await use_nonce(chain, version)):
        assert await refused(service, body_of(chain, version, changes)) == code
    assert await nonce_of(chain) == first


async def test_of_two_faults_the_earlier_one_is_told(
    chain: Devnet, service: Service, version: int
) -> None:
    """By both endpoints."""
    ordered = faults(chain, version, await use_nonce(chain, version))
    pairs = 0
    for (first, one), (second, other) in combinations(ordered, 2):
        changes = together(one, other)
        if changes is None:
            continue
        pairs += 1
        assert await refused(service, body_of(chain, version, changes)) == first, (first, second)
    assert pairs > 100


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("invalid_x402_version", {"payment": {"x402Version": 3}}),
        ("invalid_x402_version", {"payment": {"x402Version": 0}}),
        ("invalid_x402_version", {"payment": {"x402Version": -(10**50)}}),
        ("invalid_network", {"requirements": {"network": "jeju"}}),
        ("invalid_network", {"requirements": {"network": "eip155:0420691"}}),
        ("invalid_network", {"requirements": {"network": "solana:x"}}),
        ("unsupported_payload_type", {"payment": {"payload": {"permit2Authorization": {}}}}),
        ("invalid_exact_evm_missing_eip712_domain", {"requirements": {"extra": {"name": "a"}}}),
        ("invalid_exact_evm_missing_eip712_domain", {"requirements": {"extra": {"version": "2"}}}),
        ("invalid_exact_evm_missing_eip712_domain", {"requirements": {"extra": {}}}),
        ("accepted_requirements_mismatch", {"accepted": {"payTo": UNLISTED}}),
        ("accepted_requirements_mismatch", {"accepted": {"asset": UNLISTED}}),
        ("accepted_requirements_mismatch", {"accepted": {"extra": None}}),
        ("accepted_requirements_mismatch", {"accepted": {"extra": {"name": "x", "version": "2"}}}),
        (SIGNATURE, {"tampered": {"value": "999999"}}),
        (SIGNATURE, {"tampered": {"to": UNLISTED}}),
        (SIGNATURE, {"tampered": {"from": UNLISTED}}),
        (SIGNATURE, {"domain": {"chain_id": 1}}),
        (SIGNATURE, {"domain": {"verifying_contract": bytes(20)}}),
        ("eip6492_factory_not_allowed", {"signature": wrap_6492(b"\x66" * 20, b"deploy")}),
        ("invalid_exact_evm_token_name_mismatch", {"extra": {"name": "USD Cash"}}),
        ("invalid_exact_evm_token_version_mismatch", {"extra": {"version": "3"}}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
async def test_other_faults_have_a_code(
    chain: Devnet, service: Service, code: str, changes: Changes
) -> None:
    changes = dict(changes)
    named = changes.pop("extra", None)
    if named is not None:  # quoted and signed alike, but not the token's own
        token = usdc(chain)
        domain = {"name": token.name, "version": token.version, **named}
        changes = {"requirements": {"extra": domain}, "domain": domain}
    assert await refused(service, v2_body(chain, **changes)) == code


async def test_an_asset_must_be_a_token_with_eip_3009(
    chain: Devnet, service: Service, old_token: Token, version: int
) -> None:
    for token, code in (
        (NOWHERE, "asset_not_deployed_contract"),
        (old_token, "invalid_exact_evm_eip3009_not_supported"),
    ):
        assert await refused(service, body_of(chain, version, {"token": token})) == code


async def test_money_is_never_sent_where_it_is_lost(chain: Devnet, service: Service) -> None:
    """To the token, the contract, Multicall3, Permit2 and its proxies, a signer, or nobody."""
    lost = [chain.usdc, chain.contract, chain.multicall3, chain.signer.address, bytes(20)]
    lost.append(bytes.fromhex("000000000022D473030F116dDEE9F6B43aC78BA3"))
    lost.append(bytes.fromhex("402085c248EeA27D92E8b30b2C58ed07f9E20001"))
    lost.append(bytes.fromhex("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002"))
    for address in lost:
        body = v2_body(chain, requirements={"payTo": to_checksum_address(address)})
        assert await refused(service, body) == "invalid_pay_to"


async def test_a_token_refuses_in_its_own_words(devnet: Devnet, tmp_path: Path) -> None:
    """Printable and short, before anything is sent."""
    token = await deploy_token(devnet, "FaultyToken", Fault.REFUSAL)
    words = "no\n\u202e" + "!" * 1_000
    await devnet.transact(devnet.payer, token.address, calldata("setRefusal(string)", words))
    body = v2_body(devnet, token=token)
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens_setting(token)) as service:
        code = "invalid_exact_evm_transaction_simulation_failed"
        assert await refused(service, body) == code
        told = (await settle(service, body))["errorMessage"]
    assert told == "The token refuses the transfer: no" + "!" * 198


async def final(devnet: Devnet, service: Service, body: object, before: Callable[[], Any]) -> Any:
    """What a settlement comes to when this happens between the simulation and the block."""
    await stop_mining(devnet)
    waiting = asyncio.create_task(settle(service, body))
    await service.wait_for("settlement_submitted")
    await before()
    await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
    await resume_mining(devnet)
    return await waiting


@pytest.mark.parametrize("devnet_options", [DevnetOptions(port=0, block_time=1)])
async def test_a_transaction_that_was_sent_and_refused_has_its_code(
    devnet: Devnet, tmp_path: Path, version: int
) -> None:
    token = await deploy_token(devnet, "FaultyToken", Fault.REFUSAL)
    await devnet.transact(devnet.payer, token.address, calldata("setRefusal(string)", ""))
    refuse = calldata("setRefusal(string)", "frozen")
    body = body_of(devnet, version, {"token": token})
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens_setting(token)) as service:
        reply = await final(
            devnet, service, body, lambda: send(devnet, devnet.payer, token.address, refuse)
        )
    assert reply["errorReason"] == "invalid_exact_evm_transaction_failed"
    assert reply["errorMessage"] == "The token refuses the transfer: frozen"
    assert reply["transaction"] != ""
    assert await balance(devnet, devnet.seller.address, token.address) == 0


@pytest.mark.parametrize("devnet_options", [DevnetOptions(port=0, block_time=1)])
async def test_a_transaction_that_moved_nothing_has_its_code(
    devnet: Devnet, tmp_path: Path, version: int
) -> None:
    token = await deploy_token(devnet, "FaultyToken", Fault.SILENCE)
    body = body_of(devnet, version, {"token": token})
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens_setting(token)) as running:

        async def ask_again() -> None:
            assert (await settle(running, body))["errorReason"] == DUPLICATE

        reply = await final(devnet, running, body, ask_again)
    assert reply["errorReason"] == MISMATCH
    assert await transfers(devnet, token) == []
