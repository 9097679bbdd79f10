"""The vocabulary of payments, one for both dialects.

A `Payment` is what a payer signed, `PaymentRequirements` what the seller asks for, a `Refusal` why
the payment is not valid or not settled. The dialects turn JSON into these and back; nothing else
knows member names.
"""

from enum import StrEnum

from msgspec import Struct


class Reason(StrEnum):
    """Why a payment is not valid or did not settle. The words for it belong to each dialect."""

    # what the payment itself says
    IN_THE_FUTURE = "in_the_future"
    BEFORE_NEXT_BLOCK = "before_next_block"
    EXPIRED = "expired"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNSUPPORTED_NETWORK = "unsupported_network"
    INVALID_SIGNATURE = "invalid_signature"
    NETWORK_MISMATCH = "network_mismatch"
    RECIPIENT_MISMATCH = "recipient_mismatch"
    ASSET_MISMATCH = "asset_mismatch"
    RESOURCE_MISMATCH = "resource_mismatch"
    AMOUNT_NOT_EXACT = "amount_not_exact"
    AMOUNT_ABOVE_MAXIMUM = "amount_above_maximum"
    AMOUNT_ZERO = "amount_zero"
    AMOUNT_BELOW_MINIMUM = "amount_below_minimum"
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    UNSUPPORTED_PAYLOAD = "unsupported_payload"
    SCHEME_MISMATCH = "scheme_mismatch"
    INVALID_RECIPIENT = "invalid_recipient"
    INVALID_PAYER = "invalid_payer"
    MISSING_DOMAIN = "missing_domain"
    OFFER_MISMATCH = "offer_mismatch"
    UNLISTED_ASSET = "unlisted_asset"
    UNLISTED_FACTORY = "unlisted_factory"
    # what the chain says
    AUTHORIZATION_USED = "authorization_used"
    AUTHORIZATION_USED_ON_CHAIN = "authorization_used_on_chain"
    AUTHORIZATION_USED_ELSEWHERE = "authorization_used_elsewhere"
    UNSUPPORTED_ASSET = "unsupported_asset"
    INSUFFICIENT_BALANCE = "insufficient_balance"
    INSUFFICIENT_ALLOWANCE = "insufficient_allowance"
    ASSET_NOT_DEPLOYED = "asset_not_deployed"
    ASSET_WITHOUT_AUTHORIZATIONS = "asset_without_authorizations"
    ASSET_NAME_MISMATCH = "asset_name_mismatch"
    ASSET_VERSION_MISMATCH = "asset_version_mismatch"
    TRANSACTION_REVERTED = "transaction_reverted"
    TRANSFER_MISSING = "transfer_missing"
    # what this service says
    CONTRACT_NOT_DEPLOYED = "contract_not_deployed"
    CONTRACT_NOT_CONFIGURED = "contract_not_configured"
    SIGNER_NOT_CONFIGURED = "signer_not_configured"
    BEING_SETTLED = "being_settled"
    NONCE_TAKEN = "nonce_taken"
    SETTLEMENT_PENDING = "settlement_pending"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    INVALID_IDEMPOTENCY_KEY = "invalid_idempotency_key"
    # what passes: asking again later may succeed
    CHAIN_UNAVAILABLE = "chain_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"
    OVERLOADED = "overloaded"
    FEES_ABOVE_CAP = "fees_above_cap"
    OUT_OF_GAS_MONEY = "out_of_gas_money"
    BUDGET_SPENT = "budget_spent"


# Nothing was claimed and nothing sent: a reply with one of these is 503 and may be repeated.
TEMPORARY = frozenset(
    {
        Reason.CHAIN_UNAVAILABLE,
        Reason.STORE_UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.FEES_ABOVE_CAP,
        Reason.OUT_OF_GAS_MONEY,
        Reason.BUDGET_SPENT,
    }
)


class Refusal(Struct, frozen=True):
    """A reason, with what was found and what was wanted instead where there are such values."""

    reason: Reason
    found: str = ""
    wanted: str = ""


class PaymentRequirements(Struct, frozen=True, kw_only=True):
    """What the seller asks for: `amount` is the price (scheme exact) or the most it may be (upto).

    An address or amount that the seller misspelt is None: it fits no payment. `domain` is the
    token's EIP-712 name and version, as the standard dialect quotes them.
    """

    scheme: str
    network: str
    asset: bytes | None
    pay_to: bytes | None
    amount: int | None
    resource: str = ""
    domain: tuple[str, str] | None = None


class Payment(Struct, frozen=True, kw_only=True, tag_field="method"):
    """What every payment has, whatever its scheme. The subclasses are in `schemes`.

    `payer` is who signed (20 zero bytes until the signature is checked), `amount` is in atomic
    units of `asset`. It can be mined from `valid_from` to `deadline`, both inclusive, unix seconds.
    """

    chain_id: int
    payer: bytes
    asset: bytes
    pay_to: bytes
    amount: int
    valid_from: int
    deadline: int
    signature: bytes


class Proof(Struct, frozen=True):
    """The log that proves that one payment was made, and its content.

    `reference` is the contract's own name for the payment (Jeju: the paymentId), `fee` what the
    contract kept, in atomic units of the asset.
    """

    transaction_hash: bytes
    log_index: int
    block_number: int
    reference: bytes
    fee: int


class Facts(Struct, frozen=True, kw_only=True):
    """What the chain shows about one payment, in one block.

    `refusal` is why it cannot be settled as of that block, None where nothing was found.
    `spendable` is how much of the asset the payer can spend (atomic units), `limit` the reason for
    a refusal where that is too little. `authorization_used`: its one-shot nonce is used.
    """

    refusal: Refusal | None
    spendable: int
    authorization_used: bool
    limit: Reason = Reason.INSUFFICIENT_BALANCE
