"""Values of every kind, right and wrong, as members of a payment, of what is asked for, and of the
body around them.
"""

import base64
import gzip
import json
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet
from tests.support.chain import devnet_payment, settled_logs
from tests.support.jeju import UNREADABLE, asked, now, refusal, without
from tests.support.service import Service, request
from tests.support.signing import encode_header

pytestmark = pytest.mark.anyio

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
# Kinds of JSON values, none of which is a text.
KINDS: tuple[object, ...] = (None, True, False, 0, 7, 2**64, 1.5, -0.0, [], ["x"], {}, {"a": "x"})


# --- the body


async def post_bytes(
    service: Service, path: str, body: bytes, **headers: str
) -> tuple[int, dict[str, Any]]:
    url = service.url + path
    async with service.session.post(url, data=body, headers=headers) as response:
        return response.status, await response.json()


def words_of(reply: dict[str, Any]) -> Any:
    return reply.get("invalidReason", reply.get("error"))


async def test_a_body_that_was_cut_off_is_never_understood(chain: Devnet, service: Service) -> None:
    """At any byte; without its first bytes neither."""
    whole = json.dumps(request(devnet_payment(chain))).encode()
    for cut in range(0, len(whole), 29):
        for body in (whole[:cut], whole[cut + 1 :]):
            status, reply = await post_bytes(service, "/verify", body)
            assert (status, words_of(reply)) == (400, "Invalid JSON request body"), body


@pytest.mark.parametrize("path", ["/verify", "/settle", "/settle/gasless", "/verify/signature"])
async def test_a_body_in_another_encoding_is_not_understood(
    chain: Devnet, service: Service, path: str
) -> None:
    """UTF-16, a byte order mark, a NUL before or behind, and compression, whatever is announced."""
    text = json.dumps(request(devnet_payment(chain)))
    plain = text.encode()
    compressed = gzip.compress(plain)
    for body in (
        *(text.encode("utf-16"), text.encode("utf-16-le"), text.encode("utf-32-be")),
        *(b"\xef\xbb\xbf" + plain, b"\0" + plain, plain + b"\0", plain + plain, compressed),
    ):
        status, reply = await post_bytes(service, path, body)
        assert (status, words_of(reply)) == (400, "Invalid JSON request body"), body
    announced = {"Content-Encoding": "gzip"}
    status, reply = await post_bytes(service, path, compressed, **announced)
    assert (status, words_of(reply)) == (400, "Invalid JSON request body")


async def test_a_key_that_stands_twice_is_not_understood(chain: Devnet, service: Service) -> None:
    """In the body or in the requirements: which of the two a reader takes would decide."""
    text = json.dumps(request(devnet_payment(chain)))
    for twice in (
        text.replace('"x402Version": 1', '"x402Version": 1, "x402Version": 1'),
        text.replace('"network": "jeju"', '"network": "jeju", "network": "jeju"'),
        text.replace('"x402Version": 1', '"x402Version": 1, "x402Versi\\u006fn": 1'),
    ):
        assert twice != text
        status, reply = await post_bytes(service, "/settle", twice.encode())
        assert (status, reply["error"]) == (400, "Invalid JSON request body")


@pytest.mark.parametrize("path", ["/verify", "/settle", "/settle/gasless", "/verify/signature"])
async def test_every_endpoint_refuses_70_kb_in_its_own_shape(service: Service, path: str) -> None:
    status, reply = await post_bytes(service, path, b" " * 70_000)
    assert (status, words_of(reply)) == (413, "Request body exceeds 65536 bytes")
    told = [reply[name] for name in ("isValid", "success", "valid") if name in reply]
    assert told == [False]


@pytest.mark.parametrize("value", KINDS)
async def test_the_parts_of_a_body_have_their_kind(
    chain: Devnet, service: Service, value: object
) -> None:
    good = request(devnet_payment(chain))
    for member, kind in (("paymentHeader", str), ("paymentRequirements", dict)):
        for path in ("/verify", "/settle"):
            status, reply = await service.post(path, {**good, member: value})
            assert reply.get("isValid", reply.get("success")) is False
            words = words_of(reply)
            if isinstance(value, kind):
                # it is there, and is read once the rest is
                assert status == 200
            else:
                assert (status, words) == (400, f"Missing {member}")
    status, reply = await service.post("/settle", {**good, "x402Version": value})
    assert status == 400
    assert "x402Version" in reply["error"]
    status, reply = await service.post("/verify/signature", {"paymentHeader": value})
    assert (status, reply["valid"]) == (400, False)


# --- base64


