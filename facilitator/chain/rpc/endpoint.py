"""One endpoint over HTTP: a POST within its limits, and what its failures are called.

Endpoints are named "jeju#0": their URLs carry API keys and appear in no error and no log.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

import aiohttp
from yarl import URL

from facilitator.chain.rpc.health import Health, Standing
from facilitator.chain.rpc.wire import (
    Answer,
    BatchRefused,
    FaultKind,
    PendingCall,
    TransportError,
    body_of,
    parse_answers,
    place_of,
    repeatable,
)
from facilitator.telemetry.redaction import REDACTED, url_secrets

RETRY_AFTER_LIMIT = 60.0  # seconds; a longer Retry-After is not obeyed any longer than this
MESSAGE_LIMIT = 500  # characters of a node's own error text that we keep

_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
_URL = re.compile(r"\w+://\S+")
_TOO_MANY_REQUESTS, _UNAVAILABLE, _CONTENT_TOO_LARGE = 429, 503, 413


class Endpoint:
    """One node's HTTP interface. The session belongs to the caller.

    For metrics: `posts` and `calls` made, `faults` by kind; `observe` is called with the seconds
    that each POST took. `batch_limit` is the most calls of one POST, lowered for good where the
    endpoint refuses them.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        session: aiohttp.ClientSession,
        health: Health,
        batch_limit: int,
        response_limit: int,
        propagates: bool = False,
    ) -> None:
        """`propagates`: its POSTs carry a traceparent header."""
        self.name = name
        self.health = health
        self.batch_limit = batch_limit
        self.posts = 0
        self.calls = 0
        self.observe: Callable[[float], None] | None = None
        self.faults: Counter[FaultKind] = Counter()
        self.reconnects = 0  # times that a POST was repeated because its connection was closed
        self._url = URL(url)
        self._secrets = url_secrets(url)
        self._session = session
        self._response_limit = response_limit
        self._has_answered = False
        self._propagates = propagates

    def is_well(self) -> bool:
        """Whether it was well when it was last seen."""
        return self.health.standing is Standing.GOOD

    def is_closed(self) -> bool:
        """Whether its session was closed: no answer is to be had then."""
        return self._session.closed

    def clean(self, message: str) -> str:
        """A node's own words, without what it may repeat of the URL that it was asked under."""
        for secret in self._secrets:
            message = message.replace(secret, REDACTED)
        return _URL.sub(REDACTED, message)[:MESSAGE_LIMIT]

    async def ask(self, calls: Sequence[PendingCall], until: float) -> dict[int, Answer]:
        """The answers by id, of which some may be missing; `until` is a time of the event loop.
        Raises TransportError where there is none at all.
        """
        limit = self.batch_limit
        if len(calls) == 1:
            return await self._post(calls, until)
        answers: dict[int, Answer] = {}
        rest = deque(calls[start : start + limit] for start in range(0, len(calls), limit))
        while rest:
            some = rest.popleft()
            try:
                answers.update(await self._post(some, until))
            except BatchRefused as refused:
                if len(some) == 1:
                    raise TransportError(str(refused), kind=FaultKind.TOO_LARGE) from None
                half = len(some) // 2
                self.batch_limit = min(self.batch_limit, half)
                rest.extendleft((some[half:], some[:half]))
            except TransportError:
                if not answers:
                    raise
                break  # those that were not answered are noted as such
        return answers

    async def _post(self, calls: Sequence[PendingCall], until: float) -> dict[int, Answer]:
        body = body_of(calls)
        place = place_of(calls) if self._propagates else None
        headers = _HEADERS if place is None else {**_HEADERS, "traceparent": place}
        pooled = self._has_answered
        try:
            text = await self._exchange(body, headers, len(calls), until)
        except TransportError as fault:
            # A connection that was idle may be closed by the other side just as we write to it, and
            # nothing but the lost answer tells.
            if fault.kind is not FaultKind.DISCONNECTED or not pooled or not repeatable(calls):
                raise
            self.reconnects += 1
            text = await self._exchange(body, headers, len(calls), until)
        self._has_answered = True
        return parse_answers(text, len(calls), self.clean)

    async def _exchange(
        self, body: bytes, headers: Mapping[str, str], count: int, until: float
    ) -> bytes:
        """One POST; raises TransportError."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        self.posts += 1
        self.calls += count
        try:
            return await self._read(body, headers, count, until - started)
        except TransportError:
            raise
        except Exception as error:
            # aiohttp raises more than it documents (RuntimeError from a closed session, OSError,
            # ValueError), and the texts quote the URL: the class is what may be said.
            text, kind = _described(error, until - started)
        finally:
            if self.observe is not None:
                self.observe(loop.time() - started)
        # outside the except, so that no context carries the URL along
        raise TransportError(text, kind=kind)

    async def _read(
        self, body: bytes, headers: Mapping[str, str], count: int, timeout: float
    ) -> bytes:
        # A redirect would turn the POST into a GET, or take the API key to another host.
        async with self._session.post(
            self._url,
            data=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=max(timeout, 0.001)),  # 0 would be no limit
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                response.close()
                raise _refused(response, count)
            size = 0
            chunks = []
            while chunk := await response.content.readany():
                size += len(chunk)
                if size > self._response_limit:
                    response.close()
                    message = f"answer over {self._response_limit} bytes"
                    raise TransportError(message, kind=FaultKind.TOO_LARGE)
                chunks.append(chunk)
            return b"".join(chunks)


def _described(error: Exception, timeout: float) -> tuple[str, FaultKind]:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:.3g} s", FaultKind.TIMEOUT
    if isinstance(error, aiohttp.ClientConnectorError):
        return "cannot connect", FaultKind.CONNECT
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return type(error).__name__, FaultKind.DISCONNECTED
    if isinstance(error, aiohttp.ClientPayloadError):
        return type(error).__name__, FaultKind.GARBAGE
    return type(error).__name__, FaultKind.OTHER


def _refused(response: aiohttp.ClientResponse, count: int) -> TransportError:
    """What a status other than 200 means."""
    text, pause = f"HTTP {response.status}", _retry_after(response)
    if response.status == _CONTENT_TOO_LARGE:
        return (BatchRefused if count > 1 else TransportError)(text, kind=FaultKind.TOO_LARGE)
    limited = response.status == _TOO_MANY_REQUESTS or pause is not None
    return TransportError(text, pause, FaultKind.LIMITED if limited else FaultKind.HTTP)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """RFC 9110, 10.2.3. Its date form is not obeyed: our clock and the node's need not agree."""
    text = response.headers.get("Retry-After", "")
    if response.status in (_TOO_MANY_REQUESTS, _UNAVAILABLE) and re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    return None
