"""`facilitator` as real processes that need not load it first.

Loading takes half a second, most of what a test of a running service costs. So one process loads
the program, runs nothing, and forks itself for each that is wanted; the fork gets the environment,
the descriptors and the arguments, and runs `main`. It is a process like any other: with its own
pid, killed by signals, gone with whoever asked for it. A program that is started by its own command
line is what tests/commands/test_cli.py and the suites of the image and the demo see.
"""

import array
import asyncio
import atexit
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1  # prctl(2)
POLL: Final = 0.005  # seconds
SIZE: Final = 2**18  # bytes of a message: arguments and environment
# What an interpreter or a library reads when it starts, which the fork's has done.
READ_AT_START: Final = ("PYTHON", "LANG", "LC_", "TZ", "SSL_", "MALLOC_", "ETH_")


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether a fork is what a new process with this environment would be."""
    return not any(name.startswith(READ_AT_START) for name in environment)


class Forked:
    """A running fork, as asyncio shows a process."""

    def __init__(self, pid: int, pidfd: int, status: socket.socket) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._status = status
        self._code: int | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal; None while it runs."""
        if self._code is None:
            with suppress(BlockingIOError):
                told = self._status.recv(8)
                self._code = int.from_bytes(told, signed=True) if told else -signal.SIGKILL
                self._status.close()
                os.close(self._pidfd)
        return self._code

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        while (code := self.returncode) is None:  # noqa: ASYNC110 - another process tells
            await asyncio.sleep(POLL)
        return code

    async def communicate(self) -> tuple[bytes, bytes]:
        """All that it writes into its pipes, once it has ended."""
        assert self.stdout is not None
        assert self.stderr is not None
        output, errors = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return output, errors


def fork(
    arguments: tuple[str, ...], environment: Mapping[str, str], *, stdout: int, stderr: int
) -> Forked:
    """`facilitator` with these arguments and nothing else in its environment."""
    ours, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with open(os.devnull, "rb") as nothing, status:
        message = json.dumps([list(arguments), dict(environment), os.getcwd()]).encode()
        descriptors = [status.fileno(), nothing.fileno(), stdout, stderr]
        socket.send_fds(_server(), [message], descriptors)
    told, pidfds, _, _ = socket.recv_fds(ours, 8, 1)
    assert told, "the process that forks has ended"
    ours.setblocking(False)
    return Forked(int.from_bytes(told), pidfds[0], ours)


async def fork_with_pipes(arguments: tuple[str, ...], environment: Mapping[str, str]) -> Forked:
    """The same with what it writes in `stdout` and `stderr`."""
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    forked = fork(arguments, environment, stdout=out_end, stderr=err_end)
    os.close(out_end)
    os.close(err_end)
    forked.stdout, forked.stderr = await _reader(out), await _reader(err)
    return forked


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )
    return reader


_running: list[tuple[int, "subprocess.Popen[bytes]", socket.socket]] = []


def _server() -> socket.socket:
    """The way to this process's own server, started when it is first wanted."""
    if not _running or _running[0][0] != os.getpid():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SIZE)
        coverage = {name: value for name, value in os.environ.items() if name.startswith("COV")}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forks", str(theirs.fileno())],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), **coverage},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        _running[:] = [(os.getpid(), process, ours)]
        atexit.register(stop)
    return _running[0][2]


def stop() -> None:
    """End the server, where there is one."""
    while _running:
        pid, process, control = _running.pop()
        control.close()
        if pid == os.getpid():
            process.wait()


# From here on: the server.


def _serve(control: socket.socket) -> tuple[list[str], dict[str, str], str, list[int]] | None:
    """Fork for every request. Returns in the fork, with what is asked of it; in the server None,
    once nobody can ask any more.
    """
    with selectors.DefaultSelector() as selector, control:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    message, descriptors, _, _ = socket.recv_fds(control, SIZE, 4)
                    if not message:
                        return None
                    pid = os.fork()
                    if pid == 0:
                        arguments, environment, folder = json.loads(message)
                        return arguments, environment, folder, descriptors[1:]
                    status = socket.socket(fileno=descriptors[0])
                    for descriptor in descriptors[1:]:
                        os.close(descriptor)
                    pidfd = os.pidfd_open(pid)
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))
                    status.sendmsg([pid.to_bytes(8)], [rights])
                    selector.register(pidfd, selectors.EVENT_READ, (pid, status))
                else:
                    _tell_the_end(selector, key)


def _tell_the_end(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    pid, status = key.data
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(BrokenPipeError), status:
        status.send(code.to_bytes(8, signed=True))
    selector.unregister(key.fileobj)
    os.close(key.fd)


def _become(environment: dict[str, str], folder: str, descriptors: list[int]) -> None:
    """Put what was asked for into the places where a new process has it."""
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
    os.closerange(3, max(descriptors) + 64)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # leave none behind
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)


def _run(control: socket.socket) -> int:
    # As `main` does; what `serve` runs on, and what anyio loads for it, once it runs.
    import anyio._backends._asyncio  # noqa: F401, PLC0415
    import uvloop  # noqa: F401, PLC0415

    from facilitator.commands import (  # noqa: F401, PLC0415
        check,
        deploy,
        devnet,
        migrate,
        pay,
        recover,
    )
    from facilitator.commands.main import main  # noqa: PLC0415
    from facilitator.web import server  # noqa: F401, PLC0415

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for whoever asks
    gc.collect()
    gc.freeze()  # or every fork would copy what it never looks at
    asked: Any = _serve(control)
    if asked is None:
        return 0
    arguments, environment, folder, descriptors = asked
    _become(environment, folder, descriptors)
    sys.argv = ["facilitator", *arguments]
    return main(arguments)


if __name__ == "__main__":
    sys.exit(_run(socket.socket(fileno=int(sys.argv[1]))))
