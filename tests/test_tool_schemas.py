"""Schemas of tools' arguments in the forms that providers take: one that is refused ends every request."""

import copy
from typing import Any

import pytest

from bridgeserver.tools.schemas import accepted

A, B = {"type": "string"}, {"type": "integer"}

SCHEMAS: dict[str, tuple[Any, Any]] = {
    "no type": ({"properties": {"a": A}}, {"type": "object", "properties": {"a": A}}),
    "another type": ({"type": ["object", "null"]}, {"type": "object", "properties": {}}),
    "no properties": ({"type": "object"}, {"type": "object", "properties": {}}),
    "properties that are none": (
        {"properties": {"a": A, "type": "object", "b": None, "c": True}, "required": None},
        {"type": "object", "properties": {"a": A, "c": True}},
    ),
    "required that is no list of names": (
        {"properties": {}, "required": ["a", 1]},
        {"type": "object", "properties": {}},
    ),
    "alternatives of what is required": (
        {"properties": {"a": A, "b": B}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"type": "object", "properties": {"a": A, "b": B}},
    ),
    "alternatives with properties of their own": (
        {"oneOf": [{"properties": {"a": A}}, {"properties": {"a": B, "b": B}}], "required": ["b"]},
        {"type": "object", "properties": {"a": A, "b": B}, "required": ["b"]},
    ),
    "conditions": (
        {"properties": {"a": A}, "not": {"required": ["b"]}, "if": {}, "then": {}, "else": {}, "enum": [{}]},
        {"type": "object", "properties": {"a": A}},
    ),
    "a reference": (
        {"$ref": "#/$defs/Args", "$defs": {"Args": {"properties": {"a": A}}}},
        {"$defs": {"Args": {"properties": {"a": A}}}, "type": "object", "properties": {"a": A}},
    ),
    "arrays of anything": (
        {"properties": {"a": {"type": "array", "items": {"type": ["null", "array"]}}}},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": ["null", "array"], "items": {}}}}},
    ),
    "a tuple of before": (
        {"properties": {"a": {"type": "array", "items": [A, B]}}},
        {"type": "object", "properties": {"a": {"type": "array", "prefixItems": [A, B], "items": {}}}},
    ),
    "limits of before": (
        {"properties": {"a": {"minimum": 1, "exclusiveMinimum": True}, "b": {"exclusiveMaximum": 3}}},
        {"type": "object", "properties": {"a": {"minimum": 1}, "b": {"exclusiveMaximum": 3}}},
    ),
    "data that looks like a schema": (
        {"properties": {"default": {"type": "array"}, "a": {"default": {"type": "array"}, "enum": [{"items": []}]}}},
        {
            "type": "object",
            "properties": {
                "default": {"type": "array", "items": {}},
                "a": {"default": {"type": "array"}, "enum": [{"items": []}]},
            },
        },
    ),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_providers_refuse_is_said_in_another_way(name: str) -> None:
    """And once it is, it stays as it is."""
    schema, wanted = SCHEMAS[name]
    before = copy.deepcopy(schema)
    found = accepted(schema)
    assert found == wanted
    assert accepted(found) == found
    assert schema == before


def test_what_all_providers_take_is_left_alone() -> None:
    """Alternatives and references below the top are taken by all."""
    schema = {
        "type": "object",
        "properties": {"a": {"anyOf": [A, {"$ref": "#/$defs/x"}]}, "b": {"type": "array", "items": B}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"x": {"enum": [1]}},
        "title": "Arguments",
    }
    assert accepted(schema) == schema
    assert list(accepted(schema)) == list(schema)
