"""The ways of moving money, one file each: what is signed and executed, what the chain shows.

What differs between them is in one table, `Scheme`. All other code asks `scheme_of(payment)`; only
the dialects, which decode and encode them, know the payment classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from facilitator.domain.payment import Facts, Payment, Proof, Refusal
from facilitator.domain.schemes import eip3009, jeju
from facilitator.domain.schemes.eip3009 import Eip3009Payment
from facilitator.domain.schemes.jeju import JejuPayment
from facilitator.ethereum.abi import Call, Read
from facilitator.ethereum.addresses import ZERO_ADDRESS
from facilitator.ethereum.receipts import Log, LogFilter

AnyPayment = JejuPayment | Eip3009Payment
P = TypeVar("P", bound=Payment)
Answers = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Scheme(Generic[P]):
    """One way of moving money: pure functions of a payment.

    `name`: the scheme as x402 calls it, "exact" or "upto".
    `nonce_text`: the payer's one-shot nonce, as the payer wrote it.
    `expiry_first`: whether a payment that is both too early and too late is reported as too late.
    `reports_conflicts`: whether the refusal of a payment whose nonce the journal has names the
    cause: the nonce is another payment's, or is about to be used. Where not, the refusal is always
    that the authorization is used.
    `is_executable`: whether there is a contract that could execute it; without one, nothing about
    it can be read from the chain.
    `as_signed`: the payment with what its signature shows about its signer, given the factories
    that may deploy a payer's wallet (EIP-6492).
    `signed_by_code`: whether only the payer's contract can decide if the signature is valid.
    `as_deployed`: the payment once its payer's contract is deployed.
    `valid_after`: the unix seconds that the timestamp of its block must exceed; None for any block.
    `payment_keys`: the one-shot nonces that it uses up, as the store's unique keys.
    `request_digest`: a digest that is equal for requests that mean the same payment.
    `groupable`: whether it may share a transaction, where the payer has no code: the money moves
    whoever calls, and only code of the asset and the contract runs.
    `settlement_call`, `gas_cap`: what moves the money, and the most gas that it may take.
    `fact_calls`, `facts`: what to read about it, and the facts in the answers.
    `used_call`: the read that returns whether it was executed, a word that is zero where not.
    `wallet_question`: the call that asks the payer's own contract about the signature, given those
    answers; None where there is none to ask.
    `diagnosis_calls`, `diagnose`: what to read after its call reverted, and why it did (answers,
    revert data, now in unix seconds).
    `proof_filter`, `find_proof`: the events that prove it, and the proof among a transaction's logs
    (given the timestamp of their block, in unix seconds).
    """

    name: Callable[[P], str]
    nonce_text: Callable[[P], str]
    expiry_first: bool
    reports_conflicts: bool
    is_executable: Callable[[P], bool]
    as_signed: Callable[[P, frozenset[bytes]], P]
    signed_by_code: Callable[[P], bool]
    as_deployed: Callable[[P], P]
    valid_after: Callable[[P], int | None]
    payment_keys: Callable[[P], tuple[str, str | None]]
    request_digest: Callable[[P], bytes]
    groupable: Callable[[P], bool]
    settlement_call: Callable[[P], Call]
    gas_cap: Callable[[P], int]
    fact_calls: Callable[[P], tuple[Read, ...]]
    facts: Callable[[P, Answers], Facts]
    used_call: Callable[[P], Call]
    wallet_question: Callable[[P, Answers], Call | None]
    diagnosis_calls: Callable[[P], tuple[Read, ...]]
    diagnose: Callable[[P, Answers, bytes, int], Refusal]
    proof_filter: Callable[[P], LogFilter]
    find_proof: Callable[[P, Iterable[Log], int], Proof | None]


_JEJU: Scheme[JejuPayment] = Scheme(
    name=lambda payment: payment.scheme,
    nonce_text=lambda payment: payment.authorization_nonce,
    expiry_first=False,
    reports_conflicts=False,
    is_executable=lambda payment: payment.contract != ZERO_ADDRESS,
    as_signed=lambda payment, _: payment,  # its dialect has recovered the signer
    signed_by_code=lambda _: False,  # the contract only recovers keys
    as_deployed=lambda payment: payment,
    valid_after=lambda _: None,
    payment_keys=jeju.payment_keys,
    request_digest=jeju.request_digest,
    groupable=lambda _: True,  # the contract only recovers keys
    settlement_call=jeju.settlement_call,
    gas_cap=lambda _: jeju.GAS_CAP,
    fact_calls=jeju.fact_calls,
    facts=jeju.facts,
    used_call=jeju.used_call,
    wallet_question=lambda _, __: None,  # the contract only recovers keys
    diagnosis_calls=jeju.fact_calls,
    diagnose=jeju.diagnose,
    proof_filter=jeju.proof_filter,
    find_proof=jeju.find_proof,
)
_EIP3009: Scheme[Eip3009Payment] = Scheme(
    name=lambda _: eip3009.SCHEME,
    nonce_text=lambda payment: f"0x{payment.authorization_nonce.hex()}",
    expiry_first=True,
    reports_conflicts=True,
    is_executable=lambda _: True,  # by the asset
    as_signed=eip3009.as_signed,
    signed_by_code=eip3009.signed_by_code,
    as_deployed=eip3009.as_deployed,
    valid_after=eip3009.valid_after,
    payment_keys=eip3009.payment_keys,
    request_digest=eip3009.request_digest,
    groupable=eip3009.groupable,
    settlement_call=eip3009.settlement_call,
    gas_cap=eip3009.gas_cap,
    fact_calls=eip3009.fact_calls,
    facts=eip3009.facts,
    used_call=eip3009.used_call,
    wallet_question=eip3009.wallet_question,
    diagnosis_calls=eip3009.diagnosis_calls,
    diagnose=eip3009.diagnose,
    proof_filter=eip3009.proof_filter,
    find_proof=eip3009.find_proof,
)
_SCHEMES: dict[type, Scheme[Any]] = {JejuPayment: _JEJU, Eip3009Payment: _EIP3009}


def scheme_of(payment: Payment) -> Scheme[Any]:
    """Return the scheme of a payment."""
    return _SCHEMES[type(payment)]
