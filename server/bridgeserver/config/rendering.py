"""The configuration in effect as TOML, for people: what may hold a secret is masked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec

from bridgeserver.config import databases
from bridgeserver.config.schema import Config, McpServerConfig, StoreConfig
from bridgeserver.config.sources import SECTIONS, quoted
from bridgeserver.secret import Secret

MASKED = frozenset({"extra_headers", "query"})
"""Tables whose values may hold secrets of a proxy in between; their names are shown."""


def render(config: Config) -> str:
    """Return the configuration as it takes effect; keys, passwords, header values and queries are masked."""
    config = msgspec.structs.replace(config, store=_without_password(config.store))
    tables = [(f"[{name}]", getattr(config, name)) for name in SECTIONS]
    tables += [("[[providers]]", provider) for provider in config.providers]
    tables += [("[[mcp_servers]]", _without_query(server)) for server in config.mcp_servers]
    tables += [("[[prices]]", price) for price in config.prices]
    return "\n".join("\n".join([title, *_lines(struct), ""]) for title, struct in tables)


def _without_password(store: StoreConfig) -> StoreConfig:
    return msgspec.structs.replace(store, url=databases.shown(store.url))


def _without_query(server: McpServerConfig) -> McpServerConfig:
    if server.url == server.public_url:
        return server
    return msgspec.structs.replace(server, url=f"{server.public_url}?…")


def _lines(struct: msgspec.Struct) -> Iterator[str]:
    for name, value in msgspec.structs.asdict(struct).items():
        if value is None:
            yield f"# {name} is not set"
        elif name in MASKED:
            yield f"{name} = {toml({key: Secret(text) for key, text in value.items()})}"
        else:
            yield f"{name} = {toml(value)}"


def toml(value: object) -> str:
    """Return one value of the tree as TOML spells it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value).removesuffix(".0")
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, cast('tuple[object, ...]', value)))}]"
    if isinstance(value, dict):
        table = cast("dict[str, object]", value)
        return "{" + ", ".join(f"{quoted(key)} = {toml(item)}" for key, item in table.items()) + "}"
    return _string(value)


def _string(value: object) -> str:
    if not isinstance(value, str | Path | Secret):
        raise TypeError(f"expected a value of the configuration, found {type(value).__name__}")
    # JSON's escapes are TOML's too; only DEL has to be escaped besides.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
