"""Payments of the standard x402 dialect as official clients make them: signed by eth-account and
encoded by eth-abi, never by our own code.

A body is made in the order in which a client makes it, and each step can be changed:
`requirements` is what the seller asks, `authorization` what the payer signs instead of that,
`domain` under which domain, `signature` what becomes of the 65 bytes, `tampered` what is changed in
the authorization once it is signed, `accepted` in the client's copy of what was asked, `payment` in
the payload around it all. A changed member is written as the wire has it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from eth_abi.abi import encode
from eth_utils.address import to_checksum_address
from msgspec import Struct

from facilitator.config.networks import NETWORKS
from tests.support.signing import AUTHORIZATION_TYPE, sign_typed_data, typed_data, unhex

if TYPE_CHECKING:  # so that the tests of pure modules load no chain
    from facilitator.commands.devnet import Account, Devnet

Changes = Mapping[str, Any]
Reshape = Callable[[bytes], bytes]

AMOUNT = 1_000_000
TIMEOUT = 60  # seconds that a payment stays good: what the sellers' middlewares ask for
BACKDATED = 600  # seconds: clients of version 1 sign for a time that has begun ten minutes ago
URL = "https://api.example/report"
# ERC-6492: what a signature ends with that says how to deploy its wallet
MAGIC_6492 = bytes.fromhex("6492" * 16)
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
ORDER = 2 * HALF_ORDER + 1


class Token(Struct, frozen=True):
    """A token with EIP-3009 and its EIP-712 domain."""

    address: bytes
    name: str
    version: str = "2"


class Signing(TypedDict, total=False):
    """How a payment is signed. `owner` is whose money it is when that is not `payer`, whose key
    signs: the address of a smart wallet.
    """

    payer: Account
    owner: bytes
    authorization: Changes
    domain: Changes
    signature: Reshape
    tampered: Changes


def usdc(devnet: Devnet) -> Token:
    return Token(devnet.usdc, NETWORKS[devnet.network_name].usdc_domain_name)


def sign_exact(
    key: bytes,
    *,
    authorization: Changes,
    token: Token,
    chain_id: int,
    domain: Changes | None = None,
    signature: Reshape | None = None,
) -> dict[str, Any]:
    """The scheme's payload: an authorization, every member given, and its signature.

    `domain` may change `name`, `version`, `chain_id` and `verifying_contract` (20 bytes).
    """
    message = {
        "from": to_checksum_address(authorization["from"]),
        "to": to_checksum_address(authorization["to"]),
        "value": int(authorization["value"]),
        "validAfter": int(authorization["validAfter"]),
        "validBefore": int(authorization["validBefore"]),
        "nonce": unhex(authorization["nonce"]),
    }
    under = {
        "name": token.name,
        "version": token.version,
        "chain_id": chain_id,
        "verifying_contract": token.address,
        **(domain or {}),
    }
    signable = typed_data("TransferWithAuthorization", AUTHORIZATION_TYPE, message, **under)
    made = sign_typed_data(key, signable)
    if signature is not None:
        made = signature(made)
    return {"authorization": dict(authorization), "signature": "0x" + made.hex()}


def v2_requirements(devnet: Devnet, token: Token | None = None) -> dict[str, Any]:
    """What a seller asks in version 2: 1 USDC."""
    token = token or usdc(devnet)
    return {
        "scheme": "exact",
        "network": f"eip155:{devnet.chain_id}",
        "amount": str(AMOUNT),
        "asset": to_checksum_address(token.address),
        "payTo": to_checksum_address(devnet.seller.address),
        "maxTimeoutSeconds": TIMEOUT,
        "extra": {"name": token.name, "version": token.version},
    }


def v1_requirements(devnet: Devnet, token: Token | None = None) -> dict[str, Any]:
    """What a seller asks in version 1: 1 USDC."""
    token = token or usdc(devnet)
    return {
        "scheme": "exact",
        "network": devnet.network_name,
        "maxAmountRequired": str(AMOUNT),
        "resource": URL,
        "description": "A report",
        "mimeType": "application/json",
        "payTo": to_checksum_address(devnet.seller.address),
        "maxTimeoutSeconds": TIMEOUT,
        "asset": to_checksum_address(token.address),
        "outputSchema": {"input": {"type": "http", "method": "GET", "discoverable": True}},
        "extra": {"name": token.name, "version": token.version},
    }


def v2_body(
    devnet: Devnet,
    *,
    token: Token | None = None,
    requirements: Changes | None = None,
    accepted: Changes | None = None,
    payment: Changes | None = None,
    **signing: Unpack[Signing],
) -> dict[str, Any]:
    """What a seller posts to /verify and /settle in version 2; it settles as it is, but for changes
    (see the top of this file).
    """
    asked = {**v2_requirements(devnet, token), **(requirements or {})}
    terms = {"value": str(asked["amount"]), "validAfter": "0"}
    return {
        "x402Version": 2,
        "paymentPayload": {
            "x402Version": 2,
            "payload": _sign(devnet, token or usdc(devnet), asked, terms, signing),
            "resource": {"url": URL, "description": "A report", "mimeType": "application/json"},
            "accepted": {**asked, **(accepted or {})},
            **(payment or {}),
        },
        "paymentRequirements": asked,
    }


def v1_body(
    devnet: Devnet,
    *,
    token: Token | None = None,
    requirements: Changes | None = None,
    payment: Changes | None = None,
    **signing: Unpack[Signing],
) -> dict[str, Any]:
    """What a seller posts to /verify and /settle in version 1; it settles as it is, but for changes
    (see the top of this file).
    """
    asked = {**v1_requirements(devnet, token), **(requirements or {})}
    begun = str(int(time.time()) - BACKDATED)
    terms = {"value": str(asked["maxAmountRequired"]), "validAfter": begun}
    return {
        "x402Version": 1,
        "paymentPayload": {
            "x402Version": 1,
            "scheme": asked["scheme"],
            "network": asked["network"],
            "payload": _sign(devnet, token or usdc(devnet), asked, terms, signing),
            **(payment or {}),
        },
        "paymentRequirements": asked,
    }


def payload_of(body: dict[str, Any]) -> dict[str, Any]:
    """The scheme's payload within a body of either version."""
    payload: dict[str, Any] = body["paymentPayload"]["payload"]
    return payload


