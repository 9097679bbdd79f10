"""The standard scheme `exact` on EVM chains: an EIP-3009 authorization of the token, as it is.

The payer signs a `TransferWithAuthorization` of exactly the price to the seller, under the token's
own EIP-712 domain, and anybody may hand it to the token. A payer that is a contract signs by
EIP-1271; one that is not deployed yet brings its deployment along (EIP-6492), which then happens in
the same transaction as the payment.
"""

from collections.abc import Iterable

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from msgspec import Struct
from msgspec.structs import replace

from facilitator.domain.payment import Facts, Payment, Proof, Reason, Refusal
from facilitator.ethereum.abi import (
    Call,
    CodeOf,
    Dynamic,
    Read,
    address_word,
    encode_arguments,
    selector,
    topic,
    uint_word,
)
from facilitator.ethereum.eip712 import domain_separator, typed_data_digest
from facilitator.ethereum.keccak import keccak256
from facilitator.ethereum.multicall3 import AGGREGATE3, MULTICALL3, Inner, aggregate3
from facilitator.ethereum.receipts import Log, LogFilter
from facilitator.ethereum.secp256k1 import InvalidSignature, normalise, recover
from facilitator.ethereum.smart_wallets import is_valid_signature

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

# The most gas of one settlement: a plain transfer takes 60 to 90 k. A wallet may check a signature
# of another curve (passkeys, about 350 k); deploying it costs some hundred thousand more.
GAS_BY_KEY = 500_000
GAS_BY_WALLET = 1_000_000
GAS_WITH_DEPLOYMENT = 3_000_000


class Deployment(Struct, frozen=True):
    """The call that deploys a payer's contract (EIP-6492). `listed`: the operator allows this
    factory.
    """

    factory: bytes
    calldata: bytes
    listed: bool


class Eip3009Payment(Payment, frozen=True, kw_only=True, tag="eip3009"):
    """An authorization, valid strictly between `valid_after` and `valid_before` (unix seconds).

    `domain_name` and `domain_version` are those that it was signed under. `signature` is the inner
    one where it came wrapped. `signed_by_key`: it recovers to the payer's own address.
    """

    authorization_nonce: bytes
    valid_after: int
    valid_before: int
    domain_name: str
    domain_version: str
    signed_by_key: bool = False
    deployment: Deployment | None = None


def digest(payment: Eip3009Payment) -> bytes:
    """Return what the payer signs (EIP-3009), under the domain of the asset's contract."""
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
    """Return the payment with `signed_by_key` set if its signature is the payer's own key's."""
    try:
        signature = normalise(payment.signature)
        if recover(digest(payment), signature) == payment.payer:
            return replace(payment, signature=signature, signed_by_key=True)
    except InvalidSignature:
        pass
    return payment


def as_signed(payment: Eip3009Payment, factories: frozenset[bytes]) -> Eip3009Payment:
    """Return the payment with `signed_by_key` set, and `listed` if `factories` has its factory."""
    deployment = payment.deployment
    if deployment is not None:
        listed = deployment.factory in factories
        payment = replace(payment, deployment=replace(deployment, listed=listed))
    signed = attributed(payment)
    if signed.signed_by_key and signed.deployment is not None and signed.deployment.listed:
        # A payer with a key needs no contract, so we pay for no deployment.
        return as_deployed(signed)
    return signed


def as_deployed(payment: Eip3009Payment) -> Eip3009Payment:
    """Return the same payment without a deployment."""
    return replace(payment, deployment=None)


def signed_by_code(payment: Eip3009Payment) -> bool:
    """Return whether only the payer's contract, deployed or to be deployed, can decide if the
    signature is valid.
    """
    return not payment.signed_by_key or payment.deployment is not None


def valid_after(payment: Eip3009Payment) -> int | None:
    """Return the unix seconds that the block must be later than; None where any block will do."""
    return payment.valid_after or None


