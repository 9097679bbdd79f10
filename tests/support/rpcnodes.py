"""Scripted nodes of one chain, and a client that has them all as its endpoints."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from facilitator.chain.answers import may_differ_elsewhere
from facilitator.chain.rpc import RPC
from facilitator.domain.strict_json import JSON
from tests.support.rpcserver import Reply, RPCServer, calls_in, reply_json, rpc_server

CHAIN_ID = 420691
LOOK = {"eth_chainId", "eth_getBlockByNumber"}
HASH = "0x" + "ab" * 32
OTHER_HASH = "0x" + "cd" * 32


class Node:
    """A node of a chain: its head, its id, an answer to each further method, or a fault."""

    def __init__(self, server: RPCServer, name: str) -> None:
        self.server = server
        self.name = name
        self.chain_id = CHAIN_ID
        self.number = 1_000
        self.age = 0  # seconds that have passed since its head
        self.answers: dict[str, JSON] = {}  # an answer's object, without the id
        self.fault: Reply | None = None
        self.hang_ups = 0  # POSTs to come that are closed without an answer
        self.delay = 0.0
        server.script = self._script

    def _script(self, body: JSON) -> Reply:
        if self.hang_ups > 0:
            self.hang_ups -= 1
            return Reply(silent=True)
        if self.fault is not None:
            return self.fault
        answers: list[JSON] = [self._answer(call) for call in calls_in(body)]
        return reply_json(answers if isinstance(body, list) else answers[0], delay=self.delay)

    def _answer(self, call: dict[str, JSON]) -> JSON:
        method = str(call["method"])
        if isinstance(answer := self.answers.get(method), dict):
            return {"id": call["id"], **answer}
        if method == "eth_chainId":
            return {"id": call["id"], "result": hex(self.chain_id)}
        if method == "eth_getBlockByNumber":
            return {"id": call["id"], "result": self._block()}
        return {"id": call["id"], "result": self.name}

    def _block(self) -> JSON:
        return {
            "number": hex(self.number),
            "hash": HASH,
            "parentHash": HASH,
            "timestamp": hex(int(time.time()) - self.age),
        }

    @property
    def asked(self) -> list[JSON]:
        """The methods that it was asked, looks excepted."""
        return [method for method in self.server.methods if method not in LOOK]


@asynccontextmanager
async def nodes(count: int, **options: Any) -> AsyncIterator[tuple[RPC, list[Node]]]:
    """As many endpoints, "first", "second" and "third", and a client of them all."""
    names = ("first", "second", "third")[:count]
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(rpc_server()) for _ in names]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        options = {"chain_id": CHAIN_ID, "timeout": 2.0, "penalty": 0.2, **options}
        urls = [server.url for server in running]
        rpc = RPC(urls, name="jeju", session=session, elsewhere=may_differ_elsewhere, **options)
        yield rpc, [Node(*pair) for pair in zip(running, names, strict=True)]
