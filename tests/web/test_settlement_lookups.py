"""GET /settlements: what a seller needs to reconcile, of both dialects, and no secret in it."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from eth_utils.address import to_checksum_address

from facilitator.commands.devnet import Devnet
from tests.support.chain import approve, devnet_authorization, devnet_payment
from tests.support.faultproxy import fault_proxy, lose_request
from tests.support.service import Service, request, serve
from tests.support.signing import unhex
from tests.support.x402 import AMOUNT, payload_of, v1_body, v2_body
from tests.support.x402_chain import transfer_call
from tests.support.x402_service import (
    nonce_in,
    resume_mining,
    send,
    settle,
    stop_mining,
)

pytestmark = pytest.mark.anyio

MEMBERS = {
    *("settlementId", "state", "dialect", "network", "chainId", "asset", "payer", "payTo"),
    *("amount", "nonce", "reason", "transaction", "blockNumber", "confirmations"),
    *("transactions", "createdAt", "updatedAt", "successToldAt", "timestamp"),
}


def by_nonce(**asked: str) -> str:
    return "/settlements?" + urlencode(asked)


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


async def told(service: Service, path: str) -> dict[str, Any]:
    status, reply = await service.get(path)
    assert status == 200, reply
    assert set(reply) == MEMBERS
    return reply


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    passing = {"timestamp": 0, "confirmations": 0}
    return {**one, **passing} == {**other, **passing}


@pytest.mark.parametrize("make", [v1_body, v2_body], ids=["v1", "v2"])
async def test_a_settlement_is_found_by_id_hash_and_nonce(
    make: Any, chain: Devnet, service: Service
) -> None:
    body = make(chain)
    reply = await settle(service, body)
    nonce, usdc = nonce_in(body), to_checksum_address(chain.usdc)
    found = await told(service, "/settlements/" + reply["extra"]["settlementId"])
    transaction: Any = await chain.rpc("eth_getTransactionByHash", reply["transaction"])
    [sent] = found["transactions"]
    [attempt] = sent["attempts"]
    assert found == {
        "settlementId": reply["extra"]["settlementId"],
        "state": "confirmed",
        "dialect": "x402",
        "network": "jeju",
        "chainId": 420691,
        "asset": usdc,
        "payer": to_checksum_address(chain.payer.address),
        "payTo": to_checksum_address(chain.seller.address),
        "amount": str(AMOUNT),
        "nonce": hexed(nonce),
        "reason": None,
        "transaction": reply["transaction"],
        "blockNumber": int(transaction["blockNumber"], 16),
        "confirmations": 1,
        "transactions": [sent],
        "createdAt": found["createdAt"],
        "updatedAt": found["updatedAt"],
        "successToldAt": found["successToldAt"],
        "timestamp": found["timestamp"],
    }
    times = [found[name] for name in ("createdAt", "updatedAt", "successToldAt", "timestamp")]
    assert sorted(times) == times
    assert sent["signer"] == to_checksum_address(chain.signer.address)
    assert sent["accountNonce"] == int(transaction["nonce"], 16)
    assert attempt["transaction"] == reply["transaction"]
    assert attempt["maxFeePerGas"] == str(int(transaction["maxFeePerGas"], 16))
    asked = {"asset": usdc, "payer": found["payer"], "nonce": hexed(nonce)}
    for path in (
        "/settlements/" + reply["transaction"],
        "/settlements/" + "0x" + reply["transaction"][2:].upper(),
        by_nonce(network="jeju", **asked),
        by_nonce(network="eip155:420691", **asked),
        by_nonce(network="jeju", **{name: value.lower() for name, value in asked.items()}),
    ):
        assert same(await told(service, path), found), path
    await chain.rpc("anvil_mine", "0x4")
    assert (await told(service, "/settlements/" + found["settlementId"]))["confirmations"] == 5


@pytest.mark.parametrize("gasless", [False, True])
async def test_jeju_settlements_are_found_as_well(
    gasless: bool, chain: Devnet, service: Service
) -> None:
    """By the payment's own nonce; a gasless one by its authorization's too."""
    header = devnet_payment(chain)
    body, path = request(header), "/settle"
    authorization = devnet_authorization(chain)
    if gasless:
        body, path = {**body, "authParams": authorization}, "/settle/gasless"
    status, reply = await service.post(path, body)
    assert (status, reply["success"]) == (200, True)
    found = await told(service, "/settlements/" + reply["txHash"])
    assert (found["dialect"], found["state"]) == ("jeju", "confirmed")
    assert found["nonce"] == header["nonce"]
    assert found["transaction"] == reply["txHash"]
    asked = {"network": "jeju", "payer": header["payer"]}
    assert same(await told(service, by_nonce(**asked, nonce=header["nonce"])), found)
    of_token = {**asked, "asset": header["asset"], "nonce": authorization["authNonce"]}
    if gasless:
        assert same(await told(service, by_nonce(**of_token)), found)
    else:
        assert (await service.get(by_nonce(**of_token)))[0] == 404


async def test_what_is_not_known_is_404_and_what_is_not_asked_for_is_400(
    chain: Devnet, service: Service
) -> None:
    body = v2_body(chain)
    assert (await settle(service, body))["success"] is True
    good = {
        "network": "jeju",
        "asset": hexed(chain.usdc),
        "payer": hexed(chain.payer.address),
        "nonce": hexed(nonce_in(body)),
    }
    assert (await service.get(by_nonce(**good)))[0] == 200
    unknown: list[dict[str, str]] = [
        {"asset": hexed(chain.contract)},
        {"payer": hexed(chain.seller.address)},
        {"nonce": "0x" + "00" * 32},
        {"nonce": "x" * 5000},
        {"nonce": "\u0000'; --"},
        {"asset": ""},
        {"network": "base-sepolia"},
    ]
    for change in unknown:
        status, reply = await service.get(by_nonce(**{**good, **change}))
        assert (status, reply) == (404, {"error": "No such settlement"}), change
    malformed: list[dict[str, str]] = [
        {"network": ""},
        {"network": "nowhere"},
        {"network": "eip155:999"},
        {"payer": ""},
        {"payer": "0x1"},
        {"payer": "0X" + "11" * 20},
        {"asset": "usdc"},
        {"nonce": ""},
    ]
    for change in malformed:
        status, reply = await service.get(by_nonce(**{**good, **change}))
        assert status == 400, change
        assert set(reply) == {"error"}
    assert (await service.get("/settlements"))[0] == 400
    for name in ("0" * 32, "0x" + "0" * 64, "0x", "..%2f", "a" * 5000, quote("ü\n"), "%00"):
        assert (await service.get("/settlements/" + name))[0] == 404, name


async def test_every_state_is_told_and_no_signature(devnet: Devnet, tmp_path: Path) -> None:
    """Pending, then confirmed by somebody else's transaction; the service's own are told beside."""
    await approve(devnet)
    body, jeju = v2_body(devnet), devnet_payment(devnet)
    authorization = devnet_authorization(devnet)
    async with serve(devnet, tmp_path) as service:
        await stop_mining(devnet)
        waiting = asyncio.create_task(settle(service, body))
        await service.wait_for("settlement_submitted")
        asked = {
            "network": "jeju",
            "asset": hexed(devnet.usdc),
            "payer": hexed(devnet.payer.address),
            "nonce": hexed(nonce_in(body)),
        }
        pending = await told(service, by_nonce(**asked))
        assert (pending["state"], pending["transaction"]) == ("pending", None)
        assert pending["confirmations"] is pending["successToldAt"] is None
        [submitted] = service.logged("settlement_submitted")
        own = submitted["transaction"]
        assert pending["transactions"][0]["attempts"][0]["transaction"] == own
        call = transfer_call(payload_of(body))
        foreign = await send(devnet, devnet.accounts[6], devnet.usdc, call)
        await resume_mining(devnet)
        assert (await waiting)["transaction"] == foreign
        found = await told(service, "/settlements/" + own)
        assert (found["state"], found["transaction"]) == ("confirmed", foreign)
        assert same(await told(service, "/settlements/" + foreign), found)
        gasless = {**request(jeju), "authParams": authorization}
        assert (await service.post("/settle/gasless", gasless))[1]["success"] is True
        gasless_told = await told(service, by_nonce(**{**asked, "nonce": jeju["nonce"]}))
        everything = json.dumps([pending, found, gasless_told]).lower()
    secrets = [payload_of(body)["signature"], jeju["signature"], authorization["authSignature"]]
    for signature in secrets:
        for part in (unhex(signature)[:32], unhex(signature)[32:64]):
            assert part.hex() not in everything
    assert devnet.signer.key.hex() not in everything
    assert devnet.url not in everything


async def test_the_journal_answers_while_the_node_is_down(devnet: Devnet, tmp_path: Path) -> None:
    """All but the confirmations."""
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        reply = await settle(service, v2_body(devnet))
        before = await told(service, "/settlements/" + reply["transaction"])
        proxy.faults["*"] = lose_request
        after = await told(service, "/settlements/" + reply["transaction"])
    assert after["confirmations"] is None
    assert same(before, after)
