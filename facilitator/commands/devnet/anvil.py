"""anvil, the development chain: finds it, installs the pinned one, runs it as a process."""

import asyncio
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import resources
from pathlib import Path

import anyio

MINIMUM_VERSION = (1, 5)
GAS_LIMIT = 1_000_000_000  # a block's, so that under load the service and not the chain is measured
START_TIMEOUT = 30.0  # seconds until anvil listens; it takes 0.1 on an idle machine
STOP_TIMEOUT = 5.0  # seconds from SIGTERM to SIGKILL
VERSION_TIMEOUT = 10.0  # seconds for `anvil --version`
PR_SET_PDEATHSIG = 1  # prctl(2)

_VERSION = re.compile(r"anvil\s+(?:version:\s*)?v?(\d+)\.(\d+)", re.IGNORECASE)
_LISTENING = re.compile(r"Listening on \S+:(\d+)\s*\Z")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what to dial, not to bind)


class AnvilError(Exception):
    """anvil cannot be found, installed or started. The text is one line for whoever started it."""


def find_anvil(tools: Path) -> Path:
    """Return the anvil to run: the one on PATH if it is 1.5 or newer, else the one in `tools`.

    Where the folder `tools` has none, install it there from the package's own lock file, with a
    line of progress on stderr. Raises AnvilError where that fails.
    """
    on_path = shutil.which("anvil")
    if on_path is not None and _is_recent(Path(on_path)):
        return Path(on_path)
    installed = _installed(tools)
    if installed is None:
        _install(tools)
        installed = _installed(tools)
    if installed is None:
        # npm passes silently over an optional package that Node.js is too old for.
        raise AnvilError(
            f"npm installed no anvil for {sys.platform}; remedy: Node.js 20 or newer, "
            "or name an anvil with --anvil"
        )
    return installed


def _is_recent(anvil: Path) -> bool:
    try:
        output = subprocess.run(  # noqa: S603 (the anvil that the user's own PATH names)
            [anvil, "--version"],
            check=False,
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = _VERSION.search(output)
    return version is not None and (int(version[1]), int(version[2])) >= MINIMUM_VERSION


def _installed(tools: Path) -> Path | None:
    """Return the platform's binary itself, not npm's launcher, which is a second process to end."""
    for binary in sorted(tools.glob("node_modules/@foundry-rs/anvil-*/bin/anvil*")):
        if _is_recent(binary):
            return binary.absolute()
    return None


def _install(tools: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        minimum = ".".join(map(str, MINIMUM_VERSION))
        raise AnvilError(
            f"no anvil {minimum} or newer on PATH, and no npm to install one with; remedy: "
            "install Node.js with npm (Debian and Ubuntu: apt-get install nodejs npm)"
        )
    print(f"installing anvil into {tools} (once, about 60 MB) ...", file=sys.stderr, flush=True)
    try:
        tools.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            source = resources.files("facilitator.commands.contracts").joinpath(name)
            (tools / name).write_bytes(source.read_bytes())
        result = subprocess.run(  # noqa: S603 (npm, with arguments that are all ours)
            [npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"],
            check=False,
            cwd=tools,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        raise AnvilError(f"cannot install anvil into {tools}: {error.strerror}") from None
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines()
        reason = lines[0] if lines else f"exit {result.returncode}"
        raise AnvilError(f"npm ci in {tools} failed: {reason}")


@asynccontextmanager
async def run_anvil(
    binary: Path, *, host: str, port: int, chain_id: int, accounts: int, genesis: int
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run anvil while the context lasts, with every transaction mined at once. The result is the
    process and its URL.

    Port 0 takes a free one; `genesis` is the first block's time, in unix seconds. Raises AnvilError
    where anvil does not start or does not listen.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            binary,
            *("--host", host, "--port", str(port), "--chain-id", str(chain_id)),
            *("--accounts", str(accounts), "--gas-limit", str(GAS_LIMIT)),
            *("--timestamp", str(genesis)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # A Ctrl-C in the terminal is for us: we end anvil, in our order.
            start_new_session=True,
            preexec_fn=_end_with_parent(),
        )
    except OSError as error:
        raise AnvilError(f"anvil did not start: {binary}: {error.strerror}") from None
    assert process.stdout is not None
    try:
        try:
            async with asyncio.timeout(START_TIMEOUT):
                listening = await _listening_port(process.stdout, f"{host}:{port}")
        except TimeoutError:
            raise AnvilError(f"anvil did not listen within {START_TIMEOUT:g} s") from None
        dial = _EVERYWHERE.get(host, host)
        dial = f"[{dial}]" if ":" in dial else dial
        # A pipe that nobody reads fills up, and then anvil stands still.
        drain = asyncio.create_task(_discard(process.stdout))
        try:
            yield process, f"http://{dial}:{listening}"
        finally:
            drain.cancel()
    finally:
        await _end(process)


async def _listening_port(output: asyncio.StreamReader, place: str) -> int:
    """Return the port on which anvil listens, as it prints it: an answer on the port may come from
    another program's chain. Raises AnvilError with its last line where it ends instead.
    """
    last = "it said nothing"
    while line := (await output.readline()).decode(errors="replace"):
        if listening := _LISTENING.search(line):
            return int(listening[1])
        last = line.strip().removeprefix("Error: ") or last
    raise AnvilError(f"anvil did not start on {place}: {last}")


async def _discard(output: asyncio.StreamReader) -> None:
    while await output.read(65_536):
        pass


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process and wait for it, even where we are cancelled meanwhile."""
    _signal(process, signal.SIGTERM)
    with anyio.move_on_after(STOP_TIMEOUT, shield=True):
        await process.wait()
    _signal(process, signal.SIGKILL)
    with anyio.CancelScope(shield=True):
        await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not process.send_signal: it polls, and a child that it reaps is one whose end asyncio misses.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _end_with_parent() -> Callable[[], None] | None:
    """Return what the child runs before it becomes anvil: it asks the kernel for SIGTERM when we
    die, however we die. None where the kernel is not Linux.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return ask
