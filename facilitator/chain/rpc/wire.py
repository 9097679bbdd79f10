"""Calls as JSON-RPC 2.0 writes them, the answers that come back, and how a call can fail."""

import asyncio
import re
from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from facilitator.domain.strict_json import JSON, check_depth
from facilitator.telemetry.tracing import begin

Params = tuple[object, ...]
Answer = dict[str, JSON]
# Takes out of a node's own words what they may repeat of the URL that it was asked under.
Clean = Callable[[str], str]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

# Providers word their limits differently: "batch too large" (geth), "Batch size too large", "batch
# of more than 100 requests are not allowed", "maximum batch size exceeded", "batch requests are not
# supported", "too many requests in batch", "response too large" (geth, once a batch's answers are).
_BATCH_WORDS = re.compile(
    r"batch.*(?:too large|too many|limit|exceed|size|more than|maximum|not (?:supported|allowed))"
    r"|(?:too many|maximum|max|limit).*batch|response (?:is |size )?(?:too large|exceed)",
    re.IGNORECASE | re.DOTALL,
)
# Revert data comes under this code. A contract chooses its own words, and must not choose how many
# calls a POST carries.
_REVERTED_CODE = 3


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


class _Request(msgspec.Struct):
    id: int
    method: str
    params: Params
    jsonrpc: str = "2.0"


class PendingCall:
    """One call on its way: its bytes, who waits for it, and what went wrong so far.

    Raises TypeError for parameters that are no JSON.
    """

    __slots__ = (
        *("body", "faults", "future", "id", "kind", "method", "refusal", "retry_after"),
        *("span", "task", "wants_head"),
    )

    def __init__(
        self, number: int, method: str, params: Params, future: asyncio.Future[JSON]
    ) -> None:
        self.id = number
        self.method = method
        # Encoded here, so that parameters that are no JSON fail their own caller and not the batch.
        self.body = _encode(_Request(number, method, params))
        self.future = future
        self.wants_head = method == "eth_getBlockByNumber" and params[:1] == ("latest",)
        self.span = begin(method)
        if self.span is not None:
            future.add_done_callback(self._answered)
        self.task: asyncio.Task[None] | None = None
        self.faults: list[str] = []
        self.kind = FaultKind.OTHER
        self.retry_after: float | None = None
        self.refusal: RPCError | None = None  # an endpoint's, while others are still to be asked

    def _answered(self, future: asyncio.Future[JSON]) -> None:
        assert self.span is not None
        if future.cancelled():
            self.span.fail("cancelled")
        elif (error := future.exception()) is not None:
            self.span.fail(type(error).__name__)
        self.span.end()

    def fault(self, endpoint: str, fault: TransportError) -> None:
        """Note that an endpoint gave no usable answer."""
        self.faults.append(f"{endpoint}: {fault}")
        self.kind = fault.kind
        if (pause := fault.retry_after) is not None:
            self.retry_after = min(pause, self.retry_after or pause)

    def give_up(self) -> None:
        """Nobody is left to ask."""
        if not self.future.done():
            self.future.set_exception(
                self.refusal
                or TransportError("; ".join(self.faults), self.retry_after, kind=self.kind)
            )


def repeatable(calls: Sequence[PendingCall]) -> bool:
    """Whether these may be posted again when the answer to the first post was lost.

    Reads may, and so may eth_sendRawTransaction: the same bytes are the same transaction.
    """
    return all(
        call.method.startswith("eth_") and call.method != "eth_sendTransaction" for call in calls
    )


def place_of(calls: Sequence[PendingCall]) -> str | None:
    """The place in a trace that a POST belongs to (W3C traceparent), where all of its calls are of
    one trace: a POST has one header, and may carry the calls of many requests.
    """
    places = [None if call.span is None else call.span.context for call in calls]
    first = places[0]
    if first is None or any(each is None or each.trace_id != first.trace_id for each in places):
        return None
    return first.traceparent