def request_digest(payment: Eip3009Payment) -> bytes:
    """Return a digest that is equal for requests that mean the same payment, however signature and
    JSON are spelt.

    Where only the payer's contract can check the signature, another signature is another request,
    so that a forged one gets nothing of the true one's outcome.
    """
    signed = digest(payment) + payment.payer
    return keccak256(signed if payment.signed_by_key else signed + payment.signature)


def payment_keys(payment: Eip3009Payment) -> tuple[str, None]:
    """Return the one-shot nonce that this payment uses up, as the store's unique key."""
    return authorization_key(
        payment.chain_id, payment.asset, payment.payer, payment.authorization_nonce
    ), None


def authorization_key(chain_id: int, asset: bytes, payer: bytes, nonce: bytes) -> str:
    """Return the store's unique key of one EIP-3009 nonce."""
    return f"{chain_id}:0x{asset.hex()}:0x{payer.hex()}:0x{nonce.hex()}"


def groupable(payment: Eip3009Payment) -> bool:
    """Return whether the token only has to check a key's signature, and nothing is deployed."""
    return payment.signed_by_key and payment.deployment is None


def settlement_call(payment: Eip3009Payment) -> Call:
    """Return the call that moves the money, in the overload that fits the signature."""
    transfer = _transfer(payment)
    deployment = payment.deployment
    if deployment is None or not deployment.listed:
        return transfer
    # The deployment may fail: somebody may have made it already. A transfer that fails undoes both.
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
    """Return the most gas that settling this payment may take."""
    if payment.deployment is not None and payment.deployment.listed:
        return GAS_WITH_DEPLOYMENT
    return GAS_BY_KEY if payment.signed_by_key else GAS_BY_WALLET


def allowed_calls(
    assets: tuple[bytes, ...], *, deployments: bool
) -> frozenset[tuple[bytes, bytes]]:
    """Return the (target, selector) pairs that a signer may call for this scheme."""
    transfers = {
        (asset, name) for asset in assets for name in (TRANSFER_BY_KEY, TRANSFER_BY_WALLET)
    }
    return frozenset(transfers | ({(MULTICALL3, AGGREGATE3)} if deployments else set()))


# --- what the chain shows: facts, proofs, and why a call reverted

_BALANCE_OF = selector("balanceOf(address)")
_AUTHORIZATION_STATE = selector("authorizationState(address,bytes32)")
_NAME = selector("name()")
_VERSION = selector("version()")
_ERROR = selector("Error(string)")
AUTHORIZATION_USED = topic("AuthorizationUsed(address,bytes32)")
TRANSFER = topic("Transfer(address,address,uint256)")

REVERT_TEXT_LIMIT = 200  # characters of a token's revert text that are repeated


def fact_calls(payment: Eip3009Payment) -> tuple[Read, ...]:
    """Return the reads whose answers, in order, `facts` understands."""
    return (
        CodeOf(payment.payer),
        CodeOf(payment.asset),
        used_call(payment),
        Call(payment.asset, _BALANCE_OF + address_word(payment.payer)),
    )


def used_call(payment: Eip3009Payment) -> Call:
    """Return the read whose answer is a word: zero where the payment was not executed."""
    state = _AUTHORIZATION_STATE + address_word(payment.payer) + payment.authorization_nonce
    return Call(payment.asset, state)


def wallet_question(payment: Eip3009Payment, answers: tuple[bytes, ...]) -> Call | None:
    """Return the call that asks the payer's code about the signature (EIP-1271), a delegated key's
    code (EIP-7702) included; None where the payer has no code.
    """
    if not answers[0]:
        return None
    return is_valid_signature(payment.payer, digest(payment), payment.signature)


def facts(payment: Eip3009Payment, answers: tuple[bytes, ...]) -> Facts:
    """Return the facts in the answers to `fact_calls`; the wallet's own answer is not in them."""
    state, balance = answers[2], answers[3]
    used = len(state) == 32 and bool(int.from_bytes(state))
    return Facts(
        refusal=_check(payment, answers),
        spendable=int.from_bytes(balance) if len(balance) == 32 else 0,
        authorization_used=used,
    )


