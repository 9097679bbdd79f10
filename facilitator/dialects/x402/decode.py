"""Decodes the standard dialect, versions 1 and 2, into payments and their requirements.

Both versions share the paths; as in the official facilitators `paymentPayload.x402Version` tells
them apart, and the outer one is ignored. Unknown members are ignored, null is the same as absent,
and every member that is used must be of exactly the right type.
"""

import re
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from facilitator.config.settings import NetworkConfig
from facilitator.dialects import fields as values
from facilitator.domain.payment import PaymentRequirements, Reason, Refusal
from facilitator.domain.schemes.eip3009 import SCHEME, Deployment, Eip3009Payment
from facilitator.domain.strict_json import JSON
from facilitator.ethereum.smart_wallets import unwrap

VERSIONS = (1, 2)
DOMAIN_LIMIT = 128  # characters; no token's name is as long
NETWORK_LIMIT = 64  # characters of a network's name that replies repeat: CAIP-2 allows 41
# The extension with an id that the buyer gives a payment.
PAYMENT_IDENTIFIER = "payment-identifier"
_PAYMENT_ID = re.compile(r"\A[A-Za-z0-9_-]{16,128}\Z")


class Unreadable(Struct, frozen=True):
    """A request that cannot be decoded (400): a stable code, and a message about what is wrong. The
    reply repeats `network` and `payer`, "" where they could not be read.
    """

    code: str
    message: str
    network: str = ""
    payer: str = ""


def no_json(why: str) -> Unreadable:
    """Return the refusal of a body that is not JSON, or is ambiguous JSON."""
    return Unreadable("invalid_json", f"The body is refused: {why}")


class Unserved(Struct, frozen=True):
    """A well-formed request that is not served here; `network` and `payer` are as given, or ""."""

    refusal: Refusal
    network: str
    payer: str = ""


class X402Request(Struct, frozen=True, kw_only=True):
    """A request to verify or to settle: the signed payment, the requirements that the payer
    accepted, and those of the seller. Replies repeat `network` and `payer` as they were given.
    """

    version: int
    payment: Eip3009Payment
    accepted: PaymentRequirements
    requirements: PaymentRequirements
    network: str
    payer: str
    served: NetworkConfig


class Decoder:
    """Decodes requests for the networks that are served."""

    def __init__(self, networks: Iterable[NetworkConfig]) -> None:
        self._networks: dict[tuple[int, str], NetworkConfig] = {}
        for served in networks:
            self._networks[1, served.network.name] = served
            self._networks[2, served.network.caip2] = served

    def decode(self, members: dict[str, JSON]) -> X402Request | Unserved | Unreadable:
        """Decode a body of POST /verify or POST /settle."""
        network, payer = _network_of(members), _payer_of(members)
        try:
            decoded = self._decode(members)
        except _Wrong as wrong:
            return Unreadable(wrong.code, str(wrong), network, payer)
        if isinstance(decoded, Refusal):
            return Unserved(decoded, network, payer)
        return decoded

    def _decode(self, members: dict[str, JSON]) -> X402Request | Refusal:
        asked = _object(members, "paymentRequirements")
        payload = _object(members, "paymentPayload")
        version = _given(payload, "x402Version", "paymentPayload.")
        if type(version) is not int:
            raise _Wrong("paymentPayload.x402Version must be an integer")
        if version not in VERSIONS:
            return Refusal(Reason.UNSUPPORTED_VERSION, str(version))
        where = "paymentRequirements."
        scheme, network = _text(asked, "scheme", where), _text(asked, "network", where)
        if scheme != SCHEME:
            return Refusal(Reason.UNSUPPORTED_SCHEME, scheme)
        served = self._networks.get((version, network))
        if served is None:
            return Refusal(Reason.UNSUPPORTED_NETWORK, network)
        requirements = _requirements(asked, version, "paymentRequirements")
        inner = _object(payload, "payload", "paymentPayload.")
        if _is_of_another_method(inner):
            return Refusal(Reason.UNSUPPORTED_PAYLOAD)
        if version == 1:
            where = "paymentPayload."
            accepted = replace(
                requirements,
                scheme=_text(payload, "scheme", where),
                network=_text(payload, "network", where),
            )
        else:
            _check_extensions(payload.get("extensions"))
            offer = _object(payload, "accepted", "paymentPayload.")
            accepted = _requirements(offer, version, "paymentPayload.accepted")
        return X402Request(
            version=version,
            payment=_payment(inner, requirements, served),
            accepted=accepted,
            requirements=requirements,
            network=network,
            payer=_payer_of(members),
            served=served,
        )


class _Wrong(ValueError):
    """A member has a wrong value; the text names it."""

    def __init__(self, message: str, code: str = "invalid_payload") -> None:
        super().__init__(message)
        self.code = code


def _network_of(members: dict[str, JSON]) -> str:
    """Return the network that the seller names; "" where it is missing or can be no name."""
    asked = members.get("paymentRequirements")
    network = asked.get("network") if isinstance(asked, dict) else None
    return network if isinstance(network, str) and len(network) <= NETWORK_LIMIT else ""


def _payer_of(members: dict[str, JSON]) -> str:
    """Return the address of the claimed payer as it was given, "" where there is none."""
    found: JSON = members
    for name in ("paymentPayload", "payload", "authorization", "from"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) and values.address(found) is not None else ""


def _is_of_another_method(inner: dict[str, JSON]) -> bool:
    """Return whether a payload is of another method than EIP-3009 (Permit2, ERC-7710), or for a
    chain that is no EVM chain. The official facilitators distinguish them by their members too.
    """
    if inner.get("permit2Authorization") is not None:
        return True
    others = [name for name, value in inner.items() if value is not None and name != "signature"]
    return bool(others) and inner.get("authorization") is None


