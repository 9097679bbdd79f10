"""The command `devnet`, as a real process."""

import asyncio
import json
import os
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.support.commands import begun
from tests.support.forks import Forked

pytestmark = pytest.mark.anyio

TIMEOUT = 90.0  # seconds


@asynccontextmanager
async def devnet(*options: str) -> AsyncIterator[Process | Forked]:
    process = await begun("devnet", {}, *options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


async def described(process: Process | Forked) -> dict[str, object]:
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        description: dict[str, object] = json.loads(await process.stdout.readline())
        return description


async def answers(url: object) -> bool:
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(str(url), json=call) as response:
                return bool((await response.json())["result"] == hex(420691))
        except aiohttp.ClientError:
            return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_and_its_chain(number: int) -> None:
    async with devnet("--port", "0", "--json") as process:
        url = (await described(process))["url"]
        assert await answers(url)
        process.send_signal(number)
        async with asyncio.timeout(TIMEOUT):
            assert await process.wait() == 0
        assert not await answers(url)


async def test_the_chain_does_not_outlive_a_killed_parent() -> None:
    async with devnet("--port", "0", "--json") as process:
        url = (await described(process))["url"]
        process.kill()
        await process.wait()
        async with asyncio.timeout(TIMEOUT):
            while await answers(url):  # noqa: ASYNC110 - another process ends
                await asyncio.sleep(0.05)


async def test_json_says_everything() -> None:
    async with devnet("--port", "0", "--json", "--automine") as process:
        told = await described(process)
    assert set(told) == {
        *("url", "chainId", "network", "contracts", "warning", "accounts", "environment")
    }
    accounts = told["accounts"]
    assert isinstance(accounts, list)
    assert len(accounts) == 10
    environment = told["environment"]
    assert isinstance(environment, dict)
    assert environment["JEJU_RPC_URL"] == told["url"]


async def test_the_exports_can_be_sourced_by_a_shell() -> None:
    shell = shutil.which("sh")
    assert shell is not None
    async with devnet("--port", "0") as process:
        assert process.stdout is not None
        text = b""
        async with asyncio.timeout(TIMEOUT):
            while b"FACILITATOR_PRIVATE_KEY" not in text:
                text += await process.stdout.readline()
    script = text.decode() + "\necho $X402_FACILITATOR_ADDRESS"
    run = await asyncio.create_subprocess_exec(
        shell, "-eu", "-c", script, stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}
    )
    output, _ = await run.communicate()
    assert run.returncode == 0
    assert output.startswith(b"0x")


async def test_a_busy_port_is_one_clear_line() -> None:
    async with devnet("--port", "0", "--json") as first:
        port = str((await described(first))["url"]).rpartition(":")[2]
        async with devnet("--port", port) as second:
            async with asyncio.timeout(TIMEOUT):
                _, errors = await second.communicate()
            assert second.returncode == 1
            [line] = errors.decode().splitlines()
            assert line.startswith("error: ")


@pytest.mark.parametrize("options", [("--port", "x"), ("--block-time", "0"), ("--network", "nope")])
async def test_bad_usage_exits_2(options: tuple[str, ...]) -> None:
    async with devnet(*options) as process:
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert b"error: argument" in errors
