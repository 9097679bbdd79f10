"""The Jeju way of paying: a signed `Payment` that the X402Facilitator contract executes.

The contract pulls the money with the payer's allowance (`settle`), or with an EIP-3009
authorization that the payer gave to the contract (`settleWithAuthorization`, gasless), keeps its
fee, pays the recipient and emits `PaymentSettled`. The signature is over EIP-712 data whose
verifying contract is that contract.
"""

from collections.abc import Iterable

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from msgspec import Struct

from facilitator.domain.payment import Facts, Payment, Proof, Reason, Refusal
from facilitator.domain.schemes.eip3009 import authorization_key
from facilitator.ethereum.abi import (
    Call,
    Dynamic,
    address_word,
    encode_arguments,
    selector,
    topic,
    uint_word,
)
from facilitator.ethereum.addresses import checksum
from facilitator.ethereum.eip712 import domain_separator, typed_data_digest
from facilitator.ethereum.keccak import keccak256
from facilitator.ethereum.receipts import Log, LogFilter
from facilitator.ethereum.secp256k1 import InvalidSignature, normalise, recover

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
    """Return what the payer signs: the EIP-712 digest of `Payment` under that contract's domain."""
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
    """Return the signer, or a refusal where there is none, or another one than the payer that the
    header names.
    """
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
    # Payers of the service that this one replaces had to sign for the zero address.
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
    """Return a digest that is equal for requests that mean the same payment, however signature and
    JSON are spelt.
    """
    pull = payment.token_authorization
    extra = b""
    if pull is not None:
        times = uint_word(pull.valid_after) + uint_word(pull.valid_before)
        extra = times + pull.authorization_nonce
    return keccak256(digest(payment, payment.contract) + payment.payer + extra)


def payment_keys(payment: JejuPayment) -> tuple[str, str | None]:
    """Return the one-shot nonces that this payment uses up, as the store's unique keys.

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
    """Return the store's unique key of one nonce of the contract."""
    nonce_hash = keccak256(nonce.encode()).hex()
    return f"{chain_id}:0x{contract.hex()}:0x{payer.hex()}:0x{nonce_hash}"


def settlement_call(payment: JejuPayment) -> Call:
    """Return the contract call that moves the money."""
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
    """Return the (target, selector) pairs that a signer may call for this scheme."""
    return frozenset({(contract, SETTLE), (contract, SETTLE_WITH_AUTHORIZATION)})


# --- what the chain shows: facts, proofs, and why a call reverted

_IS_NONCE_USED = selector("isNonceUsed(address,string)")
_SUPPORTED_TOKENS = selector("supportedTokens(address)")
_BALANCE_OF = selector("balanceOf(address)")
_ALLOWANCE = selector("allowance(address,address)")
_AUTHORIZATION_STATE = selector("authorizationState(address,bytes32)")
_GET_STATS = selector("getStats()")
PAYMENT_SETTLED = topic(
    "PaymentSettled(bytes32,address,address,address,uint256,uint256,string,uint256)"
)
# token, amount, protocolFee, resource (a string, compared as its bytes), timestamp
_SETTLED_DATA = ("address", "uint256", "uint256", "bytes", "uint256")


class JejuFacts(Struct, frozen=True, kw_only=True):
    """What the chain shows about one payment. `allowance` is None where none is needed."""

    contract_deployed: bool
    authorization_used: bool
    asset_supported: bool
    balance: int
    allowance: int | None
    token_authorization_used: bool


class ContractState(Struct, frozen=True):
    """The contract's totals and its fee. `volume_usd` has 18 decimals."""

    settlements: int
    volume_usd: int
    fee_bps: int
    fee_recipient: bytes


def stats_call(contract: bytes) -> Call:
    """Return the read whose answer `read_stats` understands."""
    return Call(contract, _GET_STATS)


def read_stats(answer: bytes) -> ContractState | None:
    """Return the contract's totals; None where there is no such contract."""
    if len(answer) != 4 * 32:
        return None
    words = [answer[start : start + 32] for start in range(0, 128, 32)]
    settlements, volume, fee_bps = (int.from_bytes(word) for word in words[:3])
    return ContractState(settlements, volume, fee_bps, words[3][12:])


def fact_calls(payment: JejuPayment) -> tuple[Call, ...]:
    """Return the reads whose answers, in order, `read_facts` understands."""
    payer = address_word(payment.payer)
    used = encode_arguments(payer, Dynamic(payment.authorization_nonce.encode()))
    calls = (
        Call(payment.contract, _IS_NONCE_USED + used),
        Call(payment.contract, _SUPPORTED_TOKENS + address_word(payment.asset)),
        Call(payment.asset, _BALANCE_OF + payer),
    )
    pull = payment.token_authorization
    if pull is None:
        allowance = _ALLOWANCE + payer + address_word(payment.contract)
        return (*calls, Call(payment.asset, allowance))
    state = _AUTHORIZATION_STATE + payer + pull.authorization_nonce
    return (*calls, Call(payment.asset, state))


def read_facts(payment: JejuPayment, answers: tuple[bytes, ...]) -> JejuFacts:
    """Return the facts in the answers to `fact_calls`. An answer that is not one word, as of an
    address without code or with another contract, counts as zero.
    """
    used, supported, balance, last = (_one_word(answer) for answer in answers)
    gasless = payment.token_authorization is not None
    return JejuFacts(
        contract_deployed=len(answers[1]) == 32,
        authorization_used=bool(used),
        asset_supported=bool(supported),
        balance=balance,
        allowance=None if gasless else last,
        token_authorization_used=gasless and bool(last),
    )


