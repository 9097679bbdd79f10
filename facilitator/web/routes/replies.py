"""What the handlers share: JSON replies, and what a reply adds to the log, the span and metrics."""

import math
import time
from typing import Protocol, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from facilitator.chain.answers import to_hex
from facilitator.domain.payment import TEMPORARY, Reason, Refusal
from facilitator.engine.requests import SettleReply
from facilitator.telemetry.logs import describe
from facilitator.telemetry.metrics import MALFORMED, OTHER, REPLAYED, SCHEMES
from facilitator.web.service import Service

__all__ = ["MALFORMED", "REPLAYED"]

# Seconds after which a client may retry what found the chain or the journal out of reach.
RETRY_AFTER = 5
# The refusal of a settlement that has no outcome yet.
PENDING = Refusal(Reason.SETTLEMENT_PENDING)
_STATUS = {
    Reason.IDEMPOTENCY_CONFLICT: 409,
    Reason.INVALID_IDEMPOTENCY_KEY: 400,
    Reason.SIGNER_NOT_CONFIGURED: 503,
    **dict.fromkeys(TEMPORARY, 503),
}
_encode = msgspec.json.Encoder().encode


class Asked(Protocol):
    """The network and the scheme of a request; see `dialect.PaymentRequest`."""

    @property
    def network(self) -> str | None: ...

    @property
    def scheme(self) -> str | None: ...


def service_of(request: Request) -> Service:
    """Return the service that the application's lifespan has built."""
    return cast(Service, request.state.service)


def reply(body: bytes, status: int = 200, retry_after: float | None = None) -> Response:
    """Reply with a JSON body that is encoded already; `retry_after` is in seconds."""
    response = Response(body, status, media_type="application/json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after))
    return response


def json_reply(
    members: dict[str, object], status: int = 200, retry_after: float | None = None
) -> Response:
    """Reply with a JSON object."""
    return reply(_encode(members), status, retry_after)


def refuse(body: bytes, refusal: Refusal, retry_after: float | None = None) -> Response:
    """Reply with a refusal: status 200 unless the request or this service is at fault."""
    if refusal.reason in TEMPORARY:
        retry_after = retry_after or RETRY_AFTER
    return reply(body, _STATUS.get(refusal.reason, 200), retry_after)


def replayed(body: bytes) -> Response:
    """Reply with an earlier reply, byte for byte."""
    describe(outcome="replayed")
    response = reply(body)
    response.headers["Idempotent-Replayed"] = "true"
    return response


# Only words of closed sets, ids and hashes are logged: nothing that a client can write.


def describe_request(dialect: str, asked: Asked | None) -> None:
    """Note who asks for what, as far as it was decoded."""
    describe(dialect=dialect)
    if asked is not None:
        describe(network=asked.network, scheme=asked.scheme if asked.scheme in SCHEMES else None)


def describe_verdict(refusal: Refusal | None) -> None:
    """Note the reply to POST /verify."""
    if refusal is None:
        describe(outcome="valid")
    else:
        describe(outcome="invalid", reason=str(refusal.reason))


def describe_reply(sent: SettleReply) -> None:
    """Note the reply to POST /settle."""
    reason = None if sent.refusal is None else sent.refusal.reason
    if sent.proof is not None:
        outcome = "settled"
    else:
        outcome = "pending" if reason in (None, Reason.SETTLEMENT_PENDING) else "refused"
    describe(
        outcome=outcome,
        reason=None if reason is None else str(reason),
        settlement=sent.settlement_id,
        transaction=None if sent.transaction_hash is None else to_hex(sent.transaction_hash),
    )


def count_verification(
    service: Service, dialect: str, asked: Asked | None, refusal: Refusal | str | None
) -> None:
    """Count a POST /verify; `refusal` is None where the payment is valid."""
    service.metrics.verified(dialect, *_labels(asked), refusal)


def count_settlement(
    service: Service, dialect: str, asked: Asked | None, sent: SettleReply | str, started: float
) -> None:
    """Count a POST /settle; `started` is of time.perf_counter()."""
    result = sent if isinstance(sent, str) else sent.proof or sent.refusal or PENDING
    service.metrics.settled(dialect, *_labels(asked), result, time.perf_counter() - started)


def _labels(asked: Asked | None) -> tuple[str, str]:
    network, scheme = (None, None) if asked is None else (asked.network, asked.scheme)
    return network or OTHER, scheme or OTHER
