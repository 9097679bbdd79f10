"""What POST /settle asks of the engine, and what it gets back: plain values and pure functions."""

from msgspec import Struct
from msgspec.structs import replace

from facilitator.domain.payment import Proof, Reason, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.domain.settlement import SettlementState
from facilitator.journal.store import SettlementRecord


class SettleReply(Struct, frozen=True):
    """The reply to one request: a proof of payment, or why there is none (yet).

    `transaction_hash`, the settlement's id and its state are set as soon as there is a transaction,
    however it ended. `retry_after` is in seconds, for refusals that are temporary.
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
    """A request to settle a payment whose signature and terms are checked. `dialect` is the name
    in the journal of the dialect that it was made in.
    """

    payment: AnyPayment
    dialect: str
    idempotency_key: IdempotencyKey | None = None


def duplicate(record: SettlementRecord, *, over: bool) -> SettleReply:
    """Return the reply to a request that must not report the outcome. `over`: another one has
    reported success, or nothing more is to be reported.
    """
    return about(record, Refusal(Reason.AUTHORIZATION_USED if over else Reason.BEING_SETTLED))


def reply_of(record: SettlementRecord) -> SettleReply:
    """Return the reply of the one request that reports the outcome."""
    settlement = record.settlement
    if settlement.state is SettlementState.CONFIRMED:
        return replace(about(record, None), proof=settlement.proof)
    return about(record, settlement.refusal or Refusal(Reason.SETTLEMENT_PENDING))


def about(record: SettlementRecord, refusal: Refusal | None) -> SettleReply:
    """Return a reply with this refusal, the settlement's id and state, and the hash of the
    transaction that paid, or else of the last one that was signed for it.
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
