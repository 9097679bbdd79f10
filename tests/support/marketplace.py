"""Sellers and buyers as processes of their own, on the official packages; a tap between the two.

The scripts are those of `examples` and, for version 1, of `tests/clients`. Nothing of the packages
is changed: what goes over the wire is read, and changed where a test wants a liar, by a real HTTP
server between the two.
"""

import asyncio
import base64
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from tests.support.paths import ROOT

SCRIPTS = (ROOT / "examples", ROOT / "tests" / "clients")
PACKAGES = ROOT / ".tools" / "clients"
START_TIMEOUT = 180.0  # seconds; Node.js reads a few hundred files first
BUY_TIMEOUT = 180.0  # seconds
PRICE = 10_000  # atomic units, what every seller asks
PAYMENT_HEADERS = ("PAYMENT-SIGNATURE", "X-PAYMENT")  # version 2, version 1

_LISTENING = re.compile(rb"http://127\.0\.0\.1:(\d+)")

Terms = dict[str, Any]


class Declined(Exception):
    """A buyer that ended without an answer from the seller; the text is what it said."""


class Exchange:
    """A seller's answer. `terms` is what it asks for, `error` why, as the answer tells it."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.body = body
        required = headers.get("PAYMENT-REQUIRED")
        told = decode(required) if required else _json_object(body)
        self.terms: Terms = told["accepts"][0] if told.get("accepts") else {}
        self.error = str(told.get("error", ""))


class Tap:
    """Forwards requests to a seller. `payments` are the payment headers that went by.

    `offer` changes what the seller asks before the buyer reads it. While `holding`, a payment is
    kept from the seller: it is signed, and nobody has seen it.
    """

    def __init__(self, seller: str, session: aiohttp.ClientSession) -> None:
        self.seller = seller
        self.url = ""
        self.payments: list[str] = []
        self.offer: Callable[[Terms], Terms] | None = None
        self.holding = False
        self._session = session

    async def forward(self, request: web.Request) -> web.StreamResponse:
        paid = {name: request.headers[name] for name in PAYMENT_HEADERS if name in request.headers}
        self.payments += paid.values()
        if paid and self.holding:
            return web.json_response({"held": True}, status=503)
        async with self._session.get(self.seller + request.path_qs, headers=paid) as answer:
            body = await answer.read()
            passed = {n: v for n, v in answer.headers.items() if _is_for_the_client(n)}
            headers = CIMultiDict(passed)
        if self.offer is not None and answer.status == 402:
            body = self._offered(body, headers)
        return web.Response(status=answer.status, body=body, headers=headers)

    def _offered(self, body: bytes, headers: CIMultiDict[str]) -> bytes:
        assert self.offer is not None
        in_header = "PAYMENT-REQUIRED" in headers
        told = decode(headers["PAYMENT-REQUIRED"]) if in_header else json.loads(body)
        told["accepts"] = [self.offer(terms) for terms in told["accepts"]]
        if in_header:
            headers["PAYMENT-REQUIRED"] = encode(told)
            return body
        return json.dumps(told).encode()

    async def get(self, path: str, payment: str | None = None) -> Exchange:
        """Ask the seller directly, with a payment header of the version that it speaks."""
        headers = {name: payment for name in PAYMENT_HEADERS if payment is not None}
        async with self._session.get(self.seller + path, headers=headers) as answer:
            return Exchange(answer.status, answer.headers, await answer.read())


def encode(message: Mapping[str, Any]) -> str:
    """A message as x402's headers carry it: base64 of its JSON."""
    return base64.b64encode(json.dumps(message).encode()).decode()


def decode(header: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.b64decode(header))
    return decoded


def _json_object(body: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        parsed = json.loads(body)
        if isinstance(parsed, dict):
            return parsed
    return {}


def _is_for_the_client(name: str) -> bool:
    return name.upper() == "CONTENT-TYPE" or "PAYMENT" in name.upper()


async def _start(
    script: str, environment: Mapping[str, str], *arguments: str
) -> asyncio.subprocess.Process:
    """A script of SCRIPTS, its standard error read together with its standard output."""
    env = {"PATH": os.environ["PATH"], **environment}
    [path] = (folder / script for folder in SCRIPTS if (folder / script).exists())
    piped: dict[str, Any] = {
        "stdout": asyncio.subprocess.PIPE,
        "stderr": asyncio.subprocess.STDOUT,
    }
    if script.endswith(".py"):
        command = (sys.executable, str(path), *arguments)
        return await asyncio.create_subprocess_exec(*command, env=env, **piped)
    # A module that is read from standard input finds its packages from the working directory.
    with path.open("rb") as source:
        return await asyncio.create_subprocess_exec(
            *("node", "--input-type=module", "-", *arguments),
            cwd=PACKAGES,
            env=env,
            stdin=source,
            **piped,
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _discard(output: asyncio.StreamReader) -> None:
    # a pipe that nobody reads fills up, and then its writer stands still
    while await output.read(65_536):
        pass


@asynccontextmanager
async def seller(script: str, environment: Mapping[str, str]) -> AsyncIterator[str]:
    """A seller that listens on a port of its own choice; its URL."""
    process = await _start(script, {"PORT": "0", **environment})
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(START_TIMEOUT):
            while not (listening := _LISTENING.search(said)):
                line = await process.stdout.readline()
                assert line, f"{script} did not start: {said.decode()}"
                said += line
        drain = asyncio.create_task(_discard(process.stdout))
        try:
            yield f"http://127.0.0.1:{int(listening[1])}"
        finally:
            drain.cancel()
    finally:
        await _end(process)


@asynccontextmanager
async def tapped(seller_url: str) -> AsyncIterator[Tap]:
    """A tap in front of a seller, listening."""
    async with aiohttp.ClientSession() as session:
        tap = Tap(seller_url, session)
        app = web.Application()
        app.router.add_get("/{path:.*}", tap.forward)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            tap.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield tap
        finally:
            await runner.cleanup()


async def buy(script: str, url: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What a buyer says that came of it: `status`, `body` and `receipt`. Raises Declined."""
    process = await _start(script, environment, url)
    try:
        async with asyncio.timeout(BUY_TIMEOUT):
            output, _ = await process.communicate()
    finally:
        await _end(process)
    if process.returncode != 0:
        raise Declined(output.decode())
    said: dict[str, Any] = json.loads(output.splitlines()[-1])
    return said
