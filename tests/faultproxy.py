"""A JSON-RPC proxy in front of a real chain, whose faults a test scripts call by call."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

Call = dict[str, Any]
Answer = dict[str, Any]
# Forwards one call to the chain.
Forward = Callable[[Call], Awaitable[Answer]]
# What the proxy does with a call: its answer, None for an answer that is missing.
Fault = Callable[[Call, Forward], Awaitable[Answer | None]]


class Cut(Exception):
    """Close the connection without an answer."""


class FaultProxy:
    """`faults` holds a fault by method name; "*" stands for every method. `calls` counts."""

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream
        self._session = session
        self.url = ""
        self.faults: dict[str, Fault] = {}
        self.raw: bytes | None = None  # answers every POST, when set
        self.calls: dict[str, int] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.raw is not None:
            return web.Response(body=self.raw, content_type="application/json")
        calls: list[Call] = body if isinstance(body, list) else [body]
        try:
            answers = await asyncio.gather(*(self._answer(call) for call in calls))
        except Cut:
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        present = [answer for answer in answers if answer is not None]
        if isinstance(body, list):
            return web.json_response(present)
        return web.json_response(present[0] if present else None)

    async def _answer(self, call: Call) -> Answer | None:
        method = call["method"]
        self.calls[method] = self.calls.get(method, 0) + 1
        fault = self.faults.get(method) or self.faults.get("*")
        if fault is None:
            return await self.forward(call)
        return await fault(call, self.forward)

    async def forward(self, call: Call) -> Answer:
        async with self._session.post(self._upstream, json=call) as response:
            answer: Answer = json.loads(await response.read())
            return answer


@asynccontextmanager
async def fault_proxy(upstream: str) -> AsyncIterator[FaultProxy]:
    """A proxy in front of the chain at `upstream`, on a free port of loopback."""
    async with aiohttp.ClientSession() as session:
        proxy = FaultProxy(upstream, session)
        app = web.Application()
        app.router.add_post("/", proxy.handle)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = runner.addresses[0]
        proxy.url = f"http://{address[0]}:{address[1]}/"
        try:
            yield proxy
        finally:
            await runner.cleanup()


async def lose_request(call: Call, forward: Forward) -> Answer | None:
    """The call never reaches the chain."""
    raise Cut


async def lose_reply(call: Call, forward: Forward) -> Answer | None:
    """The chain takes the call, and the answer is lost."""
    await forward(call)
    raise Cut


def answer_with(result: object) -> Fault:
    """A node that answers this, whatever it was asked."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        return {"jsonrpc": "2.0", "id": call["id"], "result": result}

    return fault


def refuse_with(code: int, message: str) -> Fault:
    """A node that answers with an error."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}}

    return fault
