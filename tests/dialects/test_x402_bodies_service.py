"""Bodies of the standard dialect that are not as they should be: a stable answer, never a payment,
never an error of ours.
"""

import copy
import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from eth_utils.address import is_checksum_address, to_checksum_address

from facilitator.commands.devnet import Devnet
from tests.support.chain import devnet_payment
from tests.support.service import Service, request
from tests.support.x402 import compact, high_s, parity_v, payload_of, v1_body, v2_body
from tests.support.x402_chain import transfers
from tests.support.x402_service import SIGNATURE, USED, nonce_of, post, refused, settle, verify

pytestmark = pytest.mark.anyio

VERSIONS = pytest.mark.parametrize("make", [v1_body, v2_body], ids=["v1", "v2"])
Path = tuple[str, ...]

# Neither a decimal string below 2^256 nor anything near it. All were taken by official packages.
AMOUNTS: tuple[object, ...] = (
    *(" 10000 ", "+1", "-1", "010", "0x2710", "1e3", "1.0", "1_000", "\uff11\uff10", "1\n", ""),
    *("NaN", "Infinity", "\u0661", str(2**256), "9" * 78, "9" * 5000, "1\u0000"),
    *(10000, 1.5, -1, True, [], {}, ["1"]),
)
ADDRESSES: tuple[object, ...] = (
    *("", "0x", "vitalik.eth", "0x" + "1" * 39, "0x" + "1" * 41, "0X" + "1" * 40, "1" * 40),
    *("0x" + "g" * 40, "0x" + "\uff11" * 40, "0xAb" + "aB" * 19, " 0x" + "1" * 40, "x" * 5000),
    *(1, True, [], {}),
)
NONCES: tuple[object, ...] = (
    *("", "0x", "1", "0x1", "0x" + "1" * 63, "0x" + "1" * 65, "0X" + "1" * 64, "1" * 64),
    *("0x" + "1" * 64 + "\n", "0x" + "\uff11" * 64, 1, True, [], {}),
)
HEX: tuple[object, ...] = (
    "",
    "0",
    "0x1",
    "0xzz",
    "0X11",
    "11",
    "0x11 ",
    "0x\uff11\uff11",
    1,
    True,
    [],
)
TEXTS: tuple[object, ...] = ("", 1, 1.5, True, [], {}, ["exact"])
OBJECTS: tuple[object, ...] = ("", "x", 1, True, [], [{}])
NUMBERS: tuple[object, ...] = (0, -1, "60", True, [], {})

AUTHORIZATION: Path = ("paymentPayload", "payload", "authorization")
REQUIREMENTS: Path = ("paymentRequirements",)
MEMBERS: dict[Path, tuple[object, ...]] = {
    ("paymentPayload", "x402Version"): ("2", 2.0, True, [], {}),
    ("paymentPayload", "payload"): OBJECTS,
    ("paymentPayload", "payload", "signature"): HEX,
    AUTHORIZATION: OBJECTS,
    (*AUTHORIZATION, "from"): ADDRESSES,
    (*AUTHORIZATION, "to"): ADDRESSES,
    (*AUTHORIZATION, "value"): AMOUNTS,
    (*AUTHORIZATION, "validAfter"): AMOUNTS,
    (*AUTHORIZATION, "validBefore"): AMOUNTS,
    (*AUTHORIZATION, "nonce"): NONCES,
    REQUIREMENTS: OBJECTS,
    (*REQUIREMENTS, "scheme"): TEXTS,
    (*REQUIREMENTS, "network"): TEXTS,
    (*REQUIREMENTS, "asset"): ADDRESSES,
    (*REQUIREMENTS, "payTo"): ADDRESSES,
    (*REQUIREMENTS, "maxTimeoutSeconds"): NUMBERS,
    (*REQUIREMENTS, "extra"): OBJECTS,
    (*REQUIREMENTS, "extra", "name"): (1, True, [], {}, "x" * 129),
    (*REQUIREMENTS, "extra", "version"): (2, True, [], {}, "x" * 129),
}
OF_V2: dict[Path, tuple[object, ...]] = {
    (*REQUIREMENTS, "amount"): AMOUNTS,
    ("paymentPayload", "accepted"): OBJECTS,
    ("paymentPayload", "accepted", "amount"): AMOUNTS,
    ("paymentPayload", "accepted", "asset"): ADDRESSES,
    ("paymentPayload", "accepted", "maxTimeoutSeconds"): NUMBERS,
}
OF_V1: dict[Path, tuple[object, ...]] = {
    (*REQUIREMENTS, "maxAmountRequired"): AMOUNTS,
    ("paymentPayload", "scheme"): TEXTS,
    ("paymentPayload", "network"): TEXTS,
}
# Nothing there is as good as something: the rest may be absent or null.
OPTIONAL = {(*REQUIREMENTS, "extra"), (*REQUIREMENTS, "extra", "name")}
OPTIONAL.add((*REQUIREMENTS, "extra", "version"))


