"""Decodes the Jeju dialect: a base64 payment header beside the seller's requirements.

A refused payment is answered with HTTP 200 and the dialect's words; 400 is for a body that cannot
be decoded at all.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from facilitator.config.settings import NetworkConfig
from facilitator.dialects.fields import address, address_in_any_case, hex_bytes, uint256
from facilitator.domain.payment import PaymentRequirements
from facilitator.domain.schemes.jeju import MAX_SECONDS_AHEAD, JejuPayment, TokenAuthorization
from facilitator.domain.strict_json import JSON, StrictJSONError, decode
from facilitator.ethereum.addresses import ZERO_ADDRESS

VERSION = 1
INVALID_BODY = "Invalid JSON request body"
INVALID_HEADER = "Invalid payment header encoding"
INVALID_AUTH_PARAMS = "Invalid authParams encoding"

# Whether authParams are required, used where given, or ignored.
AuthParams = Literal["required", "optional", "ignored"]

_SPACE = re.compile(r"\s+")
_BASE64 = re.compile(r"\A[A-Za-z0-9+/]*={0,2}\Z")
_TO_STANDARD_ALPHABET = str.maketrans("-_", "+/")
_TEXTS = ("scheme", "network", "asset", "payTo", "amount", "resource", "nonce", "signature")


class Malformed(Struct, frozen=True, kw_only=True):
    """A request that cannot be decoded, and the words for it. `network` is the one in the reply:
    the primary one unless the body names another. `undetermined` where the body does not show its
    dialect: clients of every dialect must be able to read the reply.
    """

    status: int
    words: str
    network: str
    undetermined: bool = False


class JejuRequest(Struct, frozen=True, kw_only=True):
    """A request to verify or to settle. `header` and `asked` are the members of header and
    requirements as given, for the words that repeat them. `served` is the payment's network, None
    where it is not served here. `max_age` is how old the payment may be, in seconds, even where an
    authorization is good for longer.
    """

    payment: JejuPayment
    claimed_payer: bytes | None
    requirements: PaymentRequirements
    served: NetworkConfig | None
    max_age: int
    header: dict[str, JSON]
    asked: dict[str, JSON]


class SignedRequest(Struct, frozen=True, kw_only=True):
    """A request to check a signature alone, on `network`."""

    payment: JejuPayment
    claimed_payer: bytes | None
    network: str
    served: NetworkConfig | None
    header: dict[str, JSON]


class Decoder:
    """Decodes requests for the networks that are served. `max_payment_age` is in seconds."""

    def __init__(
        self, networks: Mapping[str, NetworkConfig], primary: str, max_payment_age: int
    ) -> None:
        self._networks = networks
        self._primary = primary
        self._max_payment_age = max_payment_age

    def decode(
        self, members: dict[str, JSON] | None, auth_params: AuthParams = "optional"
    ) -> JejuRequest | Malformed:
        """Decode a body of POST /verify or POST /settle; `members` is None for a body that is no
        JSON object. `auth_params` says what to do with the payer's authorization for the token.
        """
        if members is None:
            return self.refuse(INVALID_BODY)
        header_text, asked = members.get("paymentHeader"), members.get("paymentRequirements")
        if not isinstance(header_text, str) or not header_text:
            return self.refuse("Missing paymentHeader")
        if not isinstance(asked, dict):
            return self.refuse("Missing paymentRequirements", undetermined=False)
        words = _complaint(members, auth_params)
        if words is not None:
            return self.refuse(words, undetermined=False)
        network = as_text(asked.get("network") or self._primary)
        given = None if auth_params == "ignored" else members.get("authParams")
        try:
            return self._request(header_text, asked, network, given)
        except _Unreadable as unreadable:
            return Malformed(status=200, words=str(unreadable), network=network)

    def decode_signed(self, members: dict[str, JSON] | None) -> SignedRequest | Malformed:
        """Decode a body of POST /verify/signature; `members` is None for no JSON object."""
        if members is None:
            return self.refuse(INVALID_BODY)
        if not members.get("paymentHeader"):
            return self.refuse("Missing paymentHeader")
        network = as_text(members.get("network") or self._primary)
        served = self._networks.get(network)
        try:
            header = decode_header(members["paymentHeader"])
            payment, claimed = self._payment(header, served), _claimed_payer(header)
        except _Unreadable as unreadable:
            return self.refuse(str(unreadable))
        return SignedRequest(
            payment=payment, claimed_payer=claimed, network=network, served=served, header=header
        )

    def refuse(self, words: str, status: int = 400, *, undetermined: bool = True) -> Malformed:
        """Return the refusal of a body of which nothing was decoded."""
        return Malformed(
            status=status, words=words, network=self._primary, undetermined=undetermined
        )

    def _request(
        self, header_text: JSON, asked: dict[str, JSON], network: str, auth_params: JSON
    ) -> JejuRequest:
        header = decode_header(header_text)
        # The signature is for the chain and the contract that the payer's header names.
        served = self._networks.get(str(header["network"]))
        return JejuRequest(
            payment=self._payment(header, served, auth_params),
            claimed_payer=_claimed_payer(header),
            requirements=_requirements(asked, network),
            served=served,
            max_age=self._max_payment_age,
            header=header,
            asked=asked,
        )

    def _payment(
        self, header: dict[str, JSON], served: NetworkConfig | None, auth_params: JSON = None
    ) -> JejuPayment:
        """Return the payment of a decoded header. Its payer is not known yet, so the zero address;
        that is also its contract where none is configured.
        """
        timestamp = header["timestamp"]
        assert isinstance(timestamp, int)
        valid_from, deadline = timestamp - MAX_SECONDS_AHEAD, timestamp + self._max_payment_age
        pull = None if auth_params is None else _token_authorization(auth_params)
        if pull is not None:
            # EIP-3009: later than the one, earlier than the other
            valid_from = max(valid_from, pull.valid_after + 1)
            deadline = min(deadline, pull.valid_before - 1)
        return JejuPayment(
            chain_id=0 if served is None else served.network.chain_id,
            payer=ZERO_ADDRESS,
            asset=_address(header["asset"]),
            pay_to=_address(header["payTo"]),
            amount=int(str(header["amount"])),
            valid_from=valid_from,
            deadline=deadline,
            # without hex it is empty, and no check accepts that
            signature=hex_bytes(header["signature"]) or b"",
            contract=(served.contract if served else None) or ZERO_ADDRESS,
            scheme=str(header["scheme"]),
            network=str(header["network"]),
            resource=str(header["resource"]),
            authorization_nonce=str(header["nonce"]),
            timestamp=timestamp,
            token_authorization=pull,
        )


class _Unreadable(ValueError):
    """A member has a wrong value; the text is in the dialect's words."""


