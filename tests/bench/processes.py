"""The contenders as processes, and the CPU time that they use."""

import asyncio
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 60.0  # seconds


class BenchFailed(Exception):
    """What was measured did not do what it should; the text says what it did."""


class Server:
    """A running contender, listening on `port` of 127.0.0.1."""

    def __init__(self, pid: int, port: int) -> None:
        self.port = port
        self._clock = _cpu_clock(pid)

    def cpu_ns(self) -> int:
        """Nanoseconds of CPU time since the start, user and system, of all its threads."""
        return time.clock_gettime_ns(self._clock)


def _cpu_clock(pid: int) -> int:
    """POSIX's clock of another process: finer than the ticks of 10 ms in /proc."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise BenchFailed(f"no CPU clock for a process: {os.strerror(error)}")
    return clock.value


@asynccontextmanager
async def serve(
    module: str,
    *arguments: str,
    environment: Mapping[str, str],
    log: Path,
    port: int | None = None,
) -> AsyncIterator[Server]:
    """`python -m module` with a log in JSON lines that tells where it listens, as in production:
    into a file, which nobody reads while it is measured. `port` is where it listens if its log does
    not tell.
    """
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            env={"PATH": os.environ["PATH"], **environment},
            stderr=output,
        )
    try:
        told = await _port(process, log) if port is None else port
        port = await _listens(process, log, told)  # which it does shortly after it has said so
        yield Server(process.pid, port)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_TIMEOUT):
            code = await process.wait()
        if code != 0:
            raise BenchFailed(f"{module} ended with exit code {code}: {_tail(log)}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _port(process: asyncio.subprocess.Process, log: Path) -> int:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.returncode is None:
        await asyncio.sleep(0.05)
        if port := _listening(log):
            return port
    raise BenchFailed(f"a contender did not start: {_tail(log)}")


async def _listens(process: asyncio.subprocess.Process, log: Path, port: int) -> int:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.returncode is None:
        await asyncio.sleep(0.05)
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return port
    raise BenchFailed(f"a contender did not start: {_tail(log)}")


def _listening(log: Path) -> int | None:
    """The port, from the line that tells of the start; the last line may be half written."""
    for line in log.read_text().splitlines():
        entry = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        if entry.get("event") == "started":
            return int(entry["listening"].rpartition(":")[2])
    return None


def _tail(log: Path) -> str:
    return log.read_text()[-500:].strip()
