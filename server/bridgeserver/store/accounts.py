"""Users and their gateway keys. Every change is numbered and audited in the transaction that makes it."""

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, insert, select, update

from bridgecore import uuid7
from bridgeserver import tokens
from bridgeserver.errors import StoreError
from bridgeserver.records import now_us
from bridgeserver.store import auditing, revisions
from bridgeserver.store.instants import iso, iso_or_none
from bridgeserver.store.schema import keys, users

NAME_LIMIT = 128


class Key(NamedTuple):
    """A gateway key as it may be shown; times are ISO 8601 in UTC."""

    id: str
    user: str
    label: str
    is_admin: bool
    created_at: str
    revoked_at: str | None


class User(NamedTuple):
    """An owner of keys."""

    name: str
    id: str
    is_active: bool
    created_at: str


def create_key(connection: Connection, user_name: str, label: str, *, is_admin: bool, actor: str) -> str:
    """Make a key, and its user if there is none of that name; return the token, which is stored nowhere.

    Raises StoreError for a disabled user, and for names that nobody could read.
    """
    _check_name("user name", user_name, at_least=1)
    _check_name("label", label, at_least=0)
    revision = revisions.advance(connection, revisions.KEYS)
    user_id = _active_user(connection, user_name, actor)
    token = tokens.make()
    connection.execute(
        insert(keys).values(
            id=token.id,
            user_id=user_id,
            label=label,
            secret_hash=tokens.secret_hash(token.secret),
            is_admin=is_admin,
            created_at=now_us(),
            revision=revision,
        ),
    )
    auditing.write(connection, actor, "key.create", token.id, user=user_name, label=label, is_admin=is_admin)
    return token.text


def revoke_key(connection: Connection, key_id: str, actor: str) -> None:
    """Refuse a key from now on; raises StoreError if there is no such key, and does nothing twice."""
    revisions.hold(connection, revisions.KEYS)
    row = connection.execute(select(keys.c.revoked_at).where(keys.c.id == key_id)).first()
    if row is None:
        raise StoreError(f"no key with id {key_id!r}; `bridgecore keys list` shows those there are")
    if row.revoked_at is not None:
        return
    revision = revisions.advance(connection, revisions.KEYS)
    connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_at=now_us(), revision=revision))
    auditing.write(connection, actor, "key.revoke", key_id)


def disable_user(connection: Connection, name: str, actor: str) -> None:
    """Refuse all keys of a user from now on; raises StoreError if there is no such user, and does nothing twice."""
    revisions.hold(connection, revisions.KEYS)
    row = connection.execute(select(users.c.id, users.c.active).where(users.c.name == name)).first()
    if row is None:
        raise StoreError(f"no user named {name!r}; `bridgecore users list` shows those there are")
    if not row.active:
        return
    connection.execute(update(users).where(users.c.id == row.id).values(active=False))
    note_change(connection, row.id)
    auditing.write(connection, actor, "user.disable", row.id, name=name)


def note_change(connection: Connection, user_id: str) -> None:
    """Give a change of a user, or of what belongs to one, its number: all of the user's keys count as changed."""
    note_changes(connection, keys.c.user_id == user_id)


def note_changes(connection: Connection, is_theirs: ColumnElement[bool]) -> None:
    """Do so for several users at once: *is_theirs* says which keys count as changed."""
    revision = revisions.advance(connection, revisions.KEYS)
    connection.execute(update(keys).where(is_theirs).values(revision=revision))


def list_keys(connection: Connection) -> list[Key]:
    """Return all keys, revoked ones too, in the order of their making."""
    columns = keys.c.id, users.c.name, keys.c.label, keys.c.is_admin, keys.c.created_at, keys.c.revoked_at
    rows = connection.execute(select(*columns).join_from(keys, users).order_by(keys.c.created_at, keys.c.id))
    return [Key(*row[:4], iso(row.created_at), iso_or_none(row.revoked_at)) for row in rows]


def list_users(connection: Connection) -> list[User]:
    """Return all users, disabled ones too, by name."""
    rows = connection.execute(select(users).order_by(users.c.name))
    return [User(row.name, row.id, row.active, iso(row.created_at)) for row in rows]


def _active_user(connection: Connection, name: str, actor: str) -> str:
    row = connection.execute(select(users.c.id, users.c.active).where(users.c.name == name)).first()
    if row is None:
        user_id = uuid7()
        connection.execute(insert(users).values(id=user_id, name=name, active=True, created_at=now_us()))
        auditing.write(connection, actor, "user.create", user_id, name=name)
        return user_id
    if not row.active:
        raise StoreError(f"user {name!r} is disabled and can be given no key; choose another name")
    return str(row.id)


def _check_name(what: str, text: str, *, at_least: int) -> None:
    if not (at_least <= len(text) <= NAME_LIMIT and text.isprintable()):
        raise StoreError(f"{what}: found {text!r}, expected {at_least} to {NAME_LIMIT} printable characters")
