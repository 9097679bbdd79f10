"""Ports for programs that cannot say which one they got. All else binds port 0 and reads it."""

import fcntl
import random
import socket
import tempfile
from pathlib import Path
from typing import Final, TextIO

# Below what Linux gives to whoever connects or binds port 0 (net.ipv4.ip_local_port_range).
RANGE: Final = range(20_000, 32_000)

_held: list[TextIO] = []  # until this process ends


def reserved_port() -> int:
    """One on which nothing listens, and that no other process of the tests is given until this one
    has ended: what is started on it can be started there again.
    """
    while True:
        port = random.choice(RANGE)  # noqa: S311 - not a secret
        lock = (Path(tempfile.gettempdir()) / f"facilitator-tests-port-{port}").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        _held.append(lock)
        return port
