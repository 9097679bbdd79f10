"""The image as it runs: process 1, no root, a read-only root, SIGTERM, its journal on a volume."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facilitator.commands.devnet import Devnet
from tests.image.container import Container, run
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.service import request

pytestmark = pytest.mark.anyio

Launch = Callable[..., AbstractContextManager[Container]]


@pytest.fixture
def volume(config: Mapping[str, Any], tmp_path: Path) -> Path:
    """A volume as an engine makes it: owned by the image's user."""
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o700)
    user, group = map(int, config["User"].split(":"))
    os.chown(folder, user, group)
    return folder


@pytest.fixture
def launch(config: dict[str, Any], devnet: Devnet, tmp_path: Path) -> Launch:
    """Starts the image on the test chain."""

    def start(**options: Any) -> AbstractContextManager[Container]:
        return run(config, devnet.environment(), tmp_path, **options)

    return start


@pytest.fixture
def running(launch: Launch, volume: Path) -> Iterator[Container]:
    with launch(volume=volume) as container:
        yield container.started()


async def post(container: Container, path: str, body: object) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{container.port}{path}"
        async with session.post(url, json=body) as response:
            reply: dict[str, Any] = await response.json()
            return reply


def events(container: Container) -> list[str]:
    return [json.loads(line)["event"] for line in container.log().splitlines()]


async def test_it_is_process_1_without_root_and_privileges(running: Container) -> None:
    status = running.status()
    assert status["NSpid"].split()[-1] == "1"
    assert set(status["Uid"].split()) == {"10001"}
    assert set(status["Gid"].split()) == {"10001"}
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"


async def test_it_needs_no_writable_file_but_its_volume(running: Container, volume: Path) -> None:
    mounts = Path(f"/proc/{running.pid}/mountinfo").read_text().splitlines()
    [root] = [line.split()[5] for line in mounts if line.split()[4] == "/"][-1:]
    assert "ro" in root.split(",")
    assert running.get("/ready")[0] == 200
    assert {"facilitator.db", "facilitator.db.lock"} <= {each.name for each in volume.iterdir()}


async def test_the_health_check_tells_a_service_from_none(
    running: Container, config: dict[str, Any]
) -> None:
    command = config["Healthcheck"]["Test"][1:]
    enter = ["nsenter", f"--target={running.pid}", "--pid", "--mount", "--root", "--wd"]
    path = {"PATH": os.environ["PATH"]}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        for port, expected in ((running.port, 0), (taken.getsockname()[1], 1)):
            variables = {**path, "FACILITATOR_PORT": str(port)}
            done = subprocess.run(
                [*enter, *command], env=variables, check=False, capture_output=True
            )
            assert done.returncode == expected, done.stderr


async def test_sigterm_to_process_1_ends_it_with_code_0(running: Container) -> None:
    began = time.monotonic()
    running.signal(signal.SIGTERM)
    assert running.ended() == 0
    assert time.monotonic() - began < 5


async def test_sigterm_lets_a_settlement_have_its_answer(
    running: Container, devnet: Devnet
) -> None:
    await approve(devnet)
    header = devnet_payment(devnet)
    posting = asyncio.create_task(post(running, "/settle", request(header)))
    async with asyncio.timeout(20):
        while "settlement_submitted" not in events(running):  # noqa: ASYNC110 - a process logs it
            await asyncio.sleep(0.02)
    running.signal(signal.SIGTERM)
    reply = await posting
    assert running.ended() == 0
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)


async def test_the_journal_outlives_the_container(
    launch: Launch, volume: Path, devnet: Devnet
) -> None:
    await approve(devnet)
    header = devnet_payment(devnet)
    with launch(volume=volume) as first:
        settled = await post(first.started(), "/settle", request(header))
        first.signal(signal.SIGTERM)
        assert first.ended() == 0
    with launch(volume=volume) as second:
        again = await post(second.started(), "/settle", request(header))
    assert settled["success"] is True
    assert again["error"] == "Nonce has already been used"
    assert again["txHash"] == settled["txHash"]


async def test_without_a_place_for_the_journal_it_does_not_start(launch: Launch) -> None:
    with launch(volume=None, read_only=True) as container:
        assert container.ended() == 1
        assert "start_refused" in events(container)


async def test_on_a_volume_of_somebody_else_it_does_not_start(
    launch: Launch, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o755)
    with launch(volume=foreign) as container:
        assert container.ended() == 1
        assert "start_refused" in events(container)


async def test_a_journal_that_goes_away_with_the_container_is_warned_about(
    launch: Launch, volume: Path
) -> None:
    with launch(volume=None, read_only=False) as container:
        container.started()
        assert "journal_not_on_a_volume" in events(container)
    with launch(volume=volume, read_only=False) as container:
        container.started()
        assert "journal_not_on_a_volume" not in events(container)


async def test_a_setting_that_is_wrong_is_told_in_one_line(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """In production nobody's money goes through an endpoint that nobody chose."""
    with run(config, {}, tmp_path) as container:
        assert container.ended() == 2
        [line] = container.log().splitlines()
        assert line.startswith("error: JEJU_RPC_URL must be set in production")


async def test_every_command_runs_from_the_image(config: dict[str, Any], tmp_path: Path) -> None:
    with run(config, {}, tmp_path, command=["--version"]) as container:
        assert container.ended() == 0
        assert container.log().startswith("facilitator ")
