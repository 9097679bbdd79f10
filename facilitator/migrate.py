"""The command `migrate`: bring the journal's tables up to date."""

import argparse
import os
import sys

from facilitator.config import ConfigError, load_config
from facilitator.store import StoreError
from facilitator.store.migrating import migrate, schema_version
from facilitator.store.schema import MIGRATIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command `migrate`."""
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit code 1 where something would have to be done",
    )


async def run(options: argparse.Namespace) -> int:
    """Migrate what the environment configures: 0 when the tables are as they should be."""
    try:
        database = load_config(os.environ).database
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    known = len(MIGRATIONS)
    try:
        before = await schema_version(database)
        print(f"journal {database}: schema version {before}, this program has {known}")
        if before == known:
            print("nothing to do")
        elif before > known:
            print("nothing to do: this program works with a schema one version newer than its own")
        elif options.check:
            print(f"{known - before} to make: run `facilitator migrate`, or start the service")
            return 1
        else:
            await migrate(database)
            print(f"migrated to {await schema_version(database)}")
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
