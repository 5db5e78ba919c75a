"""`bridgecore store …`: the database itself."""

import argparse
from contextlib import closing
from typing import Any

from bridgeserver.console import add_config, load_config


def add_to(group: Any) -> None:  # its type is private to argparse
    """Add the actions to the command."""
    action = group.add_parser("upgrade", help="bring the schema of the database to this version", allow_abbrev=False)
    action.set_defaults(command=upgrade)
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
