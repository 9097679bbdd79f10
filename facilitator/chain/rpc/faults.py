"""How a call can fail."""

from enum import StrEnum


class FaultKind(StrEnum):
    """Why an endpoint gave no usable answer; also the label under which faults are counted."""

    TIMEOUT = "timeout"
    CONNECT = "connect"
    DISCONNECTED = "disconnected"
    LIMITED = "limited"  # HTTP 429, or 503 with a Retry-After
    HTTP = "http"  # any other status than 200, redirects included
    TOO_LARGE = "too_large"
    GARBAGE = "garbage"  # not JSON, or answers to nothing that was asked
    INCOMPLETE = "incomplete"  # some of the calls were answered
    WRONG_CHAIN = "wrong_chain"
    STALE = "stale"
    EXCLUDED = "excluded"  # not asked at all
    OTHER = "other"


class RPCError(Exception):
    """The node answered this call with an error.

    `code` and `message` are the node's (URLs in the message are blanked), `data` is the revert data
    as 0x hex where the node gave any.
    """

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.message} (code {self.code})"


class TransportError(Exception):
    """No endpoint gave a usable answer; whether the call took effect is unknown.

    `retry_after` is in seconds, when an endpoint asked for a pause.
    """

    def __init__(
        self, message: str, retry_after: float | None = None, kind: FaultKind = FaultKind.OTHER
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.kind = kind


class BatchRefused(TransportError):
    """The endpoint takes fewer calls in one POST."""
