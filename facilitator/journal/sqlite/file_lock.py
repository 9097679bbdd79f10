"""A SQLite file has one process that uses it."""

import fcntl
import os
from pathlib import Path

from facilitator.journal.store import StoreLocked


def lock_file(path: Path) -> int:
    """Keep other processes out, for as long as this one lives: the kernel lets go of the lock with
    the process, however it ends. A file beside the journal, since SQLite's own locks are on that.
    """
    beside = f"{path.resolve()}.lock"
    lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StoreLocked(
            f"another process uses the journal {path}; stop it first, or give this one a file of"
            " its own (DATABASE_URL) and signing keys of its own; several processes share a journal"
            " and keys with DATABASE_URL=postgresql://..."
        ) from None
    return lock
