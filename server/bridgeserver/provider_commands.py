"""`bridgecore providers …`: the providers that take effect, and changes to those of the store."""

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from bridgeserver.console import ACTOR, add_action, add_named, complain, opened, print_table, secret_line, status_of
from bridgeserver.merging import merge
from bridgeserver.secret import Secret
from bridgeserver.store.stored import ProviderFields

if TYPE_CHECKING:
    from bridgeserver.config import Config
    from bridgeserver.store import Store


def add_to(group: Any) -> None:  # its type is private to argparse
    """Add the actions to the command."""
    add_action(group, "list", show, "list the providers of the configuration and of the store")
    add = add_action(group, "add", _create, "store a provider; it replaces one of the configuration with its name")
    add.add_argument("name", help="first segment of the path")
    add.add_argument("--type", help="anthropic, openai, copilot or bedrock (default: the name)")
    add.add_argument("--base-url", help="where requests go (default: by type)")
    add.add_argument(
        "--key",
        action="append",
        default=[],
        help="a key; - reads it from a line of standard input, where no other user sees it; several times for several",
    )
    add.add_argument("--region", help="of Bedrock")
    add.add_argument("--auth", help="bearer, x-api-key, api-key, aws or none (default: by type)")
    add.add_argument("--disabled", action="store_true", help="answer its requests with 503 until it is enabled")
    add.add_argument("--display-name", default="", help="a name for people")
    for name, act, text in (
        ("remove", _remove, "delete a stored provider and its keys"),
        ("enable", partial(_switch, enabled=True), "serve a provider"),
        ("disable", partial(_switch, enabled=False), "answer a provider's requests with 503"),
        ("reset", _reset, "end what enable or disable did to a provider of the configuration"),
    ):
        add_named(group, name, act, text)


def show(options: argparse.Namespace) -> None:
    with opened(options) as (config, store, vault):
        loaded = store.load_providers(vault)
        stored = {provider.name: provider for provider in store.list_providers()}
    merged = merge(config.providers, loaded, config.broken)
    rows: list[tuple[object, ...]] = []
    for provider in merged.providers:
        is_stored = provider.name in stored
        is_overridden = provider.name in loaded.overrides and not is_stored
        keys = stored[provider.name].api_keys if is_stored else provider.keys
        rows.append(
            (
                provider.name,
                provider.type,
                status_of(enabled=provider.enabled, is_overridden=is_overridden),
                "store" if is_stored else "file",
                provider.base_url,
                len(keys),
            )
        )
    for error in merged.errors:
        found = stored[error.name]
        rows.append((error.name, error.type, "broken", "store", found.base_url, len(found.api_keys)))
        complain(f"provider {error.name} is not served: {error.reason}")
    for broken in merged.broken:
        rows.append((broken.name, broken.type, "broken", "file", "", 0))
        complain(f"provider {broken.name} is not served: {broken.reason}")
    print_table(("name", "type", "status", "source", "base URL", "keys"), rows)


def _create(options: argparse.Namespace) -> None:
    fields = ProviderFields(
        type=options.type or options.name,
        name=options.name,
        base_url=options.base_url or UNSET,
        keys=tuple(secret_line("--key -", "a key") if key == "-" else Secret(key) for key in options.key),
        enabled=not options.disabled,
        display_name=options.display_name,
        auth=options.auth or UNSET,
        region=options.region or UNSET,
    )
    with opened(options) as (_config, store, vault):
        store.create_provider(vault, fields, ACTOR)


def _remove(_config: "Config", store: "Store", name: str) -> None:
    store.delete_provider(name, ACTOR)


def _switch(config: "Config", store: "Store", name: str, *, enabled: bool) -> None:
    names = [provider.name for provider in config.providers]
    store.enable_provider(name, enabled=enabled, actor=ACTOR, file_names=names)


def _reset(_config: "Config", store: "Store", name: str) -> None:
    store.reset_provider(name, ACTOR)