def _complaint(members: dict[str, JSON], auth_params: AuthParams) -> str | None:
    """Return the words for what is wrong in the other members; None where nothing is."""
    if auth_params == "required" and not isinstance(members.get("authParams"), dict):
        return "Missing authParams for EIP-3009"
    version = members.get("x402Version")
    if version is None:
        return "Missing x402Version"
    if version != VERSION or isinstance(version, bool):
        given = as_text(version)
        return f"Unsupported x402Version: {given}. Only version {VERSION} is supported."
    return None


def decode_header(text: JSON) -> dict[str, JSON]:
    """Return the members of a payment header, each of the right type. Any variant of base64 is
    good (base64url, no padding, line breaks). Raises _Unreadable.
    """
    if not isinstance(text, str):
        raise _Unreadable(INVALID_HEADER)
    try:
        header = decode(_unbase64(text))
    except (binascii.Error, StrictJSONError):
        raise _Unreadable(INVALID_HEADER) from None
    if not isinstance(header, dict):
        raise _Unreadable(INVALID_HEADER)
    for name in _TEXTS:
        value = header.get(name)
        if not isinstance(value, str) or not value:
            raise _Unreadable(INVALID_HEADER)
    timestamp = header.get("timestamp")
    # An int64, as every clock's is; a bool is an int to Python only.
    if type(timestamp) is not int or not 0 < timestamp < 2**63:
        raise _Unreadable(INVALID_HEADER)
    if uint256(header["amount"]) is None:
        raise _Unreadable(INVALID_HEADER)
    return header


def _unbase64(text: str) -> bytes:
    """Decode base64 in any of its variants. Raises binascii.Error."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)  # the variant of almost all clients
    except ValueError:  # binascii.Error, or text beyond ASCII
        compact = _SPACE.sub("", text).translate(_TO_STANDARD_ALPHABET)
    if not _BASE64.match(compact):
        raise binascii.Error("not base64")
    bare = compact.rstrip("=")
    return base64.b64decode(bare + "=" * (-len(bare) % 4))


def _requirements(asked: dict[str, JSON], network: str) -> PaymentRequirements:
    """Return the seller's requirements. The price may be missing; otherwise it must be a number, in
    a string or as a JSON integer, since payments are compared with it.
    """
    scheme, resource = asked.get("scheme"), asked.get("resource")
    most = asked.get("maxAmountRequired")
    amount = uint256(str(most) if type(most) is int else most)
    if amount is None and most is not None:
        raise _Unreadable(INVALID_HEADER)
    return PaymentRequirements(
        scheme=scheme if isinstance(scheme, str) else "",
        network=network,
        asset=address_in_any_case(asked.get("asset")),
        pay_to=address_in_any_case(asked.get("payTo")),
        amount=amount,
        resource=resource if isinstance(resource, str) else "",
    )


def _token_authorization(members: JSON) -> TokenAuthorization:
    if not isinstance(members, dict):
        raise _Unreadable(INVALID_AUTH_PARAMS)
    valid_after, valid_before = _time(members.get("validAfter")), _time(members.get("validBefore"))
    nonce = hex_bytes(members.get("authNonce"), 32)
    signature = hex_bytes(members.get("authSignature"))
    if valid_after is None or valid_before is None or nonce is None or signature is None:
        raise _Unreadable(INVALID_AUTH_PARAMS)
    return TokenAuthorization(
        valid_after=valid_after,
        valid_before=valid_before,
        authorization_nonce=nonce,
        signature=signature,
    )


def _time(value: JSON) -> int | None:
    """Return unix seconds from a JSON integer or a decimal string; 2^256-1 often means forever."""
    return uint256(str(value) if type(value) is int else value)


def _claimed_payer(header: dict[str, JSON]) -> bytes | None:
    payer = header.get("payer")
    return _address(payer) if payer else None


def _address(value: JSON) -> bytes:
    found = address(value)
    if found is None:
        raise _Unreadable(INVALID_HEADER)
    return found


def as_text(value: JSON) -> str:
    """Return a value as the words repeat it: as JavaScript writes it, the language of the first
    service with this dialect.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)[:100]
