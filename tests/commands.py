"""The commands of the package as real processes, with exactly the environment of a test."""

import asyncio
import os
import sys
from collections.abc import Mapping

from msgspec import Struct

TIMEOUT = 180.0  # seconds


class Ended(Struct, frozen=True):
    """What a process left behind."""

    code: int
    output: str
    errors: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        [line] = [line for line in self.errors.splitlines() if "error: " in line]
        return line


async def facilitator(command: str, variables: Mapping[str, str], *options: str) -> Ended:
    """Run `facilitator COMMAND` to its end; killed when it takes too long."""
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "facilitator", command, *options),
        env={"PATH": os.environ["PATH"], **coverage, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    code = process.returncode
    assert code is not None
    return Ended(code, output.decode(), errors.decode())
