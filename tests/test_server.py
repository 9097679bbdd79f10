"""A port that is not to be had."""

import os
import socket
from pathlib import Path

import pytest

from facilitator.devnet import Devnet
from tests.service import environment, launch

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