async def test_any_spelling_of_base64_is_the_same_header(chain: Devnet, service: Service) -> None:
    """The JSON's own spelling does not count either: member order, spaces, escapes, extras."""
    header = devnet_payment(chain, resource="/¿?>~ÿÿ>>??😀")
    raw = json.dumps({**header, "extra": {"a": [1]}}, indent=1).encode()
    escaped = json.dumps(dict(reversed(header.items())), separators=(",", ":")).encode()
    utf8 = json.dumps(header, ensure_ascii=False).encode()
    texts = [base64.b64encode(each).decode() for each in (raw, escaped, utf8)]
    texts += [base64.urlsafe_b64encode(each).decode() for each in (raw, escaped, utf8)]
    texts += [text.rstrip("=") for text in texts]
    texts += ["\r\n".join(text[i : i + 76] for i in range(0, len(text), 76)) for text in texts]
    texts += ["\t " + text + " \n" for text in texts]
    for text in texts:
        reply = (await service.post("/verify", {**request(header), "paymentHeader": text}))[1]
        assert reply["isValid"] is True, (text, reply)


# --- the members of a payment


MEMBERS = ("scheme", "network", "asset", "payTo", "amount", "resource", "nonce", "signature")


@pytest.mark.parametrize("member", [*MEMBERS, "timestamp"])
async def test_every_member_of_a_payment_is_required_and_typed(
    chain: Devnet, service: Service, member: str
) -> None:
    """Only `payer` may be missing, null or empty, and is a text where it is there."""
    header = devnet_payment(chain)
    wrong = [value for value in KINDS if member != "timestamp" or type(value) is not int]
    for value in (*wrong, ""):
        assert await refusal(service, {**header, member: value}, **asked(header)) == UNREADABLE
    assert await refusal(service, without(header, member), **asked(header)) == UNREADABLE


@pytest.mark.parametrize("value", KINDS)
async def test_a_payer_need_not_be_named_and_is_a_text(
    chain: Devnet, service: Service, value: object
) -> None:
    header = {**devnet_payment(chain), "payer": value}
    reply = await service.verify(header)
    assert reply["invalidReason"] == (UNREADABLE if value else None)


AMOUNTS = ["0x10", " 5 ", "", "-1", "+1", "01", "00", "1e3", "1.0", "1,000", "1_000", "NaN"]
AMOUNTS += ["\uff11\uff10", "\u0661\u0660", "1\u200b", "10\n", "\n10", "10\0", "∞", "½", "²"]
AMOUNTS += [str(2**256), "9" * 78, "1" + "0" * 78, "9" * 5000]


@pytest.mark.parametrize("amount", AMOUNTS, ids=ascii)
async def test_an_amount_is_a_plain_decimal(chain: Devnet, service: Service, amount: str) -> None:
    header = devnet_payment(chain)
    spelt = {**header, "amount": amount}
    assert await refusal(service, spelt, **asked(header)) == UNREADABLE
    text = encode_header(spelt)
    status, reply = await service.post("/verify/signature", {"paymentHeader": text})
    assert (status, reply) == (400, {"valid": False, "error": UNREADABLE})
    for scheme in ("exact", "upto"):
        payment = devnet_payment(chain, scheme=scheme)
        assert await refusal(service, payment, maxAmountRequired=amount) == UNREADABLE


async def test_the_largest_amount_is_read_to_its_last_unit(chain: Devnet, service: Service) -> None:
    most = 2**256 - 1
    words = await refusal(service, devnet_payment(chain, amount=most))
    assert words.startswith("Insufficient balance: ")
    assert words.endswith(f" < {most}")
    words = await refusal(service, devnet_payment(chain, amount=most), maxAmountRequired="1")
    assert words == f"Exact scheme requires amount 1, got {most}"


ADDRESSES = ["0x", "0x1234", "vitalik.eth", "0x" + "g" * 40, "0x" + "1" * 39, "0x" + "1" * 64]
ADDRESSES += ["0X" + "1" * 40, "1" * 40, " 0x" + "1" * 40, "0x" + "\uff11" * 40, "x" * 5000]


@pytest.mark.parametrize("address", ADDRESSES, ids=ascii)
async def test_an_address_is_20_bytes_in_hex(chain: Devnet, service: Service, address: str) -> None:
    """In a payment it cannot be read; in what is asked for it fits nothing."""
    header = devnet_payment(chain)
    for member in ("asset", "payTo", "payer"):
        spelt = {**header, member: address}
        assert await refusal(service, spelt, **asked(header)) == UNREADABLE
    words = await refusal(service, header, payTo=address)
    assert words == f"Recipient mismatch: {header['payTo']} !== {address}"
    words = await refusal(service, header, asset=address)
    assert words == f"Asset mismatch: {header['asset']} !== {address}"


async def test_an_address_of_one_case_carries_no_checksum(chain: Devnet, service: Service) -> None:
    """Mixed case is a checksum, and must be the right one (EIP-55)."""
    header = devnet_payment(chain)
    for member in ("asset", "payTo", "payer"):
        digits = header[member][2:]
        for spelling in (digits.lower(), digits.upper()):
            spelt = {**header, member: "0x" + spelling}
            assert (await service.verify(spelt, **asked(header)))["isValid"] is True
        swapped = {**header, member: "0x" + digits.swapcase()}
        assert await refusal(service, swapped, **asked(header)) == UNREADABLE


