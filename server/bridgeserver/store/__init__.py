"""Users, gateway keys and records, in a database: a SQLite file, or one on a PostgreSQL server.

`Store` is the side of the parent process and of the commands. A worker process uses `reader` alone: it must
not pay for SQLAlchemy and Alembic (a quarter of a second and 20 MB), so they are imported on first use here.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridgeserver.store.database import Store, open_store
else:
    from importlib import import_module

    def __getattr__(name: str) -> object:
        if name in __all__:
            return getattr(import_module("bridgeserver.store.database"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Store", "open_store"]
