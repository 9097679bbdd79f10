"""What POST /settle asks of the engine, and what it gets back: plain values and pure functions."""

from msgspec import Struct
from msgspec.structs import replace

from facilitator.domain.payment import Proof, Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.domain.settlement import SettlementState
from facilitator.journal.store import SettlementRecord


class SettleReply(Struct, frozen=True):
    """The reply to one request: a proof of payment, or why there is none (yet).

    `transaction_hash` is set as soon as there is a transaction, whatever became of it, and with it
    the settlement's id and state; `retry_after` is seconds, for refusals that pass.
    """

    proof: Proof | None = None
    refusal: Refusal | None = None
    transaction_hash: bytes | None = None
    settlement_id: str | None = None
    state: SettlementState | None = None
    retry_after: float | None = None


class IdempotencyKey(Struct, frozen=True):
    """The `Idempotency-Key` that a seller gave a request, and the digest of its path and body."""

    key: str
    body_digest: bytes


class SettleRequest(Struct, frozen=True):
    """A request to settle a payment whose signature and terms are checked. `dialect` is the
    journal's name for how it was asked.
    """

    payment: AnyPayment
    dialect: str
    idempotency_key: IdempotencyKey | None = None


def duplicate(record: SettlementRecord, *, over: bool) -> SettleReply:
    """Return the reply to a request that is not the one to hear the outcome. `over`: another one
    was told of success, or there is none to hear.
    """
    return about(record, Refusal(Reason.AUTHORIZATION_USED if over else Reason.BEING_SETTLED))


def reply_of(record: SettlementRecord) -> SettleReply:
    """Return the reply to the one request that hears the outcome."""
    settlement = record.settlement
    if settlement.state is SettlementState.CONFIRMED:
        return replace(about(record, None), proof=settlement.proof)
    return about(record, settlement.refusal or Refusal(Reason.SETTLEMENT_PENDING))


def about(record: SettlementRecord, refusal: Refusal | None) -> SettleReply:
    """Return a reply with this refusal, and what there is of the settlement: the transaction that
    paid, or else the last one that was signed to.
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
