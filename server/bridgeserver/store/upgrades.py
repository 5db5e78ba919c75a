"""Bringing a database to the schema of this version."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection

from bridgeserver.errors import StoreError, StoreUnavailable
from bridgeserver.store.migrations import HEAD

MIGRATIONS = Path(__file__).parent / "migrations"


def is_current(path: Path) -> bool:
    """Whether the database has the schema of this version; raises StoreError if it is not a database.

    It asks SQLite directly, so that a start with nothing to do need not import Alembic.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
            revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall() if table else []
    except sqlite3.Error as exc:
        kind = StoreUnavailable if isinstance(exc, sqlite3.OperationalError) else StoreError
        raise kind(f"the database {path} cannot be read: {exc}") from exc
    return revisions == [(HEAD,)]


def upgrade(connection: Connection) -> None:
    """Run the missing migrations in the transaction of *connection*.

    Raises StoreError if the schema was made by a newer version.
    """
    from alembic import command  # 150 ms, and hardly any start has migrations to run
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in known:
        raise StoreError(
            f"the database has schema revision {found!r}, and this version knows up to {HEAD!r}: "
            "run the version of bridgecore that upgraded it, or a newer one",
        )
    command.upgrade(config, "head")
