"""The Jeju dialect against the running service: the checks with their words, and their order."""

import base64
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import (
    approve,
    devnet_payment,
    settle_call,
)
from tests.support.jeju import OTHER, UNREADABLE, now, refusal, verify_at
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture(scope="module")
async def devnet() -> AsyncIterator[Devnet]:
    """One chain for all of this module: nothing here depends on what another test did."""
    async with Devnet.start(DevnetOptions(port=0, block_time=None)) as chain:
        await approve(chain)
        yield chain


@pytest.fixture(scope="module")
async def service(
    devnet: Devnet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    folder = tmp_path_factory.mktemp("journal")
    async with serve(devnet, folder, MIN_PAYMENT_AMOUNT="10") as running:
        yield running


# --- the checks and their words, in their order


async def test_a_timestamp_may_be_60_seconds_ahead(devnet: Devnet, service: Service) -> None:
    """To the second, for both endpoints."""
    for seconds, words in ((60, None), (61, "Payment timestamp is in the future")):
        _, verified = await verify_at(devnet, service, "/verify", -seconds)
        assert verified["invalidReason"] == words
        _, settled = await verify_at(devnet, service, "/settle", -seconds)
        assert settled["error"] == words
        assert words is None or settled["payer"] is settled["amount"] is None


async def test_a_payment_expires_after_300_seconds(devnet: Devnet, service: Service) -> None:
    """To the second: /verify goes by the limit itself, /settle leaves itself the time to have the
    payment mined.
    """
    assert (await verify_at(devnet, service, "/verify", 300))[1]["isValid"] is True
    _, verified = await verify_at(devnet, service, "/verify", 301)
    assert verified["invalidReason"] == "Payment expired (301s > 300s)"
    _, settled = await verify_at(devnet, service, "/settle", 300)
    # Six seconds, or two blocks, which on this chain come as slowly as the test sends.
    assert re.fullmatch(r"Payment expired \(300s > 2\d\ds\)", settled["error"])
    _, settled = await verify_at(devnet, service, "/settle", 301)
    assert settled["error"] == "Payment expired (301s > 300s)"
    assert (settled["payer"], settled["recipient"], settled["amount"]) == (None, None, None)


async def test_an_unknown_network_is_named(devnet: Devnet, service: Service) -> None:
    header = devnet_payment(devnet)
    assert await refusal(service, header, network="solana") == "Unsupported network: solana"
    assert await refusal(service, header, network=5) == "Unsupported network: 5"


async def test_the_payments_own_network_is_looked_at_first(
    devnet: Devnet, service: Service
) -> None:
    """Known or not, then the signature, which is checked for that network's chain and contract; it
    is compared with what is asked for only then.
    """
    unknown = {**devnet_payment(devnet, network="nope"), "signature": "0x"}
    assert await refusal(service, unknown, network="jeju") == "Unsupported network: nope"
    assert await refusal(service, unknown, network="solana") == "Unsupported network: nope"
    assert await refusal(service, unknown, network="nope") == "Unsupported network: nope"
    elsewhere = devnet_payment(devnet, network="base-sepolia", chain_id=84532, contract=bytes(20))
    words = await refusal(service, elsewhere, network="jeju")
    assert words == "Network mismatch: base-sepolia !== jeju"
    forged = devnet_payment(devnet, network="base-sepolia")
    assert (await refusal(service, forged, network="jeju")).startswith("Invalid signature: signed")


@pytest.mark.parametrize("network", [None, ""])
async def test_no_network_means_the_primary_one(
    devnet: Devnet, service: Service, network: str | None
) -> None:
    body = request(devnet_payment(devnet), network=network)
    assert (await service.post("/verify", body))[1]["isValid"] is True
    del body["paymentRequirements"]["network"]
    assert (await service.post("/verify", body))[1]["isValid"] is True


async def test_another_signer_than_the_named_payer_is_invalid(
    devnet: Devnet, service: Service
) -> None:
    header = {**devnet_payment(devnet), "payer": OTHER}
    assert (await refusal(service, header)).startswith("Invalid signature: signed by 0x3C44")


async def test_the_payer_need_not_be_named(devnet: Devnet, service: Service) -> None:
    header = devnet_payment(devnet)
    named = header.pop("payer")
    assert (await service.verify(header))["payer"] == named


async def test_the_upper_half_of_s_is_refused_and_v_0_or_1_is_settled(
    devnet: Devnet, service: Service
) -> None:
    """EIP-2; and the contract knows only 27 and 28, so v is normalised on the way."""
    header = devnet_payment(devnet)
    raw = bytes.fromhex(header["signature"][2:])
    s = int.from_bytes(raw[32:64])
    high = raw[:32] + (ORDER - s).to_bytes(32) + bytes([55 - raw[64]])
    assert "upper half" in await refusal(service, {**header, "signature": "0x" + high.hex()})
    low_v = raw[:64] + bytes([raw[64] - 27])
    assert (await service.settle({**header, "signature": "0x" + low_v.hex()}))["success"]


async def test_a_signature_over_anything_else_is_invalid(devnet: Devnet, service: Service) -> None:
    """Each signed member in turn is another than the payer signed."""
    header = devnet_payment(devnet)
    for member, other in {
        "scheme": "upto",
        "network": "base",
        "asset": OTHER,
        "payTo": OTHER,
        "amount": "999999",
        "resource": "/other",
        "nonce": "other",
        "timestamp": header["timestamp"] - 1,
    }.items():
        words = await refusal(service, {**header, member: other})
        assert words.startswith("Invalid signature: signed by "), member


async def test_mismatches_repeat_both_values_as_they_were_given(
    devnet: Devnet, service: Service
) -> None:
    header = devnet_payment(devnet)
    low = header["asset"].lower()
    cases = {
        "payTo": ("Recipient mismatch", header["payTo"], OTHER),
        "asset": ("Asset mismatch", header["asset"], OTHER),
        "resource": ("Resource mismatch", header["resource"], "/ünï" + "x" * 5000),
    }
    for member, (words, have, want) in cases.items():
        assert await refusal(service, header, **{member: want}) == f"{words}: {have} !== {want}"
    assert (await service.verify(header, asset=low))["isValid"]
    upper = "0x" + low[2:].upper()
    assert (await service.verify(header, asset=upper))["isValid"]
    elsewhere = devnet_payment(devnet, network="base", chain_id=8453, contract=bytes(20))
    words = await refusal(service, elsewhere, network="jeju")
    assert words == "Network mismatch: base !== jeju"


async def test_requirements_that_say_nothing_fit_nothing(devnet: Devnet, service: Service) -> None:
    """What is missing, null or of the wrong type never counts as agreement."""
    header = devnet_payment(devnet)
    for member, words in {
        "payTo": "Recipient mismatch",
        "asset": "Asset mismatch",
        "resource": "Resource mismatch",
        "scheme": "Unsupported scheme",
        "maxAmountRequired": "Exact scheme requires amount",
    }.items():
        values: tuple[object, ...] = (None, 5, [], {}, True, "")
        for value in values:
            told = await refusal(service, header, **{member: value})
            if member == "maxAmountRequired" and value not in (None, 5):
                assert told == UNREADABLE, value
            else:
                assert told.startswith(words), value
        body = request(header)
        del body["paymentRequirements"][member]
        status, reply = await service.post("/verify", body)
        assert (status, reply["isValid"]) == (200, False)
        assert reply["invalidReason"].startswith(words)
        assert "undefined" in reply["invalidReason"]
    status, reply = await service.post("/verify", {**request(header), "paymentRequirements": {}})
    words = f"Recipient mismatch: {header['payTo']} !== undefined"
    assert (status, reply["invalidReason"]) == (200, words)


async def test_addresses_that_are_asked_for_are_compared_without_case(
    devnet: Devnet, service: Service
) -> None:
    """Their letters may have any, and so may their x: the payer's own spelling is the one that was
    signed.
    """
    header = devnet_payment(devnet)
    for member in ("payTo", "asset"):
        digits = header[member][2:]
        for spelt in (digits.swapcase(), digits.upper(), digits.lower()):
            for prefix in ("0x", "0X"):
                reply = await service.verify(header, **{member: prefix + spelt})
                assert reply["isValid"] is True, spelt
    shouted = {name: header[name].upper() for name in ("payTo", "asset")}
    assert (await service.settle(header, **shouted))["success"] is True


async def test_a_price_may_be_an_integer(devnet: Devnet, service: Service) -> None:
    """As the service before this one took it; anything else beside a decimal string is no price."""
    header = devnet_payment(devnet)
    assert (await service.verify(header, maxAmountRequired=1_000_000))["isValid"] is True
    words = await refusal(service, header, maxAmountRequired=999_999)
    assert words == "Exact scheme requires amount 999999, got 1000000"
    wrong: tuple[object, ...] = (-1, 2**256, 10**6 + 0.5, 1e6, "0xf4240", " 1000000", "01000000")
    for value in wrong:
        assert await refusal(service, header, maxAmountRequired=value) == UNREADABLE, value
        upto = devnet_payment(devnet, scheme="upto")
        assert await refusal(service, upto, maxAmountRequired=value) == UNREADABLE, value


async def test_amounts_are_exact_or_at_most(devnet: Devnet, service: Service) -> None:
    header = devnet_payment(devnet)
    words = await refusal(service, header, maxAmountRequired="1000001")
    assert words == "Exact scheme requires amount 1000001, got 1000000"
    assert await refusal(service, header, maxAmountRequired="999999") == (
        "Exact scheme requires amount 999999, got 1000000"
    )
    upto = devnet_payment(devnet, scheme="upto")
    assert (await service.verify(upto))["isValid"]
    assert await refusal(service, upto, maxAmountRequired="999999") == (
        "Upto scheme: amount 1000000 exceeds max 999999"
    )
    nothing = devnet_payment(devnet, scheme="upto", amount=0)
    words = await refusal(service, nothing, maxAmountRequired="9")
    assert words == "Upto scheme: amount must be greater than 0"
    little = devnet_payment(devnet, amount=9)
    assert await refusal(service, little) == "Amount 9 below minimum 10"


async def test_schemes_are_exact_and_upto(devnet: Devnet, service: Service) -> None:
    header = devnet_payment(devnet)
    assert await refusal(service, header, scheme="all") == "Unsupported scheme: all"
    strange = devnet_payment(devnet, scheme="all")
    assert await refusal(service, strange, scheme="exact") == "Unsupported scheme: all"


async def test_some_recipients_would_lose_the_money(devnet: Devnet, service: Service) -> None:
    for address in (devnet.signer.address, devnet.contract, devnet.usdc, bytes(20)):
        assert await refusal(service, devnet_payment(devnet, pay_to=address)) == "Invalid recipient"


async def test_what_the_chain_says_has_its_words(devnet: Devnet, service: Service) -> None:
    stranger = bytes.fromhex("22" * 20)
    words = await refusal(service, devnet_payment(devnet, asset=stranger))
    assert words == "Token not supported: 0x" + "22" * 20
    everything = 10**12
    rich = devnet_payment(devnet, amount=everything + 1)
    words = await refusal(service, rich)
    assert words.startswith("Insufficient balance: ")
    assert words.endswith(f" < {everything + 1}")
    hesitant = devnet_payment(devnet, payer=devnet.accounts[4])
    assert await refusal(service, hesitant) == "Insufficient allowance: 0 < 1000000"


@pytest.mark.parametrize("member", ["nonce", "resource"])
async def test_a_text_that_no_signer_would_pay_gas_for_is_refused(
    devnet: Devnet, service: Service, member: str
) -> None:
    """Not called an outage: the same request would never settle."""
    long: dict[str, Any] = {member: "z" * 20_000}
    header = devnet_payment(devnet, **long)
    assert await refusal(service, header) == "Transaction reverted"


async def test_a_used_nonce_is_used_for_ever(devnet: Devnet, service: Service) -> None:
    """Settled here or by somebody else, asked with this payment or another."""
    header = devnet_payment(devnet)
    assert (await service.settle(header))["success"]
    assert await refusal(service, header) == "Nonce has already been used"
    another = devnet_payment(devnet, nonce=header["nonce"], resource="/other")
    assert await refusal(service, another) == "Nonce has already been used"


async def test_a_nonce_that_somebody_else_used_is_used(devnet: Devnet, service: Service) -> None:
    header = devnet_payment(devnet)
    await devnet.transact(devnet.accounts[5], devnet.contract, settle_call(header))
    assert await refusal(service, header) == "Nonce has already been used"


async def test_the_first_refusal_in_the_order_of_checks_is_told(
    devnet: Devnet, service: Service
) -> None:
    """Time, network, signature, mismatches, amount, chain: mending one shows the next."""
    poor = devnet.accounts[4]
    wrong: dict[str, Any] = {"resource": "/other", "maxAmountRequired": "5"}
    header = {**devnet_payment(devnet, payer=poor), "payer": OTHER}
    old = {**devnet_payment(devnet, payer=poor, timestamp=now() - 999), "payer": OTHER}
    # not by `refusal`: the age may change from one request to the next
    verified = await service.verify(old, network="x", **wrong)
    assert verified["invalidReason"].startswith("Payment expired")
    settled = await service.settle(old, network="x", **wrong)
    assert settled["error"].startswith("Payment expired")
    assert (await refusal(service, header, network="x", **wrong)).startswith("Unsupported network")
    assert (await refusal(service, header, **wrong)).startswith("Invalid signature")
    good = devnet_payment(devnet, payer=poor)
    assert (await refusal(service, good, **wrong)).startswith("Resource mismatch")
    wrong.pop("resource")
    assert (await refusal(service, good, **wrong)).startswith("Exact scheme requires")
    assert (await refusal(service, good)).startswith("Insufficient allowance")


# --- bodies


BODIES: list[tuple[bytes, str]] = [
    (body, "Invalid JSON request body")
    for body in (
        *(b"", b"null", b"[]", b'"x"', b"7", b"true", b"{", b"{}x", b"\xff\xfe{\x00}\x00"),
        b'{"a":1,"a":1}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"\xef\xbb\xbf{}",
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b"[" * 30_000,
        b'{"a":"\xff"}',
    )
]
BODIES += [
    (b"{}", "Missing paymentHeader"),
    (b'{"paymentHeader":""}', "Missing paymentHeader"),
    (b'{"paymentHeader":null,"paymentRequirements":{}}', "Missing paymentHeader"),
    (b'{"paymentHeader":"x"}', "Missing paymentRequirements"),
    (b'{"paymentHeader":"x","paymentRequirements":null}', "Missing paymentRequirements"),
    (b'{"paymentHeader":"x","paymentRequirements":"y"}', "Missing paymentRequirements"),
    (b'{"paymentHeader":"x","paymentRequirements":{"a":1}}', "Missing x402Version"),
    (b'{"paymentHeader":"x","paymentRequirements":{}}', "Missing x402Version"),
    (b'{"paymentHeader":"x","paymentRequirements":{},"x402Version":null}', "Missing x402Version"),
    *(
        (b'{"paymentHeader":%s,"paymentRequirements":{"a":1}}' % value, "Missing paymentHeader")
        for value in (b"5", b"true", b'["x"]', b'{"a":1}')
    ),
    (b'{"paymentHeader":5,"paymentRequirements":null}', "Missing paymentHeader"),
    (b'{"paymentPayload":"x"}', "Missing paymentHeader"),
    (b'{"paymentPayload":["x"],"paymentHeader":"x"}', "Missing paymentRequirements"),
]
BODIES += [
    (
        b'{"paymentHeader":"x","paymentRequirements":{"a":1},"x402Version":%s}' % version,
        f"Unsupported x402Version: {shown}. Only version 1 is supported.",
    )
    for version, shown in (
        *((b"2", "2"), (b'"1"', "1"), (b"1.5", "1.5"), (b"true", "true")),
        *((b"0", "0"), (b'""', ""), (b"false", "false"), (b"{}", "{}"), (b"[]", "[]")),
    )
]


@pytest.mark.parametrize(("body", "words"), BODIES)
async def test_a_body_that_is_not_understood_is_400(
    service: Service, body: bytes, words: str
) -> None:
    for path, member in (("/verify", "invalidReason"), ("/settle", "error")):
        async with service.session.post(service.url + path, data=body) as response:
            reply = await response.json()
            assert (response.status, reply[member]) == (400, words)
            assert reply.get("isValid", reply.get("success")) is False
            assert abs(reply["timestamp"] / 1000 - time.time()) < 60
            if path == "/settle":
                assert reply["networkId"] == "jeju"
                assert reply["txHash"] is None


async def test_a_body_of_no_dialect_is_answered_in_both(service: Service) -> None:
    """The standard's required members stand beside this dialect's."""
    status, reply = await service.post("/settle", {"x402Version": 1})
    assert status == 400
    assert (reply["transaction"], reply["network"]) == ("", "")
    assert reply["errorReason"] == reply["error"] == "Missing paymentHeader"
    status, reply = await service.post("/verify", {"x402Version": 1})
    assert (status, reply["payer"], reply["amount"]) == (400, "", None)
    status, reply = await service.post("/verify", {"paymentHeader": "x"})
    assert (status, reply["payer"], reply["amount"]) == (400, None, None)


async def test_gasless_wants_its_authorization(devnet: Devnet, service: Service) -> None:
    body = request(devnet_payment(devnet))
    status, reply = await service.post("/settle/gasless", body)
    assert (status, reply["error"]) == (400, "Missing authParams for EIP-3009")


# --- headers


async def test_everything_else_about_a_header_is_read_strictly(
    devnet: Devnet, service: Service
) -> None:
    header = devnet_payment(devnet)
    text = json.dumps(header)
    bad: list[object] = [
        *(text, "{}", "x", "====", "$$$$", "aGk="),
        base64.b64encode(b"[1]").decode(),
        base64.b64encode(b"null").decode(),
        base64.b64encode(text.encode("utf-16")).decode(),
        base64.b64encode(text[:-1].encode() + b',"nonce":"x"}').decode(),
        base64.b64encode(text.encode() + b"x").decode(),
    ]
    for value in bad:
        body = {**request(header), "paymentHeader": value}
        status, reply = await service.post("/verify", body)
        assert (status, reply["invalidReason"]) == (200, UNREADABLE), value