def _sign(
    devnet: Devnet, token: Token, asked: Changes, terms: dict[str, str], signing: Signing
) -> dict[str, Any]:
    """The payload for what is asked. The official clients write addresses with their checksum."""
    payer = signing.get("payer", devnet.payer)
    changes = signing.get("authorization", {})
    timeout = asked["maxTimeoutSeconds"]  # nonsense in some tests, like all that is asked
    authorization = {
        "from": to_checksum_address(signing.get("owner", payer.address)),
        "to": changes.get("to") or to_checksum_address(asked["payTo"]),
        **terms,
        "validBefore": str(int(time.time()) + (timeout if isinstance(timeout, int) else TIMEOUT)),
        "nonce": "0x" + secrets.token_hex(32),
        **changes,
    }
    payload = sign_exact(
        payer.key,
        authorization=authorization,
        token=token,
        chain_id=devnet.chain_id,
        domain=signing.get("domain"),
        signature=signing.get("signature"),
    )
    payload["authorization"].update(signing.get("tampered", {}))
    return payload


def long_form(owner: Account) -> Reshape:
    """A signature as `Wallet1271` also reads it: 192 bytes that say whose it is."""
    return lambda signature: encode(["address", "bytes"], [owner.address, signature])


def wrap_6492(factory: bytes, call: bytes) -> Reshape:
    """A signature of a wallet that this call of the factory would deploy."""
    return lambda signature: (
        encode(["address", "bytes", "bytes"], [factory, call, signature]) + MAGIC_6492
    )


def high_s(signature: bytes) -> bytes:
    """The other signature that recovers to the same key; EIP-2 and the token refuse it."""
    s = ORDER - int.from_bytes(signature[32:64])
    return signature[:32] + s.to_bytes(32) + bytes([55 - signature[64]])


def parity_v(signature: bytes) -> bytes:
    """With v as some wallets write it: 0 or 1 instead of 27 or 28."""
    return signature[:64] + bytes([signature[64] - 27])


def compact(signature: bytes) -> bytes:
    """The 64 bytes of EIP-2098, which the token does not read."""
    s = int.from_bytes(signature[32:64]) | (signature[64] - 27) << 255
    return signature[:32] + s.to_bytes(32)
