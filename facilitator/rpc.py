"""JSON-RPC 2.0 over HTTP for one chain: coalesced batches, deadlines, failover, two error classes.

Calls made in the same turn of the event loop, by whichever requests, leave as one POST. A call ends
in exactly one of three ways: a result, RPCError (the node answered this call with an error; asking
another node would be asking for a second opinion) or TransportError (nobody gave a usable answer;
what was asked may still have happened). Endpoints are named "jeju#0": their URLs carry API keys and
appear in no error.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence

import aiohttp
import msgspec
from yarl import URL

from facilitator.strict_json import JSON, check_depth
from facilitator.telemetry import REDACTED, url_secrets

RESPONSE_LIMIT = 16 * 1024 * 1024  # bytes, after decompression
PENALTY = 5.0  # seconds for which an endpoint that failed is asked last
RETRY_AFTER_LIMIT = 60.0  # seconds; a longer Retry-After is not obeyed any longer than this
MESSAGE_LIMIT = 500  # characters of a node's own error text that we keep

Params = tuple[object, ...]

_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
_URL = re.compile(r"\w+://\S+")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


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

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _Request(msgspec.Struct):
    id: int
    method: str
    params: Params
    jsonrpc: str = "2.0"


class _Call:
    """One call on its way: its bytes, who waits for it, and what went wrong so far."""

    __slots__ = ("body", "faults", "future", "id", "retry_after", "task")

    def __init__(self, number: int, body: bytes, future: asyncio.Future[JSON]) -> None:
        self.id = number
        self.body = body
        self.future = future
        self.task: asyncio.Task[None] | None = None
        self.faults: list[str] = []
        self.retry_after: float | None = None

    def fault(self, text: str, retry_after: float | None = None) -> None:
        self.faults.append(text)
        if retry_after is not None:
            self.retry_after = min(retry_after, self.retry_after or retry_after)


class _Endpoint:
    __slots__ = ("name", "penalised_until", "secrets", "silent_until", "url")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.url = URL(text)
        self.penalised_until = 0.0  # event loop time
        self.silent_until = 0.0  # event loop time; set by a Retry-After
        self.secrets = url_secrets(text)

    def clean(self, message: str) -> str:
        """A node's own words, without what it may repeat of the URL that it was asked under."""
        for secret in self.secrets:
            message = message.replace(secret, REDACTED)
        return _URL.sub(REDACTED, message)[:MESSAGE_LIMIT]


