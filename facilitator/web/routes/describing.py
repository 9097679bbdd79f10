"""What a request to verify or settle came to, for its line in the log and its span.

Words of closed sets, ids and hashes: nothing that the client can write.
"""

from facilitator.chain.answers import to_hex
from facilitator.dialects.jeju.decode import JejuRequest
from facilitator.dialects.x402.decode import X402Request
from facilitator.domain.payment import Reason, Refusal
from facilitator.engine.settle import SettleReply
from facilitator.telemetry.logs import describe

SCHEMES = frozenset({"exact", "upto"})


def describe_request(dialect: str, decoded: object) -> None:
    """Who asks, and for what, as far as it was understood."""
    describe(dialect=dialect)
    if isinstance(decoded, JejuRequest | X402Request):
        scheme, served = decoded.requirements.scheme, decoded.served
        describe(
            network=None if served is None else served.network.name,
            scheme=scheme if scheme in SCHEMES else None,
        )


def describe_verdict(refusal: Refusal | None) -> None:
    """What POST /verify says."""
    if refusal is None:
        describe(outcome="valid")
    else:
        describe(outcome="invalid", reason=str(refusal.reason))


def describe_outcome(told: SettleReply) -> None:
    """What POST /settle says."""
    reason = None if told.refusal is None else told.refusal.reason
    if told.proof is not None:
        outcome = "settled"
    else:
        outcome = "pending" if reason in (None, Reason.SETTLEMENT_PENDING) else "refused"
    describe(
        outcome=outcome,
        reason=None if reason is None else str(reason),
        settlement=told.settlement_id,
        transaction=None if told.transaction_hash is None else to_hex(told.transaction_hash),
    )
