"""The members of one table: which are right, which defaults follow from others, and what they must not be together.

The loader reads the file's tables with it, and `literal` a provider that did not come from the file.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from bridgeserver.config import bedrock, checks
from bridgeserver.config.conversion import WRONG, Converter, LiteralConverter, option_of
from bridgeserver.config.schema import ProviderConfig
from bridgeserver.config.sources import Table, Values, Wrong, quoted, unknown

BASE_URLS = {
    "anthropic": "https://api.anthropic.com",
    "openai": "https://api.openai.com/v1",
    "copilot": "https://api.individual.githubcopilot.com",
}
AUTHS = {"anthropic": "x-api-key", "openai": "bearer", "copilot": "bearer", "bedrock": "aws"}
MAX_KEYS = 5
"""Of a provider that did not come from the file."""


def values_of(table: Table, struct: type[msgspec.Struct], converter: Converter) -> Values:
    """Return the members that are right, with their defaults."""
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    for name, given in table.members.items():
        if name not in fields:
            converter.mistakes.append(unknown(given.source, given.key, name, fields))
    values: Values = {}
    for name, field in fields.items():
        if name in table.members:
            values[name] = converter.convert(table.members[name], field.type)
        elif not field.required:
            values[name] = default_of(field)
    return {name: value for name, value in values.items() if value is not WRONG}


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """Return the default of an option that is not required."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def derive(table: Table, values: Values) -> None:
    """Add the defaults that follow from a provider's name and type."""
    if "type" not in table.members and values.get("name") in BASE_URLS:
        values["type"] = values["name"]
    if "type" in values:
        if "base_url" not in table.members and values["type"] in BASE_URLS:
            values["base_url"] = BASE_URLS[values["type"]]
        if values["type"] == "bedrock":
            bedrock.derive(table, values)
        values.setdefault("auth", AUTHS[values["type"]])


def provider_mistakes(table: Table, values: Values, names: Collection[str] = ()) -> Iterator[Wrong]:
    """Yield what is wrong with a provider as a whole; *names* are those of others beside it."""
    for field in msgspec.structs.fields(ProviderConfig):
        if field.name in {"name", "type"} - values.keys() - table.members.keys():
            yield field.name, "nothing", option_of(field.type).expected
    if values.get("name") in names:
        yield "name", f'"{values["name"]}" a second time', "a name of its own for each provider"
    if values.get("type") == "copilot":
        yield from _copilot_mistakes(values)
    if values.get("type") == "bedrock":
        yield from bedrock.mistakes(table, values)
    elif "type" in values:
        yield from bedrock.out_of_place(table, values)
    is_forbidden = "base_url" in values and checks.is_link_local(values["base_url"])
    if is_forbidden and values.get("allow_link_local") is False:
        yield "base_url", f'"{values["base_url"]}"', "no link-local or metadata address, or allow_link_local = true"


def _copilot_mistakes(values: Values) -> Iterator[Wrong]:
    if values.get("keys"):
        yield "keys", "a key", "none: every caller of Copilot brings his own token"
    if values.get("auth", "bearer") != "bearer":
        yield "auth", f'"{values["auth"]}"', '"bearer", which is all that Copilot takes'


def literal(source: str, name: str, members: Mapping[str, object]) -> tuple[Values, list[str]]:
    """Return a provider's members that are right, with their defaults, and what is wrong with the others.

    Keys are texts, and at most MAX_KEYS different ones. *source* and *name* are what mistakes call it; no mistake
    shows a secret.
    """
    return literals(Table(source, f"providers.{quoted(name)}"), members, ProviderConfig, _literal_mistakes)


def literals(
    table: Table,
    members: Mapping[str, object],
    struct: type[msgspec.Struct],
    judge: Callable[[Table, Values], Iterable[Wrong]],
) -> tuple[Values, list[str]]:
    """Return those of *members* that are right, with their defaults, and what is wrong with the others.

    *table* says where they stand, and *judge* may add to the values before it says what is wrong with them as a whole.
    """
    mistakes: list[str] = []
    converter = LiteralConverter(mistakes)
    table.put(members)
    values = values_of(table, struct, converter)
    for member, found, expected in judge(table, values):
        converter.wrong(table.where(member), found, expected)
    return values, mistakes


def _literal_mistakes(table: Table, values: Values) -> Iterator[Wrong]:
    derive(table, values)
    yield from provider_mistakes(table, values)
    yield from _key_mistakes(values)


def _key_mistakes(values: Values) -> Iterator[Wrong]:
    keys = values.get("keys", ())
    if len(keys) > MAX_KEYS:
        yield "keys", f"{len(keys)} keys", f"at most {MAX_KEYS}"
    if len(set(keys)) < len(keys):
        yield "keys", "a key a second time", "different keys"
