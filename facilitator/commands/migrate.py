"""The command `migrate`: bring the journal's tables up to date, or copy a journal from a SQLite
file into PostgreSQL.
"""

import argparse
import os
from pathlib import Path

from facilitator.config.database import PostgreSQL, parse_sqlite
from facilitator.config.settings import ConfigError, load_config
from facilitator.journal.migrate import copy_journal, migrate, schema_version
from facilitator.journal.schema import KNOWN_VERSION, MIGRATIONS, next_step
from facilitator.journal.sqlite.file import reopen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command `migrate`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit code 1 where something would have to be done",
    )
    what.add_argument(
        "--from",
        dest="source",
        metavar="sqlite:///PATH",
        help="copy the journal in this file into the empty PostgreSQL database that DATABASE_URL"
        " names, while no service runs on either; the file is marked, and opened no more",
    )
    what.add_argument(
        "--reopen",
        action="store_true",
        help="take the SQLite file that DATABASE_URL names into use again after it was copied with"
        " --from: only where no service ever ran on the copy, which is to be deleted",
    )


async def run(options: argparse.Namespace) -> int:
    """Migrate the journal that the environment configures. Return 0 when its tables are as they
    should be, 1 where `--check` finds that they are not. Raises ConfigError and StoreError.
    """
    database = load_config(os.environ).database
    if options.source is not None:
        await _copy(parse_sqlite("--from", options.source), database)
        return 0
    if options.reopen:
        _reopen(database)
        return 0
    before = await schema_version(database)
    print(f"journal {database}: schema version {before}, this program has {KNOWN_VERSION}")
    if before == KNOWN_VERSION:
        print("nothing to do")
    elif before > KNOWN_VERSION:
        print("nothing to do: this program works with a schema one version newer than its own")
    elif options.check:
        steps = len(MIGRATIONS) - (next_step(before) or 0)
        print(f"{steps} to make: run `facilitator migrate`, or start the service")
        return 1
    else:
        await migrate(database)
        print(f"migrated to {await schema_version(database)}")
    return 0


async def _copy(source: Path, target: Path | PostgreSQL) -> None:
    if isinstance(target, Path):
        raise ConfigError("DATABASE_URL must name a PostgreSQL database to copy a journal into")
    rows = await copy_journal(source, target)
    print(f"copied {source} to {target}:")
    for name, count in rows.items():
        print(f"  {name} {count}")
    print(f"{source} is marked as moved: no service starts on it any more")


def _reopen(database: Path | PostgreSQL) -> None:
    if not isinstance(database, Path):
        raise ConfigError("DATABASE_URL must name the SQLite file that is to be used again")
    target = reopen(database)
    if target is None:
        print(f"{database} has not moved: nothing to do")
    else:
        print(f"{database} is in use again; delete {target}, and never start a service on that")
