"""The actions of `bridgecore tools` on servers: those that take effect, and changes to those of the store."""

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from bridgeserver.console import ACTOR, add_action, add_named, complain, opened, print_table, secret_line, status_of
from bridgeserver.errors import BadRequest
from bridgeserver.merging import merge_servers
from bridgeserver.secret import Secret
from bridgeserver.store.stored import LoadedServers, ServerFields

if TYPE_CHECKING:
    from bridgeserver.config import Config, McpServerConfig
    from bridgeserver.sealing import Vault
    from bridgeserver.store import Store


def add_to(group: Any) -> None:  # its type is private to argparse
    """Add the actions to the command."""
    add_action(group, "servers", _show, "list the MCP servers of the configuration and of the store")
    add = add_action(group, "add", _create, "store an MCP server; it replaces one of the configuration with its name")
    add.add_argument("name", help="the middle of its tools' names")
    add.add_argument("--url", required=True, help="where it is")
    add.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a header of every request; NAME=- reads its value from a line of standard input, where no other user "
        "sees it; several times for several",
    )
    add.add_argument("--user-token", action="store_true", help="each user has a token of his own there")
    add.add_argument("--allow", default="", metavar="RE", help="offer only tools in whose name this is found")
    add.add_argument("--deny", default="", metavar="RE", help="offer no tools in whose name this is found")
    add.add_argument("--disabled", action="store_true", help="offer none of its tools until it is enabled")
    for name, act, text in (
        ("remove", _remove, "delete a stored MCP server, with its users' tokens"),
        ("enable", partial(_switch, enabled=True), "offer an MCP server's tools"),
        ("disable", partial(_switch, enabled=False), "take an MCP server's tools away from everybody"),
        ("reset", _reset, "end what enable or disable did to an MCP server of the configuration"),
    ):
        add_named(group, name, act, text)


def in_force(config: "Config", store: "Store", vault: "Vault") -> "tuple[McpServerConfig, ...]":
    """Return the MCP servers that take effect, and say on standard error which of the store do not."""
    return _merged(config, store.load_mcp_servers(vault))


def _merged(config: "Config", loaded: LoadedServers) -> "tuple[McpServerConfig, ...]":
    for error in loaded.errors:
        complain(f"MCP server {error.name} is not served: {error.reason}")
    return merge_servers(config.mcp_servers, loaded)


def _show(options: argparse.Namespace) -> None:
    with opened(options) as (config, store, vault):
        loaded = store.load_mcp_servers(vault)
        stored = {server.name: server for server in store.list_mcp_servers()}
    rows: list[tuple[object, ...]] = []
    for server in _merged(config, loaded):
        is_stored = server.name in stored
        is_overridden = server.name in loaded.overrides and not is_stored
        status = status_of(enabled=server.enabled, is_overridden=is_overridden)
        source = "store" if is_stored else "file"
        rows.append((server.name, status, source, _yes(server.user_token), server.public_url))
    rows += [(error.name, "broken", "store", _yes(error.user_token), stored[error.name].url) for error in loaded.errors]
    print_table(("name", "status", "source", "user token", "URL"), rows)


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _create(options: argparse.Namespace) -> None:
    headers: dict[str, Secret] = {}
    for given in options.header:
        name, value = _header(given)
        if name in headers:
            raise BadRequest("--header: found a name a second time, expected each once")
        headers[name] = value
    fields = ServerFields(
        name=options.name,
        url=options.url,
        headers=headers,
        user_token=options.user_token,
        allow=options.allow,
        deny=options.deny,
        enabled=not options.disabled,
    )
    with opened(options) as (config, store, vault):
        replaced = {server.name: server.public_url for server in config.mcp_servers}
        store.create_mcp_server(vault, fields, ACTOR, replaced.get(options.name))


def _header(given: str) -> tuple[str, Secret]:
    name, mark, value = given.partition("=")
    if not mark:  # it is not repeated: it may be the value
        raise BadRequest("--header: found no =, expected NAME=VALUE, or NAME=- for a line of standard input")
    return name, secret_line(f"--header {name}=-", "a value") if value == "-" else Secret(value)


def _remove(_config: "Config", store: "Store", name: str) -> None:
    store.delete_mcp_server(name, ACTOR)


def _switch(config: "Config", store: "Store", name: str, *, enabled: bool) -> None:
    names = [server.name for server in config.mcp_servers]
    store.enable_mcp_server(name, enabled=enabled, actor=ACTOR, file_names=names)


def _reset(_config: "Config", store: "Store", name: str) -> None:
    store.reset_mcp_server(name, ACTOR)
