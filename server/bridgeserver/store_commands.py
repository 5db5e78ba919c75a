"""`bridgecore store …`: what is done to the database as a whole."""

import argparse
import time
from contextlib import closing
from typing import Any

from bridgeserver.console import add_config, load_config, opened, progress
from bridgeserver.errors import BadRequest

MAX_DAYS = 36_500


def add_to(group: Any) -> None:  # its type is private to argparse
    """Add the actions to the command."""
    action = group.add_parser("upgrade", help="bring the schema of the database to this version", allow_abbrev=False)
    action.set_defaults(command=upgrade)
    add_config(action)
    action = group.add_parser("purge", help="delete the records that are older than the retention", allow_abbrev=False)
    action.add_argument("--older-than", type=_days, metavar="DAYS", help="this age instead of records.retention_days")
    action.set_defaults(command=purge)
    add_config(action)


def upgrade(options: argparse.Namespace) -> None:
    """Upgrade the store, and say from which revision of the schema to which."""
    from bridgeserver.store import open_store

    with closing(open_store(load_config(options).store.url)) as store:
        before = store.revision()
        store.upgrade()
        after = store.revision()
    if before == after:
        print(f"the schema is at revision {after} already")
    else:
        print(f"the schema went from revision {before or 'none'} to {after}")


def _days(text: str) -> int:
    days = int(text)
    if not 1 <= days <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"expected days from 1 to {MAX_DAYS}, found {days}")
    return days


def purge(options: argparse.Namespace) -> None:
    from bridgeserver import purge as purging
    from bridgeserver.store.instants import iso

    with opened(options) as (config, store, _vault):
        days = options.older_than or config.records.retention_days
        if not days:
            raise BadRequest(
                "records.retention_days: found 0, which keeps records for ever: set it, or say --older-than DAYS"
            )
        before = purging.days_ago(days, time.time())
        with progress(store.count_before(before), "interceptions") as bar:
            count = purging.purge(store, before, pause=time.sleep, on_batch=bar.advance)
    print(f"purged {count} interceptions that began before {iso(before)[:16]}Z, and what belongs to them")