def _check_extensions(extensions: JSON) -> None:
    if extensions is None or extensions == []:  # as PHP writes an object without members
        return
    if not isinstance(extensions, dict):
        raise _Wrong("paymentPayload.extensions must be an object")
    identifier = extensions.get(PAYMENT_IDENTIFIER)
    if identifier is not None:
        _check_payment_identifier(identifier)


def _check_payment_identifier(extension: JSON) -> None:
    """Check the extension as the official packages do. No reply depends on it: otherwise a buyer,
    who chooses the id, could have success reported twice for one payment.
    """
    where = f"paymentPayload.extensions.{PAYMENT_IDENTIFIER}: "
    if not isinstance(extension, dict):
        raise _Wrong(f"{where}must be an object")
    info = _object(extension, "info", where)
    required = _given(info, "required", f"{where}info.")
    if not isinstance(required, bool):
        raise _Wrong(f"{where}info.required must be true or false")
    name = info.get("id")
    if name is None:
        if required:
            raise _Wrong(f"{where}info.id is missing", code="missing_parameters")
    elif not isinstance(name, str) or not _PAYMENT_ID.match(name):
        raise _Wrong(f"{where}info.id must be 16 to 128 of A-Z, a-z, 0-9, _ and -")


def _requirements(members: dict[str, JSON], version: int, where: str) -> PaymentRequirements:
    """Decode requirements. They have no domain unless `extra` has both parts of one (EIP-712)."""
    amount = "amount" if version == 2 else "maxAmountRequired"
    seconds = _given(members, "maxTimeoutSeconds", where + ".")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
        raise _Wrong(f"{where}.maxTimeoutSeconds must be a positive number")
    extra = members.get("extra")
    if extra is None:
        extra = {}
    if not isinstance(extra, dict):
        raise _Wrong(f"{where}.extra must be an object")
    return PaymentRequirements(
        scheme=_text(members, "scheme", where + "."),
        network=_text(members, "network", where + "."),
        asset=_address(members, "asset", where + "."),
        pay_to=_address(members, "payTo", where + "."),
        amount=_uint256(members, amount, where + "."),
        domain=_domain(extra.get("name"), extra.get("version"), where),
    )


def _domain(name: JSON, version: JSON, where: str) -> tuple[str, str] | None:
    for value in (name, version):
        if value is not None and not isinstance(value, str):
            raise _Wrong(f"{where}.extra.name and .version must be strings")
    if not isinstance(name, str) or not isinstance(version, str) or not name or not version:
        return None
    if max(len(name), len(version)) > DOMAIN_LIMIT:
        raise _Wrong(f"{where}.extra.name and .version may have {DOMAIN_LIMIT} characters")
    return name, version


def _payment(
    inner: dict[str, JSON], requirements: PaymentRequirements, served: NetworkConfig
) -> Eip3009Payment:
    where = "paymentPayload.payload."
    signature = values.hex_bytes(_text(inner, "signature", where))
    if signature is None:
        raise _Wrong(f"{where}signature must be 0x hex")
    signed = _object(inner, "authorization", where)
    where += "authorization."
    nonce = values.hex_bytes(_text(signed, "nonce", where), 32)
    if nonce is None:
        raise _Wrong(f"{where}nonce must be 32 bytes of 0x hex")
    valid_after = _uint256(signed, "validAfter", where)
    valid_before = _uint256(signed, "validBefore", where)
    assert requirements.asset is not None
    name, version = requirements.domain or ("", "")
    bare, deployment = _unwrap(signature)
    return Eip3009Payment(
        chain_id=served.network.chain_id,
        payer=_address(signed, "from", where),
        asset=requirements.asset,
        pay_to=_address(signed, "to", where),
        amount=_uint256(signed, "value", where),
        # The token requires a later time; the next block is later.
        valid_from=valid_after,
        deadline=valid_before - 1,
        signature=bare,
        authorization_nonce=nonce,
        valid_after=valid_after,
        valid_before=valid_before,
        domain_name=name,
        domain_version=version,
        deployment=deployment,
    )


def _unwrap(signature: bytes) -> tuple[bytes, Deployment | None]:
    try:
        wrapped = unwrap(signature)
    except ValueError:
        wrapped = None  # malformed: no contract accepts it either
    if wrapped is None:
        return signature, None
    deployment = Deployment(wrapped.factory, wrapped.factory_calldata, listed=False)
    return wrapped.signature, deployment


def _given(members: dict[str, JSON], name: str, where: str) -> JSON:
    value = members.get(name)
    if value is None:
        raise _Wrong(f"{where}{name} is missing", code="missing_parameters")
    return value


def _object(members: dict[str, JSON], name: str, where: str = "") -> dict[str, JSON]:
    value = _given(members, name, where)
    if not isinstance(value, dict):
        raise _Wrong(f"{where}{name} must be an object")
    return value


def _text(members: dict[str, JSON], name: str, where: str) -> str:
    value = _given(members, name, where)
    if not isinstance(value, str) or not value:
        raise _Wrong(f"{where}{name} must be a string that is not empty")
    return value


def _address(members: dict[str, JSON], name: str, where: str) -> bytes:
    found = values.address(_text(members, name, where))
    if found is None:
        raise _Wrong(f"{where}{name} must be an address, in one case or with its checksum")
    return found


def _uint256(members: dict[str, JSON], name: str, where: str) -> int:
    found = values.uint256(_given(members, name, where))
    if found is None:
        raise _Wrong(f"{where}{name} must be a decimal string below 2^256")
    return found
