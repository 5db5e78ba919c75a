"""What is wrong with an MCP server as a whole."""

from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec

import msgspec

from bridgeserver.config import checks
from bridgeserver.config.conversion import option_of
from bridgeserver.config.members import literals
from bridgeserver.config.schema import McpServerConfig
from bridgeserver.config.sources import Table, Values, Wrong, quoted

AUTHORIZATION = "authorization"


def mistakes(table: Table, values: Values, names: Collection[str] = ()) -> Iterator[Wrong]:
    """Yield the mistakes of one server; *names* are those of others before it."""
    for field in msgspec.structs.fields(McpServerConfig):
        if field.required and field.name not in table.members:
            yield field.name, "nothing", option_of(field.type).expected
    if values.get("enabled") is not False and find_spec("mcp") is None:
        yield "name", "no package mcp", "`pip install 'bridgecore[mcp]'`"
    if values.get("name") in names:
        yield "name", f'"{values["name"]}" a second time', "a name of its own for each server"
    headers = [name.lower() for name in values.get("headers", ())]
    if len(set(headers)) < len(headers):
        yield "headers", "a header a second time", "each name once, whatever its case"
    if values.get("user_token") and AUTHORIZATION in headers:
        yield "headers", "Authorization beside user_token = true", "one of the two: users' tokens go into that header"
    if "url" in values and checks.is_link_local(values["url"]) and values.get("allow_link_local") is False:
        shown = values["url"].partition("?")[0]
        yield "url", f'"{shown}"', "no link-local or metadata address, or allow_link_local = true"


def literal(source: str, name: str, members: Mapping[str, object]) -> tuple[Values, list[str]]:
    """Return a server's members that are right, with their defaults, and what is wrong with the others.

    Values of headers are texts. *source* and *name* are what mistakes call it; no mistake shows a secret.
    """
    return literals(Table(source, f"mcp_servers.{quoted(name)}"), members, McpServerConfig, mistakes)
