"""`bridgecore tools …`: what a user has of MCP servers, and users' own tokens for them; beside `server_commands`."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from getpass import getpass
from typing import TYPE_CHECKING, Any

import msgspec

from bridgeserver import server_commands
from bridgeserver.console import ACTOR, add_action, end_with_the_pipe, minute, opened, print_table, secret_line
from bridgeserver.errors import BadRequest, NotFound
from bridgeserver.secret import Secret
from bridgeserver.server_commands import in_force

if TYPE_CHECKING:
    from bridgeserver.config import Config
    from bridgeserver.identity import Caller
    from bridgeserver.sealing import Vault
    from bridgeserver.store import Store
    from bridgeserver.tools.tool import Toolbox

TYPED_LIMIT = 1023
"""Where terminals may cut a line without a word: macOS after so many characters, Linux after 4095."""

SHOWN_CHARS = 80
"""Of a description, in a list for people."""


def add_to(group: Any) -> None:  # its type is private to argparse
    """Add the actions to the command."""
    server_commands.add_to(group)
    tools = add_action(group, "list", list_tools, "list the tools that a user's conversations have")
    tools.add_argument("--json", action="store_true", help="one JSON object a line, with description and schema")
    call = add_action(group, "call", _call, "call a tool as a model does, and print what it answers")
    call.add_argument("tool", help="its id, as `tools list` shows it")
    call.add_argument("arguments", nargs="?", default="{}", help="a JSON object; - reads it from standard input")
    for action in (tools, call):
        action.add_argument("--user", help="as whom; without one, servers with user_token = true are left out")
    login = add_action(
        group, "login", _login, "store a user's token for an MCP server, in place of the one that is there"
    )
    login.add_argument("--token", type=_dash, metavar="-", help="- reads it from a line of standard input")
    logout = add_action(group, "logout", _logout, "delete a user's token for an MCP server")
    for action in (login, logout):
        action.add_argument("server", help="its name, as `tools servers` shows it")
        action.add_argument("--user", required=True, help="whose token it is")
    add_action(group, "logins", logins, "list which users have tokens for which servers").add_argument(
        "--user", help="only this one's"
    )


def _dash(text: str) -> str:
    if text != "-":  # it is not repeated: it may be the token
        raise argparse.ArgumentTypeError("expected -: other users of this machine can read what stands in a command")
    return text


def list_tools(options: argparse.Namespace) -> None:
    with opened(options) as (config, store, vault):
        tools = asyncio.run(_listed(config, store, vault, options.user))
    if options.json:
        end_with_the_pipe()
        for tool in tools:
            print(json.dumps(tool, ensure_ascii=False))
        return
    rows = [(tool["id"], tool["server"], tool["name"], _first_line(tool["description"])) for tool in tools]
    print_table(("id", "server", "tool", "description"), rows)


async def _listed(config: "Config", store: "Store", vault: "Vault", user: str | None) -> list[dict[str, Any]]:
    async with _toolbox(config, store, vault, user) as box:
        return [msgspec.to_builtins(tool) for tool in box.catalog.tools]


def _first_line(description: str) -> str:
    line = description.strip().partition("\n")[0]
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 1]}…"


def _call(options: argparse.Namespace) -> int:
    text = sys.stdin.read() if options.arguments == "-" else options.arguments
    try:
        arguments = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise BadRequest(f"arguments: found no JSON object ({exc}), expected one such as {{}}") from exc
    with opened(options) as (config, store, vault):
        return asyncio.run(_called(config, store, vault, options, arguments))


async def _called(
    config: "Config", store: "Store", vault: "Vault", options: argparse.Namespace, arguments: Mapping[str, Any]
) -> int:
    async with _toolbox(config, store, vault, options.user) as box:
        tool = box.catalog.find(options.tool)
        if tool is None:
            raise NotFound(f"no tool {options.tool!r}; `bridgecore tools list` shows those there are")
        result = await box.call(tool, arguments)
    for block in result.content:
        print(block["text"] if block["type"] == "text" else json.dumps(block, ensure_ascii=False))
    if result.structured is not None and not result.content:
        print(json.dumps(result.structured, ensure_ascii=False))
    return 1 if result.is_error else 0


@asynccontextmanager
async def _toolbox(config: "Config", store: "Store", vault: "Vault", user: str | None) -> "AsyncGenerator[Toolbox]":
    """Yield what a user would have; servers that fail are named in the log."""
    from bridgeserver.config.databases import sqlite_path
    from bridgeserver.generation import Generation
    from bridgeserver.store.reader import Reader
    from bridgeserver.tools.connector import Connector
    from bridgeserver.usertokens import UserTokens

    caller = _caller(store, user)
    servers = in_force(config, store, vault)
    generation = Generation(1, {}, mcp_servers=servers, tools=config.tools)
    with closing(Reader(store.url)) as reader, ThreadPoolExecutor(1) as executor:
        tokens = UserTokens(reader, executor, config.store, sqlite_path(store.url))
        box = await Connector(tokens).connect(caller, generation)
        if box is None:
            there = ", ".join(server.name for server in servers)
            raise NotFound(f"no MCP server is there for this user; there are: {there or 'none'}")
        try:
            yield box
        finally:
            await box.close()


def _caller(store: "Store", user: str | None) -> "Caller":
    from bridgeserver.identity import Caller

    if user is None:
        return Caller("", "", "", is_admin=False)
    for found in store.list_users():
        if found.name == user:
            return Caller(found.id, found.name, "", is_admin=False)
    raise NotFound(f"no user named {user!r}; `bridgecore users list` shows those there are")


def _login(options: argparse.Namespace) -> None:
    from bridgeserver.usertokens import check_server

    with opened(options) as (config, store, vault):
        check_server(options.server, in_force(config, store, vault))
        store.set_user_token(vault, options.user, options.server, _token(options), ACTOR)


def _token(options: argparse.Namespace) -> Secret:
    """Return the token that is typed where nobody sees it, or read from standard input."""
    if options.token is not None or not sys.stdin.isatty():
        return secret_line("token", "a token")
    try:
        typed = getpass(f"token of {options.user} for {options.server}: ")
    except EOFError as exc:
        raise BadRequest("token: found the end of the input, expected a token") from exc
    if len(typed) >= TYPED_LIMIT:
        raise BadRequest(
            f"token: found a line of {TYPED_LIMIT} characters or more, which terminals may cut, "
            "expected a shorter one: send this token to standard input from a file or a pipe"
        )
    return Secret(typed)


def _logout(options: argparse.Namespace) -> None:
    with opened(options) as (_config, store, _vault):
        store.remove_user_token(options.user, options.server, ACTOR)


def logins(options: argparse.Namespace) -> None:
    with opened(options) as (_config, store, _vault):
        tokens = store.list_user_tokens(options.user)
    rows = [(token.user, token.server, minute(token.created_at), minute(token.updated_at)) for token in tokens]
    print_table(("user", "server", "created", "updated"), rows)
