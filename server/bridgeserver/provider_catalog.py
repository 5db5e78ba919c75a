"""The providers as an administrator sees and changes them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from bridgeserver.bodies import convert, read
from bridgeserver.catalog import Catalog, Shape, State, View, given_of
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


class ProviderView(Shape, frozen=True, kw_only=True):
    """A provider as the answers show it; one of the file has neither settings nor times here."""

    type: str
    display_name: str = ""
    icon: str = ""
    base_url: str
    api_keys: tuple[StoredKey, ...] = ()
    settings: dict[str, Any] | None = None
    created_at: str | None = None
    updated_at: str | None = None
    key_count: int


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


class ProviderCatalog(Catalog[StoredProvider, ProviderStatus, ProviderView]):
    """The providers of both sources."""

    noun = "provider"
    fixed = ("name", "type")
    patch = Patch
    shape = ProviderView

    def __init__(self, store: ProviderStore, vault: Vault, state: State) -> None:
        super().__init__(state)
        self._store = store
        self._vault = vault

    def create(self, body: bytes, actor: str) -> str:
        """Store a provider and return its name."""
        given = convert(read(body), NewProvider)
        settings = {} if given.settings is None else given_of(convert(given.settings, GivenSettings, "body: settings"))
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

    def _stored(self) -> Sequence[StoredProvider]:
        return self._store.list_providers()

    def _file_names(self) -> Collection[str]:
        return self._state.file_names

    def _in_force(self, status: ReloadStatus) -> Sequence[ProviderStatus]:
        return status.providers

    def _stored_view(self, stored: StoredProvider) -> View:
        return msgspec.structs.asdict(stored) | {"key_count": len(stored.api_keys)}

    def _file_view(self, name: str, found: ProviderStatus | None) -> View:
        return {
            "id": None,
            "type": found.type if found else "",
            "name": name,
            "base_url": found.base_url if found else "",
            "key_count": found.key_count if found else 0,
        }

    def _change(self, name: str, given: dict[str, Any], actor: str) -> None:
        self._store.update_provider(self._vault, name, _changes(given), actor)

    def _switch(self, name: str, *, enabled: bool, actor: str) -> None:
        self._store.enable_provider(name, enabled=enabled, actor=actor, file_names=self._state.file_names)

    def _delete(self, name: str, actor: str) -> None:
        self._store.delete_provider(name, actor)

    def _overrides(self) -> Mapping[str, bool]:
        return self._store.provider_overrides()

    def _end_override(self, name: str, actor: str) -> None:
        self._store.reset_provider(name, actor)


def _changes(given: dict[str, Any]) -> ProviderChanges:
    """Return the changes that the members of a Patch are."""
    settings = given.pop("settings", {})
    if "api_keys" in given:
        places = [f"body: api_keys[{index}]" for index in range(len(given["api_keys"]))]
        keys = zip(given["api_keys"], places, strict=True)
        given["api_keys"] = tuple(convert(item, KeyChange, place) for item, place in keys)
    return ProviderChanges(**given, **given_of(convert(settings, GivenSettings, "body: settings")))
