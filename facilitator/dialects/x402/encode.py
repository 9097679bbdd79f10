"""Encodes the replies of the standard dialect: outcomes as JSON, refusals as its error codes.

`payer`, `transaction` and `network` are always present, "" where unknown: some clients reject a
reply without them. The codes are those of the official TypeScript and Go facilitators.
"""

import msgspec
from msgspec import UNSET, Struct, UnsetType

from facilitator.dialects.x402.decode import Unreadable, Unserved, X402Request
from facilitator.domain.payment import TEMPORARY, Reason, Refusal
from facilitator.domain.settlement import SettlementState

_encode = msgspec.json.Encoder().encode

_CODES = {
    Reason.IN_THE_FUTURE: "invalid_exact_evm_payload_authorization_valid_after",
    Reason.BEFORE_NEXT_BLOCK: "invalid_exact_evm_payload_authorization_valid_after",
    Reason.EXPIRED: "invalid_exact_evm_payload_authorization_valid_before",
    Reason.UNSUPPORTED_VERSION: "invalid_x402_version",
    Reason.UNSUPPORTED_NETWORK: "invalid_network",
    Reason.UNSUPPORTED_SCHEME: "unsupported_scheme",
    Reason.UNSUPPORTED_PAYLOAD: "unsupported_payload_type",
    Reason.SCHEME_MISMATCH: "invalid_exact_evm_scheme",
    Reason.MISSING_DOMAIN: "invalid_exact_evm_missing_eip712_domain",
    Reason.NETWORK_MISMATCH: "invalid_exact_evm_network_mismatch",
    Reason.OFFER_MISMATCH: "accepted_requirements_mismatch",
    Reason.UNLISTED_ASSET: "unsupported_asset",
    Reason.UNLISTED_FACTORY: "eip6492_factory_not_allowed",
    Reason.INVALID_SIGNATURE: "invalid_exact_evm_signature",
    Reason.RECIPIENT_MISMATCH: "invalid_exact_evm_recipient_mismatch",
    Reason.INVALID_PAYER: "invalid_payer",
    Reason.INVALID_RECIPIENT: "invalid_pay_to",
    Reason.AMOUNT_NOT_EXACT: "invalid_exact_evm_payload_authorization_value_mismatch",
    Reason.AMOUNT_BELOW_MINIMUM: "amount_below_minimum",
    Reason.ASSET_NOT_DEPLOYED: "asset_not_deployed_contract",
    Reason.ASSET_WITHOUT_AUTHORIZATIONS: "invalid_exact_evm_eip3009_not_supported",
    Reason.AUTHORIZATION_USED: "invalid_exact_evm_nonce_already_used",
    Reason.AUTHORIZATION_USED_ON_CHAIN: "invalid_exact_evm_nonce_already_used",
    Reason.ASSET_NAME_MISMATCH: "invalid_exact_evm_token_name_mismatch",
    Reason.ASSET_VERSION_MISMATCH: "invalid_exact_evm_token_version_mismatch",
    Reason.INSUFFICIENT_BALANCE: "invalid_exact_evm_insufficient_balance",
    Reason.TRANSACTION_REVERTED: "invalid_exact_evm_transaction_simulation_failed",
    Reason.TRANSFER_MISSING: "invalid_exact_evm_transfer_event_mismatch",
    Reason.BEING_SETTLED: "duplicate_settlement",
    Reason.NONCE_TAKEN: "nonce_taken",
    Reason.SETTLEMENT_PENDING: "settlement_pending",
    Reason.IDEMPOTENCY_CONFLICT: "idempotency_conflict",
    Reason.INVALID_IDEMPOTENCY_KEY: "invalid_idempotency_key",
}
_TRANSACTION_FAILED = "invalid_exact_evm_transaction_failed"
_V1_AMOUNT = "invalid_exact_evm_authorization_value"