def _one_word(answer: bytes) -> int:
    return int.from_bytes(answer) if len(answer) == 32 else 0


def check_facts(payment: JejuPayment, facts: JejuFacts) -> Refusal | None:
    """Refuse what the chain would refuse, as of the block that `facts` were read from."""
    if facts.authorization_used:
        return Refusal(Reason.AUTHORIZATION_USED)
    if not facts.contract_deployed:
        return Refusal(Reason.CONTRACT_NOT_CONFIGURED)
    if not facts.asset_supported:
        return Refusal(Reason.UNSUPPORTED_ASSET)
    if facts.token_authorization_used:
        return Refusal(Reason.AUTHORIZATION_USED_ELSEWHERE)
    if facts.balance < payment.amount:
        return Refusal(Reason.INSUFFICIENT_BALANCE, str(facts.balance), str(payment.amount))
    if facts.allowance is not None and facts.allowance < payment.amount:
        return Refusal(Reason.INSUFFICIENT_ALLOWANCE, str(facts.allowance), str(payment.amount))
    return None


def facts(payment: JejuPayment, answers: tuple[bytes, ...]) -> Facts:
    """Return what the answers to `fact_calls` show."""
    read = read_facts(payment, answers)
    allowed = read.balance if read.allowance is None else read.allowance
    scarce = allowed < read.balance
    return Facts(
        refusal=check_facts(payment, read),
        spendable=min(read.balance, allowed),
        authorization_used=read.authorization_used,
        limit=Reason.INSUFFICIENT_ALLOWANCE if scarce else Reason.INSUFFICIENT_BALANCE,
    )


def used_call(payment: JejuPayment) -> Call:
    """Return the read whose answer is a word: zero where the payment was not executed."""
    return fact_calls(payment)[0]


def proof_filter(payment: JejuPayment) -> LogFilter:
    """Return the filter of the events that may prove the payment."""
    payer, pay_to = address_word(payment.payer), address_word(payment.pay_to)
    return LogFilter(payment.contract, (PAYMENT_SETTLED, None, payer, pay_to))


def find_proof(payment: JejuPayment, logs: Iterable[Log], block_timestamp: int) -> Proof | None:
    """Return the `PaymentSettled` log of this very payment among the logs of one block.

    Its paymentId must be keccak256(packed payer, recipient, nonce, block timestamp), which no other
    nonce gives, and token, amount and resource must be those that the payer signed.
    """
    payment_id = keccak256(
        payment.payer
        + payment.pay_to
        + payment.authorization_nonce.encode()
        + uint_word(block_timestamp)
    )
    payer, pay_to = address_word(payment.payer), address_word(payment.pay_to)
    topics = (PAYMENT_SETTLED, payment_id, payer, pay_to)
    signed = ("0x" + payment.asset.hex(), payment.amount, payment.resource.encode())
    for log in logs:
        if log.address != payment.contract or log.topics != topics:
            continue
        try:
            token, amount, fee, resource, _ = decode(_SETTLED_DATA, log.data)
        except (DecodingError, OverflowError):  # eth-abi's own, and a length that no buffer has
            continue
        if (token, amount, resource) == signed:
            return Proof(
                transaction_hash=log.transaction_hash,
                log_index=log.index,
                block_number=log.block_number,
                reference=payment_id,
                fee=fee,
            )
    return None


_ERROR_REASONS = {
    selector("InvalidSignature()"): Reason.INVALID_SIGNATURE,
    selector("PaymentExpired()"): Reason.EXPIRED,
    selector("NonceAlreadyUsed()"): Reason.AUTHORIZATION_USED_ON_CHAIN,
    selector("UnsupportedToken()"): Reason.UNSUPPORTED_ASSET,
    selector("InvalidRecipient()"): Reason.INVALID_RECIPIENT,
}
# OpenZeppelin's token errors (EIP-6093): account, what it has, what it would need
_INSUFFICIENT = {
    selector("ERC20InsufficientBalance(address,uint256,uint256)"): Reason.INSUFFICIENT_BALANCE,
    selector("ERC20InsufficientAllowance(address,uint256,uint256)"): Reason.INSUFFICIENT_ALLOWANCE,
}


def explain_revert(payment: JejuPayment, data: bytes, now: int) -> Refusal:
    """Return why the contract refused, from the selector of its custom error; `now` in unix
    seconds.
    """
    error = data[:4]
    if error in _INSUFFICIENT and len(data) == 4 + 3 * 32:
        have, need = int.from_bytes(data[36:68]), int.from_bytes(data[68:100])
        return Refusal(_INSUFFICIENT[error], str(have), str(need))
    reason = _ERROR_REASONS.get(error, Reason.TRANSACTION_REVERTED)
    if reason is Reason.EXPIRED:
        # The chain's clock may be ahead of ours: it is the one that counts.
        return Refusal(reason, str(max(now, payment.deadline + 1)), str(payment.deadline))
    if reason is Reason.INVALID_SIGNATURE:
        return Refusal(reason, "the contract does not accept it")
    return Refusal(reason)


def diagnose(payment: JejuPayment, answers: tuple[bytes, ...], data: bytes, now: int) -> Refusal:
    """Return why a call reverted with `data`, given fresh answers to `fact_calls`: the contract's
    own error explains little where a transfer failed.
    """
    return check_facts(payment, read_facts(payment, answers)) or explain_revert(payment, data, now)
