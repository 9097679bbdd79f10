"""A port that is not to be had, and clients that ask for what is not spoken."""

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet
from tests.support.layers import settled
from tests.support.protocols import IGNORED, REFUSED, hang_up
from tests.support.service import environment, launch, serve

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1"])  # taken; nobody's (RFC 5737)
async def test_a_place_that_cannot_be_listened_on_is_one_line_and_exit_code_1(
    chain: Devnet, tmp_path: Path, host: str
) -> None:
    """Before the journal is touched."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        async with launch(
            environment(chain, tmp_path, HOST=host, FACILITATOR_PORT=port)
        ) as service:
            assert await service.ended() == 1
    [line] = service.output.decode().splitlines()
    assert line.startswith(f"error: cannot listen on {host}:{port}: ")
    assert os.listdir(tmp_path) == []


async def test_clients_that_ask_for_another_protocol_and_hang_up_delay_no_stop(
    chain: Devnet, tmp_path: Path
) -> None:
    """500 of each of four kinds: no descriptor stays, nothing is logged as wrong, and SIGTERM right
    after them ends the process with exit code 0, long before the grace (45 s) is over.
    """
    refused = [REFUSED[name][0] for name in ("HTTP/2", "WebSocket", "WebSocket without a key")]
    async with serve(chain, tmp_path) as service:
        port = int(service.url.rpartition(":")[2])
        descriptors = Path(f"/proc/{service.process.pid}/fd")
        before = len(os.listdir(descriptors))
        for sent in (*refused, IGNORED["h2c"]):
            await asyncio.to_thread(hang_up, port, sent, 500)
        await settled(lambda: len(os.listdir(descriptors)) <= before)
        assert (await service.get("/health"))[0] == 200
        await asyncio.to_thread(hang_up, port, IGNORED["h2c"], 500)
        told = time.monotonic()
        assert await service.stop() == 0
        assert time.monotonic() - told < 5
    wrong = [line for line in service.lines if line["level"] in ("warning", "error", "critical")]
    assert wrong == []
