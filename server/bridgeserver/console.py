"""What the commands share: the configuration and the store that are meant, and tables for people."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from bridgeserver.config import Config, load
from bridgeserver.config.databases import sqlite_path
from bridgeserver.errors import BadRequest
from bridgeserver.secret import Secret

if TYPE_CHECKING:
    from tqdm import tqdm

    from bridgeserver.sealing import Vault
    from bridgeserver.store import Store

ACTOR = "command line"

T = TypeVar("T")


def add_config(parser: Any) -> None:  # a parser, or a group of one
    """Give a command the option that names the configuration file."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file (default: bridgecore.toml)")


def add_action(
    group: Any, name: str, command: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    """Add an action to a command's *group*, whose type is private to argparse."""
    action: argparse.ArgumentParser = group.add_parser(name, help=text, allow_abbrev=False)
    action.set_defaults(command=command)
    add_config(action)
    return action


def add_named(group: Any, name: str, act: Callable[[Config, "Store", str], None], text: str) -> None:
    """Add an action that does something to what the store, or the configuration, has under a name."""

    def command(options: argparse.Namespace) -> None:
        with opened(options) as (config, store, _vault):
            act(config, store, options.name)

    add_action(group, name, command, text).add_argument("name")


def load_config(options: argparse.Namespace, flags: Mapping[str, object] | None = None) -> Config:
    """Return the configuration that a command is meant for."""
    return load(options.config, os.environ, flags or {})


def upgraded_store(config: Config) -> "Store":
    """Return the store of a configuration, with the schema of this version."""
    from bridgeserver.store import open_store  # SQLAlchemy costs 260 ms

    store = open_store(config.store.url)
    store.upgrade()
    return store


@contextmanager
def opened(options: argparse.Namespace) -> Generator[tuple[Config, "Store", "Vault"]]:
    """Yield the configuration, its store and the vault of that; warnings of theirs go to standard error."""
    from bridgeserver.logs import configure_logs
    from bridgeserver.sealing import open_vault

    config = load_config(options)
    configure_logs("console", "warning")
    store = upgraded_store(config)
    try:
        yield config, store, open_vault(config.store, sqlite_path(store.url))
    finally:
        store.close()


def secret_line(place: str, kind: str) -> Secret:
    """Return a line of standard input; raises BadRequest if there is nothing on it."""
    line = sys.stdin.readline()
    if not line.strip():
        raise BadRequest(f"{place}: found an empty line or none, expected {kind} on a line of standard input")
    return Secret(line.removesuffix("\n").removesuffix("\r"))


def status_of(*, enabled: bool, is_overridden: bool) -> str:
    """Return how a list shows whether something is served."""
    status = "enabled" if enabled else "disabled"
    return f"{status} (override)" if is_overridden else status


def complain(text: str) -> None:
    """Say on standard error what is wrong."""
    print(f"bridgecore: {text}", file=sys.stderr)


def end_with_the_pipe() -> None:
    """Let `bridgecore records | head` end quietly. Not for `serve`: a broken pipe must not kill a gateway."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


class Bar:
    """What is seen of a long command on a terminal."""

    def __init__(self, bar: "tqdm[NoReturn]") -> None:
        self._bar = bar

    def advance(self, count: int) -> None:
        """Say that so many more are done."""
        self._bar.update(count)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the same items, and count them."""
        for item in items:
            yield item
            self._bar.update()


@contextmanager
def progress(total: int, unit: str) -> Generator[Bar]:
    """Show on standard error how far a command is, if that is a terminal."""
    from tqdm import tqdm  # 80 ms

    tqdm.monitor_interval = 0  # no thread for a bar
    # Nothing is drawn where nobody looks: None means only on a terminal.
    with tqdm(total=total, unit=f" {unit}", file=sys.stderr, disable=None) as bar:
        yield Bar(bar)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows for people: columns as wide as their widest cell."""
    end_with_the_pipe()
    cells = [list(titles), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def minute(at: str | None) -> str:
    """Return a time for people, nothing for none."""
    return "" if at is None else at[:16].replace("T", " ")
