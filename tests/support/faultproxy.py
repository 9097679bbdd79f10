"""A JSON-RPC proxy in front of a real chain, whose faults a test scripts call by call or POST by
POST. A second endpoint is a second proxy, which lies on its own.

A fault of one call is set by its method, in `faults`. A fault of a whole POST is set in
`post_fault`, or drawn by `mix`: see tests/postfaults.py.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import aiohttp
from aiohttp import web

LATEST, HEIGHT = "eth_getBlockByNumber", "eth_blockNumber"

Call = dict[str, Any]
Answer = dict[str, Any]
# Forwards one call to the chain.
Forward = Callable[[Call], Awaitable[Answer]]
# What the proxy does with a call: its answer, None for an answer that is missing.
Fault = Callable[[Call, Forward], Awaitable[Answer | None]]
# What it makes of the honest answers, each of which may be missing.
PostFault = Callable[[list[Answer]], web.Response]


class Cut(Exception):
    """Close the connection without an answer."""


class FaultProxy:
    """`faults` holds a fault by method name; "*" stands for every method. `calls` and `posts`
    count what came in, `drawn` what `mix` did.
    """

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream
        self.session = session
        self.url = ""
        self.faults: dict[str, Fault] = {}
        self.post_fault: PostFault | None = None
        self.draw: Callable[[], PostFault | None] | None = None
        self.raw: bytes | None = None  # answers every POST, when set
        self.calls: dict[str, int] = {}
        self.posts = 0
        self.traceparents: list[str | None] = []  # of each POST
        self.drawn: Counter[str] = Counter()

    def mix(self, seed: int, faults: Mapping[str, PostFault], share: float) -> None:
        """Let one of these faults befall this share of all POSTs, by chance."""
        random = Random(seed)  # noqa: S311 - a seed, so that a failure can be repeated

        names = [*faults]

        def draw() -> PostFault | None:
            if random.random() >= share:
                return None
            name = random.choice(names)
            self.drawn[name] += 1
            return faults[name]

        self.draw = draw

    def heal(self) -> None:
        """No faults from now on."""
        self.faults, self.post_fault, self.draw, self.raw = {}, None, None, None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.posts += 1
        self.traceparents.append(request.headers.get("traceparent"))
        if self.raw is not None:
            return web.Response(body=self.raw, content_type="application/json")
        calls: list[Call] = body if isinstance(body, list) else [body]
        fault = self.post_fault
        if self.draw is not None:
            fault = self.draw() or fault
        try:
            if fault is drop_request:
                raise Cut
            answers = await asyncio.gather(*(self._answer(call) for call in calls))
            present = [answer for answer in answers if answer is not None]
            if fault is not None:
                return fault(present)
        except Cut:
            if request.transport is not None:
                request.transport.close()
            return web.Response()
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
        async with self.session.post(self._upstream, json=call) as response:
            answer: Answer = json.loads(await response.read())
            return answer


def drop_request(answers: list[Answer]) -> web.Response:
    """The connection is closed before anything reaches the chain."""
    raise AssertionError("answered before the chain is asked")


@asynccontextmanager
async def fault_proxy(upstream: str) -> AsyncIterator[FaultProxy]:
    """A proxy in front of the chain at `upstream`, on a free port of loopback."""
    async with aiohttp.ClientSession() as session:
        proxy = FaultProxy(upstream, session)
        app = web.Application()
        app.router.add_post("/{key:.*}", proxy.handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = runner.addresses[0]
        proxy.url = f"http://{address[0]}:{address[1]}/"
        try:
            yield proxy
        finally:
            await runner.cleanup()


# --- faults of a call


async def lose_request(call: Call, forward: Forward) -> Answer | None:
    """The call never reaches the chain."""
    raise Cut


async def lose_reply(call: Call, forward: Forward) -> Answer | None:
    """The chain takes the call, and the answer is lost."""
    await forward(call)
    raise Cut


async def leave_out(call: Call, forward: Forward) -> Answer | None:
    """The batch's answer has no element for the call."""
    return None


def answer_with(result: object) -> Fault:
    """A node that answers this, whatever it was asked."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        return _result(call, result)

    return fault


def refuse_with(code: int, message: str) -> Fault:
    """A node that answers with an error."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}}

    return fault


nonce_too_low = refuse_with(-32003, "nonce too low")
already_known = refuse_with(-32000, "already known")
replacement_underpriced = refuse_with(-32000, "replacement transaction underpriced")


