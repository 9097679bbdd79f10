"""Words that need more than one payment to provoke, and what stands beside the words in a reply."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet
from tests.support.chain import (
    MAX_UINT256,
    approve,
    devnet_authorization,
    devnet_payment,
    is_nonce_used,
    settled_logs,
)
from tests.support.jeju import OTHER, UNREADABLE, asked, now, refusal, without
from tests.support.service import Service, request, serve

pytestmark = pytest.mark.anyio


# --- what is missing, in its order


async def test_the_first_thing_missing_is_told(chain: Devnet, service: Service) -> None:
    """Body, header, requirements, authorization, version: mending one shows the next."""
    whole = {**request(devnet_payment(chain)), "authParams": devnet_authorization(chain)}
    body: dict[str, Any] = {}
    for member, words in (
        ("paymentHeader", "Missing paymentHeader"),
        ("paymentRequirements", "Missing paymentRequirements"),
        ("authParams", "Missing authParams for EIP-3009"),
        ("x402Version", "Missing x402Version"),
    ):
        for nothing in (body, {**body, member: None}):
            status, reply = await service.post("/settle/gasless", nothing)
            assert (status, reply["error"]) == (400, words)
        body[member] = whole[member]
    body["x402Version"] = 2
    status, reply = await service.post("/settle/gasless", body)
    words = "Unsupported x402Version: 2. Only version 1 is supported."
    assert (status, reply["error"]) == (400, words)


async def test_an_authorization_is_an_object(chain: Devnet, service: Service) -> None:
    body = request(devnet_payment(chain))
    wrong: tuple[object, ...] = ("x", [], 0, True)
    for value in wrong:
        status, reply = await service.post("/settle/gasless", {**body, "authParams": value})
        assert (status, reply["error"]) == (400, "Missing authParams for EIP-3009")
    status, reply = await service.post("/settle/gasless", {**body, "authParams": {}})
    assert (status, reply["error"]) == (200, "Invalid authParams encoding")


async def test_an_authorization_is_for_the_gasless_way_alone(
    chain: Devnet, service: Service
) -> None:
    """POST /settle moves the money by the allowance, whatever stands in authParams: good, bad,
    late, or of another value.
    """
    given: tuple[object, ...] = (
        *("x", {"validAfter": 0}, {}, devnet_authorization(chain, value=1)),
        *(devnet_authorization(chain, valid_before=1), devnet_authorization(chain)),
    )
    for value in given:
        body = {**request(devnet_payment(chain)), "authParams": value}
        assert (await service.post("/settle", body))[1]["success"] is True, value
    hesitant = chain.accounts[4]
    body = request(devnet_payment(chain, payer=hesitant))
    body["authParams"] = devnet_authorization(chain, payer=hesitant)
    reply = (await service.post("/settle", body))[1]
    assert reply["error"] == "Insufficient allowance: 0 < 1000000"


async def test_a_version_is_checked_before_the_header_is_read(service: Service) -> None:
    body = {"paymentHeader": "x", "paymentRequirements": {"a": 1}, "x402Version": 3}
    status, reply = await service.post("/verify", body)
    assert status == 400
    assert reply["invalidReason"].startswith("Unsupported x402Version: 3.")
    status, reply = await service.post("/verify", {**body, "x402Version": 1})
    assert (status, reply["invalidReason"]) == (200, UNREADABLE)


# --- the authorization of a gasless payment


AUTHORIZATION = ("validAfter", "validBefore", "authNonce", "authSignature")


@pytest.mark.parametrize("member", AUTHORIZATION)
async def test_every_member_of_an_authorization_is_required_and_typed(
    chain: Devnet, service: Service, member: str
) -> None:
    """On /verify as well, which then predicts what /settle/gasless will do."""
    header, good = devnet_payment(chain), devnet_authorization(chain)
    wrong: list[object] = [None, "", True, [], {}, 1.5, -1, "-1", "0x", "0x1", "zz", "1e3"]
    wrong += [" 1", "01", str(2**256), "0x" + "11" * 31 + "\n", "0X" + "11" * 32]
    if member == "authSignature":
        wrong.remove("0x")  # it can be read, and the token will not take it
    for value in wrong:
        body = {**request(header), "authParams": {**good, member: value}}
        status, reply = await service.post("/settle/gasless", body)
        assert (status, reply["error"]) == (200, "Invalid authParams encoding"), value
        status, reply = await service.post("/verify", body)
        assert (status, reply["invalidReason"]) == (200, "Invalid authParams encoding"), value
    body = {**request(header), "authParams": {k: v for k, v in good.items() if k != member}}
    status, reply = await service.post("/settle/gasless", body)
    assert (status, reply["error"]) == (200, "Invalid authParams encoding")


async def test_the_times_of_an_authorization_may_be_numbers(
    chain: Devnet, service: Service
) -> None:
    header = devnet_payment(chain)
    signed = devnet_authorization(chain, valid_after=1, valid_before=now() + 1000)
    numbers = {name: int(signed[name]) for name in ("validAfter", "validBefore")}
    body = {**request(header), "authParams": {**signed, **numbers}}
    assert (await service.post("/settle/gasless", body))[1]["success"] is True


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (
            {"valid_after": MAX_UINT256},
            rf"Authorization is not valid yet \(validAfter {MAX_UINT256}\)",
        ),
        ({"valid_after": 10**12}, rf"Authorization is not valid yet \(validAfter {10**12}\)"),
        ({"valid_before": 1}, r"Authorization expired \(\d{10} > 0\)"),
        ({"valid_before": 1_000_000}, r"Authorization expired \(\d{10} > 999999\)"),
    ],
)
async def test_an_authorization_out_of_its_time_is_told_with_its_own_times(
    chain: Devnet, service: Service, times: dict[str, Any], words: str
) -> None:
    """The payment beside it is in time, and its age would explain nothing."""
    body = {
        **request(devnet_payment(chain)),
        "authParams": devnet_authorization(chain, **times),
    }
    verified = (await service.post("/verify", body))[1]
    settled = (await service.post("/settle/gasless", body))[1]
    assert verified["isValid"] is settled["success"] is False
    assert re.fullmatch(words, verified["invalidReason"])
    assert re.fullmatch(words, settled["error"])
    assert settled["payer"] is settled["amount"] is None


async def test_an_old_payment_is_expired_whatever_its_authorization_says(
    chain: Devnet, service: Service
) -> None:
    old = devnet_payment(chain, timestamp=now() - 1000)
    for ends in (1, MAX_UINT256):
        authorization = devnet_authorization(chain, valid_before=ends)
        body = {**request(old), "authParams": authorization}
        for path, member in (("/verify", "invalidReason"), ("/settle/gasless", "error")):
            words = (await service.post(path, body))[1][member]
            assert re.fullmatch(r"Payment expired \(100\ds > 300s\)", words)


async def test_an_authorization_that_ends_too_soon_to_be_mined_is_expired_for_settle(
    chain: Devnet, service: Service
) -> None:
    """The last second that would do is named, not the last of the authorization."""
    ends = now() + 4
    body = {
        **request(devnet_payment(chain)),
        "authParams": devnet_authorization(chain, valid_before=ends),
    }
    words = (await service.post("/settle/gasless", body))[1]["error"]
    found = re.fullmatch(r"Authorization expired \((\d+) > (\d+)\)", words)
    assert found is not None
    assert int(found[1]) > int(found[2]) < ends - 1


@pytest.mark.parametrize(
    "changes", [{"value": 999_999}, {"to": bytes(20)}, {"chain_id": 1}, {"token": bytes(20)}]
)
async def test_an_authorization_of_anything_else_is_reverted_and_claims_nothing(
    chain: Devnet, service: Service, changes: dict[str, Any]
) -> None:
    """For another amount, recipient, chain or token: the simulation shows what the token says."""
    header = devnet_payment(chain)
    body = {**request(header), "authParams": devnet_authorization(chain, **changes)}
    status, reply = await service.post("/settle/gasless", body)
    assert (status, reply["error"], reply["txHash"]) == (200, "Transaction reverted", None)
    assert (await service.post("/verify", body))[1]["invalidReason"] == "Transaction reverted"
    assert (await service.settle(header))["success"] is True


# --- what stands beside the words


async def test_a_reply_names_the_network_that_was_asked_for(
    chain: Devnet, service: Service
) -> None:
    """The primary one while the body does not name another."""
    header = devnet_payment(chain)
    for network, told in (("base", "base"), ("solana", "solana"), (None, "jeju"), ("", "jeju")):
        assert (await service.settle(header, network=network))["networkId"] == told
    bodies: list[object] = [[], {}, {"paymentHeader": "x"}, {**request(header), "x402Version": 0}]
    for body in bodies:
        assert (await service.post("/settle", body))[1]["networkId"] == "jeju"
    unversioned = {**request(header, network="base"), "x402Version": 2}
    assert (await service.post("/settle", unversioned))[1]["networkId"] == "jeju"


async def test_parties_are_told_once_the_payment_is_verified(
    chain: Devnet, service: Service
) -> None:
    """Null before; after, `payer` has its checksum and `recipient` is spelt as it was given."""
    header = devnet_payment(chain, payer=chain.accounts[4])
    mismatch = await service.settle(header, resource="/other")
    assert (mismatch["payer"], mismatch["recipient"], mismatch["amount"]) == (None, None, None)
    low = {**header, "payTo": header["payTo"].lower(), "payer": header["payer"].lower()}
    poor = await service.settle(low)
    assert poor["error"] == "Insufficient allowance: 0 < 1000000"
    assert (poor["payer"], poor["recipient"]) == (header["payer"], header["payTo"].lower())
    assert poor["amount"] == {"human": "1", "base": "1000000", "symbol": "USDC", "decimals": 6}


@pytest.mark.parametrize(
    ("asset", "amount", "told"),
    [
        (bytes(20), 10**18, {"human": "1", "symbol": "ETH", "decimals": 18}),
        (bytes(19) + b"\1", 15 * 10**17, {"human": "1.5", "symbol": "TOKEN", "decimals": 18}),
        (bytes(19) + b"\1", 1, {"human": "0." + "0" * 17 + "1", "symbol": "TOKEN", "decimals": 18}),
    ],
)
async def test_amounts_have_the_unit_of_their_token(
    chain: Devnet, service: Service, asset: bytes, amount: int, told: dict[str, Any]
) -> None:
    """The native currency at the zero address, and 18 decimals where nothing is known."""
    reply = await service.settle(devnet_payment(chain, asset=asset, amount=amount))
    assert reply["error"].startswith("Token not supported: 0x")
    assert reply["amount"] == {**told, "base": str(amount)}


async def test_a_refusal_before_the_transaction_leaves_the_nonce_free(
    chain: Devnet, service: Service
) -> None:
    """The same header settles once the reason is gone."""
    payer = chain.accounts[5]
    header = devnet_payment(chain, payer=payer)
    for _ in range(2):
        assert (await service.settle(header))["error"] == "Insufficient allowance: 0 < 1000000"
    assert await is_nonce_used(chain, header) is False
    await approve(chain, payer, 999_999)
    words = "Insufficient allowance: 999999 < 1000000"
    assert await refusal(service, header) == words
    await approve(chain, payer)
    assert (await service.settle(header))["success"] is True


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data", None])
async def test_the_content_type_is_not_looked_at(
    chain: Devnet, service: Service, kind: str | None
) -> None:
    data = json.dumps(request(devnet_payment(chain))).encode()
    headers = {} if kind is None else {"Content-Type": kind}
    skip = ["Content-Type"] if kind is None else []
    async with service.session.post(
        service.url + "/verify", data=data, headers=headers, skip_auto_headers=skip
    ) as response:
        assert (response.status, (await response.json())["isValid"]) == (200, True)


# --- local checks


async def test_what_needs_no_chain_is_answered_without_one(chain: Devnet, tmp_path: Path) -> None:
    """Nothing listens at the RPC URL: every refusal that the request alone gives is a 200 with its
    words, and only what is good so far is a 503.
    """
    with socket.socket() as taken:  # bound, and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with serve(chain, tmp_path, JEJU_RPC_URL=url, MIN_PAYMENT_AMOUNT="10") as service:
            header = devnet_payment(chain)
            upto = devnet_payment(chain, scheme="upto")
            elsewhere = devnet_payment(chain, network="base", chain_id=8453, contract=bytes(20))
            local: list[tuple[dict[str, Any], dict[str, Any], str]] = [
                (devnet_payment(chain, timestamp=now() + 99), {}, "Payment timestamp is in the"),
                (header, {"network": "x"}, "Unsupported network: x"),
                ({**header, "signature": "0x"}, {}, "Invalid signature: "),
                (elsewhere, {"network": "jeju"}, "Network mismatch: "),
                (header, {"payTo": OTHER}, "Recipient mismatch: "),
                (header, {"asset": OTHER}, "Asset mismatch: "),
                (header, {"resource": "/other"}, "Resource mismatch: "),
                (header, {"maxAmountRequired": "5"}, "Exact scheme requires amount 5"),
                (upto, {"maxAmountRequired": "5"}, "Upto scheme: amount 1000000 exceeds max 5"),
                (header, {"scheme": "all"}, "Unsupported scheme: all"),
                (devnet_payment(chain, amount=9), {}, "Amount 9 below minimum 10"),
                (devnet_payment(chain, pay_to=bytes(20)), {}, "Invalid recipient"),
                (without(header, "nonce"), asked(header), UNREADABLE),
            ]
            for payment, changes, words in local:
                assert (await refusal(service, payment, **changes)).startswith(words), words
            old = devnet_payment(chain, timestamp=now() - 999)
            for path, member in (("/verify", "invalidReason"), ("/settle", "error")):
                status, reply = await service.post(path, request(old))
                assert (status, reply[member][:17]) == (200, "Payment expired (")
                status, reply = await service.post(path, request(header))
                assert (status, reply[member]) == (503, "Chain unavailable")
            body = {"paymentHeader": request(header)["paymentHeader"]}
            assert (await service.post("/verify/signature", body))[1]["valid"] is True
    assert not any(log.resource == "/other" for log in await settled_logs(chain))
