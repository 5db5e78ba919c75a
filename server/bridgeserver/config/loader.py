"""From what was given to the tree: conversion, the defaults that follow from other options, and cross-checks.

Nothing stops at the first mistake. A table's values hold only what is right, so a check that looks at several
options runs where it finds them all; whoever mends what is reported gets to see the rest.
"""

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bridgeserver.config import checks
from bridgeserver.config.conversion import WRONG, Converter, option_of
from bridgeserver.config.schema import Config, JournalConfig, ProviderConfig, ServerConfig, StoreConfig
from bridgeserver.config.sources import Sources, Table, unknown
from bridgeserver.errors import ConfigError

DEFAULT_FILE = Path("bridgecore.toml")
IMPLIED = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
"""The variables that bring a provider along when none is configured."""

BASE_URLS = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}
AUTHS = {"anthropic": "x-api-key", "openai": "bearer"}
CONNECTIONS_BESIDE_STREAMS = 1024
"""Idle connections and health checks that fit in beside `max_streams` streams."""

Values = dict[str, Any]
"""The members of one table that are right, by name."""

Wrong = tuple[str, str, str]
"""A member, what was found there, and what was expected."""


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """Return the configuration that takes effect; a flag beats the environment, which beats the file.

    Without *path* it is `bridgecore.toml` of the working directory, which may be absent. Flags are named like
    `server.port`. Raises ConfigError with all mistakes.
    """
    mistakes: list[str] = []
    file = DEFAULT_FILE if path is None else path
    sources = Sources(mistakes)
    sources.read_file(file, may_be_absent=path is None)
    sources.read_environment(environ)
    sources.read_flags(flags)
    if not sources.providers and not mistakes:
        for name, variable in IMPLIED.items():
            if environ.get(variable):
                sources.add_provider(name, type=name, keys=[f"env:{variable}"])
    folder = file.absolute().parent
    return _Loader(sources, Converter(folder, environ, mistakes), mistakes).tree(folder)


class _Loader:
    def __init__(self, sources: Sources, converter: Converter, mistakes: list[str]) -> None:
        self._sources = sources
        self._converter = converter
        self._mistakes = mistakes

    def tree(self, folder: Path) -> Config:
        """Return the tree, or raise ConfigError."""
        sections = self._sources.sections
        store = self._values(sections["store"], StoreConfig)
        journal = self._values(sections["journal"], JournalConfig)
        if "url" in store:
            database = folder / store["url"].removeprefix("sqlite:///")
            store["url"] = f"sqlite:///{database}"
            journal.setdefault("path", Path(f"{database}.journal"))
        server = self._server(sections["server"])
        providers = self._providers()
        if self._mistakes:
            raise ConfigError(self._mistakes)
        return Config(
            server=ServerConfig(**server),
            store=StoreConfig(**store),
            journal=JournalConfig(**journal),
            providers=tuple(ProviderConfig(**values) for values in providers),
        )

    def _server(self, table: Table) -> Values:
        values = self._values(table, ServerConfig)
        if "max_streams" in values:
            values.setdefault("max_connections", values["max_streams"] + CONNECTIONS_BESIDE_STREAMS)
        self._note(table, _server_mistakes(values))
        return values

    def _providers(self) -> list[Values]:
        names: set[str] = set()
        found: list[Values] = []
        for table in self._sources.providers:
            values = self._values(table, ProviderConfig)
            _derive(table, values)
            self._note(table, _provider_mistakes(table, values, names))
            names.add(values.get("name", ""))
            found.append(values)
        return found

    def _values(self, table: Table, struct: type[msgspec.Struct]) -> Values:
        """Return the members that are right, with their defaults."""
        fields = {field.name: field for field in msgspec.structs.fields(struct)}
        for name, given in table.members.items():
            if name not in fields:
                self._mistakes.append(unknown(given.source, given.key, name, fields))
        values: Values = {}
        for name, field in fields.items():
            if name in table.members:
                values[name] = self._converter.convert(table.members[name], field.type)
            elif not field.required:
                values[name] = default_of(field)
        return {name: value for name, value in values.items() if value is not WRONG}

    def _note(self, table: Table, mistakes: Iterator[Wrong]) -> None:
        for name, found, expected in mistakes:
            self._converter.wrong(table.where(name), found, expected)


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """Return the default of an option that is not required."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _server_mistakes(values: Values) -> Iterator[Wrong]:
    if values.keys() >= {"tls_cert", "tls_key"}:
        yield from _tls_mistakes(values["tls_cert"], values["tls_key"])
    if values.keys() >= {"host", "insecure_http", "tls_cert", "tls_key"}:
        is_plain = values["tls_cert"] is None and values["tls_key"] is None
        if is_plain and not values["insecure_http"] and not checks.is_loopback(values["host"]):
            expected = "a loopback address, or tls_cert and tls_key, or insecure_http = true"
            yield "host", f'"{values["host"]}" with plain HTTP', expected


def _tls_mistakes(cert: Path | None, key: Path | None) -> Iterator[Wrong]:
    for name, path, other in (("tls_cert", cert, key), ("tls_key", key, cert)):
        if path is not None and not path.is_file():
            yield name, f"no file at {path}", "a PEM file"
        if path is None and other is not None:
            yield name, "nothing", "both tls_cert and tls_key, or neither"
    if cert is not None and key is not None and cert.is_file() and key.is_file():
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
        except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
            reason = exc.strerror if isinstance(exc, OSError) else None
            yield (
                "tls_cert",
                f"a certificate that cannot be used with tls_key ({reason or exc})",
                "a PEM chain and its key",
            )


def _derive(table: Table, values: Values) -> None:
    """Add the defaults that follow from a provider's name and type."""
    if "type" not in table.members and values.get("name") in BASE_URLS:
        values["type"] = values["name"]
    if "type" in values:
        values.setdefault("base_url", BASE_URLS[values["type"]])
        values.setdefault("auth", AUTHS[values["type"]])


def _provider_mistakes(table: Table, values: Values, names: set[str]) -> Iterator[Wrong]:
    for field in msgspec.structs.fields(ProviderConfig):
        if field.name in {"name", "type"} - values.keys() - table.members.keys():
            yield field.name, "nothing", option_of(field.type).expected
    if values.get("name") in names:
        yield "name", f'"{values["name"]}" a second time', "a name of its own for each provider"
    is_forbidden = "base_url" in values and checks.is_link_local(values["base_url"])
    if is_forbidden and values.get("allow_link_local") is False:
        yield "base_url", f'"{values["base_url"]}"', "no link-local or metadata address, or allow_link_local = true"
