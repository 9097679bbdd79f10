"""What requests to verify and to settle came to, for the metrics."""

import time

from facilitator.dialects.jeju.decode import JejuRequest
from facilitator.dialects.x402.decode import X402Request
from facilitator.domain.payment import Reason, Refusal
from facilitator.engine.settle import SettleReply
from facilitator.telemetry.metrics import MALFORMED, OTHER, REPLAYED
from facilitator.web.service import Service

__all__ = ["MALFORMED", "REPLAYED", "count_settlement", "count_verification"]

_PENDING = Refusal(Reason.SETTLEMENT_PENDING)


def count_verification(
    service: Service, dialect: str, decoded: object, refusal: Refusal | str | None
) -> None:
    """POST /verify was answered; `refusal` is None where the payment is valid."""
    service.metrics.verified(dialect, *_asked(decoded), refusal)


def count_settlement(
    service: Service, dialect: str, decoded: object, told: SettleReply | str, started: float
) -> None:
    """POST /settle was answered; `started` is of time.perf_counter()."""
    outcome = told if isinstance(told, str) else told.proof or told.refusal or _PENDING
    seconds = time.perf_counter() - started
    service.metrics.settled(dialect, *_asked(decoded), outcome, seconds)


def _asked(decoded: object) -> tuple[str, str]:
    """The network and the scheme, as far as they were understood and are ours."""
    if isinstance(decoded, JejuRequest | X402Request):
        network = OTHER if decoded.served is None else decoded.served.network.name
        return network, decoded.requirements.scheme
    return OTHER, OTHER
