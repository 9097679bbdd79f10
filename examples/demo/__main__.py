"""`make demo`: payments from start to end, on a chain of their own, explained as they happen.

Exits 0 only if every step held, and leaves nothing running.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from examples.demo.story import DemoFailed, expect, say, tell
from facilitator.commands.devnet import AnvilError, Devnet, DevnetOptions
from facilitator.ethereum.addresses import checksum

START_TIMEOUT = 15.0  # seconds
STOP_TIMEOUT = 10.0  # seconds


async def main() -> int:
    """Run the demo and return the exit code."""
    try:
        async with Devnet.start(DevnetOptions(port=0)) as devnet:
            say("Payments on a chain of their own")
            say()
            say(f"  chain      anvil, id {devnet.chain_id}, a block a second, {devnet.url}")
            say(f"  contract   X402Facilitator {checksum(devnet.contract)}")
            async with _service(devnet) as url, aiohttp.ClientSession(url) as session:
                say(f"  service    {url}, signing as {checksum(devnet.signer.address)}")
                say()
                await tell(devnet, session)
    except (DemoFailed, AnvilError) as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    say()
    say("Every step held.")
    return 0


@asynccontextmanager
async def _service(devnet: Devnet) -> AsyncIterator[str]:
    """Run the service as a process of its own; the result is its URL. Raises DemoFailed where
    SIGTERM does not end it with exit code 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        environment = {
            **os.environ,
            **devnet.environment(),
            "HOST": "127.0.0.1",
            "FACILITATOR_PORT": "0",
            "FACILITATOR_ENV": "development",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "INFO",
            "DATABASE_URL": f"sqlite:///{folder}/facilitator.db",
        }
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "facilitator", "serve"), env=environment, stderr=output
            )
        try:
            yield await _url(process, log)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_TIMEOUT):
                code = await process.wait()
            expect(code == 0, f"the service ended with exit code {code}: {_text(log)}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _url(process: asyncio.subprocess.Process, log: Path) -> str:
    """Return the URL from the service's start line, once it is ready. Raises DemoFailed."""
    deadline = time.monotonic() + START_TIMEOUT
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline and process.returncode is None:
            await asyncio.sleep(0.1)
            address = _listening(log)
            if address is None:
                continue
            url = f"http://{address}"
            with suppress(aiohttp.ClientError):
                async with session.get(f"{url}/ready") as response:
                    if response.status == 200:
                        return url
    raise DemoFailed(f"the service did not start: {_text(log)}")


def _listening(log: Path) -> str | None:
    """Return host:port from the start line in the service's log; None before it."""
    lines = [json.loads(line) for line in _text(log).splitlines() if line.startswith("{")]
    addresses = [str(line["listening"]) for line in lines if line["event"] == "started"]
    return addresses[0] if addresses else None


def _text(log: Path) -> str:
    return log.read_text()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
