"""One database: how it is found, opened and upgraded, and every operation in a transaction of its own."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bridgeserver.errors import StoreError
from bridgeserver.records import AnyRecord
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.store import accounts, providers, revisions, shipping, upgrades, usertokens
from bridgeserver.store.accounts import Key, User
from bridgeserver.store.queries import interceptions, sessions, threads, usage, values
from bridgeserver.store.queries.filters import ALL, Filters
from bridgeserver.store.queries.interceptions import PAGE_ROWS, End, Start
from bridgeserver.store.sqlite import PREFIX, Sqlite
from bridgeserver.store.stored import LoadedProviders, ProviderChanges, ProviderFields, StoredProvider, UserToken
from bridgeserver.store.views import Initiator, Interception, Interceptions, Sessions, SessionThreads, UsageRow

Record = dict[str, Any]
"""An interception as `bridgecore records --json` shows it."""


def open_store(url: str, *, is_durable: bool = False) -> "Store":
    """Open the database that *url* names, and create an empty one if there is none; `upgrade` fills it.

    With *is_durable* what was committed outlives a power cut, at the price of one sync a transaction. Without,
    it outlives a crash of this process. Raises StoreError.
    """
    if not url.startswith(PREFIX) or url == PREFIX:
        scheme = url.partition(":")[0]
        raise StoreError(f"store.url: found the scheme {scheme!r}, expected {PREFIX}FILE: this version has SQLite only")
    return Store(Sqlite(Path(url.removeprefix(PREFIX)).absolute(), is_durable=is_durable))


class Store:
    """Users, keys and records; any thread may use it. Every method raises StoreError if the database fails."""

    def __init__(self, database: Sqlite) -> None:
        self._database = database
        self._read = database.read
        self._write = database.write

    @property
    def path(self) -> Path:
        """The file of the database."""
        return self._database.path

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def upgrade(self) -> None:
        """Bring the schema to this version; raises StoreError if a newer one has made it."""
        if not self._database.is_current():
            self._write(upgrades.upgrade)

    def apply(self, records: Sequence[AnyRecord]) -> int:
        """Store *records*, all or none; return how many rows that added or ended. Again, it changes nothing.

        The first end of an interception wins. Its end must not come in an earlier call than itself: a worker's
        journal is in order, so that cannot happen.
        """
        return self._write(shipping.apply, records)

    def interrupt(self, worker: str, ended_at: int) -> int:
        """End every open interception of a dead worker, none before it began; return how many those were."""
        return self._write(shipping.interrupt, worker, ended_at)

    def open_workers(self) -> list[str]:
        """Return the workers that have open interceptions."""
        return self._read(shipping.open_workers)

    def records(
        self, filters: Filters = ALL, *, limit: int | None = None, after: str | None = None
    ) -> Iterator[Record]:
        """Yield interceptions as `bridgecore records --json` shows them, by the time of their beginning.

        At most *limit*, only those after the one with the id *after*.
        """
        yield from self._records(None if after is None else self._read(interceptions.start_of, after), limit, filters)

    def last_records(self, filters: Filters, limit: int | None) -> Iterator[Record]:
        """Yield the same, the last *limit* of them in the same order."""
        place = None if limit is None else self._read(interceptions.before_last, filters, limit)
        return self._records(place, None, filters)

    def _records(self, place: Start | None, limit: int | None, filters: Filters) -> Iterator[Record]:
        remaining = float("inf") if limit is None else limit
        while remaining > 0:
            page, has_more = self.started_after(place, int(min(PAGE_ROWS, remaining)), filters)
            yield from (msgspec.to_builtins(record) for _, record in page)
            if not has_more:
                return
            place = page[-1][0]
            remaining -= len(page)

    def started_after(
        self, place: Start | None, limit: int, filters: Filters
    ) -> tuple[list[tuple[Start, Interception]], bool]:
        """Return up to *limit* interceptions after *place*, the oldest first, and whether there are more."""
        return self._read(interceptions.started_after, place, limit, filters)

    def count_interceptions(self, filters: Filters) -> int:
        """Return how many there are."""
        return self._read(interceptions.count, filters)

    def end_cursor(self) -> End:
        """Return the cursor for ends that will be stored from now on."""
        return self._read(interceptions.last_end)

    def ended_after(self, cursor: End, filters: Filters = ALL) -> Iterator[tuple[End, Record]]:
        """Yield what has ended since *cursor*, each with the cursor to go on from.

        Ends come in the order in which they were stored, those that were stored together by `(ended_at, id)`.
        So none is missed, however long after its end a record was shipped.
        """
        has_more = True
        while has_more:
            page, has_more = self._read(interceptions.ended_after, cursor, PAGE_ROWS, filters)
            yield from ((place, msgspec.to_builtins(record)) for place, record in page)
            cursor = page[-1][0] if page else cursor

    def newest_interceptions(self, filters: Filters, after: str | None, limit: int) -> Interceptions:
        """Return a page, the newest first, after the one with the id *after*; raises InvalidMembers."""
        return self._read(interceptions.newest, filters, after, limit)

    def find_interception(self, interception_id: str, owner: str | None) -> Interception:
        """Return one interception; raises NotFound, also where it is not one of the *owner*."""
        return self._read(interceptions.find, interception_id, owner)

    def newest_sessions(self, filters: Filters, page: sessions.Page) -> Sessions:
        """Return a page, the session that was active last first; raises InvalidMembers for its cursor."""
        return self._read(sessions.newest, filters, page)

    def find_session(self, session_id: str, filters: Filters, page: threads.Page) -> SessionThreads:
        """Return a session with a page of its threads; raises NotFound, and InvalidMembers for a cursor."""
        return self._read(threads.find, session_id, filters, page)

    def models(self, filters: Filters, prefix: str, limit: int) -> list[str]:
        """Return models that were asked for, in the order of the engine."""
        return self._read(values.models, filters, prefix, limit)

    def clients(self, filters: Filters, prefix: str, limit: int) -> list[str]:
        """Return clients that asked, in the order of the engine."""
        return self._read(values.clients, filters, prefix, limit)

    def initiators(self, filters: Filters, prefix: str, limit: int) -> list[Initiator]:
        """Return users by name."""
        return self._read(values.initiators, filters, prefix, limit)

    def usage(
        self,
        groups: Sequence[usage.Group],
        filters: Filters,
        *,
        after: usage.Place | None = None,
        limit: int,
    ) -> list[usage.Found]:
        """Return up to *limit* groups of requests after the place *after*, with what they used."""
        return self._read(usage.rows, groups, filters, after=after, limit=limit)

    def first_start(self, filters: Filters) -> int | None:
        """Return when the first request of a period began, None where there was none."""
        return self._read(usage.first_start, filters)

    def unpriced(self, filters: Filters, limit: int) -> list[UsageRow]:
        """Return models that have no price, and what they used."""
        return self._read(usage.unpriced, filters, limit)

    def create_key(self, user_name: str, label: str, *, is_admin: bool, actor: str) -> str:
        """Make a key, and its user if there is none of that name; return the token, which is stored nowhere.

        Raises StoreError for a disabled user, and for names that are too long or not printable.
        """
        return self._write(accounts.create_key, user_name, label, is_admin=is_admin, actor=actor)

    def list_keys(self) -> list[Key]:
        """Return all keys, revoked ones too, in the order of their making."""
        return self._read(accounts.list_keys)

    def revoke_key(self, key_id: str, actor: str) -> None:
        """Refuse a key from now on; raises StoreError if there is no such key."""
        self._write(accounts.revoke_key, key_id, actor)

    def list_users(self) -> list[User]:
        """Return all users, disabled ones too, by name."""
        return self._read(accounts.list_users)

    def disable_user(self, name: str, actor: str) -> None:
        """Refuse all keys of a user from now on; raises StoreError if there is no such user."""
        self._write(accounts.disable_user, name, actor)

    def list_providers(self) -> list[StoredProvider]:
        """Return the stored providers by name, disabled ones too; nothing is opened for it."""
        return self._read(providers.find_all)

    def get_provider(self, id_or_name: str) -> StoredProvider:
        """Return one stored provider; raises NotFound."""
        return self._read(providers.find, id_or_name)

    def create_provider(self, vault: Vault, fields: ProviderFields, actor: str) -> StoredProvider:
        """Store a provider; raises InvalidMembers with all mistakes, Conflict, or SealError."""
        return self._write(providers.create, vault, fields, actor)

    def update_provider(self, vault: Vault, id_or_name: str, changes: ProviderChanges, actor: str) -> StoredProvider:
        """Change a stored provider; raises NotFound, InvalidMembers with all mistakes, or SealError."""
        return self._write(providers.change, vault, id_or_name, changes, actor)

    def delete_provider(self, id_or_name: str, actor: str) -> None:
        """Delete a stored provider and its secrets; its name is free again. Raises NotFound."""
        self._write(providers.remove, id_or_name, actor)

    def enable_provider(self, name: str, *, enabled: bool, actor: str, file_names: Collection[str]) -> None:
        """Switch a provider: a stored one itself, one of the file by an override. Raises NotFound."""
        self._write(providers.enable, name, enabled=enabled, actor=actor, file_names=file_names)

    def override_provider(self, name: str, *, enabled: bool, actor: str) -> None:
        """Switch the file's provider of that name until `reset_provider`."""
        self._write(providers.override, name, enabled=enabled, actor=actor)

    def reset_provider(self, name: str, actor: str) -> None:
        """End an override; raises NotFound if there is none."""
        self._write(providers.reset, name, actor)

    def provider_overrides(self) -> dict[str, bool]:
        """Return `enabled` of the file's providers that were switched, by name."""
        return self._read(providers.overrides)

    def config_revision(self) -> int:
        """Return a number that grows with every change of a stored provider or an override."""
        return self._read(revisions.current, revisions.CONFIG)

    def load_providers(self, vault: Vault) -> LoadedProviders:
        """Return the stored providers with their secrets, all as of one revision."""
        return self._read(providers.load, vault)

    def set_user_token(self, vault: Vault, user: str, server: str, token: Secret, actor: str) -> UserToken:
        """Store a user's own token for an MCP server, in place of the one that is there.

        Raises NotFound without such a user, Conflict if it is disabled, InvalidMembers for what is no token, SealError.
        """
        return self._write(usertokens.put, vault, user, server, token, actor)

    def remove_user_token(self, user: str, server: str, actor: str) -> None:
        """Delete a user's own token for an MCP server; raises NotFound."""
        self._write(usertokens.remove, user, server, actor)

    def list_user_tokens(self, user: str | None = None) -> list[UserToken]:
        """Return which tokens there are, without themselves, by user and server. Raises NotFound for that user."""
        return self._read(usertokens.find_all, user)