# {found} and {wanted} are the refusal's own.
_MESSAGES = {
    Reason.IN_THE_FUTURE: "The authorization is not valid yet",
    Reason.BEFORE_NEXT_BLOCK: "The authorization is valid from the next block on: ask again",
    Reason.EXPIRED: "The authorization ends too soon to be settled",
    Reason.UNSUPPORTED_VERSION: "x402Version {found} is not supported",
    Reason.UNSUPPORTED_NETWORK: "This network is not served here",
    Reason.UNSUPPORTED_SCHEME: "This scheme is not served here",
    Reason.UNSUPPORTED_PAYLOAD: "Only EIP-3009 authorizations are served here",
    Reason.SCHEME_MISMATCH: "The payer accepted another scheme",
    Reason.MISSING_DOMAIN: "extra.name and extra.version, the token's EIP-712 domain, are missing",
    Reason.NETWORK_MISMATCH: "The payer accepted another network",
    Reason.OFFER_MISMATCH: "What the payer accepted is not what the seller requires",
    Reason.UNLISTED_ASSET: "This facilitator's operator does not list this token",
    Reason.UNLISTED_FACTORY: "This facilitator's operator does not list the wallet's factory",
    Reason.INVALID_SIGNATURE: "The signature is not the payer's",
    Reason.RECIPIENT_MISMATCH: "The authorization is for another recipient",
    Reason.INVALID_PAYER: "A signer of this facilitator cannot be the payer",
    Reason.INVALID_RECIPIENT: "Money sent to this payTo would be lost",
    Reason.AMOUNT_NOT_EXACT: "The authorization is for {found}, the price is {wanted}",
    Reason.AMOUNT_BELOW_MINIMUM: "{found} is below the minimum of {wanted}",
    Reason.ASSET_NOT_DEPLOYED: "There is no contract at the asset's address",
    Reason.ASSET_WITHOUT_AUTHORIZATIONS: "The token does not support EIP-3009",
    Reason.AUTHORIZATION_USED: "The authorization's nonce has been used",
    Reason.AUTHORIZATION_USED_ON_CHAIN: "The authorization's nonce has been used",
    Reason.ASSET_NAME_MISMATCH: "extra.name is not the token's name",
    Reason.ASSET_VERSION_MISMATCH: "extra.version is not the token's version",
    Reason.INSUFFICIENT_BALANCE: "The payer has {found}, the price is {wanted}",
    Reason.TRANSACTION_REVERTED: "The token refuses the transfer: {found}",
    Reason.TRANSFER_MISSING: "The token did not move the money",
    Reason.BEING_SETTLED: "Another request is settling this payment",
    Reason.NONCE_TAKEN: "Another payment with this nonce has failed, and may be asked for again",
    Reason.SETTLEMENT_PENDING: "Sent, and not confirmed in time: ask again with the same request",
    Reason.IDEMPOTENCY_CONFLICT: "This Idempotency-Key came with another body before",
    Reason.INVALID_IDEMPOTENCY_KEY: "Idempotency-Key must be one, of 1 to 255 visible characters",
    Reason.CHAIN_UNAVAILABLE: "Chain unavailable",
    Reason.STORE_UNAVAILABLE: "Settlement journal unavailable",
    Reason.OVERLOADED: "Too many settlements in progress",
    Reason.FEES_ABOVE_CAP: "Network fees above the configured maximum",
    Reason.OUT_OF_GAS_MONEY: "Settlement wallet is out of gas money",
    Reason.BUDGET_SPENT: "Settlement wallet has spent its gas budget",
    Reason.SIGNER_NOT_CONFIGURED: "Settlement wallet not configured",
}
# Refusals for which the payment is not at fault: status 503, and one code for all.
OUTAGES = TEMPORARY | {Reason.SIGNER_NOT_CONFIGURED}


class _VerifyReply(Struct, frozen=True, kw_only=True, rename="camel"):
    is_valid: bool
    invalid_reason: str | UnsetType = UNSET
    invalid_message: str | UnsetType = UNSET
    payer: str = ""


