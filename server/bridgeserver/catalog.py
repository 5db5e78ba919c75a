"""The providers as an administrator sees and changes them: those of the configuration file and of the store, in one.

A provider of the store replaces the file's of that name whole. A file's provider is changed in the file; all that
can be done to it here is to switch it, which writes an override, and to end that override again.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from bridgeserver.asks import Refused
from bridgeserver.bodies import convert, read
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.status import ProviderStatus, ReloadStatus
from bridgeserver.store.stored import (
    GivenSettings,
    KeyChange,
    ProviderChanges,
    ProviderFields,
    StoredKey,
    StoredProvider,
)


class ProviderView(Struct, frozen=True, kw_only=True):
    """A provider as the answers show it; one of the file has neither an id nor settings nor times here."""

    id: str | None = None
    type: str
    name: str
    display_name: str = ""
    icon: str = ""
    enabled: bool
    base_url: str
    api_keys: list[StoredKey] = []
    settings: dict[str, Any] | None = None
    created_at: str | None = None
    updated_at: str | None = None
    key_count: int
    source: Literal["file", "store"]
    status: Literal["enabled", "disabled", "error"]
    status_reason: str
    override: bool | None
    """What a switch of the file's provider has set `enabled` to."""


class NewProvider(Struct, frozen=True, kw_only=True):
    """The body of a request for a new provider."""

    type: str
    name: str
    base_url: str | UnsetType = UNSET
    api_keys: tuple[Secret, ...] = ()
    enabled: bool = True
    display_name: str = ""
    icon: str = ""
    settings: Any = None


class Patch(Struct, frozen=True, kw_only=True):
    """The body of a request for a change: what is omitted stays, and `api_keys` are all that there will be."""

    type: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    base_url: str | UnsetType = UNSET
    api_keys: list[Any] | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    display_name: str | UnsetType = UNSET
    icon: str | UnsetType = UNSET
    settings: Any = UNSET


class ProviderStore(Protocol):
    """What is needed of the store; every method raises StoreError if the database fails."""

    def list_providers(self) -> Sequence[StoredProvider]: ...
    def create_provider(self, vault: Vault, fields: ProviderFields, actor: str) -> StoredProvider: ...
    def update_provider(
        self, vault: Vault, id_or_name: str, changes: ProviderChanges, actor: str
    ) -> StoredProvider: ...
    def delete_provider(self, id_or_name: str, actor: str) -> None: ...
    def enable_provider(self, name: str, *, enabled: bool, actor: str, file_names: Collection[str]) -> None: ...
    def reset_provider(self, name: str, actor: str) -> None: ...
    def provider_overrides(self) -> Mapping[str, bool]: ...


class State(Protocol):
    """What is needed of the reloader."""

    @property
    def file_names(self) -> Collection[str]:
        """The providers of the configuration file."""
        ...

    def status(self) -> ReloadStatus:
        """Return what is in force now."""
        ...

    def apply(self, timeout_s: float) -> bool:
        """Reload now, and wait until every worker follows; return False if that takes longer than *timeout_s*."""
        ...