class RPC:
    """The nodes of one chain, the first preferred. The session belongs to the caller."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        name: str,
        session: aiohttp.ClientSession,
        timeout: float = 10.0,
        batch_limit: int = 100,
        response_limit: int = RESPONSE_LIMIT,
        penalty: float = PENALTY,
    ) -> None:
        """`name` is the network's; `timeout` is seconds for one POST, its answer's body included;
        `batch_limit` is calls a POST; `response_limit` is bytes; `penalty` is seconds."""
        if not urls:
            raise ValueError(f"{name}: no RPC URL")
        self._endpoints = [_Endpoint(f"{name}#{index}", url) for index, url in enumerate(urls)]
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._timeout_fault = f"no answer within {timeout:g} s"
        self._batch_limit = batch_limit
        self._response_limit = response_limit
        self._penalty = penalty
        self._last_id = 0
        self._queue: list[_Call] = []
        self._in_flight: dict[asyncio.Task[None], list[_Call]] = {}

    async def call(self, method: str, *params: object) -> JSON:
        """The node's `result`; raises RPCError or TransportError."""
        call = self._enqueue(method, params)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._abandon(call)
            raise

    async def call_all(self, calls: Iterable[tuple[str, Params]]) -> list[JSON | RPCError]:
        """The same for several calls, each a method and its parameters: of each, in order, the
        result or the error. Raises TransportError where any has neither.

        One caller waits for all: a task for each would cost more than everything else about them.
        """
        queued: list[_Call] = []
        answers: list[JSON | RPCError] = []
        try:
            for method, params in calls:
                queued.append(self._enqueue(method, params))
            for call in queued:
                try:
                    answers.append(await call.future)
                except RPCError as error:
                    answers.append(error)
        except BaseException:
            for call in queued:
                if not call.future.cancel() and not call.future.cancelled():
                    call.future.exception()  # or asyncio would report that nobody asked for it
                self._abandon(call)
            raise
        return answers

    def _enqueue(self, method: str, params: Params) -> _Call:
        """Have a call leave with the others of this turn."""
        loop = asyncio.get_running_loop()
        self._last_id = number = self._last_id + 1
        # Encoded here, so that parameters that are no JSON fail their own caller and not the batch.
        body = _encode(_Request(number, method, params))
        call = _Call(number, body, loop.create_future())
        if not self._queue:
            loop.call_soon(self._flush, loop)
        self._queue.append(call)
        return call

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        calls = [call for call in self._queue if not call.future.done()]
        self._queue.clear()
        for start in range(0, len(calls), self._batch_limit):
            batch = calls[start : start + self._batch_limit]
            task = loop.create_task(self._run(batch))
            for call in batch:
                call.task = task
            self._in_flight[task] = batch
            task.add_done_callback(self._in_flight.pop)

    def _abandon(self, call: _Call) -> None:
        """A caller went away. Its batch goes on while anybody else waits for it."""
        if call.task is None:
            return
        if all(other.future.done() for other in self._in_flight.get(call.task, ())):
            call.task.cancel()

    async def _run(self, batch: list[_Call]) -> None:
        calls = batch
        try:
            for endpoint in self._in_order():
                calls = await self._ask(endpoint, calls)
                if not calls:
                    break
            for call in calls:
                if not call.future.done():
                    error = TransportError("; ".join(call.faults), call.retry_after)
                    call.future.set_exception(error)
        finally:
            for call in batch:  # not answered yet: this task was cancelled, the loop is closing
                call.future.cancel()

    def _in_order(self) -> list[_Endpoint]:
        now = asyncio.get_running_loop().time()
        return sorted(self._endpoints, key=lambda endpoint: endpoint.penalised_until > now)

    async def _ask(self, endpoint: _Endpoint, calls: list[_Call]) -> list[_Call]:
        """Ask one endpoint; settle what it answers and return the calls that it did not."""
        loop = asyncio.get_running_loop()
        pause = endpoint.silent_until - loop.time()
        if pause > 0:
            for call in calls:
                call.fault(f"{endpoint.name}: asked for a pause of {pause:.1f} s more", pause)
            return calls
        try:
            answers = await self._post(endpoint, calls)
        except TransportError as fault:
            for call in calls:
                call.fault(f"{endpoint.name}: {fault}", fault.retry_after)
            if fault.retry_after:
                endpoint.silent_until = loop.time() + min(fault.retry_after, RETRY_AFTER_LIMIT)
        else:
            for call in calls:
                _settle(call, answers.get(call.id), endpoint)
        calls = [call for call in calls if not call.future.done()]
        if calls:
            endpoint.penalised_until = loop.time() + self._penalty
        return calls

    async def _post(self, endpoint: _Endpoint, calls: list[_Call]) -> dict[int, dict[str, JSON]]:
        """The answers by id; raises TransportError when there is none at all."""
        lone = len(calls) == 1
        body = calls[0].body if lone else b"[" + b",".join([call.body for call in calls]) + b"]"
        try:
            return _by_id(await self._exchange(endpoint.url, body), lone, endpoint)
        except TransportError:
            raise
        except TimeoutError:
            fault = self._timeout_fault
        except aiohttp.ClientConnectorError:
            fault = "cannot connect"
        except Exception as error:
            # aiohttp raises more than it documents (RuntimeError from a closed session, OSError,
            # ValueError), and the texts quote the URL: the class is what may be said.
            fault = type(error).__name__
        raise TransportError(fault)  # outside the except, so that no context carries the URL along

    async def _exchange(self, url: URL, body: bytes) -> bytes:
        # A redirect would turn the POST into a GET, or take the API key to another host.
        async with self._session.post(
            url, data=body, headers=_HEADERS, timeout=self._timeout, allow_redirects=False
        ) as response:
            if response.status != 200:
                response.close()
                raise TransportError(f"HTTP {response.status}", _retry_after(response))
            size = 0
            chunks = []
            while chunk := await response.content.readany():
                size += len(chunk)
                if size > self._response_limit:
                    response.close()
                    raise TransportError(f"answer over {self._response_limit} bytes")
                chunks.append(chunk)
            return b"".join(chunks)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """RFC 9110, 10.2.3. Its date form is not obeyed: our clock and the node's need not agree."""
    text = response.headers.get("Retry-After", "")
    if response.status in (429, 503) and re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    return None


def _by_id(text: bytes, lone: bool, endpoint: _Endpoint) -> dict[int, dict[str, JSON]]:
    """Sort the answers by id. An id that came twice belongs to nobody: both might be wrong."""
    try:
        check_depth(text.decode())
        decoded: JSON = _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise TransportError("answer is not JSON") from None
    if lone and isinstance(decoded, dict):
        decoded = [decoded]
    elif not isinstance(decoded, list):
        raise TransportError(_unbatched(decoded, endpoint))
    answers: dict[int, dict[str, JSON]] = {}
    repeated = set()
    for answer in decoded:
        if isinstance(answer, dict) and type(number := answer.get("id")) is int:
            if number in answers:
                repeated.add(number)
            answers[number] = answer
    for number in repeated:
        del answers[number]
    if lone and not answers and isinstance(decoded[0] if decoded else None, dict):
        raise TransportError(_unbatched(decoded[0], endpoint))
    return answers


def _unbatched(answer: JSON, endpoint: _Endpoint) -> str:
    """What an answer that belongs to no call says: often that the endpoint limits our rate."""
    if isinstance(answer, dict) and isinstance(error := answer.get("error"), dict):
        return f"answer to no call: {endpoint.clean(str(error.get('message', '')))}"
    return "answer to no call"


def _settle(call: _Call, answer: dict[str, JSON] | None, endpoint: _Endpoint) -> None:
    """Give a call its result or error; note a fault and leave it unanswered otherwise."""
    if answer is None:
        call.fault(f"{endpoint.name}: no answer to this call")
        return
    error = answer.get("error")
    if call.future.done():
        return  # its caller went away
    if error is None and "result" in answer:
        call.future.set_result(answer["result"])
    elif isinstance(error, dict) and type(code := error.get("code")) is int:
        message = endpoint.clean(str(error.get("message", "")))
        data = _revert_data(error.get("data"))
        call.future.set_exception(RPCError(code, message, data))
    else:
        call.fault(f"{endpoint.name}: neither result nor error")


def _revert_data(data: JSON) -> str | None:
    """Geth gives 0x hex; Nethermind and OpenEthereum put "Reverted " before it; Hardhat nests it in
    an object."""
    if isinstance(data, dict):
        data = data.get("data")
    if isinstance(data, str):
        return data.removeprefix("Reverted ")
    return None
