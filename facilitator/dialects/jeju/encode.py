"""Encodes the replies of the Jeju dialect: outcomes as JSON, refusals in the words clients know.

All timestamps in replies are unix milliseconds.
"""

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from facilitator.config.networks import Unit
from facilitator.dialects.jeju.decode import JejuRequest, Malformed, SignedRequest, as_text
from facilitator.domain.payment import Proof, Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.domain.schemes.jeju import MAX_SECONDS_AHEAD, JejuPayment
from facilitator.domain.strict_json import JSON
from facilitator.ethereum.addresses import checksum

_encode = msgspec.json.Encoder().encode

_UNKNOWN_TOKEN = Unit("TOKEN", 18)

# {found} and {wanted} are the refusal's; {header} is the payer's, {asked} the seller's members.
_WORDS = {
    Reason.IN_THE_FUTURE: "Payment timestamp is in the future",
    Reason.EXPIRED: "Payment expired ({age}s > {max_age}s)",
    Reason.UNSUPPORTED_NETWORK: "Unsupported network: {found}",
    Reason.INVALID_SIGNATURE: "Invalid signature: {found}",
    Reason.NETWORK_MISMATCH: "Network mismatch: {header[network]} !== {network}",
    Reason.RECIPIENT_MISMATCH: "Recipient mismatch: {header[payTo]} !== {asked[payTo]}",
    Reason.ASSET_MISMATCH: "Asset mismatch: {header[asset]} !== {asked[asset]}",
    Reason.RESOURCE_MISMATCH: "Resource mismatch: {header[resource]} !== {asked[resource]}",
    Reason.AMOUNT_NOT_EXACT: (
        "Exact scheme requires amount {asked[maxAmountRequired]}, got {header[amount]}"
    ),
    Reason.AMOUNT_ABOVE_MAXIMUM: (
        "Upto scheme: amount {header[amount]} exceeds max {asked[maxAmountRequired]}"
    ),
    Reason.AMOUNT_ZERO: "Upto scheme: amount must be greater than 0",
    Reason.AMOUNT_BELOW_MINIMUM: "Amount {found} below minimum {wanted}",
    Reason.UNSUPPORTED_SCHEME: "Unsupported scheme: {scheme}",
    Reason.INVALID_RECIPIENT: "Invalid recipient",
    Reason.AUTHORIZATION_USED: "Nonce has already been used",
    Reason.AUTHORIZATION_USED_ON_CHAIN: "Nonce already used on-chain",
    Reason.AUTHORIZATION_USED_ELSEWHERE: "Authorization was used outside the contract",
    Reason.UNSUPPORTED_ASSET: "Token not supported: {header[asset]}",
    Reason.INSUFFICIENT_BALANCE: "Insufficient balance: {found} < {wanted}",
    Reason.INSUFFICIENT_ALLOWANCE: "Insufficient allowance: {found} < {wanted}",
    Reason.TRANSACTION_REVERTED: "Transaction reverted",
    Reason.CONTRACT_NOT_DEPLOYED: "Facilitator contract not deployed - verification unavailable",
    Reason.CONTRACT_NOT_CONFIGURED: "Facilitator contract not configured",
    Reason.SIGNER_NOT_CONFIGURED: "Settlement wallet not configured",
    Reason.BEING_SETTLED: "Nonce is being processed",
    Reason.SETTLEMENT_PENDING: "Settlement pending",
    Reason.TRANSFER_MISSING: "Transaction moved no money",
    Reason.IDEMPOTENCY_CONFLICT: "Idempotency-Key was used with another body",
    Reason.INVALID_IDEMPOTENCY_KEY: "Invalid Idempotency-Key",
    Reason.CHAIN_UNAVAILABLE: "Chain unavailable",
    Reason.STORE_UNAVAILABLE: "Settlement journal unavailable",
    Reason.OVERLOADED: "Too many settlements in progress",
    Reason.FEES_ABOVE_CAP: "Network fees above the configured maximum",
    Reason.OUT_OF_GAS_MONEY: "Settlement wallet is out of gas money",
    Reason.BUDGET_SPENT: "Settlement wallet has spent its gas budget",
}


def words(refusal: Refusal, request: JejuRequest) -> str:
    """Return the dialect's words for a refusal of this request."""
    if refusal.reason in (Reason.IN_THE_FUTURE, Reason.EXPIRED):
        return _time_words(refusal, request)
    asked_scheme = request.asked.get("scheme", "undefined")
    return _WORDS[refusal.reason].format(
        found=refusal.found,
        wanted=refusal.wanted,
        network=request.requirements.network,
        scheme=refusal.found or as_text(asked_scheme),
        header=_Given(request.header),
        asked=_Given(request.asked),
    )


def _time_words(refusal: Refusal, request: JejuRequest) -> str:
    """Return the words for a payment, or its authorization, that came too early or too late. They
    name the full limit where that has passed, and otherwise the earlier limit of POST /settle,
    which leaves time for mining.
    """
    payment, pull = request.payment, request.payment.token_authorization
    if refusal.reason is Reason.IN_THE_FUTURE:
        if pull is not None and pull.valid_after >= payment.timestamp - MAX_SECONDS_AHEAD:
            return f"Authorization is not valid yet (validAfter {pull.valid_after})"
        return _WORDS[refusal.reason]
    now, latest = int(refusal.found), int(refusal.wanted)
    margin = payment.deadline - latest
    if now <= payment.timestamp + request.max_age - margin:
        shown = payment.deadline if now > payment.deadline else latest
        return f"Authorization expired ({now} > {shown})"
    age = now - payment.timestamp
    max_age = request.max_age if age > request.max_age else request.max_age - margin
    return _WORDS[refusal.reason].format(age=age, max_age=max_age)


