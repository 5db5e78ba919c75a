"""One database: how it is found, opened and upgraded, and every operation in a transaction of its own."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection

from bridgeserver.config.databases import POSTGRESQL, SQLITE, place, sqlite_path
from bridgeserver.errors import StoreError
from bridgeserver.prices import PriceList, Source
from bridgeserver.records import AnyRecord
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.store import (
    accounts,
    mcpservers,
    providers,
    purging,
    revisions,
    shipping,
    upgrades,
    usertokens,
    workers,
)
from bridgeserver.store.accounts import Key, User
from bridgeserver.store.queries import interceptions, sessions, threads, usage, values
from bridgeserver.store.queries.filters import ALL, Filters
from bridgeserver.store.queries.interceptions import PAGE_ROWS, End, Start
from bridgeserver.store.sqlite import Sqlite
from bridgeserver.store.stored import (
    Loaded,
    LoadedProviders,
    LoadedServers,
    ProviderChanges,
    ProviderFields,
    ServerChanges,
    ServerFields,
    StoredProvider,
    StoredServer,
    UserToken,
)
from bridgeserver.store.views import Initiator, Interception, Interceptions, Sessions, SessionThreads, UsageRow

if TYPE_CHECKING:
    from bridgeserver.store.postgres import Postgres

Record = dict[str, Any]
"""An interception as `bridgecore records --json` shows it."""


def open_store(url: str, *, is_durable: bool = False) -> "Store":
    """Open the database that *url* names, and create an empty file if SQLite has none; `upgrade` fills it.

    With *is_durable* what was committed outlives a power cut, at the price of one sync a transaction. Without,
    it outlives a crash of this process. On PostgreSQL that is for the server to say. Raises StoreError.
    """
    if url.startswith(POSTGRESQL):
        from bridgeserver.store.postgres import Postgres  # asyncpg, where it is used

        return Store(Postgres(url))
    if not url.startswith(SQLITE) or url == SQLITE:
        scheme = url.partition(":")[0]
        raise StoreError(f"store.url: found the scheme {scheme!r}, expected {SQLITE}FILE or {POSTGRESQL}HOST/DATABASE")
    return Store(Sqlite(Path(url.removeprefix(SQLITE)).absolute(), is_durable=is_durable))


class Store:
    """Users, keys and records; any thread may use it. Every method raises StoreError if the database fails."""

    def __init__(self, database: "Sqlite | Postgres") -> None:
        self._database = database
        self.prices = PriceList()
        """By which the records are priced that are stored from here."""
        self._read = database.read
        self._write = database.write

    @property
    def url(self) -> str:
        """What names the database; it may hold a password."""
        return self._database.url

    @property
    def path(self) -> Path:
        """The file of a SQLite database; raises StoreError for one on a server."""
        path = sqlite_path(self.url)
        if path is None:
            raise StoreError(f"the database {place(self.url)} is on a server, and no file")
        return path

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def upgrade(self) -> None:
        """Bring the schema to this version; raises StoreError if a newer one has made it."""
        if not self._database.is_current():
            self._database.migrate(upgrades.upgrade)

    def revision(self) -> str | None:
        """Return the revision of the schema, None where there is none."""
        return self._database.revision()

    def listen(self, heard: Callable[[str], None]) -> Callable[[], None]:
        """Call *heard* with the name of a revision of keys or of the configuration when it has grown.

        From another thread, where the database can tell; *heard* must not wait. Returns how to end that.
        """
        return self._database.listen(heard)

    def apply(self, records: Sequence[AnyRecord]) -> int:
        """Store *records*, all or none; return how many rows that added or ended. Again, it changes nothing.

        The first end of an interception wins. Its end must not come in an earlier call than itself: a worker's
        journal is in order, so that cannot happen.
        """
        unpriced: list[Source] = []
        changed = self._write(shipping.apply, records, self.prices, unpriced)
        self.prices.count_unpriced(unpriced)
        return changed

    def purge(self, before: int, limit: int) -> int:
        """Delete up to *limit* interceptions that began before that time, the oldest first, and what belongs to them.

        Return how many those were.
        """
        return self._write(purging.purge, before, limit)

    def purge_orphans(self, before: int, limit: int) -> int:
        """Delete up to *limit* older records of each kind whose interception is missing; return how many those were."""
        return self._write(purging.purge_orphans, before, limit)

    def count_before(self, before: int) -> int:
        """Return how many interceptions began before that time."""
        return self._read(purging.count, before)

    def renew_journal(self, journal: str, seen_at: int) -> bool:
        """Note that a journal is there, and return whether it was unknown."""
        return self._write(workers.renew_journal, journal, seen_at)

    def other_journals(self, journal: str) -> list[tuple[str, int]]:
        """Return the other journals, and when each was last heard of."""
        return self._read(workers.other_journals, journal)

    def end_journal(self, journal: str, seen_at: int, ended_at: int) -> int | None:
        """End all that a journal has left open, and forget it; None if it was heard of meanwhile, or is gone."""
        return self._write(workers.end_journal, journal, seen_at, ended_at)

    def register_worker(self, worker: str, journal: str) -> None:
        """Note to which journal a worker belongs; the journal was renewed before."""
        self._write(workers.register_worker, worker, journal)

    def orphans(self, journal: str) -> list[str]:
        """Return the workers of a journal, and those with open interceptions that belong to none."""
        return self._read(workers.orphans, journal)

    def end_worker(self, worker: str, ended_at: int) -> int:
        """End every open interception of a dead worker, and forget it; return how many those were."""
        return self._write(workers.end_worker, worker, ended_at)

    def probe(self) -> None:
        """Look whether the records can be read; raises StoreError if the database is broken."""
        self._read(workers.probe)

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
        self._write(providers.KIND.enable, name, enabled=enabled, actor=actor, file_names=file_names)

    def override_provider(self, name: str, *, enabled: bool, actor: str) -> None:
        """Switch the file's provider of that name until `reset_provider`."""
        self._write(providers.KIND.override, name, enabled=enabled, actor=actor)

    def reset_provider(self, name: str, actor: str) -> None:
        """End an override; raises NotFound if there is none."""
        self._write(providers.KIND.reset, name, actor)

    def provider_overrides(self) -> dict[str, bool]:
        """Return `enabled` of the file's providers that were switched, by name."""
        return self._read(providers.KIND.overrides)

    def config_revision(self) -> int:
        """Return a number that grows with every change of a stored provider or MCP server, or of an override."""
        return self._read(revisions.current, revisions.CONFIG)

    def load_providers(self, vault: Vault) -> LoadedProviders:
        """Return the stored providers with their secrets, all as of one revision."""
        return self._read(providers.load, vault)

    def load_mcp_servers(self, vault: Vault) -> LoadedServers:
        """Return the stored MCP servers with their secrets."""
        return self._read(mcpservers.load, vault)

    def load(self, vault: Vault) -> Loaded:
        """Return the stored providers and MCP servers with their secrets, all as of one revision."""
        return self._read(_load, vault)

    def list_mcp_servers(self) -> list[StoredServer]:
        """Return the stored MCP servers by name, disabled ones too; nothing is opened for it."""
        return self._read(mcpservers.find_all)

    def get_mcp_server(self, id_or_name: str) -> StoredServer:
        """Return one stored MCP server; raises NotFound."""
        return self._read(mcpservers.find, id_or_name)

    def create_mcp_server(
        self, vault: Vault, fields: ServerFields, actor: str, replaced_url: str | None = None
    ) -> StoredServer:
        """Store an MCP server; raises InvalidMembers with all mistakes, Conflict, or SealError.

        *replaced_url* is where the file's server of that name is: users' tokens stay if they go to the same place.
        """
        return self._write(mcpservers.create, vault, fields, actor, replaced_url)

    def update_mcp_server(self, vault: Vault, id_or_name: str, changes: ServerChanges, actor: str) -> StoredServer:
        """Change a stored MCP server; raises NotFound, InvalidMembers with all mistakes, or SealError."""
        return self._write(mcpservers.change, vault, id_or_name, changes, actor)

    def delete_mcp_server(self, id_or_name: str, actor: str) -> None:
        """Delete a stored MCP server, its secrets and its users' tokens; its name is free again. Raises NotFound."""
        self._write(mcpservers.remove, id_or_name, actor)

    def enable_mcp_server(self, name: str, *, enabled: bool, actor: str, file_names: Collection[str]) -> None:
        """Switch an MCP server: a stored one itself, one of the file by an override. Raises NotFound."""
        self._write(mcpservers.KIND.enable, name, enabled=enabled, actor=actor, file_names=file_names)

    def reset_mcp_server(self, name: str, actor: str) -> None:
        """End an override of an MCP server; raises NotFound if there is none."""
        self._write(mcpservers.KIND.reset, name, actor)

    def mcp_server_overrides(self) -> dict[str, bool]:
        """Return `enabled` of the file's MCP servers that were switched, by name."""
        return self._read(mcpservers.KIND.overrides)

    def has_secrets(self) -> bool:
        """Whether anything in the store is sealed."""
        return any(map(self._read, (providers.has_secrets, mcpservers.has_secrets, usertokens.has_any)))

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


def _load(connection: Connection, vault: Vault) -> Loaded:
    return Loaded(providers.load(connection, vault), mcpservers.load(connection, vault))
