"""The standard scheme `exact` on EVM chains: an EIP-3009 authorization of the token, as it is.

The payer signs a `TransferWithAuthorization` of exactly the price to the seller, under the token's
own EIP-712 domain, and anybody may hand it to the token. A payer that is a contract signs by
EIP-1271; one that is not deployed yet brings its deployment along (EIP-6492), which then happens in
the same transaction as the payment.
"""

from msgspec import Struct
from msgspec.structs import replace

from facilitator.domain.payment import Payment
from facilitator.ethereum.abi import (
    Dynamic,
    address_word,
    encode_arguments,
    selector,
    uint_word,
)
from facilitator.ethereum.eip712 import domain_separator, typed_data_digest
from facilitator.ethereum.keccak import keccak256
from facilitator.ethereum.multicall3 import AGGREGATE3, MULTICALL3, Inner, aggregate3
from facilitator.ethereum.secp256k1 import InvalidSignature, normalise, recover
from facilitator.ethereum.transactions import Call

SCHEME = "exact"

_TRANSFER_TYPE = keccak256(
    b"TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    b"uint256 validBefore,bytes32 nonce)"
)
_TRANSFER_ARGUMENTS = "address,address,uint256,uint256,uint256,bytes32"
# FiatTokenV2 and V2_2: the signature as three words, or as bytes that a wallet may read.
TRANSFER_BY_KEY = selector(
    f"transferWithAuthorization({_TRANSFER_ARGUMENTS},uint8,bytes32,bytes32)"
)
TRANSFER_BY_WALLET = selector(f"transferWithAuthorization({_TRANSFER_ARGUMENTS},bytes)")

# What a call of ours may burn: a plain transfer takes 60 to 90 k. A wallet may check a signature
# of another curve (passkeys, about 350 k); deploying it costs some hundred thousand more.
GAS_BY_KEY = 500_000
GAS_BY_WALLET = 1_000_000
GAS_WITH_DEPLOYMENT = 3_000_000


class Deployment(Struct, frozen=True):
    """How a payer that is no contract yet becomes one (EIP-6492). `listed` says that the operator
    allows this factory.
    """

    factory: bytes
    calldata: bytes
    listed: bool


class Eip3009Payment(Payment, frozen=True, kw_only=True, tag="eip3009"):
    """An authorization, valid strictly between `valid_after` and `valid_before` (unix seconds).

    `domain_name` and `domain_version` are those that it was signed under. `signature` is the inner
    one where it came wrapped. `signed_by_key` says that it recovers to the payer's own address.
    """

    authorization_nonce: bytes
    valid_after: int
    valid_before: int
    domain_name: str
    domain_version: str
    signed_by_key: bool = False
    deployment: Deployment | None = None


def digest(payment: Eip3009Payment) -> bytes:
    """What the payer signs (EIP-3009), under the domain of the asset's contract."""
    separator = domain_separator(
        payment.domain_name, payment.domain_version, payment.chain_id, payment.asset
    )
    return typed_data_digest(separator, keccak256(_TRANSFER_TYPE + _authorization(payment)))


def _authorization(payment: Eip3009Payment) -> bytes:
    return (
        address_word(payment.payer)
        + address_word(payment.pay_to)
        + uint_word(payment.amount)
        + uint_word(payment.valid_after)
        + uint_word(payment.valid_before)
        + payment.authorization_nonce
    )


def attributed(payment: Eip3009Payment) -> Eip3009Payment:
    """The same payment, knowing whether its signature is the payer's own (65 bytes, low s)."""
    try:
        signature = normalise(payment.signature)
        if recover(digest(payment), signature) == payment.payer:
            return replace(payment, signature=signature, signed_by_key=True)
    except InvalidSignature:
        pass
    return payment


def request_digest(payment: Eip3009Payment) -> bytes:
    """The same for requests that mean the same payment, however signature and JSON are spelt.

    Where only the payer's contract can tell whose signature counts, another signature is another
    request, so that a forged one hears nothing of the true one's outcome.
    """
    signed = digest(payment) + payment.payer
    return keccak256(signed if payment.signed_by_key else signed + payment.signature)


def payment_keys(payment: Eip3009Payment) -> tuple[str, None]:
    """The one-shot nonce that this payment uses up, as the store's unique key."""
    return authorization_key(
        payment.chain_id, payment.asset, payment.payer, payment.authorization_nonce
    ), None


def authorization_key(chain_id: int, asset: bytes, payer: bytes, nonce: bytes) -> str:
    """The store's unique key of one EIP-3009 nonce."""
    return f"{chain_id}:0x{asset.hex()}:0x{payer.hex()}:0x{nonce.hex()}"


def groupable(payment: Eip3009Payment) -> bool:
    """Whether a key's signature is all that the token has to check."""
    return payment.signed_by_key and payment.deployment is None


def settlement_call(payment: Eip3009Payment) -> Call:
    """The call that moves the money, in the overload that fits the signature."""
    transfer = _transfer(payment)
    deployment = payment.deployment
    if deployment is None or not deployment.listed:
        return transfer
    # Somebody may have deployed the wallet in the meantime; nothing is deployed without paying.
    deploy = Call(deployment.factory, deployment.calldata)
    return aggregate3(Inner(deploy, may_fail=True), Inner(transfer, may_fail=False))


def _transfer(payment: Eip3009Payment) -> Call:
    words = _authorization(payment)
    if payment.signed_by_key:
        r, s, v = payment.signature[:32], payment.signature[32:64], payment.signature[64]
        return Call(payment.asset, TRANSFER_BY_KEY + words + uint_word(v) + r + s)
    arguments = [words[start : start + 32] for start in range(0, len(words), 32)]
    encoded = encode_arguments(*arguments, Dynamic(payment.signature))
    return Call(payment.asset, TRANSFER_BY_WALLET + encoded)


def gas_cap(payment: Eip3009Payment) -> int:
    """The most gas that settling this payment may take."""
    if payment.deployment is not None and payment.deployment.listed:
        return GAS_WITH_DEPLOYMENT
    return GAS_BY_KEY if payment.signed_by_key else GAS_BY_WALLET


def allowed_calls(
    assets: tuple[bytes, ...], *, deployments: bool
) -> frozenset[tuple[bytes, bytes]]:
    """The (target, selector) pairs that a signer may call for this scheme."""
    transfers = {
        (asset, name) for asset in assets for name in (TRANSFER_BY_KEY, TRANSFER_BY_WALLET)
    }
    return frozenset(transfers | ({(MULTICALL3, AGGREGATE3)} if deployments else set()))