def delay(seconds: float) -> Fault:
    """A node that takes its time; one that takes more than the caller's deadline never answers."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        await asyncio.sleep(seconds)
        return await forward(call)

    return fault


def on_chain(chain_id: int) -> dict[str, Fault]:
    """A node that says that it is on this chain, and answers for the one behind it."""
    return {"eth_chainId": answer_with(hex(chain_id)), "net_version": answer_with(str(chain_id))}


def lying_nonce(by: int) -> Fault:
    """For eth_getTransactionCount: more, or fewer, than are mined."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        told = int((await forward(call))["result"], 16)
        return _result(call, hex(max(told + by, 0)))

    return fault


def forged_receipt(*, succeeded: bool, logs: Sequence[Mapping[str, object]] = ()) -> Fault:
    """For eth_getTransactionReceipt: whatever is asked for is mined in the newest block, with this
    status; a real receipt keeps its logs where it succeeded, and has the other status otherwise.
    """

    async def fault(call: Call, forward: Forward) -> Answer | None:
        receipt = (await forward(call))["result"]
        if receipt is None:
            latest = {"method": "eth_getBlockByNumber", "params": ["latest", False]}
            block = (await forward({**call, **latest}))["result"]
            receipt = {
                "transactionHash": call["params"][0],
                "blockNumber": block["number"],
                "blockHash": block["hash"],
                "gasUsed": hex(100_000),
                "effectiveGasPrice": hex(10**9),
                "logs": list(logs),
            }
        kept = receipt["logs"] if succeeded else []
        return _result(call, {**receipt, "status": hex(succeeded), "logs": kept})

    return fault


# Where each method that asks about a state names the block.
_BLOCK_PARAMETER = {
    "eth_call": 1,
    "eth_estimateGas": 1,
    "eth_feeHistory": 1,
    "eth_getBalance": 1,
    "eth_getBlockByNumber": 0,
    "eth_getCode": 1,
    "eth_getTransactionCount": 1,
}


def stale_by(blocks: int) -> Fault:
    """For "*": a node that has not seen the newest blocks: it answers as of the last one before."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        number = {"method": "eth_blockNumber", "params": []}
        head = int((await forward({**call, **number}))["result"], 16)
        seen = max(head - blocks, 0)
        method, params = call["method"], list(call["params"])
        if method == "eth_blockNumber":
            return _result(call, hex(seen))
        place = _BLOCK_PARAMETER.get(method)
        if place is not None and place < len(params):
            asked = params[place]
            if asked in ("latest", "pending"):
                params[place] = hex(seen)
            elif isinstance(asked, str) and asked.startswith("0x") and int(asked, 16) > seen:
                if method == "eth_getBlockByNumber":
                    return _result(call, None)
                return await refuse_with(-32000, "header not found")(call, forward)
        answer = await forward({**call, "params": params})
        return _unless_newer(call, answer, seen)

    return fault


def head_ahead(by: int, *, linked: bool = False) -> Fault:
    """For eth_getBlockByNumber: a newest block that nobody has made, so many above the real one, as
    far in the future as an honest clock may be wrong; `linked`: on top of the one before, so that
    no two of them look like a reorg.
    """

    async def fault(call: Call, forward: Forward) -> Answer | None:
        answer = await forward(call)
        if call["params"][0] != "latest":
            return answer
        block = answer["result"]
        number, timestamp = (int(block[name], 16) for name in ("number", "timestamp"))
        made_up = {"number": hex(number + by), "timestamp": hex(timestamp + 50)}
        if not linked:
            made_up["hash"] = "0x" + "ee" * 32
        return _result(call, {**block, **made_up})

    return fault


def height_ahead(by: int) -> Fault:
    """For eth_blockNumber: the same height."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        return _result(call, hex(int((await forward(call))["result"], 16) + by))

    return fault


def _unless_newer(call: Call, answer: Answer, seen: int) -> Answer:
    """What a node that has seen no further than this would have answered."""
    result = answer.get("result")
    if isinstance(result, dict):
        number = result.get("blockNumber") or result.get("number")
        newer = number is not None and int(number, 16) > seen
        return _result(call, None) if newer else answer
    if call["method"] == "eth_getLogs" and isinstance(result, list):
        return _result(call, [log for log in result if int(log["blockNumber"], 16) <= seen])
    return answer


def _result(call: Call, result: object) -> Answer:
    return {"jsonrpc": "2.0", "id": call["id"], "result": result}


def lies(by: int, *, everywhere: bool) -> dict[str, Fault]:
    """A head that is too high, at eth_getBlockByNumber or at eth_blockNumber as well."""
    told: dict[str, Fault] = {LATEST: head_ahead(by, linked=True)}
    return {**told, HEIGHT: height_ahead(by)} if everywhere else told
