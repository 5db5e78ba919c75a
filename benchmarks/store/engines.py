"""The databases that are measured: a file, and a server, one's own or one for as long as it takes."""

import asyncio
import sqlite3
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.gateway.accounting import cpu
from benchmarks.store import rows
from bridgeserver.config.databases import POSTGRESQL
from bridgeserver.store import open_store

ROOT = Path(__file__).parent.parent.parent
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "synchronous_commit": "off",
}
"""A server that has some memory, and is not to wait for disks: that is a question about them."""

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@contextmanager
def postgresql(url: str | None) -> Generator[str]:
    """Yield the URL of a database: that one, or one of a server out of the package that the tests use."""
    if url is not None:
        yield url
        return
    sys.path.append(str(ROOT / "tests"))
    from pglab import PostgresLab  # noqa: PLC0415 - it needs the packages of the tests

    with closing(PostgresLab(**SETTINGS)) as lab, lab.bare_database() as bare:
        yield bare


def fill(url: str, count: int) -> None:
    """Fill a database with *count* interceptions unless it has some; the schema is made where there is none."""
    with closing(open_store(url)) as store:
        store.upgrade()
        if next(store.records(limit=1), None) is not None:
            return
        began = time.perf_counter()
        for made in rows.fill(store, rows.Scale(count)):
            print(f"\r{made:,} of {count:,} rows", end="", flush=True)
        print(f" in {time.perf_counter() - began:.0f} s")
    if url.startswith(POSTGRESQL):
        _fetch(url, "VACUUM ANALYZE")  # what its autovacuum does in time


def version(url: str) -> str:
    """Return the version of the engine."""
    if not url.startswith(POSTGRESQL):
        return sqlite3.sqlite_version
    ((found,),) = _fetch(url, "SHOW server_version")
    return str(found).partition(" ")[0]


def server_us(url: str) -> float | None:
    """Return the CPU time that the server's processes for this database have used, None where it is elsewhere."""
    if not (url.startswith(POSTGRESQL) and "host=/" in url and sys.platform == "linux"):
        return None
    return cpu(pid for (pid,) in _fetch(url, BACKENDS)).total


def _fetch(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement in a connection of its own, outside of any transaction."""

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(run())