class _Given(dict[str, JSON]):
    """Gives members as the words repeat them, a missing one as `undefined`."""

    def __getitem__(self, name: str) -> str:
        return as_text(self.get(name)) if name in self else "undefined"


class _VerifyReply(Struct, frozen=True, kw_only=True, rename="camel"):
    is_valid: bool
    invalid_reason: str | None = None
    payer: str | None = None
    amount: str | None = None
    timestamp: int


class _Amount(Struct, frozen=True, kw_only=True):
    """An amount in atomic units (`base`), and as people write it."""

    human: str
    base: str
    symbol: str | UnsetType = UNSET
    decimals: int | UnsetType = UNSET
    bps: int | UnsetType = UNSET


class _SettleReply(Struct, frozen=True, kw_only=True, rename="camel"):
    """The last three are required by the standard dialect, and are for bodies of no dialect."""

    success: bool
    tx_hash: str | None = None
    network_id: str
    settlement_id: str | None = None
    payer: str | None = None
    recipient: str | None = None
    amount: _Amount | None = None
    fee: _Amount | None = None
    net: _Amount | None = None
    error: str | None = None
    timestamp: int
    transaction: str | UnsetType = UNSET
    network: str | UnsetType = UNSET
    error_reason: str | UnsetType = UNSET


def verified(payment: AnyPayment, now: int) -> bytes:
    """Encode the reply to a valid payment; `now` is in unix milliseconds, here and below."""
    return _encode(
        _VerifyReply(
            is_valid=True,
            payer=checksum(payment.payer),
            amount=str(payment.amount),
            timestamp=now,
        )
    )


def not_verified(why: str, now: int) -> bytes:
    """Encode the reply to a payment that is not valid."""
    return _encode(_VerifyReply(is_valid=False, invalid_reason=why, timestamp=now))


def not_verified_unread(malformed: Malformed, now: int) -> bytes:
    """Encode the reply of POST /verify to a request that cannot be decoded."""
    payer = "" if malformed.undetermined else None  # clients of the standard dialect need a string
    return _encode(
        _VerifyReply(is_valid=False, invalid_reason=malformed.words, payer=payer, timestamp=now)
    )


def not_understood(malformed: Malformed, now: int) -> bytes:
    """Encode the reply of POST /settle to a request that cannot be decoded."""
    reply = _SettleReply(
        success=False, network_id=malformed.network, error=malformed.words, timestamp=now
    )
    if malformed.undetermined:
        reply = replace(reply, transaction="", network="", error_reason=malformed.words)
    return _encode(reply)


def not_settled(
    request: JejuRequest,
    refusal: Refusal,
    now: int,
    *,
    payment: JejuPayment | None = None,
    unit: Unit | None = None,
    transaction_hash: bytes | None = None,
) -> bytes:
    """Encode the reply to a payment that was not settled, or not yet. `payment` is None until it is
    verified, `unit` where the unit of its amount is not known.
    """
    reply = _SettleReply(
        success=False,
        network_id=request.requirements.network,
        error=words(refusal, request),
        tx_hash=None if transaction_hash is None else "0x" + transaction_hash.hex(),
        timestamp=now,
    )
    if payment is not None:
        reply = replace(reply, **_parties(request, payment, unit or _UNKNOWN_TOKEN))
    return _encode(reply)


def settled(
    request: JejuRequest,
    payment: JejuPayment,
    proof: Proof,
    now: int,
    *,
    fee_bps: int,
    unit: Unit | None,
) -> bytes:
    """Encode the reply to a settled payment. `fee_bps` is the contract's fee in basis points,
    `unit` is None where the unit of its amounts is not known.
    """
    unit = unit or _UNKNOWN_TOKEN
    net = payment.amount - proof.fee
    reply = _SettleReply(
        success=True,
        network_id=request.requirements.network,
        tx_hash="0x" + proof.transaction_hash.hex(),
        settlement_id="0x" + proof.reference.hex(),
        fee=_Amount(human=human(proof.fee, unit.decimals), base=str(proof.fee), bps=fee_bps),
        net=_Amount(human=human(net, unit.decimals), base=str(net)),
        timestamp=now,
    )
    return _encode(replace(reply, **_parties(request, payment, unit)))


def signature_valid(request: SignedRequest, signer: bytes) -> bytes:
    """Encode the reply of POST /verify/signature to a valid signature."""
    header = request.header
    payment = {
        "amount": header["amount"],
        "recipient": header["payTo"],
        "token": header["asset"],
        "resource": header["resource"],
        "network": header["network"],
    }
    return _encode({"valid": True, "signer": checksum(signer), "payment": payment})


def signature_invalid(why: str) -> bytes:
    """Encode the reply of POST /verify/signature to an invalid signature."""
    return _encode({"valid": False, "error": why})


def signature_words(refusal: Refusal) -> str:
    """Return the words for an invalid signature, or for a network that is not served."""
    return _WORDS[refusal.reason].format(found=refusal.found)


def _parties(request: JejuRequest, payment: JejuPayment, unit: Unit) -> dict[str, object]:
    return {
        "payer": checksum(payment.payer),
        "recipient": request.header["payTo"],
        "amount": _Amount(
            human=human(payment.amount, unit.decimals),
            base=str(payment.amount),
            symbol=unit.symbol,
            decimals=unit.decimals,
        ),
    }


def human(amount: int, decimals: int) -> str:
    """Write atomic units as a plain decimal without trailing zeros: 5000 of 6 decimals is 0.005."""
    whole, part = divmod(amount, 10**decimals)
    digits = str(part).rjust(decimals, "0").rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)
