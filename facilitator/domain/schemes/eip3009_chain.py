"""What the chain shows of EIP-3009 payments: facts, proofs, and why the token refused."""

from collections.abc import Iterable

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from facilitator.domain.payment import Facts, Proof, Reason, Refusal
from facilitator.domain.schemes.eip3009 import Eip3009Payment, digest
from facilitator.ethereum.abi import address_word, selector, topic, uint_word
from facilitator.ethereum.receipts import Log, LogFilter
from facilitator.ethereum.smart_wallets import is_valid_signature
from facilitator.ethereum.transactions import Call, CodeOf, Read

_BALANCE_OF = selector("balanceOf(address)")
_AUTHORIZATION_STATE = selector("authorizationState(address,bytes32)")
_NAME = selector("name()")
_VERSION = selector("version()")
_ERROR = selector("Error(string)")
AUTHORIZATION_USED = topic("AuthorizationUsed(address,bytes32)")
TRANSFER = topic("Transfer(address,address,uint256)")

REVERT_TEXT_LIMIT = 200  # characters of a token's own words that are repeated


def fact_calls(payment: Eip3009Payment) -> tuple[Read, ...]:
    """The reads whose answers, in order, `facts` understands."""
    return (
        CodeOf(payment.payer),
        CodeOf(payment.asset),
        used_call(payment),
        Call(payment.asset, _BALANCE_OF + address_word(payment.payer)),
    )


def used_call(payment: Eip3009Payment) -> Call:
    """The read that says whether the payment was executed: one word, zero where it was not."""
    state = _AUTHORIZATION_STATE + address_word(payment.payer) + payment.authorization_nonce
    return Call(payment.asset, state)


def wallet_question(payment: Eip3009Payment, answers: tuple[bytes, ...]) -> Call | None:
    """What is left to ask where the payer has code, a delegated key's (EIP-7702) included: only
    that code knows which signatures are the payer's (EIP-1271).
    """
    if not answers[0]:
        return None
    return is_valid_signature(payment.payer, digest(payment), payment.signature)


def facts(payment: Eip3009Payment, answers: tuple[bytes, ...]) -> Facts:
    """What the answers to `fact_calls` come to, the wallet's own answer aside."""
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
    """The reads whose answers, in order, `diagnose` understands."""
    return (*fact_calls(payment), Call(payment.asset, _NAME), Call(payment.asset, _VERSION))


def diagnose(payment: Eip3009Payment, answers: tuple[bytes, ...], data: bytes, now: int) -> Refusal:
    """Why the transfer reverted with `data`; the first cause that fits."""
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
    """A revert in words: its own text, or the selector of its custom error."""
    if data[:4] == _ERROR:
        text = _text(data[4:])
        if text is not None:
            return "".join(c for c in text if c.isprintable())[:REVERT_TEXT_LIMIT]
    return f"0x{data[:4].hex()}" if data else "no reason given"


def proof_filter(payment: Eip3009Payment) -> LogFilter:
    """The event that says in which transaction the authorization was used."""
    topics = (AUTHORIZATION_USED, address_word(payment.payer), payment.authorization_nonce)
    return LogFilter(payment.asset, topics)


def find_proof(payment: Eip3009Payment, logs: Iterable[Log], block_timestamp: int) -> Proof | None:
    """The proof of this very payment among the logs of one transaction: its AuthorizationUsed,
    followed, before any other AuthorizationUsed, by the Transfer of exactly the amount to the
    seller, all of them the asset's. `block_timestamp` plays no part in it.

    The payer's first Transfer after it decides: the payer may have used the nonce otherwise, and
    then have paid the same amount to the same seller for something else, in one transaction.
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
