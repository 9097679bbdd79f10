"""The command `recover`: after the journal was restored from a backup.

What happened since the backup is not in it. A payment that it holds as open or confirmed may have
been told of as a success by the life that is lost, and one payment must not be told of twice.
"""

import argparse
import asyncio
import os
import sys
import time

from facilitator.config.settings import ConfigError, load_config
from facilitator.engine.loop import MAX_BACKOFF_SECONDS
from facilitator.journal.migrating import schema_version
from facilitator.journal.open import open_store
from facilitator.journal.store import SharedStore, Store, StoreError

# Seconds in which a replica shows itself by taking a lease: one that found no database while it was
# being restored, or that followed another one until that was stopped.
SHOWS_ITSELF = MAX_BACKOFF_SECONDS + 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command `recover`."""
    parser.add_argument(
        "--restored",
        action="store_true",
        required=True,
        help="the journal comes from a backup: mark every payment in it that could still end in"
        " success as told already",
    )


async def run(_: argparse.Namespace) -> int:
    """Mark what the journal holds, while no service uses it: 0 when done, 1 where one does and
    where it cannot be opened or written, 2 for a wrong setting.
    """
    try:
        database = load_config(os.environ).database
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        if not await schema_version(database):
            print(f"error: there is no journal {database}", file=sys.stderr)
            return 1
        store = await open_store(database)
        try:
            marked = await _mark(store)
        finally:
            await store.close()
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{database}: {marked} settlements marked as told")
    return 0


async def _mark(store: Store) -> int:
    """How many settlements were marked. Raises StoreError, StoreLocked where a replica runs; a file
    has a lock of its own.
    """
    if isinstance(store, SharedStore):
        await store.refuse_shared()
        print(f"watching for {SHOWS_ITSELF:.0f} s that no replica runs", file=sys.stderr)
        await asyncio.sleep(SHOWS_ITSELF)
    return await store.mark_all_replied(time.time_ns() // 1_000_000)