def changed(body: dict[str, Any], path: Path, *value: object) -> dict[str, Any]:
    """A copy with another value at `path`; without a value it is taken out."""
    made = copy.deepcopy(body)
    inner = made
    for name in path[:-1]:
        inner = inner[name]
    inner.pop(path[-1])
    if value:
        inner[path[-1]] = value[0]
    return made


def malformed(body: dict[str, Any], members: dict[Path, tuple[object, ...]]) -> Iterator[Any]:
    for path, values in members.items():
        for value in values:
            yield path, value, changed(body, path, value)
        if path not in OPTIONAL:
            yield path, None, changed(body, path, None)
            yield path, "absent", changed(body, path)


def readable(body: Any, *path: str) -> Any:
    for name in path:
        body = body.get(name) if isinstance(body, dict) else None
    return body


async def not_understood(service: Service, body: Any) -> str:
    """What is readable all the same is repeated."""
    verified, settled = await verify(service, body, 400), await settle(service, body, 400)
    payer = readable(body, *AUTHORIZATION, "from")
    assert verified["payer"] == settled["payer"] == (payer if is_checksum_address(payer) else "")
    assert settled["transaction"] == ""
    network = readable(body, *REQUIREMENTS, "network")
    assert settled["network"] == (network if isinstance(network, str) else "")
    assert verified["invalidReason"] == settled["errorReason"]
    return str(settled["errorReason"])


@VERSIONS
async def test_a_member_of_another_kind_is_not_understood(
    make: Any, chain: Devnet, service: Service
) -> None:
    """From a payment that would settle as it is, each member in turn: 400, on both endpoints."""
    body, first, count = make(chain), await nonce_of(chain), 0
    members = {**MEMBERS, **(OF_V2 if make is v2_body else OF_V1)}
    for path, value, wrong in malformed(body, members):
        missing = value in (None, "absent")
        expected = "missing_parameters" if missing else "invalid_payload"
        assert await not_understood(service, wrong) == expected, (path, value)
        count += 1
    assert count > 250
    assert await nonce_of(chain) == first
    assert (await settle(service, body))["success"] is True


@VERSIONS
async def test_null_is_as_good_as_absent_and_what_is_not_known_does_not_matter(
    make: Any, chain: Devnet, service: Service
) -> None:
    """Legacy clients write null for what they do not have, newer ones more than we read."""
    body = make(chain)
    nothing = {"x402Version": None, "paymentHeader": None, "more": [1, {"a": None}]}
    body.update(nothing)
    body["paymentRequirements"].update({"outputSchema": None, "mimeType": None, "more": 1.5})
    body["paymentPayload"].update({"extensions": None, "resource": None, "more": {}})
    payload_of(body).update({"permit2Authorization": None, "more": True})
    payload_of(body)["authorization"]["more"] = "x"
    assert (await verify(service, body))["isValid"] is True
    assert (await settle(service, body))["success"] is True


async def test_the_payloads_version_counts_and_not_the_outer_one(
    chain: Devnet, service: Service
) -> None:
    for make in (v1_body, v2_body):
        for outer in (1, 2, 3, "x", None):
            body = {**make(chain), "x402Version": outer}
            assert (await verify(service, body))["isValid"] is True


async def test_a_body_of_both_dialects_is_the_standards(chain: Devnet, service: Service) -> None:
    """Its Jeju payment is not looked at, on any path but the one that is Jeju's alone."""
    jeju = request(devnet_payment(chain))
    both = {**v2_body(chain), "paymentHeader": jeju["paymentHeader"]}
    assert (await verify(service, both))["isValid"] is True
    reply = await settle(service, both)
    assert reply["success"] is True
    broken = {**both, "paymentPayload": {"x402Version": 2}}
    assert await not_understood(service, broken) == "missing_parameters"
    status, gasless = await service.post("/settle/gasless", both)
    assert (status, gasless["error"]) == (400, "Missing authParams for EIP-3009")


async def test_what_speaks_no_dialect_is_answered_in_both(service: Service) -> None:
    bodies: tuple[object, ...] = (
        *(b"", b"{", b"null", b"[]", b'"x"', b"\xff", b"{}", b"[" * 20_000),
        {"paymentPayload": None, "paymentRequirements": {}},
        *({"paymentPayload": value, "paymentRequirements": {}} for value in OBJECTS),
    )
    for body in bodies:
        for path in ("/verify", "/settle"):
            got = await post(service, path, body)
            reply = got.members
            assert got.status == 400
            assert reply["payer"] in (None, "")
            if path == "/settle":
                assert (reply["success"], reply["transaction"], reply["network"]) == (False, "", "")
                assert reply["errorReason"] == reply["error"]
            else:
                assert reply["isValid"] is False
                assert reply["invalidReason"]


