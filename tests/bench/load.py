"""Load: keep-alive connections that post prepared bodies, each as soon as it has its answer."""

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tests.bench.processes import BenchFailed, Server

LOAD_TIMEOUT = 120.0  # seconds for a whole load
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)

# Looks at what was posted and what came back; raises BenchFailed where that is wrong.
Check = Callable[[bytes, bytes], None]


class Load(NamedTuple):
    """What a load took: wall time, the server's CPU time, and the seconds until each reply."""

    seconds: float
    cpu_ns: int
    latencies: list[float]

    @property
    def requests(self) -> int:
        return len(self.latencies)

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU time a request."""
        return self.cpu_ns / 1000 / self.requests

    @property
    def per_second(self) -> float:
        """Requests a second, on this machine."""
        return self.requests / self.seconds


class Connection:
    """One keep-alive connection to a server on this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the reply, which is a 200."""
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        try:
            answer = await self._reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(answer)
            reply = await self._reader.readexactly(int(length[1])) if length else b""
        except (EOFError, ConnectionError):
            raise BenchFailed(f"{path} closed the connection") from None
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise BenchFailed(f"{path} answered {answer.splitlines()[0]!r} {reply!r}")
        return reply

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def run_load(
    server: Server,
    path: str,
    bodies: Sequence[bytes],
    check: Check,
    *,
    connections: int,
    warm_up: int = 0,
    seconds: float = math.inf,
) -> Load:
    """Post `bodies` over so many connections until all are posted or the time is up. Opening the
    connections is not measured, nor are the first `warm_up` bodies.
    """
    lines = [await Connection.open(server.port) for _ in range(connections)]
    try:
        await _post_all(lines, path, iter(bodies[:warm_up]), check, math.inf)
        started, cpu = time.perf_counter(), server.cpu_ns()
        rest = iter(bodies[warm_up:])
        latencies = await _post_all(lines, path, rest, check, started + seconds)
        return Load(time.perf_counter() - started, server.cpu_ns() - cpu, latencies)
    finally:
        for line in lines:
            await line.close()


async def _post_all(
    lines: Sequence[Connection], path: str, bodies: Iterator[bytes], check: Check, until: float
) -> list[float]:
    """Post until `until` (of time.perf_counter); the latencies."""
    latencies: list[float] = []

    async def drive(line: Connection) -> None:
        # One iterator for all: a body is posted once.
        for body in bodies:
            sent = time.perf_counter()
            check(body, await line.post(path, body))
            replied = time.perf_counter()
            latencies.append(replied - sent)
            if replied >= until:
                return

    try:
        async with asyncio.timeout(LOAD_TIMEOUT), asyncio.TaskGroup() as tasks:
            for line in lines:
                tasks.create_task(drive(line))
    except TimeoutError:
        raise BenchFailed(f"{path} was not done within {LOAD_TIMEOUT:g} s") from None
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return latencies
