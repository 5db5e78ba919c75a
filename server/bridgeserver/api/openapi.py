"""The OpenAPI document: made of the table that the dispatcher goes by, and of the types of the answers."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, cast

import msgspec

from bridgeserver.api import routes
from bridgeserver.api.answers import Refusal
from bridgeserver.api.parameters import Parameter
from bridgeserver.api.routes import Operation
from bridgeserver.secret import Secret

FAILURES = {
    400: "Something of the request is wrong; the message names it.",
    401: "No key, or one that is not valid.",
    403: "The key is no administrator's.",
    404: "There is no such thing, or it is another user's.",
    405: "Another method is needed.",
    409: "It cannot be done as things are.",
    413: "The body or the answer is too long.",
    429: "Too many refused keys from this address.",
    431: "The path and query are too long.",
    500: "The gateway failed.",
    503: "The gateway, its store or its key for secrets is not available.",
}


Schema = dict[str, Any]


@cache
def document() -> Schema:
    """Return the document."""
    types = _types()
    found, components = msgspec.json.schema_components(
        types, schema_hook=_schema_of_others, ref_template="#/components/schemas/{name}"
    )
    schemas = dict(zip(types, found, strict=True))
    paths: dict[str, Schema] = {}
    for operation in routes.OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bridgecore",
            "version": version("bridgecore"),
            "description": "What was asked of AI providers through this gateway, and how the gateway is set up.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "A gateway key, bc_…"}},
        },
        "security": [{"key": []}],
    }


def _types() -> list[Any]:
    """Return the types of all bodies."""
    found = [type_ for operation in routes.OPERATIONS for type_ in (*operation.answers.values(), operation.body)]
    return [type_ for type_ in dict.fromkeys([Refusal, *found]) if type_ not in {None, str}]


def _operation(operation: Operation, schemas: Mapping[Any, Schema]) -> Schema:
    whose = "Any key may; a user's sees its own user." if operation.is_open else "Needs an administrator's key."
    answers = {str(status): _answer(type_, operation.text, schemas) for status, type_ in operation.answers.items()}
    found: Schema = {
        "operationId": operation.name,
        "summary": operation.text,
        "description": whose,
        "parameters": [
            *(_place(name) for name in operation.places),
            *(_parameter(parameter) for parameter in operation.parameters or ()),
        ],
        "responses": answers | {str(status): _json(text, schemas[Refusal]) for status, text in FAILURES.items()},
    }
    if operation.body is not None:
        found["requestBody"] = _json("", schemas[operation.body]) | {"required": True}
    return found


def _place(name: str) -> Schema:
    is_text = routes.PLACES[name] == "([^/]+)"
    schema = {"type": "string", "minLength": 1} if is_text else {"type": "string", "pattern": "^[A-Za-z0-9-]{1,128}$"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameter(parameter: Parameter) -> Schema:
    schema = dict(parameter.kind.schema)
    default = parameter.default
    if isinstance(default, tuple):
        default = ",".join(cast("tuple[str, ...]", default))
    if default not in {None, ""}:
        schema["default"] = default
    return {"name": parameter.name, "in": "query", "required": False, "schema": schema, "description": parameter.text}


def _answer(type_: Any, text: str, schemas: Mapping[Any, Schema]) -> Schema:
    if type_ is None:
        return {"description": "Done."}
    if type_ is str:
        line = {"schema": {"type": "string"}}
        return {"description": text, "content": {"text/csv": line, "application/jsonl": line}}
    return _json(text, schemas[type_])


def _json(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _schema_of_others(type_: type) -> Schema:
    if type_ is Secret:
        return {"type": "string", "writeOnly": True}
    raise NotImplementedError(f"no schema for {type_.__name__}")
