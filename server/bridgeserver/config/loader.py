"""From what was given to the tree: conversion, the defaults that follow from other options, and cross-checks.

Nothing stops at the first mistake. A table's values hold only what is right, so a check that looks at several
options runs where it finds them all; whoever mends what is reported gets to see the rest.
"""

import ssl
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from bridgeserver.config import checks, databases, mcp, prices
from bridgeserver.config.conversion import Converter
from bridgeserver.config.members import derive, provider_mistakes, values_of
from bridgeserver.config.schema import (
    BrokenProvider,
    Config,
    DumpsConfig,
    JournalConfig,
    LogsConfig,
    McpServerConfig,
    MetricsConfig,
    PoolConfig,
    PriceConfig,
    ProviderConfig,
    RecordsConfig,
    ServerConfig,
    StoreConfig,
    ToolsConfig,
    TracingConfig,
)
from bridgeserver.config.sources import Sources, Table, Values, Wrong
from bridgeserver.errors import ConfigError

DEFAULT_FILE = Path("bridgecore.toml")
IMPLIED = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
"""The variables that bring a provider along when none is configured."""

CONNECTIONS_BESIDE_STREAMS = 1024
"""Idle connections and health checks that fit in beside `max_streams` streams."""


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
    if not sources.lists["providers"] and not mistakes:
        for name, variable in IMPLIED.items():
            if environ.get(variable):
                sources.add("providers", name, type=name, keys=[f"env:{variable}"])
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
        store = values_of(sections["store"], StoreConfig, self._converter)
        journal = values_of(sections["journal"], JournalConfig, self._converter)
        pool = values_of(sections["pool"], PoolConfig, self._converter)
        records = values_of(sections["records"], RecordsConfig, self._converter)
        dumps = values_of(sections["dumps"], DumpsConfig, self._converter)
        tools = values_of(sections["tools"], ToolsConfig, self._converter)
        tracing = values_of(sections["tracing"], TracingConfig, self._converter)
        self._note(sections["tracing"], _tracing_mistakes(tracing))
        logs = values_of(sections["logs"], LogsConfig, self._converter)
        metrics = values_of(sections["metrics"], MetricsConfig, self._converter)
        if "url" in store:
            database = self._database(sections["store"], store, folder)
            journal.setdefault("path", Path(f"{database}.journal"))
            dumps.setdefault("path", Path(f"{database}.dumps"))
        server = self._server(sections["server"])
        providers, broken = self._providers()
        servers = self._mcp_servers()
        prices_ = self._prices()
        if self._mistakes:
            raise ConfigError(self._mistakes)
        return Config(
            server=ServerConfig(**server),
            store=StoreConfig(**store),
            journal=JournalConfig(**journal),
            pool=PoolConfig(**pool),
            records=RecordsConfig(**records),
            dumps=DumpsConfig(**dumps),
            tools=ToolsConfig(**tools),
            tracing=TracingConfig(**tracing),
            logs=LogsConfig(**logs),
            metrics=MetricsConfig(**metrics),
            providers=tuple(ProviderConfig(**values) for values in providers),
            broken=tuple(broken),
            mcp_servers=tuple(McpServerConfig(**values) for values in servers),
            prices=tuple(PriceConfig(**values) for values in prices_),
        )

    def _database(self, table: Table, values: Values, folder: Path) -> Path:
        """Resolve the URL of the store; return what files beside the database are named after."""
        path = databases.sqlite_path(values["url"])
        if path is None:
            self._note(table, (("url", *mistake) for mistake in databases.mistakes(values["url"])))
            return folder / "bridgecore"
        values["url"] = f"{databases.SQLITE}{folder / path}"
        return folder / path

    def _server(self, table: Table) -> Values:
        values = values_of(table, ServerConfig, self._converter)
        if "max_streams" in values:
            values.setdefault("max_connections", values["max_streams"] + CONNECTIONS_BESIDE_STREAMS)
        self._note(table, _server_mistakes(values))
        return values

    def _providers(self) -> tuple[list[Values], list[BrokenProvider]]:
        """Return the providers, and those that nothing is wrong with but where they are."""
        names: set[str] = set()
        found: list[Values] = []
        broken: list[BrokenProvider] = []
        for table in self._sources.lists["providers"]:
            noted = len(self._mistakes)
            values = values_of(table, ProviderConfig, self._converter)
            derive(table, values)
            self._note(table, provider_mistakes(table, values, names))
            names.add(values.get("name", ""))
            place = table.where("base_url")
            mistakes = self._mistakes[noted:]
            if mistakes and all(line.startswith(f"{place.source}: {place.key}: ") for line in mistakes):
                del self._mistakes[noted:]
                broken.append(BrokenProvider(name=values["name"], type=values["type"], reason="; ".join(mistakes)))
            else:
                found.append(values)
        return found, broken

    def _mcp_servers(self) -> list[Values]:
        names: set[str] = set()
        found: list[Values] = []
        for table in self._sources.lists["mcp_servers"]:
            values = values_of(table, McpServerConfig, self._converter)
            self._note(table, mcp.mistakes(table, values, names))
            names.add(values.get("name", ""))
            found.append(values)
        return found

    def _prices(self) -> list[Values]:
        found: list[Values] = []
        for table in self._sources.lists["prices"]:
            values = values_of(table, PriceConfig, self._converter)
            self._note(table, prices.mistakes(table, values))
            found.append(values)
        return found

    def _note(self, table: Table, mistakes: Iterator[Wrong]) -> None:
        for name, found, expected in mistakes:
            self._converter.wrong(table.where(name), found, expected)


def _server_mistakes(values: Values) -> Iterator[Wrong]:
    if values.keys() >= {"tls_cert", "tls_key"}:
        yield from _tls_mistakes(values["tls_cert"], values["tls_key"])
    places = {"host": values.get("host", ""), "admin_listen": checks.host_and_port(values.get("admin_listen", ""))[0]}
    for name, host in places.items():
        if host and not checks.is_loopback(host) and _is_plain(values):
            expected = "a loopback address, or tls_cert and tls_key, or insecure_http = true"
            yield name, f'"{values[name]}" with plain HTTP', expected


def _is_plain(values: Values) -> bool:
    """Whether others than this machine would be served plain HTTP, and nobody has said that this is wanted."""
    is_known = values.keys() >= {"insecure_http", "tls_cert", "tls_key"}
    return is_known and not any((values["insecure_http"], values["tls_cert"], values["tls_key"]))


def _tracing_mistakes(values: Values) -> Iterator[Wrong]:
    if values.get("endpoint") and not all(map(find_spec, ("opentelemetry.sdk", "opentelemetry.exporter"))):
        yield "endpoint", "no SDK of OpenTelemetry", "`pip install 'bridgecore[otel]'`"


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
