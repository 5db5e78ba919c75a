"""Bringing a database to the schema of this version."""

from pathlib import Path

from sqlalchemy import Connection

from bridgeserver.errors import StoreError
from bridgeserver.store.migrations import HEAD

MIGRATIONS = Path(__file__).parent / "migrations"


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
