"""The Jeju way of paying: a signed `Payment` that the X402Facilitator contract executes.

The contract pulls the money with the payer's allowance (`settle`), or with an EIP-3009
authorization that the payer gave to the contract (`settleWithAuthorization`, gasless), keeps its
fee, pays the recipient and emits `PaymentSettled`. The signature is over EIP-712 data whose
verifying contract is that contract.
"""

from msgspec import Struct

from facilitator.domain.payment import Payment, Reason, Refusal
from facilitator.domain.schemes.eip3009 import authorization_key
from facilitator.ethereum.abi import (
    Dynamic,
    address_word,
    encode_arguments,
    selector,
    uint_word,
)
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.eip712 import domain_separator, typed_data_digest
from facilitator.ethereum.keccak import keccak256
from facilitator.ethereum.secp256k1 import InvalidSignature, normalise, recover
from facilitator.ethereum.transactions import Call

DOMAIN_NAME = "x402 Payment Protocol"
DOMAIN_VERSION = "1"
SCHEMES = ("exact", "upto")
MAX_SECONDS_AHEAD = 60
# `settle` needs 107 k, the gasless way up to 175 k; a payer's text can make it dearer.
GAS_CAP = 500_000

_PAYMENT_TYPE = keccak256(
    b"Payment(string scheme,string network,address asset,address payTo,uint256 amount,"
    b"string resource,string nonce,uint256 timestamp)"
)
_PAYMENT_ARGUMENTS = "address,address,address,uint256,string,string,uint256,bytes"
SETTLE = selector(f"settle({_PAYMENT_ARGUMENTS})")
SETTLE_WITH_AUTHORIZATION = selector(
    f"settleWithAuthorization({_PAYMENT_ARGUMENTS},uint256,uint256,bytes32,bytes)"
)


class TokenAuthorization(Struct, frozen=True, kw_only=True):
    """EIP-3009: the payer lets the contract pull exactly the amount. Times in unix seconds."""

    valid_after: int
    valid_before: int
    authorization_nonce: bytes
    signature: bytes


class JejuPayment(Payment, frozen=True, kw_only=True, tag="jeju"):
    """A decoded payment header. `contract` is the X402Facilitator that its signature is for, the
    zero address where none is configured; `network` is the name that the payer signed.
    """

    contract: bytes
    scheme: str
    network: str
    resource: str
    authorization_nonce: str
    timestamp: int
    token_authorization: TokenAuthorization | None = None


def digest(payment: JejuPayment, verifying_contract: bytes) -> bytes:
    """What the payer signs: the EIP-712 digest of `Payment` under that contract's domain."""
    struct_hash = keccak256(
        _PAYMENT_TYPE
        + keccak256(payment.scheme.encode())
        + keccak256(payment.network.encode())
        + address_word(payment.asset)
        + address_word(payment.pay_to)
        + uint_word(payment.amount)
        + keccak256(payment.resource.encode())
        + keccak256(payment.authorization_nonce.encode())
        + uint_word(payment.timestamp)
    )
    separator = domain_separator(DOMAIN_NAME, DOMAIN_VERSION, payment.chain_id, verifying_contract)
    return typed_data_digest(separator, struct_hash)


def recover_payer(payment: JejuPayment, claimed_payer: bytes | None) -> bytes | Refusal:
    """Who signed, or why that is not known. A payer that the header names must be the signer."""
    try:
        signature = normalise(payment.signature)
        signer = recover(digest(payment, payment.contract), signature)
    except InvalidSignature as invalid:
        return Refusal(Reason.INVALID_SIGNATURE, str(invalid))
    if claimed_payer is None or signer == claimed_payer:
        return signer
    return Refusal(
        Reason.INVALID_SIGNATURE, _why_another_signer(payment, signature, claimed_payer, signer)
    )


def _why_another_signer(
    payment: JejuPayment, signature: bytes, claimed_payer: bytes, signer: bytes
) -> str:
    # The service that this one replaces told its payers to sign for the zero address.
    zero = bytes(20)
    try:
        if recover(digest(payment, zero), signature) == claimed_payer:
            return (
                f"signed for verifyingContract {checksum(zero)}, "
                f"expected {checksum(payment.contract)}"
            )
    except InvalidSignature:
        pass
    return f"signed by {checksum(signer)}, not by payer {checksum(claimed_payer)}"


def request_digest(payment: JejuPayment) -> bytes:
    """The same for requests that mean the same payment, however signature and JSON are spelt."""
    pull = payment.token_authorization
    extra = b""
    if pull is not None:
        times = uint_word(pull.valid_after) + uint_word(pull.valid_before)
        extra = times + pull.authorization_nonce
    return keccak256(digest(payment, payment.contract) + payment.payer + extra)


def payment_keys(payment: JejuPayment) -> tuple[str, str | None]:
    """The one-shot nonces that this payment uses up, as the store's unique keys.

    Identity is the nonce, never the signature, which has several spellings.
    """
    key = nonce_key(payment.chain_id, payment.contract, payment.payer, payment.authorization_nonce)
    pull = payment.token_authorization
    if pull is None:
        return key, None
    return key, authorization_key(
        payment.chain_id, payment.asset, payment.payer, pull.authorization_nonce
    )


def nonce_key(chain_id: int, contract: bytes, payer: bytes, nonce: str) -> str:
    """The store's unique key of one nonce of the contract."""
    nonce_hash = keccak256(nonce.encode()).hex()
    return f"{chain_id}:0x{contract.hex()}:0x{payer.hex()}:0x{nonce_hash}"


def settlement_call(payment: JejuPayment) -> Call:
    """The contract call that moves the money."""
    payment_arguments = (
        address_word(payment.payer),
        address_word(payment.pay_to),
        address_word(payment.asset),
        uint_word(payment.amount),
        Dynamic(payment.resource.encode()),
        Dynamic(payment.authorization_nonce.encode()),
        uint_word(payment.timestamp),
        Dynamic(normalise(payment.signature)),
    )
    pull = payment.token_authorization
    if pull is None:
        return Call(payment.contract, SETTLE + encode_arguments(*payment_arguments))
    arguments = encode_arguments(
        *payment_arguments,
        uint_word(pull.valid_after),
        uint_word(pull.valid_before),
        pull.authorization_nonce,
        Dynamic(pull.signature),
    )
    return Call(payment.contract, SETTLE_WITH_AUTHORIZATION + arguments)


def allowed_calls(contract: bytes) -> frozenset[tuple[bytes, bytes]]:
    """The (target, selector) pairs that a signer may call for this scheme."""
    return frozenset({(contract, SETTLE), (contract, SETTLE_WITH_AUTHORIZATION)})