async def test_what_looks_like_the_dialect_and_is_no_json_hears_what_is_wrong(
    service: Service,
) -> None:
    deep = b'{"paymentPayload":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    for body, wrong in (
        (b'{"paymentPayload":NaN}', "NaN is not JSON"),
        (b'{"paymentPayload":{},"paymentPayload":{}}', "duplicate key 'paymentPayload'"),
        (b'{"paymentPayload":"\\ud800"}', "lone surrogate"),
        (b'{"paymentPayload":{}', "not JSON: "),
        (deep, "nested deeper than 64"),
    ):
        verified, settled = await verify(service, body, 400), await settle(service, body, 400)
        assert verified["invalidReason"] == settled["errorReason"] == "invalid_json"
        assert verified["invalidMessage"] == settled["errorMessage"]
        assert verified["invalidMessage"].startswith("The body is refused: " + wrong)
        assert (settled["transaction"], settled["network"], settled["payer"]) == ("", "", "")


async def test_what_is_not_looked_at_may_be_deep(chain: Devnet, service: Service) -> None:
    """As deep as 60 objects in one another, which schemas of extensions are not."""
    inner: Any = {}
    for _ in range(60):
        inner = {"properties": inner}
    body = v2_body(chain, payment={"extensions": {"bazaar": inner}})
    assert (await verify(service, body))["isValid"] is True


ID = "payment-identifier"
LONGEST = "pay_" + "-" * 124


@pytest.mark.parametrize(
    ("extension", "code"),
    [
        ({"info": {"required": False}, "schema": {}}, None),
        ({"info": {"required": False, "id": None}}, None),
        ({"info": {"required": True, "id": LONGEST}}, None),
        ({"info": {"required": False, "id": "a" * 16}}, None),
        (None, None),
        ({"info": {"required": True}}, "missing_parameters"),
        ({"info": {}}, "missing_parameters"),
        ({}, "missing_parameters"),
        ({"info": {"required": True, "id": "a" * 15}}, "invalid_payload"),
        ({"info": {"required": False, "id": LONGEST + "-"}}, "invalid_payload"),
        ({"info": {"required": False, "id": "a" * 16 + "\n"}}, "invalid_payload"),
        ({"info": {"required": False, "id": "\uff41" * 16}}, "invalid_payload"),
        ({"info": {"required": False, "id": 10**20}}, "invalid_payload"),
        ({"info": {"required": "yes", "id": LONGEST}}, "invalid_payload"),
        ({"info": []}, "invalid_payload"),
        ([], "invalid_payload"),
    ],
    ids=str,
)
async def test_a_payment_identifier_is_validated_where_it_is_given(
    extension: object, code: str | None, chain: Devnet, service: Service
) -> None:
    body = v2_body(chain, payment={"extensions": {ID: extension}})
    if code is None:
        assert (await verify(service, body))["isValid"] is True
    else:
        assert await not_understood(service, body) == code


async def test_extensions_are_an_object(chain: Devnet, service: Service) -> None:
    """In version 2, or an empty list, as PHP writes one; version 1 has none."""
    assert (await verify(service, v2_body(chain, payment={"extensions": []})))["isValid"]
    nothing: tuple[object, ...] = (["x"], "x", 1)
    for wrong in nothing:
        body = v2_body(chain, payment={"extensions": wrong})
        assert await not_understood(service, body) == "invalid_payload"
        assert (await verify(service, v1_body(chain, payment={"extensions": wrong})))["isValid"]


async def test_a_payment_identifier_never_says_success_twice(
    chain: Devnet, service: Service
) -> None:
    """Nor does it tie payments to each other: it is the buyer who chooses it."""
    extensions = {ID: {"info": {"required": True, "id": LONGEST}}}
    body, other = (v2_body(chain, payment={"extensions": extensions}) for _ in range(2))
    assert (await settle(service, body))["success"] is True
    assert (await settle(service, body))["errorReason"] == USED
    assert (await settle(service, other))["success"] is True


