"""The commands of the package as real processes, with exactly the environment of a test."""

import asyncio
import contextlib
import io
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from facilitator.commands.main import main
from tests.support.forks import Forked, can_fork, fork_with_pipes

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
    return await ended(await begun(command, variables, *options))


async def begun(command: str, variables: Mapping[str, str], *options: str) -> Process | Forked:
    """The same, begun: to be given to `ended`."""
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    if can_fork(variables):
        told = {"PATH": os.environ["PATH"], **coverage, **variables}
        return await fork_with_pipes((command, *options), told)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "facilitator", command, *options),
        env={"PATH": os.environ["PATH"], **coverage, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: Process | Forked) -> Ended:
    """What it leaves behind, and has not been read yet."""
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


async def called(command: str, variables: Mapping[str, str], *options: str) -> Ended:
    """The same inside this process, on a thread and a loop of its own. A program takes half a
    second to start: too long for each line of a table, one line of which shows what a process does.
    """
    return await asyncio.to_thread(_call, (command, *options), variables)


def _call(arguments: Sequence[str], variables: Mapping[str, str]) -> Ended:
    ours = dict(os.environ)
    output, errors = io.StringIO(), io.StringIO()
    os.environ.clear()
    os.environ.update({"PATH": ours["PATH"], **variables})
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = main(arguments)
    except SystemExit as ended:  # argparse's way out
        code = int(ended.code or 0)
    finally:
        os.environ.clear()
        os.environ.update(ours)
    return Ended(code, output.getvalue(), errors.getvalue())


async def check(variables: dict[str, str], *options: str) -> tuple[int, str, str]:
    ended = await facilitator("check", variables, *options)
    return ended.code, ended.output, ended.errors


async def failing(variables: dict[str, str]) -> list[str]:
    """The subjects of the lines that fail, without addresses."""
    ended = await called("check", variables, "--json")
    assert ended.errors == ""
    findings: list[dict[str, Any]] = json.loads(ended.output)
    bad = [str(finding["subject"]).split(" 0x")[0] for finding in findings if not finding["ok"]]
    assert ended.code == (1 if bad else 0)
    return bad
