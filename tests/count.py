"""Counts what the service consists of: files and lines by room, and the files that one payment runs
through.

The second part is measured: a real service settles a real payment of the standard dialect on a
chain of its own, and a profiler notes which files of facilitator/ run for the request until it is
answered, and which run in the fullest turn of the loop meanwhile. The journal's writer thread works
for both, and is counted for both. `python -m tests.count --lines` prints the first part alone.
"""

import argparse
import asyncio
import inspect
import io
import json
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import redirect_stderr, suppress
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, cast

import aiohttp
from hypercorn.typing import ASGIFramework

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.commands.payer import sign_authorization, standard_body, standard_requirements
from facilitator.config.networks import NETWORKS
from facilitator.config.settings import load_config
from facilitator.ethereum.secp256k1 import Signer
from facilitator.web.app import create_app
from facilitator.web.server import listen, serve, server_config, start_logging

PACKAGE = Path(__file__).parent.parent / "facilitator"
ROOMS = (
    *("ethereum", "config", "domain", "telemetry", "dialects"),
    *("chain", "journal", "engine", "web", "commands"),
)
PRICE = 1_000_000  # atomic units of USDC
LIFETIME = 300  # seconds for which the payment is good
RESOURCE = "https://api.example/report"
START_TIMEOUT = 15.0  # seconds

# Whose work runs: the loop's, everything else that runs beside requests, or the measuring client's.
# A request's context says nothing.
_whose: ContextVar[str | None] = ContextVar("whose", default=None)


class Recorder:
    """Notes which files of facilitator/ run, by whose work it is."""

    def __init__(self) -> None:
        self.recording = False
        self.request: set[str] = set()
        self.turns: list[set[str]] = []
        self.thread: set[str] = set()
        self._turn: FrameType | None = None
        self._main = threading.get_ident()

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """See sys.setprofile."""
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(str(PACKAGE)):
            return
        name = Path(file).relative_to(PACKAGE).as_posix()
        if threading.get_ident() != self._main:
            if self.recording:
                self.thread.add(name)
            return
        if name == "web/service.py" and frame.f_code.co_name == "run_service":
            _whose.set("background")  # and so of all tasks that it starts
        if name == "engine/loop.py":
            self._watch_loop(frame)
        if not self.recording:
            return
        whose = _whose.get()
        if whose is None:
            self.request.add(name)
        elif whose == "loop" and self.turns:
            self.turns[-1].add(name)

    def _watch_loop(self, frame: FrameType) -> None:
        """Tell the loop's task from the others, and one turn from the next: a turn is one call of
        a coroutine of the loop's by its `run`.
        """
        if frame.f_code.co_name == "run":
            _whose.set("loop")
        caller = frame.f_back
        if (
            self.recording
            and caller is not None
            and caller.f_code.co_name == "run"
            and caller.f_code.co_filename == frame.f_code.co_filename
            and frame.f_code.co_flags & inspect.CO_COROUTINE
            and frame is not self._turn
        ):
            self._turn = frame
            self.turns.append(set())


async def measure() -> Recorder:
    """Settle one payment, and return what ran for it."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        async with Devnet.start(DevnetOptions(port=0)) as devnet:
            config = load_config(
                {
                    **devnet.environment(),
                    "HOST": "127.0.0.1",
                    "FACILITATOR_PORT": "0",
                    "LOG_FORMAT": "json",
                    "DATABASE_URL": f"sqlite:///{folder}/facilitator.db",
                }
            )
            with redirect_stderr(io.StringIO()):  # lines are written, and nobody sees them
                start_logging(config)
            sys.excepthook = sys.__excepthook__
            listener = listen(config.host, 0)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            server = server_config(config, [listener.detach()])
            threading.setprofile(recorder.profile)
            sys.setprofile(recorder.profile)
            stop = asyncio.Event()
            app = cast(ASGIFramework, create_app(config))
            serving = asyncio.create_task(serve(app, server, shutdown_trigger=stop.wait))
            _whose.set("client")
            try:
                async with aiohttp.ClientSession(url) as session:
                    await _ready(session, serving)
                    await _settle(session, devnet, recorder)
            finally:
                sys.setprofile(None)
                threading.setprofile(None)
                stop.set()
                await serving
    return recorder


async def _ready(session: aiohttp.ClientSession, serving: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(START_TIMEOUT):
        while not serving.done():
            await asyncio.sleep(0.1)
            with suppress(aiohttp.ClientConnectorError):
                async with session.get("/ready") as response:
                    if response.status == 200:
                        return
    await serving


async def _settle(session: aiohttp.ClientSession, devnet: Devnet, recorder: Recorder) -> None:
    body = json.dumps(_payment(devnet)).encode()
    recorder.recording = True
    async with session.post("/settle", data=body) as response:
        reply = await response.json()
    recorder.recording = False
    if reply["success"] is not True:
        raise SystemExit(f"the payment was not settled: {reply}")


def _payment(devnet: Devnet) -> dict[str, Any]:
    """A payment of the standard dialect, version 2."""
    network = NETWORKS[devnet.network_name]
    token = network.usdc_at(devnet.usdc)
    seller = devnet.seller.address
    requirements = standard_requirements(
        version=2,
        network=network,
        token=token,
        pay_to=seller,
        amount=PRICE,
        resource=RESOURCE,
        lifetime=LIFETIME,
    )
    authorization = sign_authorization(
        *(Signer(devnet.payer.key), token, devnet.chain_id, seller, PRICE),
        *(0, int(time.time()) + LIFETIME, secrets.token_bytes(32)),
    )
    return standard_body(requirements, authorization, version=2, resource=RESOURCE)


def _print_rooms() -> None:
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        if "node_modules" in path.parts:
            continue
        room = path.relative_to(PACKAGE).parts[0]
        room = room if room in ROOMS else "(top)"
        files[room] += 1
        lines[room] += len(path.read_text("utf-8").splitlines())
    print(f"{'room':<12}{'files':>6}{'lines':>8}")
    for room in (*ROOMS, "(top)"):
        print(f"{room:<12}{files[room]:>6}{lines[room]:>8}")
    print(f"{'total':<12}{files.total():>6}{lines.total():>8}")


def _print_way(title: str, names: Iterable[str]) -> None:
    by_room: dict[str, list[str]] = {}
    for name in sorted(names):
        room, _, rest = name.partition("/")
        by_room.setdefault(room, []).append(rest.removesuffix(".py"))
    print(f"\n{title}: {sum(map(len, by_room.values()))} files")
    for room in ROOMS:
        if room in by_room:
            print(f"  {room:<10}{len(by_room[room]):>3}  {' '.join(by_room[room])}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Count files and lines, and a payment's way.")
    parser.add_argument("--lines", action="store_true", help="count only, settle nothing")
    only_lines = parser.parse_args().lines
    _print_rooms()
    if only_lines:
        return
    recorder = asyncio.run(measure())
    turn = max(recorder.turns, key=len, default=set())
    _print_way("one POST /settle of the standard dialect", recorder.request | recorder.thread)
    _print_way("the fullest turn of the loop", turn | recorder.thread)


if __name__ == "__main__":
    main()
