"""A proxy in front of the chain that counts what it is asked. It costs time, so nothing is timed
through it.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web


class CountingProxy:
    """`posts` are HTTP requests, `calls` the JSON-RPC calls in them."""

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream
        self._session = session
        self.url = ""
        self.posts = 0
        self.calls = 0

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        asked = json.loads(body)
        self.posts += 1
        self.calls += len(asked) if isinstance(asked, list) else 1
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._upstream, data=body, headers=headers) as answer:
            return web.Response(body=await answer.read(), headers=headers)


@asynccontextmanager
async def counting_proxy(upstream: str) -> AsyncIterator[CountingProxy]:
    """A proxy in front of the chain at `upstream`, on a free port of loopback."""
    async with aiohttp.ClientSession() as session:
        proxy = CountingProxy(upstream, session)
        app = web.Application()
        app.router.add_post("/", proxy.handle)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0]
            proxy.url = f"http://{host}:{port}/"
            yield proxy
        finally:
            await runner.cleanup()