def _check(payment: Eip3009Payment, answers: tuple[bytes, ...]) -> Refusal | None:
    payer_code, asset_code, state = answers[:3]
    if not payer_code:
        deployment = payment.deployment
        if deployment is not None and not deployment.listed:
            return Refusal(Reason.UNLISTED_FACTORY)
        if deployment is None and not payment.signed_by_key:
            return Refusal(Reason.INVALID_SIGNATURE, "not signed by the payer")
    if not asset_code:
        return Refusal(Reason.ASSET_NOT_DEPLOYED)
    if len(state) != 32:
        return Refusal(Reason.ASSET_WITHOUT_AUTHORIZATIONS)
    if int.from_bytes(state):
        return Refusal(Reason.AUTHORIZATION_USED)
    return None


def diagnosis_calls(payment: Eip3009Payment) -> tuple[Read, ...]:
    """Return the reads whose answers, in order, `diagnose` understands."""
    return (*fact_calls(payment), Call(payment.asset, _NAME), Call(payment.asset, _VERSION))


def diagnose(payment: Eip3009Payment, answers: tuple[bytes, ...], data: bytes, now: int) -> Refusal:
    """Return why the transfer reverted with `data`; the first cause that fits."""
    balance = facts(payment, answers).spendable
    refusal = _check(payment, answers)
    if refusal is not None:
        return refusal
    if _text(answers[4]) != payment.domain_name:
        return Refusal(Reason.ASSET_NAME_MISMATCH)
    if _text(answers[5]) != payment.domain_version:
        return Refusal(Reason.ASSET_VERSION_MISMATCH)
    if balance < payment.amount:
        return Refusal(Reason.INSUFFICIENT_BALANCE, str(balance), str(payment.amount))
    return Refusal(Reason.TRANSACTION_REVERTED, _revert_text(data))


def _text(answer: bytes) -> str | None:
    try:
        (text,) = decode(["string"], answer)
    except (DecodingError, OverflowError, UnicodeDecodeError):
        return None
    return str(text)


def _revert_text(data: bytes) -> str:
    """Return the text of a revert, or the selector of its custom error."""
    if data[:4] == _ERROR:
        text = _text(data[4:])
        if text is not None:
            return "".join(c for c in text if c.isprintable())[:REVERT_TEXT_LIMIT]
    return f"0x{data[:4].hex()}" if data else "no reason given"


def proof_filter(payment: Eip3009Payment) -> LogFilter:
    """Return the filter of the event that the asset logs when the authorization is used."""
    topics = (AUTHORIZATION_USED, address_word(payment.payer), payment.authorization_nonce)
    return LogFilter(payment.asset, topics)


def find_proof(payment: Eip3009Payment, logs: Iterable[Log], block_timestamp: int) -> Proof | None:
    """Return the proof of this very payment among the logs of one transaction: its
    AuthorizationUsed, followed, before any other AuthorizationUsed, by the Transfer of exactly the
    amount to the seller, all of them the asset's. `block_timestamp` plays no part in it.

    Only the payer's first Transfer after it counts: in one transaction the payer may have used the
    nonce otherwise, and then paid the same amount to the same seller for something else.
    """
    used = proof_filter(payment).topics
    payer = address_word(payment.payer)
    transfer = (TRANSFER, payer, address_word(payment.pay_to))
    armed = False
    for log in sorted(logs, key=lambda log: log.index):
        if log.address != payment.asset or not log.topics:
            continue
        if log.topics[0] == AUTHORIZATION_USED:
            armed = log.topics == used
        elif armed and log.topics[:2] == (TRANSFER, payer):
            if log.topics != transfer or log.data != uint_word(payment.amount):
                return None
            return Proof(
                transaction_hash=log.transaction_hash,
                log_index=log.index,
                block_number=log.block_number,
                reference=payment.authorization_nonce,
                fee=0,
            )
    return None
