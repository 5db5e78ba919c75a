"""Users and keys, and the workers' view of them."""

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

import samples
from bridgeserver import tokens
from bridgeserver.errors import StoreError
from bridgeserver.store import Store, open_store
from bridgeserver.store.reader import Reader
from bridgeserver.store.schema import metadata


@pytest.fixture
def store(empty_store: Store) -> Store:
    """An empty store of either engine."""
    return empty_store


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    """A worker's view of that store."""
    reader = Reader(store.url)
    yield reader
    reader.close()


def create(store: Store, user: str = "alice", label: str = "laptop", *, is_admin: bool = False) -> tokens.Token:
    """Make a key and return its token."""
    token = tokens.parse(store.create_key(user, label, is_admin=is_admin, actor="tester"))
    assert token is not None
    return token


def audit(store: Store) -> list[tuple[Any, ...]]:
    """Return what was audited: actor, action, target, detail."""
    rows = samples.query(store, "SELECT actor, action, target, detail FROM audit ORDER BY at")
    return [(*row[:3], json.loads(row[3])) for row in rows]


def ids(reader: Reader, since: int) -> list[str]:
    """Return the ids of the keys that a worker sees change."""
    return [row.key_id for row in reader.changed_keys(since)]


def test_a_new_key_is_found(store: Store, reader: Reader) -> None:
    """A worker finds the key by its id and can check its secret."""
    token = create(store, is_admin=True)
    row = reader.find_key(token.id)
    assert row is not None
    assert row == (token.id, store.list_users()[0].id, "alice", tokens.secret_hash(token.secret), True, True)


def test_an_unknown_key_is_not_found(reader: Reader) -> None:
    """An id that no key has finds nothing."""
    assert reader.find_key("a" * 12) is None


def test_the_secret_is_stored_nowhere(store: Store) -> None:
    """Neither the token nor its secret stands in any table."""
    token = create(store)
    content = repr([samples.query(store, f"SELECT * FROM {name}") for name in metadata.tables])
    assert token.id in content
    assert token.secret not in content


def test_a_user_is_made_once(store: Store) -> None:
    """The second key of a name belongs to the same user."""
    keys = [create(store, label="one"), create(store, label="two")]
    assert [user.name for user in store.list_users()] == ["alice"]
    assert [(key.id, key.user, key.label) for key in store.list_keys()] == [
        (keys[0].id, "alice", "one"),
        (keys[1].id, "alice", "two"),
    ]


def test_a_revoked_key_is_not_active(store: Store, reader: Reader) -> None:
    """Revoking touches that key alone, and it stays listed."""
    kept, revoked = create(store), create(store)
    store.revoke_key(revoked.id, actor="tester")
    rows = [reader.find_key(token.id) for token in (kept, revoked)]
    assert [row.active for row in rows if row] == [True, False]
    assert [key.revoked_at is None for key in store.list_keys()] == [True, False]


def test_a_disabled_user_has_no_active_key(store: Store, reader: Reader) -> None:
    """Disabling touches all keys of that user, and no new one can be made."""
    tokens_of_alice = [create(store), create(store)]
    other = create(store, "bob")
    store.disable_user("alice", actor="tester")
    rows = [reader.find_key(token.id) for token in (*tokens_of_alice, other)]
    assert [row.active for row in rows if row] == [False, False, True]
    assert [(user.name, user.is_active) for user in store.list_users()] == [("alice", False), ("bob", True)]
    with pytest.raises(StoreError, match="'alice' is disabled"):
        create(store)


def test_each_change_is_numbered(store: Store, reader: Reader) -> None:
    """Every change bumps the revision, and a worker that saw an earlier one learns which keys to forget."""
    assert (reader.revision(), reader.changed_keys(-1)) == (0, [])
    first, second, other = create(store), create(store), create(store, "bob")
    assert reader.revision() == 3
    store.revoke_key(first.id, actor="tester")
    assert (reader.revision(), ids(reader, 3)) == (4, [first.id])
    store.disable_user("alice", actor="tester")
    assert (reader.revision(), sorted(ids(reader, 4))) == (5, sorted([first.id, second.id]))
    assert other.id in ids(reader, -1)


def test_each_change_is_audited(store: Store) -> None:
    """Who did what to which thing, in the order of doing."""
    token = create(store, is_admin=True)
    store.revoke_key(token.id, actor="operator")
    store.disable_user("alice", actor="operator")
    user_id = store.list_users()[0].id
    assert audit(store) == [
        ("tester", "user.create", user_id, {"name": "alice"}),
        ("tester", "key.create", token.id, {"user": "alice", "label": "laptop", "is_admin": True}),
        ("operator", "key.revoke", token.id, {}),
        ("operator", "user.disable", user_id, {"name": "alice"}),
    ]


