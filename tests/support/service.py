"""The real service as a real process, for tests: start it, speak to it, stop or kill it."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from facilitator.commands.devnet import Devnet
from tests.support.forks import Forked, can_fork, fork
from tests.support.signing import encode_header

START_TIMEOUT = 90.0  # seconds
STOP_TIMEOUT = 90.0  # seconds
EVENT_TIMEOUT = 90.0  # seconds


class Service:
    """A running `facilitator serve`; `url` is where it listens, `log` the end of the pipe that it
    logs into. What it has logged before it answered is known as soon as the answer is.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process | Forked,
        session: aiohttp.ClientSession,
        log: int,
    ) -> None:
        self.process = process
        self.session = session
        self.url = ""
        self._lines: list[dict[str, Any]] = []
        self._output = bytearray()
        self._read_until = 0  # in the output: lines that are parsed
        self._log: int | None = log
        os.set_blocking(log, False)
        asyncio.get_running_loop().add_reader(log, self._drain)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All that it has logged so far."""
        self._drain()
        return self._lines

    @property
    def output(self) -> bytes:
        """The same, and what is no log line, as it came."""
        self._drain()
        return bytes(self._output)

    def _drain(self) -> None:
        while self._log is not None:
            try:
                some = os.read(self._log, 2**16)
            except BlockingIOError:
                break
            if not some:  # it has ended
                self._end()
            self._output += some
        end = self._output.rfind(b"\n") + 1
        for line in self._output[self._read_until : end].splitlines():
            if line.startswith(b"{"):
                self._lines.append(json.loads(line))
        self._read_until = max(end, self._read_until)

    def close(self) -> None:
        """Read no more of the log than there is by now."""
        self._drain()
        self._end()

    def _end(self) -> None:
        if self._log is not None:
            asyncio.get_running_loop().remove_reader(self._log)
            os.close(self._log)
            self._log = None

    async def started(self) -> "Service":
        """Wait until it listens."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self.process.returncode is None:
            for line in self.logged("started"):
                self.url = f"http://{line['listening']}"
                with suppress(aiohttp.ClientError):
                    await self.get("/health")
                    return self
            await asyncio.sleep(0.02)
        raise AssertionError(f"the service did not start: {self.output.decode()}")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.lines if line["event"] == event]

    async def wait_for(self, event: str, count: int = 1) -> None:
        """Until the event was logged `count` times."""
        async with asyncio.timeout(EVENT_TIMEOUT):
            while len(self.logged(event)) < count:  # noqa: ASYNC110 - another process logs it
                await asyncio.sleep(0.02)

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        async with self.session.get(self.url + path) as response:
            return response.status, await response.json()

    async def post(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        async with self.session.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def verify(self, header: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        """The reply of POST /verify, which is a 200."""
        status, reply = await self.post("/verify", request(header, **changes))
        assert status == 200, reply
        return reply

    async def settle(self, header: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        """The reply of POST /settle, which is a 200."""
        status, reply = await self.post("/settle", request(header, **changes))
        assert status == 200, reply
        return reply

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(STOP_TIMEOUT):
            return await self.process.wait()


def request(header: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """What a seller posts who asks for exactly this payment, but for `changes` of what it asks."""
    return {
        "x402Version": 1,
        "paymentHeader": encode_header(dict(header)),
        "paymentRequirements": {
            "scheme": header["scheme"],
            "network": header["network"],
            "maxAmountRequired": header["amount"],
            "payTo": header["payTo"],
            "asset": header["asset"],
            "resource": header["resource"],
            **changes,
        },
    }


@asynccontextmanager
async def launch(
    environment: Mapping[str, str], *command: str, tree: Path | None = None
) -> AsyncIterator[Service]:
    """The service with exactly this environment, started or not; killed at the end if it lives.
    `command` starts it another way; `tree` is a folder whose `facilitator` runs instead of the one
    that is tested.
    """
    log, its_end = os.pipe()
    variables = {"PATH": os.environ["PATH"], **environment, **({} if tree else _coverage())}
    process: asyncio.subprocess.Process | Forked
    if tree is None and not command and can_fork(environment):
        process = fork(("serve",), variables, stdout=1, stderr=its_end)
    else:
        process = await asyncio.create_subprocess_exec(
            *(command or (sys.executable, "-m", "facilitator", "serve")),
            env=variables,
            cwd=tree,
            stderr=its_end,
        )
    os.close(its_end)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        service = Service(process, session, log)
        try:
            yield service
        finally:
            if process.returncode is None:
                await service.stop()
            service.close()


def _coverage() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}


def environment(devnet: Devnet, folder: Path, **changes: str) -> dict[str, str]:
    """A service on this chain whose journal is in `folder`, listening on a free port."""
    return {
        **devnet.environment(),
        "HOST": "127.0.0.1",
        "FACILITATOR_PORT": "0",
        "LOG_FORMAT": "json",
        "DATABASE_URL": f"sqlite:///{folder}/facilitator.db",
        **changes,
    }


@asynccontextmanager
async def serve(devnet: Devnet, folder: Path, **changes: str) -> AsyncIterator[Service]:
    """The service, listening."""
    async with launch(environment(devnet, folder, **changes)) as service:
        yield await service.started()