class _Extra(Struct, frozen=True, kw_only=True, rename="camel"):
    settlement_id: str
    state: str


class _SettleReply(Struct, frozen=True, kw_only=True, rename="camel"):
    success: bool
    error_reason: str | UnsetType = UNSET
    error_message: str | UnsetType = UNSET
    transaction: str = ""
    network: str = ""
    payer: str = ""
    extra: _Extra | UnsetType = UNSET


def code(refusal: Refusal, version: int = 2, *, sent: bool = False) -> str:
    """Return the code of a refusal that is no outage; `sent` where there is a transaction."""
    if version == 1 and refusal.reason is Reason.AMOUNT_NOT_EXACT:
        return _V1_AMOUNT
    if sent and refusal.reason is Reason.TRANSACTION_REVERTED:
        return _TRANSACTION_FAILED
    return _CODES[refusal.reason]


def message(refusal: Refusal) -> str:
    """Return the message of a refusal, for people."""
    return _MESSAGES[refusal.reason].format(found=refusal.found, wanted=refusal.wanted)


def verified(request: X402Request) -> bytes:
    """Encode the reply to a valid payment."""
    return _encode(_VerifyReply(is_valid=True, payer=request.payer))


def not_verified(about: X402Request | Unserved, refusal: Refusal) -> bytes:
    """Encode the reply to a payment that is not valid, or could not be verified."""
    version = about.version if isinstance(about, X402Request) else 2
    outage = refusal.reason in OUTAGES
    return _encode(
        _VerifyReply(
            is_valid=False,
            invalid_reason="unexpected_verify_error" if outage else code(refusal, version),
            invalid_message=message(refusal),
            payer=about.payer,
        )
    )


def verify_unreadable(unreadable: Unreadable) -> bytes:
    """Encode the reply of POST /verify to a request that cannot be decoded."""
    return _encode(
        _VerifyReply(
            is_valid=False,
            invalid_reason=unreadable.code,
            invalid_message=unreadable.message,
            payer=unreadable.payer,
        )
    )


def settled(
    about: X402Request | Unserved,
    transaction_hash: bytes,
    settlement_id: str | None,
    state: SettlementState | None,
) -> bytes:
    """Encode the reply to a settled payment."""
    return _encode(
        _SettleReply(
            success=True,
            transaction="0x" + transaction_hash.hex(),
            network=about.network,
            payer=about.payer,
            extra=_extra(settlement_id, state),
        )
    )


def _extra(settlement_id: str | None, state: SettlementState | None) -> _Extra | UnsetType:
    """Return the id for GET /settlements/{id}, with the state at the reply; UNSET without them."""
    if settlement_id is None or state is None:
        return UNSET
    return _Extra(settlement_id=settlement_id, state=state)


def not_settled(
    about: X402Request | Unserved,
    refusal: Refusal,
    *,
    transaction_hash: bytes | None = None,
    settlement_id: str | None = None,
    state: SettlementState | None = None,
) -> bytes:
    """Encode the reply to a payment that was not settled (yet)."""
    version = about.version if isinstance(about, X402Request) else 2
    sent = transaction_hash is not None
    outage = refusal.reason in OUTAGES
    return _encode(
        _SettleReply(
            success=False,
            error_reason=(
                "unexpected_settle_error" if outage else code(refusal, version, sent=sent)
            ),
            error_message=message(refusal),
            transaction="" if transaction_hash is None else "0x" + transaction_hash.hex(),
            network=about.network,
            payer=about.payer,
            extra=_extra(settlement_id, state),
        )
    )


def settle_unreadable(unreadable: Unreadable) -> bytes:
    """Encode the reply of POST /settle to a request that cannot be decoded."""
    return _encode(
        _SettleReply(
            success=False,
            error_reason=unreadable.code,
            error_message=unreadable.message,
            network=unreadable.network,
            payer=unreadable.payer,
        )
    )