@VERSIONS
async def test_a_payload_of_another_method_is_told_as_such(
    make: Any, chain: Devnet, service: Service
) -> None:
    """With 200, which the Python packages demand; the payer is named where he is readable."""
    given = payload_of(make(chain))
    for payload, payer in (
        ({"permit2Authorization": {}, "signature": "0x"}, ""),
        ({**given, "permit2Authorization": {}}, given["authorization"]["from"]),
        ({"delegationManager": "0x", "permissionContext": "0x", "delegator": "0x"}, ""),
        ({"transaction": "AQAB", "authorization": None}, ""),
        ({"type": "deposit"}, ""),
    ):
        body = make(chain, payment={"payload": payload})
        assert await refused(service, body) == "unsupported_payload_type"
        assert (await settle(service, body))["payer"] == payer
    for payload in ({}, {"signature": "0x11"}, {"signature": None}):
        body = make(chain, payment={"payload": payload})
        assert await not_understood(service, body) == "missing_parameters"


async def test_a_refusal_names_payer_and_network_and_no_more_than_that(
    chain: Devnet, service: Service
) -> None:
    """A network is repeated as long as it may be one."""
    payer = to_checksum_address(chain.payer.address)
    for name, told in (("eip155:999", "eip155:999"), ("x" * 64, "x" * 64), ("x" * 65, "")):
        body = v2_body(chain, requirements={"network": name})
        assert await refused(service, body) == "invalid_network"
        reply = await settle(service, body)
        assert (reply["network"], reply["payer"]) == (told, payer)
    for changes in (
        {"requirements": {"scheme": "upto"}},
        {"payment": {"x402Version": 3}},
    ):
        reply = await settle(service, v2_body(chain, **changes))
        assert (reply["network"], reply["payer"]) == (f"eip155:{chain.chain_id}", payer)


@VERSIONS
async def test_a_signature_has_one_spelling_but_for_v(
    make: Any, chain: Devnet, service: Service
) -> None:
    """As the token takes them: 65 bytes, low s; v is 27 or 28, or 0 or 1 as some wallets write."""
    first = await nonce_of(chain)
    shapes: dict[str, Any] = {
        "high s": high_s,
        "compact": compact,
        "nothing": lambda made: b"",
        "short": lambda made: made[:64],
        "long": lambda made: made + b"\0",
        "zeros": lambda made: bytes(65),
        "ones": lambda made: b"\xff" * 65,
        "r of nobody": lambda made: bytes(31) + b"\5" + made[32:],
        "noise": lambda made: secrets.token_bytes(65),
        "very long": lambda made: made * 400,
    }
    for name, shape in shapes.items():
        assert await refused(service, make(chain, signature=shape)) == SIGNATURE, name
    for v in (2, 26, 29, 35, 255):
        body = make(chain, signature=lambda made, v=v: made[:64] + bytes([v]))
        assert await refused(service, body) == SIGNATURE, v
    assert await nonce_of(chain) == first
    body = make(chain, signature=parity_v)
    assert (await verify(service, body))["isValid"] is True
    assert (await settle(service, body))["success"] is True
    payload = payload_of(body)
    payload["signature"] = "0x" + payload["signature"][2:].upper()
    assert (await settle(service, body))["errorReason"] == "invalid_exact_evm_nonce_already_used"


async def test_a_body_of_60_kb_is_read_and_a_longer_one_is_not(
    chain: Devnet, service: Service
) -> None:
    body = v2_body(chain)
    body["paymentPayload"]["extensions"] = {"x": "y" * (60_000 - len(json.dumps(body)))}
    assert (await verify(service, body))["isValid"] is True
    body["paymentPayload"]["extensions"] = {"x": "y" * 66_000}
    for path in ("/verify", "/settle"):
        assert (await post(service, path, body)).status == 413
    assert (await verify(service, v2_body(chain)))["isValid"] is True


async def test_addresses_are_compared_without_case(chain: Devnet, service: Service) -> None:
    """Whoever spells them in which way: an address is 20 bytes."""
    before = len(await transfers(chain))
    body = v2_body(chain)
    asked = body["paymentRequirements"]
    for name in ("asset", "payTo"):
        asked[name] = "0x" + asked[name][2:].upper()
    authorization = payload_of(body)["authorization"]
    for name in ("from", "to"):
        authorization[name] = authorization[name].lower()
    reply = await settle(service, body)
    assert (reply["success"], reply["payer"]) == (True, authorization["from"])
    assert len(await transfers(chain)) == before + 1


async def test_nothing_that_was_sent_comes_back_in_an_error(
    chain: Devnet, service: Service
) -> None:
    """Neither a signature nor what stands in its place; nor is it logged."""
    secret = "c0ffee" * 22
    for value in ("0x" + secret, secret, "0x" + secret + "zz"):
        body = changed(v2_body(chain), ("paymentPayload", "payload", "signature"), value)
        for path in ("/verify", "/settle"):
            assert secret.encode() not in (await post(service, path, body)).body
    assert secret.encode() not in service.output
