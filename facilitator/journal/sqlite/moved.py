"""A journal that has moved into another database: its file says so, and is not opened any more.

Two journals would hand out one account nonce twice. The mark is SQLite's application_id, so that a
version of this program that knows nothing of it refuses the file as well.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from facilitator.journal.schema import APPLICATION_ID
from facilitator.journal.sqlite.file_lock import lock_file
from facilitator.journal.sqlite.writer import connect
from facilitator.journal.store import StoreError

MOVED_ID = 0x6D6F7664  # "movd" in ASCII


def mark_moved(target: str, db: sqlite3.Connection) -> None:
    """Inside a transaction. `target` is for people to read, and holds no secret."""
    db.execute("CREATE TABLE moved (target TEXT NOT NULL) STRICT")
    db.execute("INSERT INTO moved VALUES (?)", (target,))
    db.execute(f"PRAGMA application_id = {MOVED_ID}")


def moved_to(db: sqlite3.Connection) -> str | None:
    """Where the journal has moved to; None for one that has not."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != MOVED_ID:
        return None
    (target,) = db.execute("SELECT target FROM moved").fetchone()
    return str(target)


def refuse_moved(db: sqlite3.Connection) -> None:
    """Raise StoreError, which says where to, and what to do."""
    target = moved_to(db)
    if target is not None:
        raise StoreError(
            f"it has moved to {target}: name that in DATABASE_URL. Two journals would use one"
            " account nonce twice; only where no service ever ran on the other one,"
            " `facilitator migrate --reopen` takes this file into use again"
        )


def reopen(path: Path) -> str | None:
    """Take the mark off the file; where it had moved to, None where it had not. Raises StoreError,
    StoreLocked.
    """
    if not path.exists():
        raise StoreError(f"there is no journal {path}")
    try:
        lock = lock_file(path)
        try:
            with closing(connect(path)) as db:
                target = moved_to(db)
                if target is not None:
                    db.executescript(
                        f"""BEGIN IMMEDIATE; DROP TABLE moved;
                            PRAGMA application_id = {APPLICATION_ID}; COMMIT;"""
                    )
                return target
        finally:
            os.close(lock)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"cannot open the journal {path}: {error}") from None
