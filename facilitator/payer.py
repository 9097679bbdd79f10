"""The other side of the Jeju dialect: build and sign a payment as a payer does."""

import base64
import json
import secrets
from typing import Any

from facilitator.ethereum.addresses import ZERO_ADDRESS, checksum
from facilitator.ethereum.secp256k1 import Signer
from facilitator.schemes.jeju import JejuPayment, digest


def sign_payment(
    signer: Signer,
    *,
    chain_id: int,
    contract: bytes,
    network: str,
    asset: bytes,
    pay_to: bytes,
    amount: int,
    resource: str,
    timestamp: int,
    scheme: str = "exact",
) -> dict[str, Any]:
    """The members of a signed payment header, with a fresh nonce. `amount` is in atomic units,
    `timestamp` in unix seconds.
    """
    nonce = secrets.token_hex(16)
    payment = JejuPayment(
        chain_id=chain_id,
        payer=signer.address,
        asset=asset,
        pay_to=pay_to,
        amount=amount,
        valid_from=timestamp,
        deadline=timestamp,
        signature=b"",
        contract=contract,
        scheme=scheme,
        network=network,
        resource=resource,
        authorization_nonce=nonce,
        timestamp=timestamp,
    )
    parity, r, s = signer.sign(digest(payment, contract or ZERO_ADDRESS))
    signature = r.to_bytes(32) + s.to_bytes(32) + bytes((27 + parity,))
    return {
        "scheme": scheme,
        "network": network,
        "asset": checksum(asset),
        "payTo": checksum(pay_to),
        "amount": str(amount),
        "resource": resource,
        "nonce": nonce,
        "timestamp": timestamp,
        "signature": "0x" + signature.hex(),
        "payer": checksum(signer.address),
    }


def request_body(header: dict[str, Any]) -> dict[str, Any]:
    """What a seller posts to /verify and /settle who asks for exactly this payment."""
    return {
        "x402Version": 1,
        "paymentHeader": base64.b64encode(json.dumps(header).encode()).decode(),
        "paymentRequirements": {
            "scheme": header["scheme"],
            "network": header["network"],
            "maxAmountRequired": header["amount"],
            "payTo": header["payTo"],
            "asset": header["asset"],
            "resource": header["resource"],
        },
    }
