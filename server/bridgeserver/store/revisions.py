"""Counters that only grow, each a row of its own; by them others notice that something changed.

A transaction that counts one up holds its row until it commits, so the order of values is the order of commits:
whoever has seen a value has seen everything that was numbered below it.
"""

from sqlalchemy import Connection, func, select, update

from bridgeserver.store.schema import revisions

KEYS = "keys_rev"
"""Grows with every change of a key, a user or a user's token: of what a worker knows of its callers."""

CONFIG = "config_rev"
"""Grows with every change of a stored provider or MCP server, or of a switch of the file's."""

ENDS = "end_batch"
"""Grows with every transaction that ends interceptions."""

NOTIFIED = (KEYS, CONFIG)
CHANNEL = "bridgecore_revisions"
"""Which of them PostgreSQL tells those who listen, and where; with the commit, and the name alone."""


def current(connection: Connection, name: str) -> int:
    """Return the value of a counter."""
    return int(connection.execute(select(revisions.c.value).where(revisions.c.name == name)).scalar_one())


def advance(connection: Connection, name: str) -> int:
    """Count up by one and return the new value."""
    connection.execute(update(revisions).where(revisions.c.name == name).values(value=revisions.c.value + 1))
    if name in NOTIFIED and connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_notify(CHANNEL, name)))
    return current(connection, name)


def hold(connection: Connection, name: str) -> None:
    """Wait for the transactions that have counted this up or hold it, and have later ones wait for this one.

    What is read from then on has what they committed: whoever looks first and then writes begins with it. SQLite has
    one writer at a time, and needs no more for it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(revisions.c.value).where(revisions.c.name == name).with_for_update())
