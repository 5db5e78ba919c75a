"""The database: where it may be, who may read it, and which schema it has."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine
from sqlalchemy.schema import CreateTable

import samples
from bridgeserver.errors import StoreError
from bridgeserver.store import Store, open_store, upgrades
from bridgeserver.store.migrations import HEAD
from bridgeserver.store.schema import Timestamp, metadata
from bridgeserver.store.sqlite import open_engine
from bridgeserver.store.upgrades import MIGRATIONS

POSTGRESQL, SQLITE = (URL.create(name).get_dialect()() for name in ("postgresql", "sqlite"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in a file that nothing was done to yet."""
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    yield store
    store.close()


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Run one statement in a connection of its own."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(sql).fetchall()


@contextmanager
def transaction(path: Path) -> Generator[Connection]:
    """Open a transaction beside the store."""
    engine = open_engine(path, "NORMAL")
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@pytest.mark.parametrize("url", ["postgresql://user@host/db", "sqlite://", "sqlite:///", "a.db"])
def test_other_databases_are_refused(url: str) -> None:
    """What is not a SQLite file is refused with a word on what this version has."""
    with pytest.raises(StoreError, match="SQLite only"):
        open_store(url)


def test_a_relative_path_counts_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes are followed by a relative path, and a later change of directory means nothing."""
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///a.db")
    assert store.path == tmp_path / "a.db"
    store.close()


def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    """A permissive umask opens neither the database nor the files beside it."""
    before = os.umask(0)
    try:
        store = open_store(f"sqlite:///{tmp_path}/a.db")
        store.upgrade()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert modes == {"a.db": 0o600, "a.db-shm": 0o600, "a.db-wal": 0o600}


def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    """The message names the file and the folder to make."""
    with pytest.raises(StoreError, match=rf"{tmp_path}/no/a\.db cannot be created .*create it"):
        open_store(f"sqlite:///{tmp_path}/no/a.db")


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message gives the system's reason."""

    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bridgeserver.store.sqlite.os.open", refuse)
    with pytest.raises(StoreError, match=r"Permission denied.*can write"):
        open_store(f"sqlite:///{tmp_path}/a.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file of something else is left alone."""
    path = tmp_path / "a.db"
    path.write_text("something else, and long enough to be looked at as if it were a header" * 20)
    before = path.read_bytes()
    store = open_store(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="not a database"):
        store.upgrade()
    store.close()
    assert path.read_bytes() == before


def test_a_path_may_have_odd_characters(tmp_path: Path) -> None:
    """Characters with a meaning in URLs and in templates are only characters here."""
    path = tmp_path / "50% of #1 ü.db"
    store = open_store(f"sqlite:///{path}")
    store.upgrade()
    assert store._database.is_current()
    store.close()


def test_migrations_and_tables_agree(store: Store) -> None:
    """The migrations make exactly the tables, columns and indexes that the code is written for."""
    store.upgrade()
    with transaction(store.path) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert store._database.is_current()


def test_partial_indexes_agree(store: Store, tmp_path: Path) -> None:
    """The conditions of indexes agree as well, which Alembic does not compare."""
    store.upgrade()
    with transaction(tmp_path / "b.db") as connection:
        metadata.create_all(connection)
    sql = "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
    assert query(store.path, sql) == query(tmp_path / "b.db", sql)


def test_the_named_revision_is_the_newest() -> None:
    """The revision that is compared without Alembic is the one that Alembic upgrades to."""
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [HEAD]


def test_upgrading_twice_keeps_everything(store: Store) -> None:
    """A second upgrade finds nothing to do."""
    store.upgrade()
    store.apply(samples.whole())
    before = samples.tables(store.path)
    store.upgrade()
    assert samples.tables(store.path) == before


def test_upgrades_at_once_make_one_schema(store: Store) -> None:
    """An upgrade that waited for another one finds nothing to do."""
    store.upgrade()
    with transaction(store.path) as connection:
        upgrades.upgrade(connection)
    assert query(store.path, "SELECT name, value FROM revisions ORDER BY name") == [
        ("config_rev", 0),
        ("end_batch", 0),
        ("keys_rev", 0),
    ]


def test_a_newer_schema_is_refused(store: Store) -> None:
    """A database of a later version is refused, and the message names both revisions."""
    store.upgrade()
    query(store.path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=f"'9999'.*'{HEAD}'"):
        store.upgrade()


def test_an_upgrade_that_fails_leaves_nothing(store: Store) -> None:
    """All migrations of an upgrade happen, or none."""
    query(store.path, "CREATE TABLE user_prompts (it INTEGER)")
    with pytest.raises(StoreError, match="user_prompts already exists"):
        store.upgrade()
    assert query(store.path, "SELECT name FROM sqlite_master WHERE type = 'table'") == [("user_prompts",)]


def test_a_store_that_was_not_upgraded_says_so(store: Store) -> None:
    """Using an empty database fails in words, without the statement."""
    with pytest.raises(StoreError, match="upgraded") as caught:
        store.list_users()
    assert "SELECT" not in str(caught.value)


@pytest.mark.parametrize(("synchronous", "level"), [("NORMAL", 1), ("FULL", 2)])
def test_settings_of_connections(tmp_path: Path, synchronous: str, level: int) -> None:
    """Readers do not wait for the writer, foreign keys count, and a writer waits for another."""
    engine = open_engine(tmp_path / "a.db", synchronous)
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    with engine.begin() as connection:
        assert [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names] == ["wal", level, 1, 5000]
    engine.dispose()


@pytest.mark.parametrize(("is_durable", "synchronous"), [(False, "NORMAL"), (True, "FULL")])
def test_durable_stores_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_durable: bool, synchronous: str
) -> None:
    """A power cut may take a commit only from a store that was not opened as durable."""
    asked: list[str] = []

    def opened(path: Path, level: str) -> Engine:
        asked.append(level)
        return open_engine(path, level)

    monkeypatch.setattr("bridgeserver.store.sqlite.open_engine", opened)
    open_store(f"sqlite:///{tmp_path}/a.db", is_durable=is_durable).close()
    assert asked == [synchronous]


