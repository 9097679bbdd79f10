"""A JSON-RPC node on a real loopback socket that answers as a test's script says."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from facilitator.chain.rpc import RPC
from facilitator.domain.strict_json import JSON

Request = dict[str, JSON]


@dataclass(frozen=True)
class Reply:
    """What one POST gets: after `delay` seconds, `body` once, or for ever when `endless`.

    `announce` is a Content-Length that need not be true; `hang_up` closes the connection after the
    body, `silent` before it.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    announce: int | None = None
    hang_up: bool = False
    silent: bool = False
    endless: bool = False


Script = Callable[[JSON], Reply]


def calls_in(body: JSON) -> list[Request]:
    calls = body if isinstance(body, list) else [body]
    assert all(isinstance(call, dict) for call in calls)
    return [call for call in calls if isinstance(call, dict)]


def answers(body: JSON) -> list[JSON]:
    """The honest answer to each call: its own parameters."""
    return [
        {"jsonrpc": "2.0", "id": call["id"], "result": call["params"]} for call in calls_in(body)
    ]


def reply_json(value: JSON, **options: object) -> Reply:
    return Reply(json.dumps(value).encode(), **options)  # type: ignore[arg-type]


def echo(body: JSON) -> Reply:
    return reply_json(answers(body) if isinstance(body, list) else answers(body)[0])


def always(reply: Reply) -> Script:
    return lambda _body: reply


def zipped(value: JSON) -> Reply:
    body = gzip.compress(json.dumps(value).encode())
    return Reply(body, headers={"Content-Encoding": "gzip"})


class RPCServer:
    def __init__(self, url: str) -> None:
        self.url = url
        self.script: Script = echo
        self.posts: list[JSON] = []
        self.times: list[float] = []  # monotonic seconds at which each POST came
        self.bytes_sent = 0
        self.aborted = 0  # POSTs whose client went away before the reply's end

    @property
    def methods(self) -> list[JSON]:
        return [call["method"] for body in self.posts for call in calls_in(body)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            self.posts.append(request.method)
            return web.Response(status=405)
        body = json.loads(await request.read())
        self.posts.append(body)
        self.times.append(time.monotonic())
        reply = self.script(body)
        try:
            await asyncio.sleep(reply.delay)
            if reply.silent and request.transport is not None:
                request.transport.abort()
            response = web.StreamResponse(status=reply.status, headers=reply.headers)
            response.content_length = len(reply.body) if reply.announce is None else reply.announce
            if reply.endless:
                response.content_length = None
            await response.prepare(request)
            await response.write(reply.body)
            self.bytes_sent += len(reply.body)
            while reply.endless:
                await response.write(reply.body)
                self.bytes_sent += len(reply.body)
        except (asyncio.CancelledError, ConnectionError):
            self.aborted += 1
            raise
        if reply.hang_up and request.transport is not None:
            request.transport.abort()
        return response


@asynccontextmanager
async def rpc_server(script: Script = echo, path: str = "/") -> AsyncIterator[RPCServer]:
    server = RPCServer("")
    server.script = script
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{tail:.*}", server._handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def rpc_to(*urls: str, **options: Any) -> AsyncIterator[RPC]:
    options = {"timeout": 2.0, **options}
    async with aiohttp.ClientSession() as session:
        yield RPC(urls, name="jeju", session=session, **options)


async def outcomes(rpc: RPC, count: int) -> list[JSON | BaseException]:
    """`count` calls of one turn; call i has the parameter i."""
    return await asyncio.gather(*[rpc.call("m", i) for i in range(count)], return_exceptions=True)
