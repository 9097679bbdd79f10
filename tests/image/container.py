"""Run an image as a container runtime does, with nothing but util-linux: the service is process 1
of a process namespace of its own, under the image's own user, environment and command, without
capabilities. The network is this machine's.
"""

import os
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


class Container:
    """A running container. `pid` is its process 1, as this machine numbers it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
        self.process, self.port = process, port
        self._log = log
        self.pid = 0

    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; raises URLError where nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def started(self) -> "Container":
        """Wait until it answers and its process is known."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):
                self.get("/health")
                children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
                [self.pid] = map(int, children.read_text().split())
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
    port: int,
    volume: Path | None = None,
    read_only: bool = True,
    command: list[str] | None = None,
) -> Iterator[Container]:
    """Run the image's entry point, with `command` or its own."""
    baked = dict(each.split("=", 1) for each in config["Env"])
    variables = {**baked, "FACILITATOR_PORT": str(port), "HOST": "127.0.0.1", **environment}
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
            yield Container(process, log, port)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
