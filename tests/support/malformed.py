"""Requests that must be refused, drawn at random from every family of mistakes, by a seed.

Each is built so that it cannot be right, whatever was drawn: most start from a payment that would
settle as it is.
"""

import base64
import gzip
import json
import random
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from facilitator.commands.devnet import Devnet
from tests.support.chain import devnet_authorization, devnet_payment
from tests.support.service import request
from tests.support.signing import encode_header

PAYMENT_PATHS = ("/verify", "/settle", "/settle/gasless")
POST_PATHS = (*PAYMENT_PATHS, "/verify/signature")
MEMBERS = (
    *("scheme", "network", "asset", "payTo", "amount"),
    *("resource", "nonce", "timestamp", "signature"),
)
# None of these is right for any member of a payment, or of an authorization.
WRONG: tuple[object, ...] = (
    *(None, "", True, False, 0, -1, 1.5, -(2**63), 2**63, 10**80, [], {}, ["x"], {"a": None}),
)
AMOUNTS = (
    *("0x10", " 5 ", "-1", "+1", "01", "1e3", "1.0", "1_000", "\uff15", "1\n", "NaN", "Infinity"),
    *(str(2**256), "9" * 78, "9" * 5000),
)
ADDRESSES = (
    *("0x", "vitalik.eth", "0x" + "1" * 39, "0x" + "1" * 41, "0X" + "1" * 40, "1" * 40),
    *("0x" + "g" * 40, "0x" + "\uff11" * 40, "0xAb" + "aB" * 19, "x" * 5000),
)
TIMES = (1, -1, 2**63 - 1, 2**63, 1.5, "1700000000", 10**99)
TEXTS = ("\0", "😀", "\u202e", "e\u0301", "x" * 5000, "ü" * 5000, "'\";--{0}", " ", "\r\n\r\n")


class Attempt(Struct, frozen=True):
    """One request: a POST with this body, or whatever else `method` says."""

    family: str
    method: str
    path: str
    body: bytes
    headers: dict[str, str] = {}


