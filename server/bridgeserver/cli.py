"""The command line; nothing else ends the process. Exit codes: 0, 1 when something failed, 2 for wrong usage."""

import argparse
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bridgeserver import journal_command, provider_commands, record_commands, store_commands, tool_commands
from bridgeserver.config import DEFAULT_FILE, render
from bridgeserver.console import (
    ACTOR,
    add_config,
    complain,
    load_config,
    minute,
    print_table,
    upgraded_store,
)
from bridgeserver.errors import BridgeError, ConfigError, InvalidMembers


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        return command(options) or 0
    except (ConfigError, InvalidMembers) as error:
        for mistake in error.mistakes:
            complain(mistake)
    except BridgeError as error:
        complain(str(error))
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bridgecore", description="An AI gateway.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=command)
        return sub

    serve = add("serve", _serve, "Serve until a signal ends it.")
    source = serve.add_mutually_exclusive_group()
    add_config(source)
    serve.add_argument("--host", help="address to listen on")
    serve.add_argument("--port", type=int, help="port to listen on; 0 takes a free one")
    serve.add_argument("--workers", type=int, help="worker processes")
    source.add_argument(
        "--dev",
        action="store_true",
        help="a gateway to try: its own folder .dev/, a new key, a fake provider",
    )

    add(
        "demo",
        _demo,
        "Run every protocol through a gateway and a fake provider, and compare what both sides saw.",
    )

    check = add("check", _check, "Say what is wrong with the configuration.")
    add_config(check)
    check.add_argument("--print", action="store_true", help="print the configuration as it takes effect")

    keys = add("keys", _list_keys, "Gateway keys.").add_subparsers(metavar="ACTION", required=True)
    create = keys.add_parser("create", help="make a key and print it, once, alone on standard output")
    create.add_argument("--user", required=True, help="its owner; made when new")
    create.add_argument("--name", default="", help="a label for people")
    create.add_argument("--admin", action="store_true", help="allow it everything")
    create.set_defaults(command=_create_key)
    add_config(create)
    _add_action(keys, "list", _list_keys, "list the keys")
    revoke = _add_action(keys, "revoke", _revoke_key, "refuse a key from now on")
    revoke.add_argument("id", help="its id, as `keys list` shows it")

    users = add("users", _list_users, "Users.").add_subparsers(metavar="ACTION", required=True)
    _add_action(users, "list", _list_users, "list the users")
    disable = _add_action(users, "disable", _disable_user, "refuse all keys of a user from now on")
    disable.add_argument("name")

    providers = add("providers", provider_commands.show, "Providers.").add_subparsers(metavar="ACTION", required=True)
    provider_commands.add_to(providers)

    tools = add("tools", tool_commands.list_tools, "Tools of MCP servers.")
    tool_commands.add_to(tools.add_subparsers(metavar="ACTION", required=True))

    store = add("store", store_commands.upgrade, "The database.")
    store_commands.add_to(store.add_subparsers(metavar="ACTION", required=True))

    record_commands.add_to(add("records", record_commands.show, "Print interceptions."))

    journal_command.add_to(add("journal", journal_command.show, "Show what waits for the store."))

    fake = add("fake-provider", _fake_provider, "Serve scripted answers in the three protocols.")
    fake.add_argument("--host", default="127.0.0.1")
    fake.add_argument("--port", type=_port, default=0)
    fake.add_argument("--script", type=Path, help="TOML file with scripts by model name")
    fake.add_argument("--log", type=Path, help="write each request to this file as a line of JSON")

    add("version", _version, "Print the version.")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, found {port}")
    return port


def _add_action(
    group: Any,  # its type is private to argparse
    name: str,
    command: Callable[[argparse.Namespace], int | None],
    text: str,
) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = group.add_parser(name, help=text)
    action.set_defaults(command=command)
    add_config(action)
    return action


def _serve(options: argparse.Namespace) -> None:
    from bridgeserver import dev
    from bridgeserver.logs import backlog, configure_logs
    from bridgeserver.reload import Source
    from bridgeserver.supervisor import Supervisor

    named = {"server.host": options.host, "server.port": options.port, "server.workers": options.workers}
    flags = {name: value for name, value in named.items() if value is not None}
    if options.dev:
        dev.serve(flags)
        return
    path = DEFAULT_FILE.absolute() if options.config is None else options.config.absolute()
    source = Source(lambda: load_config(options, flags), path)
    config, look = source.read()
    configure_logs(config.server.log_format, config.server.log_level, backlog())
    Supervisor(config, lambda url: print(f"bridgecore serves on {url}", flush=True), source, look).run()


def _demo(_options: argparse.Namespace) -> int:
    from bridgeserver import demo

    return demo.run()


def _check(options: argparse.Namespace) -> None:
    config = load_config(options)
    if config.broken:
        raise ConfigError([provider.reason for provider in config.broken])
    if options.print:
        print(render(config), end="")
    else:
        print("the configuration is valid")


def _create_key(options: argparse.Namespace) -> None:
    store = upgraded_store(load_config(options))
    token = store.create_key(options.user, options.name, is_admin=options.admin, actor=ACTOR)
    try:
        print(token, flush=True)
    except OSError as error:
        store.revoke_key(token.split("_")[1], actor=ACTOR)
        raise BridgeError(f"the new key could not be printed ({error.strerror}) and was revoked again") from error


def _list_keys(options: argparse.Namespace) -> None:
    rows = [
        (key.id, key.user, key.label, "yes" if key.is_admin else "no", minute(key.created_at), minute(key.revoked_at))
        for key in upgraded_store(load_config(options)).list_keys()
    ]
    print_table(("id", "user", "name", "admin", "created", "revoked"), rows)


def _revoke_key(options: argparse.Namespace) -> None:
    upgraded_store(load_config(options)).revoke_key(options.id, actor=ACTOR)


def _list_users(options: argparse.Namespace) -> None:
    rows = [
        (user.name, user.id, "active" if user.is_active else "disabled", minute(user.created_at))
        for user in upgraded_store(load_config(options)).list_users()
    ]
    print_table(("name", "id", "status", "created"), rows)


def _disable_user(options: argparse.Namespace) -> None:
    upgraded_store(load_config(options)).disable_user(options.name, actor=ACTOR)


def _fake_provider(options: argparse.Namespace) -> None:
    import uvloop

    from bridgeserver import fakeprovider

    uvloop.run(fakeprovider.serve(options.host, options.port, options.script, options.log))


def _version(_options: argparse.Namespace) -> None:
    print(version("bridgecore"))
