"""Run an image as a container runtime does, with nothing but util-linux: the service is process 1
of a process namespace of its own, under the image's own user, environment and command, without
capabilities. The network is this machine's.
"""

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.image.building import IMAGE, buildah

DEADLINE = 30.0  # seconds

# Runs as process 1 in its namespaces and becomes the program: exec all the way down.
_ENTER = r"""
set -eu
root=$1; volume=$2; readonly=$3; user=$4; shift 4
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/tmp"
[ -z "$volume" ] || mount --bind "$volume" "$root/data"
[ -z "$readonly" ] || mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups \
    --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""

_LISTENING = re.compile(r'"listening": ?"127\.0\.0\.1:(\d+)"')


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    if process.poll() is not None:
        return []
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


class Container:
    """A running container. `pid` is its process 1, as this machine numbers it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self.pid = 0
        self.port = 0  # known once it has started

    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; raises URLError where nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def _listening(self) -> int:
        """The port that it says it listens on; 0 where it has not said so yet."""
        found = _LISTENING.search(self.log())
        return int(found[1]) if found else 0

    def started(self) -> "Container":
        """Wait until it answers and its process is known."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):
                self.port = self._listening()
                self.get("/health")
                [self.pid] = _children(self.process)
                return self
            time.sleep(0.05)
        raise AssertionError(f"the container did not start: {self.log()}")

    def signal(self, number: int) -> None:
        """As a runtime does: to process 1 alone, from outside of its namespace."""
        os.kill(self.pid, number)

    def ended(self) -> int:
        """Wait for the end; the exit code of process 1."""
        return self.process.wait(DEADLINE)

    def status(self) -> dict[str, str]:
        """Of process 1, as the kernel tells it (proc_pid_status(5))."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@contextmanager
def mounted() -> Iterator[Path]:
    """The image's files, on a layer of a container of their own."""
    name = buildah("from", IMAGE)
    try:
        yield Path(buildah("mount", name))
    finally:
        buildah("rm", name)


@contextmanager
def run(
    config: Mapping[str, Any],
    environment: Mapping[str, str],
    folder: Path,
    *,
    volume: Path | None = None,
    read_only: bool = True,
    command: list[str] | None = None,
) -> Iterator[Container]:
    """Run the image's entry point, with `command` or its own."""
    baked = dict(each.split("=", 1) for each in config["Env"])
    variables = {**baked, "FACILITATOR_PORT": "0", "HOST": "127.0.0.1", **environment}
    log = folder / "log"
    with mounted() as root, log.open("wb") as output:
        process = subprocess.Popen(
            [
                *("unshare", "--fork", "--kill-child", "--pid", "--mount", "--ipc", "--uts"),
                *("sh", "-c", _ENTER, "sh", str(root), str(volume or "")),
                *("yes" if read_only else "", config["User"]),
                *(config["Entrypoint"] + (command or config["Cmd"])),
            ],
            # the image's PATH and the tools' own directories are both needed on the way in
            env={**variables, "PATH": f"{variables['PATH']}:/usr/sbin:/sbin"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Container(process, log)
        finally:
            # unshare's --kill-child forgets its child when that becomes another user. With process
            # 1 the kernel ends all others of the namespace.
            for pid in _children(process):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()
            process.wait()
