"""`make demo`, as the process that it is."""

import asyncio
import os
import re
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio

TIMEOUT = 180.0  # seconds; the run itself takes about five on an idle machine
STEPS = 9


async def demo(folder: Path = ROOT, **variables: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.demo.__main__"),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    code = process.returncode
    assert code is not None
    return code, output.decode(), errors.decode()


async def test_every_step_is_told_and_nothing_is_left_running() -> None:
    code, output, errors = await demo()
    assert (code, errors) == (0, ""), output
    lines = output.splitlines()
    assert lines[-1] == "Every step held."
    assert [int(line[0]) for line in lines if re.match(r"\d\. ", line)] == [*range(1, STEPS + 1)]
    hashes = re.findall(r"transaction (0x[0-9a-f]{64})$", output, re.MULTILINE)
    assert len(set(hashes)) == 3
    assert "   Its client is the official one, the Python package x402.\n" in output
    urls = re.findall(r"http://127\.0\.0\.1:\d+", output)
    assert len(urls) == 2  # the chain's and the service's
    async with aiohttp.ClientSession() as session:
        for url in urls:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(url)


async def test_without_the_official_client_the_demo_signs_and_says_so(tmp_path: Path) -> None:
    """Here an empty module of that name stands before the package."""
    (tmp_path / "x402.py").touch()
    code, output, errors = await demo(PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (code, errors) == (0, ""), output
    [_, step, *_] = re.split(r"^6\. |^7\. ", output, flags=re.MULTILINE)
    assert "not\n   installed here: the demo signs in its stead." in step
    assert "POST /settle -> success true\n   transaction 0x" in step
    assert output.endswith("\nEvery step held.\n")


async def test_a_demo_that_cannot_run_is_one_line_and_exit_1(tmp_path: Path) -> None:
    code, _, errors = await demo(MAX_PAYMENT_AGE="301")
    assert code == 1
    assert errors.startswith("error: the service did not start: ")
    # Neither an anvil on PATH nor one in .tools, and no npm to install one with.
    code, output, errors = await demo(tmp_path, PATH=str(tmp_path))
    assert (code, output) == (1, "")
    [line] = errors.splitlines()
    assert line.startswith("error: no anvil")