class Catalog:
    """The providers of both sources. Methods raise Refused for what cannot be done, and what the store raises."""

    def __init__(self, store: ProviderStore, vault: Vault, state: State) -> None:
        self._store = store
        self._vault = vault
        self._state = state

    def views(self) -> list[ProviderView]:
        """Return all providers by name."""
        status = self._state.status()
        overrides = self._store.provider_overrides()
        in_force = {provider.name: provider for provider in status.providers}
        stored = {provider.name: provider for provider in self._store.list_providers()}
        from_file = {name for name, provider in in_force.items() if provider.source == "file"} | {
            *self._state.file_names
        }
        views = [_stored_view(provider, in_force.get(name), status) for name, provider in stored.items()]
        views += [_file_view(name, in_force.get(name), overrides.get(name)) for name in from_file - stored.keys()]
        return sorted(views, key=lambda view: view.name)

    def find(self, id_or_name: str) -> ProviderView | None:
        """Return one provider, or None if there is no such; a name beats an id."""
        views = self.views()
        return next((view for member in ("name", "id") for view in views if getattr(view, member) == id_or_name), None)

    def view(self, id_or_name: str) -> ProviderView:
        """Return one provider."""
        view = self.find(id_or_name)
        if view is None:
            raise Refused(404, f"no provider has the id or the name {id_or_name}; the list shows those there are")
        return view

    def create(self, body: bytes, actor: str) -> str:
        """Store a provider and return its name."""
        given = convert(read(body), NewProvider)
        settings = {} if given.settings is None else _given(convert(given.settings, GivenSettings, "body: settings"))
        fields = ProviderFields(
            type=given.type,
            name=given.name,
            base_url=given.base_url,
            keys=given.api_keys,
            enabled=given.enabled,
            display_name=given.display_name,
            icon=given.icon,
            **settings,
        )
        return self._store.create_provider(self._vault, fields, actor).name

    def change(self, id_or_name: str, body: bytes, actor: str) -> str:
        """Change a provider and return its name."""
        view = self.view(id_or_name)
        given = _given(convert(read(body), Patch))
        name = view.name
        for member in ("name", "type"):
            if given.pop(member, getattr(view, member)) != getattr(view, member):
                raise Refused(
                    409, f"{member}: the {member} of a provider is for good: create another one, and delete {name}"
                )
        if view.source == "store":
            self._store.update_provider(self._vault, name, _changes(given), actor)
        elif given.keys() - {"enabled"}:
            raise Refused(
                409,
                f"provider {name} is in the configuration file, and only `enabled` can be changed here: "
                "change the file and reload, or create a provider of that name, which replaces it whole",
            )
        elif given:
            names = self._state.file_names
            self._store.enable_provider(name, enabled=given["enabled"], actor=actor, file_names=names)
        return name

    def delete(self, id_or_name: str, actor: str) -> None:
        """Delete a provider of the store."""
        view = self.view(id_or_name)
        if view.source == "file":
            raise Refused(
                409,
                f"provider {view.name} is in the configuration file: remove it there and reload, "
                'or switch it off with PATCH and {"enabled": false}',
            )
        self._store.delete_provider(view.name, actor)

    def reset(self, name: str, actor: str) -> None:
        """End the override of a provider of the file; without one nothing changes."""
        if name in self._store.provider_overrides():
            self._store.reset_provider(name, actor)
        elif self.view(name).source == "store":
            raise Refused(409, f"provider {name} is in the store and has no override: PATCH changes it itself")


def _given(struct: Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(struct).items() if value is not UNSET}


def _changes(given: dict[str, Any]) -> ProviderChanges:
    """Return the changes that the members of a Patch are."""
    settings = given.pop("settings", {})
    if "api_keys" in given:
        places = [f"body: api_keys[{index}]" for index in range(len(given["api_keys"]))]
        keys = zip(given["api_keys"], places, strict=True)
        given["api_keys"] = tuple(convert(item, KeyChange, place) for item, place in keys)
    return ProviderChanges(**given, **_given(convert(settings, GivenSettings, "body: settings")))


def _stored_view(stored: StoredProvider, found: ProviderStatus | None, status: ReloadStatus) -> ProviderView:
    if found is None or found.source != "store":
        reason = status.last_error or status.store_error or "the workers do not have it yet"
        found = ProviderStatus(stored.name, stored.type, "error", reason, "store", stored.base_url, 0)
    return ProviderView(
        **msgspec.structs.asdict(stored),
        key_count=len(stored.api_keys),
        source=found.source,
        status=found.status,
        status_reason=found.reason,
        override=None,
    )


def _file_view(name: str, found: ProviderStatus | None, override: bool | None) -> ProviderView:
    if found is None or found.source != "file":
        found = ProviderStatus(name, "", "error", "the workers do not have it yet", "file", "", 0)
    return ProviderView(
        type=found.type,
        name=name,
        enabled=found.status != "disabled" if override is None else override,
        base_url=found.base_url,
        key_count=found.key_count,
        source=found.source,
        status=found.status,
        status_reason=found.reason,
        override=override,
    )
