"""Providers of the store. Every change is numbered and audited where it is made.

A list shows what was masked when it was stored, so it needs no vault. Rows of deleted providers stay, their secrets do
not.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET
from sqlalchemy import Connection, Row, delete, insert, select, update

from bridgecore import uuid7
from bridgeserver.config import ProviderConfig
from bridgeserver.config.members import MAX_KEYS, literal
from bridgeserver.config.sources import Values
from bridgeserver.errors import InvalidMembers, SealError
from bridgeserver.records import now_us
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret, hint
from bridgeserver.store import auditing, revisions, settings
from bridgeserver.store.instants import iso
from bridgeserver.store.kind import Kind
from bridgeserver.store.schema import provider_keys, provider_overrides, providers
from bridgeserver.store.sealedtable import open_table, seal_table
from bridgeserver.store.settings import PLAIN, TABLES, Settings
from bridgeserver.store.stored import (
    KeyChange,
    LoadedProviders,
    ProviderChanges,
    ProviderError,
    ProviderFields,
    StoredKey,
    StoredProvider,
)

ProviderRow = Row[Any]
KeyRow = Row[Any]

KIND = Kind(providers, provider_overrides, "provider", "provider")

LABEL_LIMITS = {"display_name": 128, "icon": 1024}


def find_all(connection: Connection) -> list[StoredProvider]:
    """Return all providers by name, disabled ones too."""
    keys = _keys_by_provider(connection)
    return [_shown(row, keys.get(row.id, [])) for row in KIND.rows(connection)]


def find(connection: Connection, id_or_name: str) -> StoredProvider:
    """Return one provider; raises NotFound."""
    row = KIND.row(connection, id_or_name)
    return _shown(row, _keys(connection, row.id))


def create(connection: Connection, vault: Vault, fields: ProviderFields, actor: str) -> StoredProvider:
    """Store a provider; raises InvalidMembers with all mistakes, or Conflict if there is one of its name."""
    revisions.hold(connection, revisions.CONFIG)
    given = {name: value for name, value in msgspec.structs.asdict(fields).items() if value is not UNSET}
    labels = {name: given.pop(name) for name in LABEL_LIMITS}
    values = _checked(fields.name, given | {"keys": _revealed(fields.keys)}, _label_mistakes(fields.name, labels))
    name = values["name"]
    KIND.check_free(connection, name)
    provider_id = uuid7()
    sealed = {table: seal_table(vault, provider_id, table, values[table]) for table in TABLES}
    column = Settings({member: values[member] for member in PLAIN}, sealed)
    kept = {member: values[member] for member in ("name", "type", "enabled", "base_url")}
    KIND.add(connection, provider_id, **labels, **kept, settings=settings.write(column))
    for position, key in enumerate(values["keys"]):
        _insert_key(connection, vault, provider_id, position, key)
    detail = kept | {"keys": len(values["keys"])}
    auditing.write(connection, actor, "provider.create", provider_id, **detail)
    return find(connection, provider_id)


def change(
    connection: Connection, vault: Vault, id_or_name: str, changes: ProviderChanges, actor: str
) -> StoredProvider:
    """Change a provider; raises NotFound, or InvalidMembers with all mistakes."""
    revisions.hold(connection, revisions.CONFIG)
    row = KIND.row(connection, id_or_name)
    given = {name: value for name, value in msgspec.structs.asdict(changes).items() if value is not UNSET}
    items: Sequence[KeyChange] | None = given.pop("api_keys", None)
    labels = {name: given.pop(name) for name in LABEL_LIMITS if name in given}
    keys = _keys(connection, row.id)
    mistakes = _label_mistakes(row.name, labels)
    if items is not None:
        mistakes += _item_mistakes(row.name, items, keys, vault)
        given["keys"] = [item.api_key.reveal() for item in items if isinstance(item.api_key, Secret)]
    before = settings.read(row.settings) if given.keys() & {"base_url", *PLAIN, *TABLES} else None
    current = {"name": row.name, "type": row.type, "base_url": row.base_url, **(before.plain if before else {})}
    values = _checked(row.name, current | given, mistakes)
    new: Values = {name: values[name] for name in ("enabled", "base_url") if name in given} | labels
    if before is not None:
        new["settings"] = settings.write(_changed_settings(vault, row.id, before, values, given))
    different = {name: value for name, value in new.items() if value != getattr(row, name)}
    has_new_keys = items is not None and [item.id for item in items] != [key.id for key in keys]
    if not different and not has_new_keys:
        return _shown(row, keys)
    KIND.write(connection, row.id, **different)
    if items is not None and has_new_keys:
        _replace_keys(connection, vault, row.id, items)
    changed = sorted([*different, *(["api_keys"] if has_new_keys else [])])
    auditing.write(connection, actor, "provider.update", row.id, name=row.name, changed=changed)
    return find(connection, row.id)


def remove(connection: Connection, id_or_name: str, actor: str) -> None:
    """Delete a provider and its secrets; its name is free again. Raises NotFound."""
    revisions.hold(connection, revisions.CONFIG)
    row = KIND.row(connection, id_or_name)
    KIND.write(connection, row.id, deleted_at=now_us(), settings="{}")
    connection.execute(delete(provider_keys).where(provider_keys.c.provider_id == row.id))
    auditing.write(connection, actor, "provider.delete", row.id, name=row.name)


def has_secrets(connection: Connection) -> bool:
    """Whether anything is sealed that providers need."""
    if connection.execute(select(provider_keys.c.id).limit(1)).first() is not None:
        return True
    return any(settings.has_secrets(row.settings) for row in KIND.rows(connection))


def load(connection: Connection, vault: Vault) -> LoadedProviders:
    """Return the providers with their secrets; one that cannot be read is an error of its own."""
    keys = _keys_by_provider(connection)
    loaded: list[ProviderConfig] = []
    errors: list[ProviderError] = []
    for row in KIND.rows(connection):
        try:
            loaded.append(_opened(row, keys.get(row.id, []), vault))
        except InvalidMembers as exc:
            errors.append(ProviderError(name=row.name, type=row.type, reason="; ".join(exc.mistakes)))
        except SealError as exc:
            errors.append(ProviderError(name=row.name, type=row.type, reason=str(exc)))
    return LoadedProviders(
        revision=revisions.current(connection, revisions.CONFIG),
        providers=tuple(loaded),
        errors=tuple(errors),
        overrides=KIND.overrides(connection),
    )


def _opened(row: ProviderRow, keys: Sequence[KeyRow], vault: Vault) -> ProviderConfig:
    column = settings.read(row.settings)
    members = {name: getattr(row, name) for name in ("name", "type", "base_url", "enabled")}
    members |= column.plain
    if row.enabled:
        members["keys"] = [vault.open(key.sealed, key.id) for key in keys]
        for name in TABLES:
            members[name] = open_table(vault, row.id, name, column.tables[name])
    return ProviderConfig(**_checked(row.name, members, [], source="store"))


def _checked(
    name: str, members: Mapping[str, object], mistakes: list[str], source: Literal["request", "store"] = "request"
) -> Values:
    """Return the members of a provider as its configuration has them; raises InvalidMembers, with *mistakes* too."""
    values, found = literal(source, name, members)
    if mistakes or found:
        raise InvalidMembers([*found, *mistakes])
    return values


def _label_mistakes(provider: str, labels: Mapping[str, str]) -> list[str]:
    return [
        f"request: providers.{provider}.{name}: found {len(text)} characters, "
        f"expected at most {LABEL_LIMITS[name]}, all printable"
        for name, text in labels.items()
        if len(text) > LABEL_LIMITS[name] or not text.isprintable()
    ]


def _item_mistakes(provider: str, items: Sequence[KeyChange], keys: Sequence[KeyRow], vault: Vault) -> list[str]:
    """Return what is wrong with the keys of a change, beside what is wrong with each new one itself."""
    found: list[str] = []
    new = {item.api_key.reveal() for item in items if isinstance(item.api_key, Secret)}
    there = {key.id: key for key in keys}
    kept: set[str] = set()
    for index, item in enumerate(items):
        place = f"request: providers.{provider}.api_keys[{index}]"
        if isinstance(item.id, str) == isinstance(item.api_key, Secret):
            both = "both" if isinstance(item.id, str) else "neither"
            found.append(f"{place}: found {both}, expected exactly one of id and api_key")
        elif isinstance(item.id, str) and item.id not in there:
            found.append(f"{place}: found an unknown id, expected one of {', '.join(there) or 'none'}")
        elif isinstance(item.id, str) and item.id in kept:
            found.append(f"{place}: found an id a second time, expected each once")
        elif isinstance(item.id, str):
            kept.add(item.id)
            if new and _may_open(vault, there[item.id]) in new:
                found.append(f"{place}: found a key that is given anew as well, expected different keys")
    if len(items) > MAX_KEYS >= len(new):
        found.append(f"request: providers.{provider}.api_keys: found {len(items)} keys, expected at most {MAX_KEYS}")
    return found


def _may_open(vault: Vault, key: KeyRow) -> str | None:
    # A key that cannot be opened any more must not keep anybody from adding one that can.
    try:
        return vault.open(key.sealed, key.id)
    except SealError:
        return None


def _changed_settings(
    vault: Vault, provider_id: str, before: Settings, values: Values, given: Collection[str]
) -> Settings:
    tables = dict(before.tables)
    for name in TABLES:
        if name in given and not _is_same_table(vault, provider_id, name, before, values[name]):
            tables[name] = seal_table(vault, provider_id, name, values[name])
    return Settings({name: values[name] for name in PLAIN}, tables)


def _is_same_table(vault: Vault, provider_id: str, name: str, before: Settings, table: Mapping[str, str]) -> bool:
    try:
        return open_table(vault, provider_id, name, before.tables[name]) == table
    except SealError:
        return False


def _replace_keys(connection: Connection, vault: Vault, provider_id: str, items: Sequence[KeyChange]) -> None:
    kept = [item.id for item in items if isinstance(item.id, str)]
    is_dropped = (provider_keys.c.provider_id == provider_id) & provider_keys.c.id.not_in(kept)
    connection.execute(delete(provider_keys).where(is_dropped))
    for position, item in enumerate(items):
        if isinstance(item.api_key, Secret):
            _insert_key(connection, vault, provider_id, position, item.api_key)
        else:
            place = update(provider_keys).where(provider_keys.c.id == item.id).values(position=position)
            connection.execute(place)


def _insert_key(connection: Connection, vault: Vault, provider_id: str, position: int, key: Secret) -> None:
    text, key_id = key.reveal(), uuid7()
    values = {"id": key_id, "provider_id": provider_id, "position": position, "masked": hint(text)}
    sealed = vault.seal(text, key_id)
    connection.execute(insert(provider_keys).values(**values, sealed=sealed, created_at=now_us()))


def _revealed(keys: Sequence[Secret]) -> list[str]:
    return [key.reveal() for key in keys]


def _keys(connection: Connection, provider_id: str) -> Sequence[KeyRow]:
    is_its = provider_keys.c.provider_id == provider_id
    return connection.execute(select(provider_keys).where(is_its).order_by(provider_keys.c.position)).fetchall()


def _keys_by_provider(connection: Connection) -> dict[str, list[KeyRow]]:
    found: dict[str, list[KeyRow]] = {}
    for row in connection.execute(select(provider_keys).order_by(provider_keys.c.position)):
        found.setdefault(row.provider_id, []).append(row)
    return found


def _shown(row: ProviderRow, keys: Sequence[KeyRow]) -> StoredProvider:
    names = ("id", "type", "name", "display_name", "icon", "enabled", "base_url")
    return StoredProvider(
        **{name: getattr(row, name) for name in names},
        api_keys=[StoredKey(id=key.id, masked=key.masked, created_at=iso(key.created_at)) for key in keys],
        settings=settings.shown(row.settings),
        created_at=iso(row.created_at),
        updated_at=iso(row.updated_at),
    )
