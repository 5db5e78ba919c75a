"""Users' own tokens for MCP servers, one for each server. Every change is numbered and audited where it is made.

Nothing here opens a token, so no list and no answer can show one; the workers do (`usertokens` beside this package).
"""

import re
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from bridgeserver.errors import Conflict, InvalidMembers, NotFound
from bridgeserver.records import now_us
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.store import accounts, auditing, revisions
from bridgeserver.store.instants import iso
from bridgeserver.store.schema import keys, mcp_tokens, users
from bridgeserver.store.stored import UserToken, token_place

LIMIT = 8192
"""Characters of a token: servers take heads of 8 to 16 KB, and signed tokens that list groups come near."""

TOKEN = re.compile(r"[\x21-\x7e]+")
REFERENCES = ("env:", "file:")


def put(connection: Connection, vault: Vault, user: str, server: str, token: Secret, actor: str) -> UserToken:
    """Store a user's token, in place of the one that is there; raises NotFound, Conflict, InvalidMembers, SealError."""
    revisions.hold(connection, revisions.KEYS)
    row = _user(connection, user)
    if not row.active:
        raise Conflict(f"user {user!r} is disabled and can be given no token")
    _check(token.reveal())
    now = now_us()
    values = {"sealed": vault.seal(token.reveal(), token_place(row.id, server)), "updated_at": now}
    if not connection.execute(update(mcp_tokens).where(_is(row.id, server)).values(**values)).rowcount:
        connection.execute(insert(mcp_tokens).values(user_id=row.id, server=server, created_at=now, **values))
    accounts.note_change(connection, row.id)
    auditing.write(connection, actor, "user_token.set", row.id, user=user, server=server)
    return next(found for found in find_all(connection, user) if found.server == server)


def remove(connection: Connection, user: str, server: str, actor: str) -> None:
    """Delete a user's token; raises NotFound."""
    revisions.hold(connection, revisions.KEYS)
    row = _user(connection, user)
    if not connection.execute(delete(mcp_tokens).where(_is(row.id, server))).rowcount:
        there = ", ".join(token.server for token in find_all(connection, user))
        raise NotFound(f"user {user!r} has no token for {server!r}; there are tokens for: {there or 'none'}")
    accounts.note_change(connection, row.id)
    auditing.write(connection, actor, "user_token.remove", row.id, user=user, server=server)


def has_any(connection: Connection) -> bool:
    """Whether there is any token."""
    return connection.execute(select(mcp_tokens.c.server).limit(1)).first() is not None


def drop(connection: Connection, server: str) -> int:
    """Delete all users' tokens for a server and return how many there were; who calls this audits it."""
    is_its = mcp_tokens.c.server == server
    count = connection.execute(select(func.count()).select_from(mcp_tokens).where(is_its)).scalar_one()
    if count:
        accounts.note_changes(connection, keys.c.user_id.in_(select(mcp_tokens.c.user_id).where(is_its)))
        connection.execute(delete(mcp_tokens).where(is_its))
    return count


def find_all(connection: Connection, user: str | None = None) -> list[UserToken]:
    """Return which tokens there are, by user and server; raises NotFound for a user that there is not."""
    columns = users.c.name, mcp_tokens.c.server, mcp_tokens.c.created_at, mcp_tokens.c.updated_at
    query = select(*columns).join_from(mcp_tokens, users).order_by(users.c.name, mcp_tokens.c.server)
    if user is not None:
        query = query.where(users.c.id == _user(connection, user).id)
    return [
        UserToken(user=row.name, server=row.server, created_at=iso(row.created_at), updated_at=iso(row.updated_at))
        for row in connection.execute(query)
    ]


def _user(connection: Connection, name: str) -> Any:
    row = connection.execute(select(users.c.id, users.c.active).where(users.c.name == name)).first()
    if row is None:
        raise NotFound(f"no user named {name!r}; `bridgecore users list` shows those there are")
    return row


def _is(user_id: str, server: str) -> Any:
    return (mcp_tokens.c.user_id == user_id) & (mcp_tokens.c.server == server)


def _check(text: str) -> None:
    """Raise InvalidMembers for what cannot be a token; the text is not shown."""
    if text.startswith(REFERENCES):
        found = f"a reference that begins with {text.partition(':')[0]}:"
    elif len(text) > LIMIT or not TOKEN.fullmatch(text):
        found = f"{len(text)} characters"
    else:
        return
    raise InvalidMembers(
        [f"token: found {found}, expected the token itself: 1 to {LIMIT} printable ASCII characters without spaces"]
    )
