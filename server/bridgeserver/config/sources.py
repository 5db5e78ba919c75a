"""What was given, and where: the file, the environment and the flags, merged before any value is understood."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from bridgeserver.config.schema import (
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

SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerConfig,
    "store": StoreConfig,
    "journal": JournalConfig,
    "pool": PoolConfig,
    "records": RecordsConfig,
    "dumps": DumpsConfig,
    "tools": ToolsConfig,
    "tracing": TracingConfig,
    "logs": LogsConfig,
    "metrics": MetricsConfig,
}
NAMED: dict[str, type[msgspec.Struct]] = {"providers": ProviderConfig, "mcp_servers": McpServerConfig}
"""What there may be several of, each with a name, by which a variable can reach it."""

LISTS: dict[str, type[msgspec.Struct]] = {**NAMED, "prices": PriceConfig}
"""What there may be several of."""

PREFIX = "BRIDGECORE_"
ENVIRONMENT = "environment"
COMMAND_LINE = "command line"

# Kubernetes describes every service of a namespace to its pods: one that is named `bridgecore` would otherwise
# keep the gateway from starting. https://kubernetes.io/docs/concepts/services-networking/service/
SERVICE_VARIABLE = re.compile(
    r"BRIDGECORE_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT_\d+_[A-Z]+(_(PROTO|PORT|ADDR))?)",
)
BUILD_SWITCH = "BRIDGECORE_DEBUG"
"""Read by setup.py, and often left in a developer's environment."""

SERVICE_URL = re.compile(r"(tcp|udp|sctp)://\S*")


Values = dict[str, Any]
"""The members of one table that are right, by name."""

Wrong = tuple[str, str, str]
"""A member, what was found there, and what was expected."""


class Given(NamedTuple):
    """One value as it was given; `is_text` where it has yet to be converted from a variable or a flag."""

    value: object
    source: str
    key: str
    is_text: bool = False

    def member(self, suffix: str, value: object) -> "Given":
        """Return a value inside this one."""
        return Given(value, self.source, self.key + suffix)


class Table:
    """The members that were given of one section, or of one item of a list."""

    def __init__(self, source: str, key: str) -> None:
        self.source = source
        self.key = key
        self.members: dict[str, Given] = {}

    def put(self, members: Mapping[str, object]) -> None:
        """Take the members that the table's own source gives."""
        for name, value in members.items():
            self.members[name] = Given(value, self.source, f"{self.key}.{quoted(name)}")

    def where(self, name: str) -> Given:
        """Return what was given as *name*, or where it is missing."""
        return self.members.get(name) or Given(None, self.source, f"{self.key}.{name}")


