"""A TCP proxy before PostgreSQL that loses what it is told to lose: real sockets, real protocol.

Messages are told apart by what stands in them, which suffices where they are as short as COMMIT.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

CHUNK = 65_536


class TCPProxy:
    """Forwards to `port`. `lose_next` breaks a connection at the next COMMIT: "request" before it
    reaches the server, "reply" after the server has answered; `lose_after` sets it once these bytes
    were asked. `frozen` forwards nothing while it
    is set, and breaks nothing.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.port = 0
        self.lose_next: str | None = None
        self.lose_after: tuple[bytes, str] | None = None
        self.lost = 0
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def url(self, url: str) -> str:
        """The same database by way of this proxy."""
        parts = urlsplit(url)
        place = f"{parts.netloc.rpartition(':')[0]}:{self.port}"
        return urlunsplit(parts._replace(netloc=place))

    def freeze(self) -> None:
        """As a partition: packets vanish, and nobody is told."""
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
            self._writers |= {writer, far_writer}
            there = asyncio.ensure_future(self._pump(reader, far_writer, writer, "request"))
            back = asyncio.ensure_future(self._pump(far_reader, writer, far_writer, "reply"))
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            there.cancel()
            back.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
            self._writers -= {writer, far_writer}
            far_writer.transport.abort()
        writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        other: asyncio.StreamWriter,
        direction: str,
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._open.wait()
                if self.lose_after is not None and self.lose_after[0] in chunk:
                    self.lose_next, self.lose_after = self.lose_after[1], None
                if self.lose_next == direction and b"COMMIT\0" in chunk:
                    self.lose_next = None
                    self.lost += 1
                    other.transport.abort()
                    return
                writer.write(chunk)
                await writer.drain()


@asynccontextmanager
async def tcp_proxy(port: int) -> AsyncIterator[TCPProxy]:
    """A proxy before that port of this machine."""
    proxy = TCPProxy(port)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.thaw()
        proxy.cut()