def body_of(calls: Sequence[PendingCall]) -> bytes:
    """What is posted: a batch, or the call itself where it is alone."""
    if len(calls) == 1:
        return calls[0].body
    return b"[" + b",".join([call.body for call in calls]) + b"]"


def parse_answers(text: bytes, count: int, clean: Clean) -> dict[int, Answer]:
    """The answers of a POST of `count` calls, by id. An id that came twice belongs to nobody: both
    might be wrong. Raises TransportError where there is no answer at all, BatchRefused where the
    endpoint takes fewer calls a POST.
    """
    try:
        check_depth(text.decode())
        decoded: JSON = _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise TransportError("answer is not JSON", kind=FaultKind.GARBAGE) from None
    if count == 1 and isinstance(decoded, dict):
        decoded = [decoded]
    elif not isinstance(decoded, list):
        raise _unbatched(decoded, count, clean)
    answers: dict[int, Answer] = {}
    repeated = set()
    for answer in decoded:
        if isinstance(answer, dict) and type(number := answer.get("id")) is int:
            if number in answers:
                repeated.add(number)
            answers[number] = answer
            if count > 1 and (error := answer.get("error")) and _refuses_batch(error):
                raise BatchRefused("too many calls in one POST", kind=FaultKind.LIMITED)
    for number in repeated:
        del answers[number]
    if not answers and len(decoded) == 1 and isinstance(decoded[0], dict):
        raise _unbatched(decoded[0], count, clean)
    return answers


def _unbatched(answer: JSON, count: int, clean: Clean) -> TransportError:
    """Return the fault that an answer to no call means: often that the endpoint limits our rate."""
    if not isinstance(answer, dict) or not isinstance(error := answer.get("error"), dict):
        return TransportError("answer to no call", kind=FaultKind.GARBAGE)
    message = f"answer to no call: {clean(str(error.get('message', '')))}"
    if count > 1 and _refuses_batch(error):
        return BatchRefused(message, kind=FaultKind.LIMITED)
    return TransportError(message, kind=FaultKind.GARBAGE)


def _refuses_batch(error: JSON) -> bool:
    if not isinstance(error, dict) or error.get("code") == _REVERTED_CODE:
        return False
    message = str(error.get("message", ""))
    return "revert" not in message and bool(_BATCH_WORDS.search(message))


def settle(
    call: PendingCall,
    answer: Answer | None,
    endpoint: str,
    clean: Clean,
    elsewhere: Callable[[str, RPCError], bool],
) -> bool:
    """Give a call its result or error; note a fault and leave it unanswered otherwise. Whether the
    endpoint gave an answer. `elsewhere` returns whether another endpoint may
    answer a method that this one answered with an error.
    """
    if answer is None:
        call.fault(endpoint, TransportError("no answer to this call", kind=FaultKind.INCOMPLETE))
        return False
    if call.future.done():
        return True  # its caller went away
    if call.span is not None:
        call.span.set({"endpoint": endpoint})
    error = answer.get("error")
    if error is None and "result" in answer:
        call.future.set_result(answer["result"])
    elif isinstance(error, dict) and type(code := error.get("code")) is int:
        message = clean(str(error.get("message", "")))
        refusal = RPCError(code, message, _revert_data(error.get("data")))
        if elsewhere(call.method, refusal):
            call.refusal = refusal
        else:
            call.future.set_exception(refusal)
    else:
        fault = TransportError("neither result nor error", kind=FaultKind.INCOMPLETE)
        call.fault(endpoint, fault)
        return False
    return True


def _revert_data(data: JSON) -> str | None:
    """Geth gives 0x hex; Nethermind and OpenEthereum put "Reverted " before it; Hardhat nests it in
    an object."""
    if isinstance(data, dict):
        data = data.get("data")
    if isinstance(data, str):
        return data.removeprefix("Reverted ")
    return None
