"""The file of a journal: one process at a time uses it, and none after it has moved elsewhere.

A journal that has moved into another database says so, since two would hand out one account nonce
twice. The mark is SQLite's application_id, so that a version of this program that knows nothing of
it refuses the file as well.
"""

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from facilitator.journal.engine import StoreError, StoreLocked
from facilitator.journal.schema import APPLICATION_ID, FIRST_VERSION, MIGRATIONS, next_step
from facilitator.journal.sqlite.connection import connect, connect_reader

MOVED_ID = 0x6D6F7664  # "movd" in ASCII

# What keeps the tally of finished settlements: triggers that count in one row.
_TALLY = """
    CREATE TABLE settlement_tally (
        chain_id INTEGER NOT NULL,
        state TEXT NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (chain_id, state)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER tally_inserted AFTER INSERT ON settlement
        WHEN NEW.state IN ('confirmed', 'failed', 'lost')
    BEGIN
        INSERT INTO settlement_tally VALUES (NEW.chain_id, NEW.state, 1)
            ON CONFLICT DO UPDATE SET number = number + 1;
    END;
    CREATE TRIGGER tally_finished AFTER UPDATE OF state ON settlement
        WHEN NEW.state <> OLD.state AND NEW.state IN ('confirmed', 'failed', 'lost')
    BEGIN
        INSERT INTO settlement_tally VALUES (NEW.chain_id, NEW.state, 1)
            ON CONFLICT DO UPDATE SET number = number + 1;
    END;
    CREATE TRIGGER tally_opened AFTER UPDATE OF state ON settlement
        WHEN NEW.state <> OLD.state AND OLD.state IN ('confirmed', 'failed', 'lost')
    BEGIN
        UPDATE settlement_tally SET number = number - 1
            WHERE chain_id = OLD.chain_id AND state = OLD.state;
    END;
    CREATE TRIGGER tally_deleted AFTER DELETE ON settlement
        WHEN OLD.state IN ('confirmed', 'failed', 'lost')
    BEGIN
        UPDATE settlement_tally SET number = number - 1
            WHERE chain_id = OLD.chain_id AND state = OLD.state;
    END;
"""


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


def open_file(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection, int]:
    """Open or create the file, as its only user, its tables up to date: who writes, who reads, and
    the lock. Raises StoreError, StoreLocked.
    """
    try:
        lock = lock_file(path)
    except FileNotFoundError:
        raise StoreError(
            f"cannot open the journal {path}: create the directory {path.parent} first"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot open the journal {path}: {error.strerror}") from None
    try:
        return _open(path), connect_reader(path), lock
    except (OSError, sqlite3.Error, StoreError) as error:
        os.close(lock)
        raise StoreError(f"cannot open the journal {path}: {error}") from None


def _open(path: Path) -> sqlite3.Connection:
    # Signed payments are nobody else's to read; SQLite gives its other files the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = connect(path)
    try:
        refuse_moved(connection)
        _refuse_strangers(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        _migrate(connection)
        # Whoever waited did so in a process that is gone: the lock says that we are alone.
        connection.execute(
            """UPDATE settlement SET listener = NULL
               WHERE listener IS NOT NULL AND replied_success_at IS NULL"""
        )
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse_strangers(db: sqlite3.Connection) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and tables:
        raise StoreError("it is the database of another program")


def version_of(db: sqlite3.Connection) -> int:
    """The version of its tables; 0 where there are none yet."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def _migrate(db: sqlite3.Connection) -> None:
    while (step := next_step(version_of(db))) is not None:
        tally = _TALLY if step == 0 else ""
        db.executescript(
            f"""BEGIN IMMEDIATE; {MIGRATIONS[step]} {tally}
                PRAGMA user_version = {FIRST_VERSION + step};
                PRAGMA application_id = {APPLICATION_ID}; COMMIT;"""
        )


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
