"""Payments made by somebody else's encoder: eth-account, never our own code."""

import base64
import json
import secrets
import time
from typing import Any

from eth_account import Account as Keys
from eth_account.messages import SignableMessage, encode_typed_data
from eth_utils.address import to_checksum_address

MAX_UINT256 = 2**256 - 1

PAYMENT_TYPE = [
    {"name": "scheme", "type": "string"},
    {"name": "network", "type": "string"},
    {"name": "asset", "type": "address"},
    {"name": "payTo", "type": "address"},
    {"name": "amount", "type": "uint256"},
    {"name": "resource", "type": "string"},
    {"name": "nonce", "type": "string"},
    {"name": "timestamp", "type": "uint256"},
]
AUTHORIZATION_TYPE = [
    {"name": "from", "type": "address"},
    {"name": "to", "type": "address"},
    {"name": "value", "type": "uint256"},
    {"name": "validAfter", "type": "uint256"},
    {"name": "validBefore", "type": "uint256"},
    {"name": "nonce", "type": "bytes32"},
]


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def sign_typed_data(key: bytes, message: SignableMessage) -> bytes:
    """The 65-byte signature, v 27 or 28."""
    return bytes(Keys.sign_message(message, key).signature)


def typed_data(
    primary_type: str,
    fields: list[dict[str, str]],
    message: dict[str, Any],
    *,
    name: str,
    version: str,
    chain_id: int,
    verifying_contract: bytes,
) -> SignableMessage:
    """EIP-712 typed data as eth-account encodes it."""
    return encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "verifyingContract", "type": "address"},
                ],
                primary_type: fields,
            },
            "primaryType": primary_type,
            "domain": {
                "name": name,
                "version": version,
                "chainId": chain_id,
                "verifyingContract": to_checksum_address(verifying_contract),
            },
            "message": message,
        }
    )


def payment_message(payment: dict[str, Any], *, contract: bytes, chain_id: int) -> SignableMessage:
    """What the payer of a header signs."""
    return typed_data(
        "Payment",
        PAYMENT_TYPE,
        {field["name"]: payment[field["name"]] for field in PAYMENT_TYPE},
        name="x402 Payment Protocol",
        version="1",
        chain_id=chain_id,
        verifying_contract=contract,
    )


def sign_payment(
    key: bytes,
    *,
    contract: bytes,
    chain_id: int,
    asset: bytes,
    pay_to: bytes,
    amount: int,
    network: str = "jeju",
    resource: str = "/api/report",
    nonce: str | None = None,
    timestamp: int | None = None,
    scheme: str = "exact",
) -> dict[str, Any]:
    """A signed payment as the members of a Jeju header, `payer` among them.

    By default a fresh random nonce, and signed now.
    """
    payment: dict[str, Any] = {
        "scheme": scheme,
        "network": network,
        "asset": to_checksum_address(asset),
        "payTo": to_checksum_address(pay_to),
        "amount": amount,
        "resource": resource,
        "nonce": secrets.token_hex(16) if nonce is None else nonce,
        "timestamp": int(time.time()) if timestamp is None else timestamp,
    }
    message = payment_message(payment, contract=contract, chain_id=chain_id)
    return {
        **payment,
        "amount": str(amount),
        "signature": "0x" + sign_typed_data(key, message).hex(),
        "payer": Keys.from_key(key).address,
    }


def encode_header(header: dict[str, Any]) -> str:
    """A payment as the wire carries it: base64 of its JSON."""
    return base64.b64encode(json.dumps(header).encode()).decode()


def sign_authorization(
    key: bytes,
    *,
    token: bytes,
    chain_id: int,
    to: bytes,
    value: int,
    valid_after: int = 0,
    valid_before: int = MAX_UINT256,
    nonce: bytes | None = None,
    owner: bytes | None = None,
    primary_type: str = "TransferWithAuthorization",
    domain_name: str = "USD Coin",
) -> dict[str, Any]:
    """An EIP-3009 authorization of the test USDC, as the members of the wire's `authParams`.

    `owner` is whose money it is, when that is not the key's own address.
    """
    nonce = secrets.token_bytes(32) if nonce is None else nonce
    message = typed_data(
        primary_type,
        AUTHORIZATION_TYPE,
        {
            "from": to_checksum_address(owner) if owner else Keys.from_key(key).address,
            "to": to_checksum_address(to),
            "value": value,
            "validAfter": valid_after,
            "validBefore": valid_before,
            "nonce": nonce,
        },
        name=domain_name,
        version="2",
        chain_id=chain_id,
        verifying_contract=token,
    )
    return {
        "validAfter": str(valid_after),
        "validBefore": str(valid_before),
        "authNonce": "0x" + nonce.hex(),
        "authSignature": "0x" + sign_typed_data(key, message).hex(),
    }