def test_workers_are_spared_the_heavy_packages() -> None:
    """Importing the workers' side imports neither SQLAlchemy nor Alembic, and opening a store not yet Alembic."""
    code = """
import sys
import bridgeserver.store.reader
assert not {"sqlalchemy", "alembic"} & set(sys.modules)
from bridgeserver.store import open_store
assert "sqlalchemy" in sys.modules
assert "alembic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_only_public_names_can_be_imported() -> None:
    """A misspelt import fails where it stands."""
    with pytest.raises(ImportError, match="Shop"):
        exec("from bridgeserver.store import Shop")


def test_timestamps_are_whole_microseconds_everywhere() -> None:
    """An instant goes through PostgreSQL's own type without losing a microsecond."""
    instant = 1_790_000_000_123_457
    kind = Timestamp()
    stored = kind.process_bind_param(instant, POSTGRESQL)
    assert kind.process_result_value(stored, POSTGRESQL) == instant
    assert kind.process_bind_param(instant, SQLITE) == instant
    assert kind.process_bind_param(None, POSTGRESQL) is None


def test_the_schema_can_be_written_for_postgresql() -> None:
    """One definition serves both engines, each with its own type for instants."""
    users = metadata.tables["users"]
    assert "created_at TIMESTAMP WITH TIME ZONE" in str(CreateTable(users).compile(dialect=POSTGRESQL))
    assert "created_at BIGINT" in str(CreateTable(users).compile(dialect=SQLITE))


def insert(connection: Connection, table: str, **values: object) -> None:
    """Insert a row whose other columns have anything that they may."""
    for _, name, _, is_required, default, _ in connection.exec_driver_sql(f"PRAGMA table_info({table})"):
        if is_required and default is None:
            values.setdefault(name, 0)
    marks = ", ".join("?" * len(values))
    connection.exec_driver_sql(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))


def test_what_an_earlier_version_stored_has_sessions(tmp_path: Path) -> None:
    """Rows from before are in a session, their calls have the users of theirs, and absurd counts are cut."""
    path = tmp_path / "a.db"
    with transaction(path) as connection:
        config = AlembicConfig()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        for number, session in ((1, "s"), (2, "s"), (3, None)):
            at = number * 100
            insert(connection, "interceptions", id=f"i{number}", user_id="u", session_id=session, started_at=at)
            insert(connection, "tool_usages", interception_id=f"i{number}")
            count = {1: 2**63 - 1, 2: -5, 3: 7}[number]
            insert(connection, "token_usages", interception_id=f"i{number}", input_tokens=count)
            if number != 3:
                insert(connection, "user_prompts", interception_id=f"i{number}", created_at=at + 1)
    store = open_store(f"sqlite:///{path}")
    store.upgrade()
    store.close()
    assert query(path, "SELECT * FROM sessions ORDER BY id") == [("u", "i3", 300, None, 300), ("u", "s", 100, 201, 201)]
    assert query(path, "SELECT user_id FROM tool_usages") == [("u",)] * 3
    assert query(path, "SELECT input_tokens FROM token_usages") == [(10**12,), (0,), (7,)]
