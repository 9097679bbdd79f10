"""A request's body: reads it within limits, and discards what a reply left unread of it."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Header = tuple[bytes, bytes]

BODY_LIMIT = 65_536  # bytes
BODY_DEADLINE = 10.0  # seconds for the whole body, so that a byte a second does not hold a request
LINGER = 2.0  # seconds for which the rest of a refused body is read and discarded


class BodyError(Exception):
    """The body is refused, with this `status`; the text is for the client."""

    status = 400


class BodyTooLarge(BodyError):
    status = 413


class BodyTooSlow(BodyError):
    status = 408


class ClientDisconnected(Exception):
    """The client disconnected before its request was complete: nobody is there for a reply."""


async def read_body(
    receive: Receive,
    headers: Iterable[Header],
    *,
    limit: int = BODY_LIMIT,
    deadline: float = BODY_DEADLINE,
) -> bytes:
    """Return the whole body, at most `limit` bytes, within `deadline` seconds.

    `headers` are the scope's, names in lower case. A Content-Length over the limit is refused
    before anything is read, a chunked body at the first byte over it. Raises BodyTooLarge,
    BodyTooSlow, ClientDisconnected.
    """
    announced = header(headers, b"content-length")
    # 19 digits are more than any machine holds, and few enough to be worth parsing.
    if announced and announced.isdigit() and (len(announced) > 19 or int(announced) > limit):
        raise BodyTooLarge(f"Request body exceeds {limit} bytes")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(deadline):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                if chunk := message.get("body"):
                    size += len(chunk)
                    if size > limit:
                        raise BodyTooLarge(f"Request body exceeds {limit} bytes")
                    chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise BodyTooSlow(f"Request body took longer than {deadline:g} s") from None


class DrainBody:
    """Discards what a reply left unread of its request's body.

    A connection that is closed with unread bytes is reset, and the reset may overtake the reply: a
    client that sent 10 MB would never see its 413. Hypercorn (0.18) also waits for room in the
    request's queue before it closes, for ever when nobody reads: an unread body would leak its
    connection and two tasks. So the reply is sent but for its end, the rest of the body is
    discarded for LINGER seconds, the reply ends, and what still comes is discarded until the server
    has closed.
    """

    def __init__(self, app: ASGIApp, *, linger: float = LINGER) -> None:
        self.app = app
        self.linger = linger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _may_have_body(scope):
            await self.app(scope, receive, send)
            return
        complete = False
        gone = False
        withheld = False

        async def watched_receive() -> Message:
            nonlocal complete, gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            complete = gone or not message.get("more_body", False)
            return message

        async def withholding_send(message: Message) -> None:
            """Send all of the reply, but withhold its end while the body is unread."""
            nonlocal withheld
            is_end = message["type"] == "http.response.body" and not message.get("more_body", False)
            if is_end and not complete:
                withheld = True
                message = {**message, "more_body": True}
            await send(message)

        await self.app(scope, watched_receive, withholding_send)
        if not withheld:
            return
        with suppress(TimeoutError):  # a client that still sends has had the reply for a while
            async with asyncio.timeout(self.linger):
                while not complete:
                    await watched_receive()
        if gone:
            return  # the server has closed, and reports it only once
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(until_disconnect(receive))
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_disconnect(receive: Receive) -> None:
    """Return once the client has disconnected, or the reply is complete; discard what it sends."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _may_have_body(scope: Scope) -> bool:
    """Return whether the request announces a body, as HTTP/1.x does."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def header(headers: Iterable[Header], wanted: bytes) -> bytes | None:
    """Return the first value of the header `wanted`, a name in lower case; None without one."""
    for name, value in headers:
        if name == wanted:
            return value
    return None
