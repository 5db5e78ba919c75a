"""Schemas of tools' arguments, as all providers take them.

One schema that a provider refuses is the end of every request of every caller, whether the tool is wanted or not. So
what is known to be refused is said in another way here, or is not said. Nothing that a tool accepts is ruled out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from bridgeserver.protocols import lenient

_BRANCHES: Final = ("allOf", "anyOf", "oneOf")

_NOT_ON_TOP: Final = frozenset({*_BRANCHES, "$ref", "const", "else", "enum", "if", "not", "then"})
"""What Anthropic or OpenAI refuse beside the arguments themselves."""

_MAPS: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
"""Keywords whose values are schemas by names, and no schemas themselves."""

_DATA: Final = frozenset({"const", "default", "enum", "example", "examples"})
"""Keywords whose values are no schemas, whatever they look like."""

_LIMITS: Final = frozenset({"exclusiveMaximum", "exclusiveMinimum"})
"""Numbers, which were booleans before the sixth draft of JSON Schema; Anthropic takes the newest."""


def accepted(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of an object that every provider takes; of alternatives on top, all arguments are offered."""
    mended = lenient.mapping(_mended(schema))
    top = {keyword: value for keyword, value in mended.items() if keyword not in _NOT_ON_TOP}
    properties: dict[str, Any] = {}
    for part in (mended, *_parts(mended)):
        for name, value in lenient.mapping(part.get("properties")).items():
            if isinstance(value, dict | bool):
                properties.setdefault(name, value)
    top |= {"type": "object", "properties": properties}
    if not all(isinstance(name, str) for name in lenient.array(schema.get("required")) or [None]):
        top.pop("required", None)
    return top


def _parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schemas that say more of the same object."""
    for keyword in _BRANCHES:
        yield from map(lenient.mapping, lenient.array(schema.get(keyword)))
    home, _, name = lenient.text(schema.get("$ref")).removeprefix("#/").partition("/")
    if home in {"$defs", "definitions"}:
        yield lenient.mapping(lenient.mapping(schema.get(home)).get(name))


def _mended(value: Any) -> Any:
    """Return a schema, or several, in which arrays say something of their elements."""
    if isinstance(value, list):
        return [_mended(item) for item in lenient.array(value)]
    if not isinstance(value, Mapping):
        return value
    part: dict[str, Any] = {}
    for keyword, item in cast("Mapping[str, Any]", value).items():
        if keyword in _MAPS:
            part[keyword] = {name: _mended(schema) for name, schema in lenient.mapping(item).items()}
        elif not (keyword in _LIMITS and isinstance(item, bool)):
            part[keyword] = item if keyword in _DATA else _mended(item)
    if isinstance(part.get("items"), list):  # a tuple, as it was written before the newest draft
        part["prefixItems"] = part.pop("items")
    kind = part.get("type")
    if kind == "array" or (isinstance(kind, list) and "array" in kind):
        part.setdefault("items", {})
    return part
