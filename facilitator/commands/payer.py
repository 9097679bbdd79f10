"""The client's side of both dialects: signs a payment as a payer does, and builds the request with
which its seller has it settled.
"""

import base64
import json
import secrets
from typing import Any

from facilitator.config.networks import Network, Token
from facilitator.domain.schemes import eip3009
from facilitator.domain.schemes.eip3009 import Eip3009Payment
from facilitator.domain.schemes.jeju import JejuPayment, digest
from facilitator.ethereum.addresses import ZERO_ADDRESS, checksum
from facilitator.ethereum.secp256k1 import Signer


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
    """Return the members of a signed Jeju payment header, with a fresh nonce. `amount` is in atomic
    units, `timestamp` in unix seconds.
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
    return {
        "scheme": scheme,
        "network": network,
        "asset": checksum(asset),
        "payTo": checksum(pay_to),
        "amount": str(amount),
        "resource": resource,
        "nonce": nonce,
        "timestamp": timestamp,
        "signature": _sign(signer, digest(payment, contract or ZERO_ADDRESS)),
        "payer": checksum(signer.address),
    }


def sign_authorization(
    signer: Signer,
    token: Token,
    chain_id: int,
    to: bytes,
    value: int,
    valid_after: int,
    valid_before: int,
    nonce: bytes,
) -> dict[str, str]:
    """Return the members of an EIP-3009 TransferWithAuthorization of the signer's `token`, and its
    `signature`, all as text. `value` is in atomic units; `valid_after` and `valid_before` are unix
    seconds, both exclusive; `nonce` is 32 bytes that were never used before.
    """
    payment = Eip3009Payment(
        chain_id=chain_id,
        payer=signer.address,
        asset=token.address,
        pay_to=to,
        amount=value,
        valid_from=valid_after,
        deadline=valid_before - 1,
        signature=b"",
        authorization_nonce=nonce,
        valid_after=valid_after,
        valid_before=valid_before,
        domain_name=token.name,
        domain_version=token.version,
    )
    return {
        "from": checksum(signer.address),
        "to": checksum(to),
        "value": str(value),
        "validAfter": str(valid_after),
        "validBefore": str(valid_before),
        "nonce": "0x" + nonce.hex(),
        "signature": _sign(signer, eip3009.digest(payment)),
    }


def auth_params(authorization: dict[str, str]) -> dict[str, str]:
    """Return a signed authorization as `authParams` of /settle/gasless. Payer, recipient and amount
    are left out, since they follow from the payment.
    """
    return {
        "validAfter": authorization["validAfter"],
        "validBefore": authorization["validBefore"],
        "authNonce": authorization["nonce"],
        "authSignature": authorization["signature"],
    }


def request_body(header: dict[str, Any], *, maximum: int | None = None) -> dict[str, Any]:
    """Return the body that a seller posts to /verify and /settle in the Jeju dialect. The seller
    asks for exactly this payment, or for at most `maximum` atomic units.
    """
    return {
        "x402Version": 1,
        "paymentHeader": base64.b64encode(json.dumps(header).encode()).decode(),
        "paymentRequirements": {
            "scheme": header["scheme"],
            "network": header["network"],
            "maxAmountRequired": header["amount"] if maximum is None else str(maximum),
            "payTo": header["payTo"],
            "asset": header["asset"],
            "resource": header["resource"],
        },
    }


def standard_requirements(
    *,
    version: int,
    network: Network,
    token: Token,
    pay_to: bytes,
    amount: int,
    resource: str,
    lifetime: int,
) -> dict[str, Any]:
    """Return a seller's requirements in `version` 1 or 2 of the standard dialect, scheme exact:
    `amount` atomic units of `token`, to be paid within `lifetime` seconds. `resource` is a URL, in
    version 2 a member of the payment instead.
    """
    asked: dict[str, Any] = {
        "scheme": "exact",
        "asset": checksum(token.address),
        "payTo": checksum(pay_to),
        "maxTimeoutSeconds": lifetime,
        "extra": {"name": token.name, "version": token.version},
    }
    if version == 2:
        return {**asked, "network": network.caip2, "amount": str(amount)}
    # The official packages refuse requirements of version 1 that have no text in these.
    about = {"resource": resource, "description": "", "mimeType": ""}
    return {**asked, "network": network.name, "maxAmountRequired": str(amount), **about}


def standard_body(
    requirements: dict[str, Any], authorization: dict[str, str], *, version: int, resource: str
) -> dict[str, Any]:
    """Return the body that a seller posts to /verify and /settle in the standard dialect: its
    `requirements`, and the signed `authorization` of the token with which a payer answered them.
    """
    signed = {name: value for name, value in authorization.items() if name != "signature"}
    payload = {"signature": authorization["signature"], "authorization": signed}
    about: dict[str, Any] = {"accepted": requirements, "resource": {"url": resource}}
    if version == 1:
        about = {name: requirements[name] for name in ("scheme", "network")}
    return {
        "x402Version": version,
        "paymentPayload": {"x402Version": version, "payload": payload, **about},
        "paymentRequirements": requirements,
    }


def _sign(signer: Signer, message_digest: bytes) -> str:
    parity, r, s = signer.sign(message_digest)
    return "0x" + (r.to_bytes(32) + s.to_bytes(32) + bytes((27 + parity,))).hex()