async def test_only_a_signature_on_the_curve_is_one(chain: Devnet, service: Service) -> None:
    """64 bytes (EIP-2098) and 66, odd and other digits, r and s out of range, a high s, other v."""
    header = devnet_payment(chain)
    raw = bytes.fromhex(header["signature"][2:])
    r, s, v = raw[:32], raw[32:64], raw[64]
    high = (ORDER - int.from_bytes(s)).to_bytes(32) + bytes([55 - v])
    order, zero = ORDER.to_bytes(32), bytes(32)
    for signature, why in (
        (raw[:64], "expected 65 bytes, got 64"),
        (raw + b"\0", "expected 65 bytes, got 66"),
        (b"", "expected 65 bytes, got 0"),
        (raw * 70, "expected 65 bytes, got 4550"),
        (r + high, "s is in the upper half of the order (EIP-2)"),
        *((r + s + bytes([bad]), "v must be 27 or 28") for bad in (2, 26, 29, 35, 255)),
        *((bad + s + bytes([v]), "r or s out of range") for bad in (zero, order, b"\xff" * 32)),
        *((r + bad + bytes([v]), "r or s out of range") for bad in (zero, order, b"\xff" * 32)),
        (b"\0" * 31 + b"\5" + s + bytes([v]), "no public key fits"),  # no point has this x
    ):
        spelt = {**header, "signature": "0x" + signature.hex()}
        assert await refusal(service, spelt) == f"Invalid signature: {why}"
    digits = raw.hex()
    for text in (
        digits,
        "0X" + digits,
        "0x" + digits[1:],
        "0x" + digits[:-1] + "g",
        "0x" + "é" * 130,
    ):
        words = await refusal(service, {**header, "signature": text})
        assert words == "Invalid signature: expected 65 bytes, got 0"
    assert (await service.verify({**header, "signature": "0x" + digits.upper()}))["isValid"]


@pytest.mark.parametrize("v", [0, 1, 27, 28])
async def test_v_is_0_or_1_or_27_or_28(chain: Devnet, service: Service, v: int) -> None:
    """Whichever of a pair is right recovers the payer; the other one of it recovers another."""
    header = devnet_payment(chain)
    raw = bytes.fromhex(header["signature"][2:])
    spelt = {**header, "signature": "0x" + raw[:64].hex() + f"{v:02x}"}
    reply = await service.verify(spelt)
    if v % 27 == raw[64] - 27:
        assert reply["isValid"] is True
    else:
        assert reply["invalidReason"].startswith("Invalid signature: ")


@pytest.mark.parametrize(
    "timestamp",
    [0, -1, -(2**63), 2**63, 2**64, 10**99, 1.5, 1e9, "1700000000", "", None, True, [1], {"a": 1}],
    ids=repr,
)
async def test_a_timestamp_is_a_whole_number_of_seconds(
    chain: Devnet, service: Service, timestamp: object
) -> None:
    header = {**devnet_payment(chain), "timestamp": timestamp}
    assert await refusal(service, header) == UNREADABLE


async def test_a_timestamp_far_away_has_its_words(chain: Devnet, service: Service) -> None:
    """The first second and the last that an int64 holds."""
    far = {**devnet_payment(chain), "timestamp": 2**63 - 1}
    assert await refusal(service, far) == "Payment timestamp is in the future"
    for age in (now() - 1, 10**9):
        old = {**devnet_payment(chain), "timestamp": now() - age}
        words = (await service.verify(old))["invalidReason"]
        told = {f"Payment expired ({age + late}s > 300s)" for late in (0, 1, 2)}
        assert words in told


# --- texts that are unusual and right


TEXTS = {
    "emoji": "/répôrt/😀👩‍👩‍👧‍👦🇰🇷",
    "right to left": "\u202eتقرير/דוח\u202c",
    "NUL and controls": "a\0b\r\n\t\x1b[2J\x7f",
    "combining": "e\u0301\u0327" * 20 + "é",
    "quotes": "\"'\\{header[payer]}{0}%s$(id)`;--",
    "the last code points": "\ufffe\uffff\U0010fffe\U0010ffff",
    "5 kB": "/ü" * 1700,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_whatever_was_signed_is_settled_byte_for_byte(
    chain: Devnet, service: Service, text: str
) -> None:
    """As resource and as nonce; two texts that look alike are two nonces."""
    header = devnet_payment(chain, resource=text, nonce=text)
    assert (await service.verify(header))["isValid"] is True
    reply = await service.settle(header)
    assert (reply["success"], reply["error"]) == (True, None)
    log = (await settled_logs(chain))[-1]
    assert (log.transaction_hash, log.resource) == (reply["txHash"], text)
    assert await refusal(service, header) == "Nonce has already been used"
    alike = devnet_payment(chain, nonce=text + "\u200b")
    assert (await service.verify(alike))["isValid"] is True


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_a_mismatch_repeats_any_text(chain: Devnet, service: Service, text: str) -> None:
    header = devnet_payment(chain)
    words = await refusal(service, header, resource=text)
    assert words == f"Resource mismatch: {header['resource']} !== {text}"
    if text:
        assert await refusal(service, header, network=text) == f"Unsupported network: {text}"
        assert await refusal(service, header, scheme=text) == f"Unsupported scheme: {text}"
