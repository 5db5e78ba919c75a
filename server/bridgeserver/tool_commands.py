"""`bridgecore tools …`: users' own tokens for MCP servers."""

import argparse
import sys
from collections.abc import Callable
from getpass import getpass
from typing import Any

from bridgeserver.console import ACTOR, add_config, minute, opened, print_table, secret_line
from bridgeserver.errors import BadRequest
from bridgeserver.secret import Secret

TYPED_LIMIT = 1023
"""Where terminals may cut a line without a word: macOS after so many characters, Linux after 4095."""


def add_to(group: Any) -> None:  # its type is private to argparse
    """Add the actions to the command."""
    login = _add(group, "login", _login, "store a user's token for an MCP server, in place of the one that is there")
    login.add_argument("--token", type=_dash, metavar="-", help="- reads it from a line of standard input")
    logout = _add(group, "logout", _logout, "delete a user's token for an MCP server")
    for action in (login, logout):
        action.add_argument("server", help="its name in the configuration")
        action.add_argument("--user", required=True, help="whose token it is")
    _add(group, "logins", logins, "list which users have tokens for which servers").add_argument(
        "--user", help="only this one's"
    )


def _add(group: Any, name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = group.add_parser(name, help=text, allow_abbrev=False)
    action.set_defaults(command=command)
    add_config(action)
    return action


def _dash(text: str) -> str:
    if text != "-":  # it is not repeated: it may be the token
        raise argparse.ArgumentTypeError("expected -: other users of this machine can read what stands in a command")
    return text


def _login(options: argparse.Namespace) -> None:
    from bridgeserver.usertokens import check_server

    with opened(options) as (config, store, vault):
        check_server(options.server, config.mcp_servers)
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