class Malformed:
    """Draws requests. The payments are signed once: a drawn one shares its nonce with others."""

    def __init__(self, devnet: Devnet, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a seed, so that a failure can be repeated
        self.header = devnet_payment(devnet)
        self.unpayable = devnet_payment(devnet, amount=10**15)
        self.authorization = devnet_authorization(devnet)
        self.families: dict[str, Callable[[], Attempt]] = {
            "garbage": self._garbage,
            "cut off": self._cut_off,
            "mutated": self._mutated,
            "encoding": self._encoding,
            "nesting": self._nesting,
            "parts": self._parts,
            "base64": self._base64,
            "members": self._members,
            "amounts": self._amounts,
            "addresses": self._addresses,
            "signatures": self._signatures,
            "times": self._times,
            "texts": self._texts,
            "requirements": self._requirements,
            "authorization": self._authorization,
            "size": self._size,
            "paths": self._paths,
            "headers": self._headers,
        }

    def draw(self, count: int) -> list[Attempt]:
        """As many of each family as of any other, in a random order."""
        names = [list(self.families)[index % len(self.families)] for index in range(count)]
        self.random.shuffle(names)
        return [self.families[name]() for name in names]

    # --- bodies that are not understood

    def _garbage(self) -> Attempt:
        texts = [b"", b"null", b"[]", b'"x"', b"7", b"{", b"{}x", b"NaN", b"{'a':1}", b"\0"]
        noise = self.random.randbytes(self.random.randrange(1, 3000))
        return self._post("garbage", self.random.choice([*texts, noise]))

    def _cut_off(self) -> Attempt:
        whole = self._whole()
        return self._post("cut off", whole[: self.random.randrange(len(whole))])

    def _mutated(self) -> Attempt:
        """Any bytes of a payment that nobody could pay: some spellings of it are still right."""
        text = json.dumps(self._request(self.unpayable)).encode()
        spot = self.random.randrange(len(text))
        noise = self.random.randbytes(self.random.randrange(4))
        body = text[:spot] + noise + text[spot + self.random.randrange(9) :]
        return self._post("mutated", body, PAYMENT_PATHS)

    def _encoding(self) -> Attempt:
        whole = self._whole()
        text = whole.decode()
        spelt = [text.encode("utf-16"), text.encode("utf-32-le"), b"\xef\xbb\xbf" + whole]
        spelt += [whole.replace(b"jeju", b"\xff\xfe"), whole.replace(b"jeju", b"\\ud800")]
        spelt += [gzip.compress(whole), whole + whole, b"\0" + whole]
        return self._post("encoding", self.random.choice(spelt))

    def _nesting(self) -> Attempt:
        depth = self.random.randrange(33, 10_000)
        bodies = [b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth]
        bodies += [b'{"a":1e999}', b'{"a":NaN}', b'{"a":' + b"9" * depth + b"}", b'{"a":-Infinity}']
        bodies += [b'{"a":1,"a":%d}' % depth, b'{"a":1,"\\u0061":2}']
        return self._post("nesting", self.random.choice(bodies[: 9 if depth < 6000 else 2]))

    def _parts(self) -> Attempt:
        """What the body is made of: missing or of the wrong kind."""
        body = self._request(self.header)
        member = self.random.choice(["paymentHeader", "paymentRequirements", "x402Version"])
        wrong: list[object] = [*WRONG, "x", 2, "1"]
        value = self.random.choice(wrong)
        if self.random.random() < 0.2:
            del body[member]
        else:
            body[member] = value
        return self._post("parts", json.dumps(body).encode(), PAYMENT_PATHS)

    # --- payments that are not right

    def _base64(self) -> Attempt:
        text = encode_header(self.header)
        raw = json.dumps(self.header)
        spelt = [raw, text[1:], text + "A", "=" + text, text + "====", text.replace("e", "$", 1)]
        spelt += [text + "\u00e9", text[::-1], "data:," + text, encode_header({})]
        spelt += [raw.encode().hex(), base64.b85encode(raw.encode()).decode()]
        for inner in (b"[]", b"7", b"\xff", raw[1:].encode(), raw.encode("utf-16")):
            spelt.append(base64.b64encode(inner).decode())
        return self._post("base64", self._body(self.random.choice(spelt)))

    def _members(self) -> Attempt:
        header = dict(self.header)
        member = self.random.choice(MEMBERS)
        if self.random.random() < 0.2:
            del header[member]
        else:
            header[member] = self.random.choice(WRONG)
        return self._payment("members", header)

    def _amounts(self) -> Attempt:
        amount = self.random.choice(AMOUNTS)
        return self._payment("amounts", {**self.header, "amount": amount})

    def _addresses(self) -> Attempt:
        member = self.random.choice(["asset", "payTo", "payer"])
        address = self.random.choice(ADDRESSES)
        return self._payment("addresses", {**self.header, member: address})

    def _signatures(self) -> Attempt:
        """The payer is named, and no other signature is the payer's."""
        raw = bytes.fromhex(self.header["signature"][2:])
        spot = self.random.randrange(64)
        flipped = bytes([raw[spot] ^ self.random.randrange(1, 256)])
        other = raw[:spot] + flipped + raw[spot + 1 :]
        noise = self.random.randbytes(self.random.choice([0, 1, 64, 65, 66, 2000]))
        zeros = [bytes(32) + raw[32:], raw[:32] + bytes(32) + raw[64:], bytes(65)]
        texts = ["0x" + each.hex() for each in (other, noise, raw[:64], raw + b"\0", *zeros)]
        texts += ["0x" + raw[:64].hex() + v for v in ("02", "1d", "ff")]
        texts += [raw.hex(), "0X" + raw.hex(), "0x" + raw.hex()[1:], "zz", "0x" + "\u00e9" * 130]
        header = {**self.header, "signature": self.random.choice(texts)}
        return self._payment("signatures", header)

    def _times(self) -> Attempt:
        return self._payment("times", {**self.header, "timestamp": self.random.choice(TIMES)})

    def _texts(self) -> Attempt:
        """Other texts than the ones that were signed."""
        member = self.random.choice(["scheme", "network", "resource", "nonce"])
        return self._payment("texts", {**self.header, member: self.random.choice(TEXTS)})

    def _requirements(self) -> Attempt:
        """The payment is good, and not what is asked for."""
        member = self.random.choice(["scheme", "maxAmountRequired", "payTo", "asset", "resource"])
        wrong: list[object] = [*WRONG, *TEXTS]
        if member == "maxAmountRequired":
            wrong += AMOUNTS
        elif member in ("payTo", "asset"):
            wrong += ADDRESSES
        body = self._request(self.header)
        body["paymentRequirements"][member] = self.random.choice(wrong)
        return self._post("requirements", json.dumps(body).encode(), PAYMENT_PATHS)

    def _authorization(self) -> Attempt:
        members = dict(self.authorization)
        member = self.random.choice(list(members))
        wrong: list[object] = [None, True, 1.5, [], {}, "-1", "0x1", "zz", "1e3", *TEXTS]
        members[member] = self.random.choice(wrong)
        body = {**self._request(self.header), "authParams": members}
        return self._post("authorization", json.dumps(body).encode(), ("/settle/gasless",))

    # --- requests that are not right

    def _size(self) -> Attempt:
        size = self.random.choice([65_537, 70_000])
        return self._post("size", self.random.choice([b" ", b"[", b"\0"]) * size)

    def _paths(self) -> Attempt:
        method = self.random.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD", "BREW"])
        path = self.random.choice(
            ["/nowhere", "/verify/", "//", "/supported/tokens/", "/settle/gasless/x", "/%00%ff"]
        )
        return Attempt("paths", method, path + "?" + "q" * self.random.randrange(1000), b"")

    def _headers(self) -> Attempt:
        name = self.random.choice(
            ["Content-Type", "Content-Encoding", "Accept", "X-Request-Id", "X-Payment", "Origin"]
        )
        values = ["", "gzip", "x" * 3000, "\u00e9", "a/b; charset=utf-16", "*, ;"]
        value = self.random.choice(values)
        return Attempt("headers", "POST", self._choice(POST_PATHS), b"{}", {name: value})

    # --- putting them together

    def _choice(self, paths: tuple[str, ...]) -> str:
        return self.random.choice(paths)

    def _request(self, header: dict[str, Any]) -> dict[str, Any]:
        return {**request(header), "authParams": self.authorization}

    def _whole(self) -> bytes:
        return json.dumps(self._request(self.header)).encode()

    def _body(self, header_text: str) -> bytes:
        return json.dumps({**self._request(self.header), "paymentHeader": header_text}).encode()

    def _payment(self, family: str, header: dict[str, Any]) -> Attempt:
        return self._post(family, self._body(encode_header(header)), POST_PATHS)

    def _post(self, family: str, body: bytes, paths: tuple[str, ...] = POST_PATHS) -> Attempt:
        return Attempt(family, "POST", self._choice(paths), body)
