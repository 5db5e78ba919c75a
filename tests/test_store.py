"""The database: where it may be, who may read it, and which schema it has."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Boolean, Connection, Engine, Text, inspect
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


@pytest.mark.parametrize("url", ["mysql://user:hunter2@host/db", "sqlite://", "sqlite:///", "a.db"])
def test_other_databases_are_refused(url: str) -> None:
    """What is neither a SQLite file nor on a PostgreSQL server is refused with a word on what there is."""
    with pytest.raises(StoreError, match="sqlite:///FILE or postgresql://") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


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
    assert samples.database(store).is_current()
    store.close()


@pytest.fixture
def bare(bare_url: str) -> Iterator[Store]:
    """A store of either engine that nothing was done to yet."""
    store = open_store(bare_url)
    yield store
    store.close()


def test_migrations_and_tables_agree(bare: Store) -> None:
    """The migrations make exactly the tables, columns and indexes that the code is written for."""
    bare.upgrade()
    assert (
        samples.database(bare).read(
            lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)
        )
        == []
    )
    assert samples.database(bare).is_current()


COLUMN = "table_name, column_name, column_default, generation_expression, data_type"
DETAILS = {
    "sqlite": ["SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"],
    "postgresql": [
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        f"SELECT {COLUMN} FROM information_schema.columns WHERE table_schema = 'public'",
    ],
}


def test_partial_indexes_agree(bare: Store, engine: str) -> None:
    """The conditions of indexes and what is computed agree as well, which Alembic does not compare."""

    def details() -> list[list[tuple[object, ...]]]:
        found = [samples.query(bare, sql) for sql in DETAILS[engine]]
        return [sorted(row for row in rows if "alembic_version" not in row) for rows in found]

    samples.database(bare).migrate(metadata.create_all)
    expected = details()
    samples.database(bare).migrate(metadata.drop_all)
    bare.upgrade()
    assert details() == expected


def test_the_named_revision_is_the_newest() -> None:
    """The revision that is compared without Alembic is the one that Alembic upgrades to."""
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [HEAD]


def test_upgrading_twice_keeps_everything(empty_store: Store) -> None:
    """A second upgrade finds nothing to do."""
    empty_store.apply(samples.whole())
    before = samples.tables(empty_store)
    empty_store.upgrade()
    assert samples.tables(empty_store) == before


def test_upgrades_at_once_make_one_schema(bare: Store) -> None:
    """Of several processes that upgrade one makes the schema, and the others find nothing to do."""
    stores = [open_store(bare.url) for _ in range(4)]
    with ThreadPoolExecutor(len(stores)) as executor:
        for done in [executor.submit(samples.database(store).migrate, upgrades.upgrade) for store in stores]:
            done.result()
    for store in stores:
        store.close()
    assert samples.query(bare, "SELECT name, value FROM revisions ORDER BY name") == [
        ("config_rev", 0),
        ("end_batch", 0),
        ("keys_rev", 0),
    ]
    assert bare.revision() == HEAD


def test_a_newer_schema_is_refused(bare: Store) -> None:
    """A database of a later version is refused, and the message names both revisions."""
    bare.upgrade()
    samples.query(bare, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=f"'9999'.*'{HEAD}'"):
        bare.upgrade()


def test_an_upgrade_that_fails_leaves_nothing(bare: Store) -> None:
    """All migrations of an upgrade happen, or none."""
    samples.query(bare, "CREATE TABLE user_prompts (it INTEGER)")
    with pytest.raises(StoreError, match=r'"?user_prompts"? already exists'):
        bare.upgrade()
    names = samples.database(bare).read(lambda connection: inspect(connection).get_table_names())
    assert (names, bare.revision()) == (["user_prompts"], None)


def test_a_store_that_was_not_upgraded_says_so(bare: Store) -> None:
    """Using an empty database fails in words, without the statement."""
    assert bare.revision() is None
    with pytest.raises(StoreError, match="upgraded") as caught:
        bare.list_users()
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
    """The workers' side imports neither SQLAlchemy nor Alembic, and asyncpg only where it is used."""
    code = """
import sys
import bridgeserver.store.reader
assert not {"sqlalchemy", "alembic", "asyncpg"} & set(sys.modules)
bridgeserver.store.reader.Reader("postgresql://host/database")
assert "asyncpg" in sys.modules
assert "sqlalchemy" not in sys.modules
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


def insert(connection: Connection, name: str, **values: object) -> None:
    """Insert a row whose other columns have anything that they may."""
    table = metadata.tables[name]
    blanks: dict[type, object] = {Text: "", Boolean: False}
    for column in table.columns:
        if not column.nullable and column.server_default is None:
            values.setdefault(column.name, blanks.get(type(column.type), 0))
    connection.execute(table.insert().values(**values))


def test_what_an_earlier_version_stored_has_sessions(bare_url: str) -> None:
    """Rows from before are in a session, their calls have the users of theirs, and absurd counts are cut."""

    def begin(connection: Connection) -> None:
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

    store = open_store(bare_url)
    samples.database(store).migrate(begin)
    store.upgrade()
    found = samples.tables(store, ["sessions", "tool_usages", "token_usages"])
    assert sorted(tuple(row.values()) for row in found["sessions"]) == [
        ("u", "i3", 300, None, 300),
        ("u", "s", 100, 201, 201),
    ]
    assert [row["user_id"] for row in found["tool_usages"]] == ["u"] * 3
    assert [row["input_tokens"] for row in found["token_usages"]] == [10**12, 0, 7]
    store.close()