class Sources:
    """Everything that was given; sources are read in the order of their precedence, the weakest first."""

    def __init__(self, mistakes: list[str]) -> None:
        self.sections = {name: Table("default", name) for name in SECTIONS}
        self.lists: dict[str, list[Table]] = {name: [] for name in LISTS}
        self._mistakes = mistakes

    def read_file(self, path: Path, *, may_be_absent: bool) -> None:
        """Read a TOML file."""
        text = self._text(path, may_be_absent=may_be_absent)
        try:
            tables = tomllib.loads(text)
        except ValueError as exc:
            self._mistakes.append(_syntax_mistake(path, text, str(exc)))
            return
        for name, value in tables.items():
            self._read_table(str(path), name, value)

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Read the variables that begin with BRIDGECORE_."""
        for variable, text in sorted(environ.items()):
            if variable.startswith(PREFIX) and not _is_of_others(variable, text):
                self._read_variable(variable, text)

    def read_flags(self, flags: Mapping[str, object]) -> None:
        """Read flags, named like `server.port`."""
        for key, value in flags.items():
            section, _, member = key.partition(".")
            given = Given(value, COMMAND_LINE, key, is_text=isinstance(value, str))
            if section in self.sections:
                self.sections[section].members[member] = given
            else:
                self._mistakes.append(unknown(COMMAND_LINE, key, section, SECTIONS))

    def add(self, kind: str, name: str, **members: object) -> Table:
        """Add an item that the environment names to one of the lists."""
        table = Table(ENVIRONMENT, f"{kind}.{name}")
        table.put({"name": name, **members})
        self.lists[kind].append(table)
        return table

    def _text(self, path: Path, *, may_be_absent: bool) -> str:
        """Return the text of the file, or none after noting why it cannot be read."""
        try:
            return path.read_bytes().decode()
        except FileNotFoundError:
            if not may_be_absent:
                self._mistakes.append(f"{path}: found no such file, expected the configuration")
        except OSError as exc:
            self._mistakes.append(f"{path}: found an unreadable file ({exc.strerror}), expected the configuration")
        except UnicodeDecodeError as exc:
            self._mistakes.append(f"{path}: found a byte that is not UTF-8 at offset {exc.start}, expected TOML")
        return ""

    def _read_table(self, source: str, name: str, value: object) -> None:
        if name in LISTS:
            self._read_list(source, name, value)
        elif name not in self.sections:
            self._mistakes.append(unknown(source, quoted(name), name, [*SECTIONS, *LISTS]))
        elif isinstance(value, dict):
            table = self.sections[name]
            table.source = source
            table.put(cast("dict[str, object]", value))
        else:
            self._mistakes.append(
                f"{source}: {name}: found a value, expected a table: write [{name}] above its options"
            )

    def _read_list(self, source: str, kind: str, value: object) -> None:
        items = cast("list[object]", value) if isinstance(value, list) else [value]
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in items):
            self._mistakes.append(
                f"{source}: {kind}: found no list of tables, expected one: write [[{kind}]] above each",
            )
            return
        for index, item in enumerate(items):
            table = Table(source, f"{kind}[{index}]")
            table.put(cast("dict[str, object]", item))
            self.lists[kind].append(table)

    def _read_variable(self, variable: str, text: str) -> None:
        kind = next((kind for kind in NAMED if variable.startswith(_list_prefix(kind))), None)
        if kind is not None:
            spelt, _, member = variable.removeprefix(_list_prefix(kind)).rpartition("__")
            names = {name.upper(): name for name in _names(LISTS[kind]) if name != "name"}
            if spelt and variable.isupper() and member in names:
                self._set_item(kind, spelt.lower(), names[member], text)
                return
            known = [f"{_list_prefix(kind)}{spelt or 'NAME'}__{name}" for name in names]
        else:
            places = _variables()
            if variable in places:
                section, member = places[variable]
                self.sections[section].members[member] = Given(text, ENVIRONMENT, f"{section}.{member}", is_text=True)
                return
            known = list(places)
        self._mistakes.append(unknown(ENVIRONMENT, variable, variable, known))

    def _set_item(self, kind: str, spelt: str, member: str, text: str) -> None:
        """Set a member of the item whose name is *spelt* with `_` for `-`; one that exists comes first."""
        for table in self.lists[kind]:
            given = table.members.get("name")
            if given is not None and isinstance(given.value, str) and given.value.replace("-", "_") == spelt:
                break
        else:
            table = self.add(kind, spelt.replace("_", "-"))
        name = table.members["name"].value
        table.members[member] = Given(text, ENVIRONMENT, f"{kind}.{name}.{member}", is_text=True)


def quoted(name: str) -> str:
    """Return *name* as a part of a TOML key."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def unknown(source: str, key: str, name: str, known: Iterable[str]) -> str:
    """Return the mistake for a name that does not exist."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name.lower(), [item.lower() for item in known], n=1)
    spelling = {item.lower(): item for item in known}
    expected = f"{spelling[nearest[0]]} (the nearest name)" if nearest else _choices(known)
    return f"{source}: {key}: found an unknown name, expected {expected}"


def _choices(known: list[str]) -> str:
    return f"one of {', '.join(known)}" if len(known) <= 15 else "a name that docs/operations.md lists"


def _names(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    return struct.__struct_fields__


def _list_prefix(kind: str) -> str:
    return f"{PREFIX}{kind.upper()}__"


def _variables() -> dict[str, tuple[str, str]]:
    """Return the section and member of every variable outside the lists."""
    return {
        f"{PREFIX}{section}__{member}".upper(): (section, member)
        for section, struct in SECTIONS.items()
        for member in _names(struct)
    }


def _is_of_others(variable: str, text: str) -> bool:
    """Whether the variable is none of the configuration's, although it begins like one."""
    if variable == BUILD_SWITCH:
        return True
    if variable.endswith("_PORT") and SERVICE_URL.fullmatch(text):
        return "__" not in variable
    return SERVICE_VARIABLE.fullmatch(variable) is not None


def _syntax_mistake(path: Path, text: str, message: str) -> str:
    reason, _, place = message.removesuffix(")").rpartition(" (at ")
    if not reason:
        return f"{path}: found broken TOML: {message}"
    if place == "end of document":
        lines = text.split("\n")
        place = f"line {len(lines)}, column {len(lines[-1]) + 1}"
    return f"{path}: {place}: found broken TOML: {reason}"