def test_doing_it_again_is_no_change(store: Store, reader: Reader) -> None:
    """What is revoked or disabled already stays as it is, without a number or an entry."""
    token = create(store)
    store.revoke_key(token.id, actor="tester")
    store.disable_user("alice", actor="tester")
    before = (reader.revision(), audit(store), store.list_keys())
    store.revoke_key(token.id, actor="tester")
    store.disable_user("alice", actor="tester")
    assert (reader.revision(), audit(store), store.list_keys()) == before


def test_a_refused_change_leaves_nothing(store: Store, reader: Reader) -> None:
    """A key that was not made has no number, no entry and no user."""
    with pytest.raises(StoreError, match="label"):
        create(store, "carol", "line\nbreak")
    assert (reader.revision(), audit(store), store.list_users()) == (0, [], [])


def test_what_is_not_there_is_named(store: Store) -> None:
    """A mistyped id or name is repeated in the message."""
    with pytest.raises(StoreError, match="no key with id 'nobody'"):
        store.revoke_key("nobody", actor="tester")
    with pytest.raises(StoreError, match="no user named 'nobody'"):
        store.disable_user("nobody", actor="tester")


@pytest.mark.parametrize("name", ["", "a" * 129, "a\nb", "a\0", "\u202ebob", "\udc80"])
def test_names_that_nobody_can_read_are_refused(store: Store, name: str) -> None:
    """A user name has 1 to 128 printable characters."""
    with pytest.raises(StoreError, match="1 to 128 printable"):
        create(store, name)


@pytest.mark.parametrize("name", ["a", "a" * 128, "Zoë O'Neil", "名前"])
def test_readable_names_are_kept(store: Store, name: str) -> None:
    """Any script will do."""
    create(store, name)
    assert [user.name for user in store.list_users()] == [name]


def test_the_owner_of_an_object_is_found(store: Store, reader: Reader) -> None:
    """An object has its owner under its own provider's name only."""
    store.apply([samples.provider_object("resp_1", "alice")])
    assert reader.find_object("main", "resp_1") == "alice"
    assert reader.find_object("other", "resp_1") is None


def test_a_strange_id_is_an_id(store: Store, reader: Reader) -> None:
    """A character that an engine has no room for is no failure, and finds what was stored with it."""
    store.apply([samples.provider_object("resp\0", "alice")])
    assert reader.find_object("main", "resp\0") == "alice"
    assert reader.find_object("main\0", "resp\0") is None
    assert reader.find_key("\0") is None


def test_reading_does_not_wait_for_writing(store: Store, reader: Reader) -> None:
    """While a transaction is open a worker reads what was before, and afterwards what came of it."""
    seen = list[int]()

    def change(connection: Connection) -> None:
        connection.execute(text("UPDATE revisions SET value = 7 WHERE name = 'keys_rev'"))
        with ThreadPoolExecutor(1) as executor:
            seen.append(executor.submit(reader.revision).result())

    samples.database(store).write(change)
    assert [*seen, reader.revision()] == [0, 7]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_reader_does_not_hold_back_the_writer(store: Store, reader: Reader) -> None:
    """A reader keeps no snapshot between calls: the log can be emptied into the database."""
    create(store)
    reader.changed_keys(-1)
    with closing(sqlite3.connect(store.path)) as connection:
        is_blocked, _frames, _moved = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not is_blocked


def test_a_reader_alone_can_read(store: Store) -> None:
    """A worker that outlives the parent, or starts first, reads a database that nobody else has open."""
    token = create(store)
    store.close()
    reader = Reader(store.url)
    assert reader.find_key(token.id) is not None
    reader.close()


def test_a_missing_database_is_not_created_by_reading(tmp_path: Path) -> None:
    """A worker that finds no database says so and leaves no empty one."""
    reader = Reader(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(StoreError, match=r"a\.db cannot be read"):
        reader.revision()
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_comes_later_is_read_then(tmp_path: Path) -> None:
    """A worker may begin before its store can be read."""
    reader = Reader(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(StoreError, match=r"a\.db cannot be read"):
        reader.revision()
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    store.upgrade()
    assert reader.revision() == 0
    reader.close()
    store.close()


def test_a_database_that_fails_is_reported(tmp_path: Path) -> None:
    """Failures of reading are of the kind that callers expect."""
    (tmp_path / "a.db").write_bytes(b"no database" * 500)
    reader = Reader(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(StoreError, match="not a database"):
        reader.revision()
    reader.close()
