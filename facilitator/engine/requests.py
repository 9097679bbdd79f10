"""What is asked to be settled, and what is told about it: plain values, and pure functions."""

from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from facilitator.domain.payment import Proof, Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.domain.settlement import Settlement, SettlementState
from facilitator.journal.store import SettlementRecord


class SettleReply(Struct, frozen=True):
    """What a request is told: a proof of payment, or why there is none (yet).

    `transaction_hash` is set as soon as there is a transaction, whatever became of it, and with it
    the settlement's id and state; `retry_after` is seconds, for refusals that pass. `body` is the
    reply as the journal keeps it, where the request has an idempotency key of its own.
    """

    proof: Proof | None = None
    refusal: Refusal | None = None
    transaction_hash: bytes | None = None
    settlement_id: str | None = None
    state: SettlementState | None = None
    retry_after: float | None = None
    body: bytes | None = None


class Repetition(Struct, frozen=True):
    """A request's idempotency key, and the digest of what came with it."""

    key: str
    body_digest: bytes


class Order(Struct, frozen=True):
    """A request to settle a payment whose signature and terms are checked.

    `dialect` names who asks in the journal; `encode` writes a final reply as the request will get
    it, to be kept where it may be repeated.
    """

    payment: AnyPayment
    dialect: str
    encode: Callable[[SettleReply], Awaitable[bytes]]
    repetition: Repetition | None = None


def may_open_again(settlement: Settlement, request_digest: bytes) -> bool:
    """Whether this request may settle a payment that has failed."""
    failed = settlement.state is SettlementState.FAILED
    return failed and settlement.request_digest == request_digest


def duplicate(record: SettlementRecord, *, over: bool) -> SettleReply:
    """What a request is told that is not the one to hear the outcome."""
    return about(record, Refusal(Reason.AUTHORIZATION_USED if over else Reason.BEING_SETTLED))


def reply_of(record: SettlementRecord) -> SettleReply:
    """What the one who hears the outcome is told."""
    settlement = record.settlement
    if settlement.state is SettlementState.CONFIRMED:
        return replace(about(record, None), proof=settlement.proof)
    return about(record, settlement.refusal or Refusal(Reason.SETTLEMENT_PENDING))


def about(record: SettlementRecord, refusal: Refusal | None) -> SettleReply:
    """A refusal, with what there is of the settlement: the transaction that paid, or else the last
    one that was signed to.
    """
    settlement = record.settlement
    proof = settlement.proof
    return SettleReply(
        refusal=refusal,
        transaction_hash=(
            proof.transaction_hash if proof else record.transactions[-1].carrying.hash
        ),
        settlement_id=settlement.id,
        state=settlement.state,
    )
