"""The command `recover`: make a journal safe to use after it was restored from a backup.

The backup does not hold what happened after it. A payment that it holds as open or confirmed may
since have been reported as a success, and no payment may be reported as a success twice.
"""

import argparse
import asyncio
import os
import sys
import time

from facilitator.config.settings import load_config
from facilitator.engine.loop import MAX_BACKOFF_SECONDS
from facilitator.journal.migrate import schema_version
from facilitator.journal.open import open_store
from facilitator.journal.store import SharedStore, Store

# Seconds within which every running replica takes or renews a lease, even one that backs off from
# an unreachable database, or that followed a leader which has just stopped.
SHOWS_ITSELF = MAX_BACKOFF_SECONDS + 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command `recover`."""
    parser.add_argument(
        "--restored",
        action="store_true",
        required=True,
        help="the journal comes from a backup: mark every payment in it that could still end in"
        " success as told already",
    )


async def run(_: argparse.Namespace) -> int:
    """Mark the settlements as reported. Return 0 when done, 1 where there is no journal. Raises
    ConfigError, and StoreError where a service uses the journal or it cannot be written.
    """
    database = load_config(os.environ).database
    if not await schema_version(database):
        print(f"error: there is no journal {database}", file=sys.stderr)
        return 1
    store = await open_store(database)
    try:
        marked = await _mark(store)
    finally:
        await store.close()
    print(f"{database}: {marked} settlements marked as told")
    return 0


async def _mark(store: Store) -> int:
    """Mark the settlements and return how many there were. Raises StoreError, and StoreLocked where
    a replica runs; a SQLite file has a lock of its own.
    """
    if isinstance(store, SharedStore):
        await store.refuse_shared()
        print(f"watching for {SHOWS_ITSELF:.0f} s that no replica runs", file=sys.stderr)
        await asyncio.sleep(SHOWS_ITSELF)
    return await store.mark_all_replied(time.time_ns() // 1_000_000)
