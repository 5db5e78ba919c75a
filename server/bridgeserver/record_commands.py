"""`bridgecore records`: what was recorded, as a table for people, as JSON, and as CSV."""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from bridgeserver.console import add_config, end_with_the_pipe, load_config, progress, upgraded_store
from bridgeserver.errors import StoreUnavailable

if TYPE_CHECKING:
    from bridgeserver.store import Store
    from bridgeserver.store.queries.filters import Filters

FOLLOW_POLL_S = 0.25
MEASURED_ROWS = 100
"""So many rows tell how wide the columns are to be; what is wider later is cut."""

Record = dict[str, Any]

STATUSES = ("open", "completed", "failed", "cancelled", "interrupted")

COLUMNS: dict[str, tuple[int, Callable[[Record], str]]] = {
    "started": (19, lambda record: record["started_at"][:19].replace("T", " ")),
    "user": (16, lambda record: record["user"]),
    "provider": (16, lambda record: record["provider_name"]),
    "model": (28, lambda record: record["model"]),
    "status": (
        26,
        lambda record: record["status"] + (f" ({record['error_type']})" if record["error_type"] else ""),
    ),
    "in": (9, lambda record: str(record["input_tokens"] + record["cache_read_tokens"])),
    "out": (9, lambda record: str(record["output_tokens"])),
    "cost": (10, lambda record: "" if record["cost_micros"] is None else f"${record['cost_micros'] / 1e6:.4f}"),
    "tools": (30, lambda record: " ".join(tool["name"] for tool in record["tools"])),
    "prompt": (1000, lambda record: record["prompt"] or ""),
}
"""What a table shows: how wide a column may become, and its cell."""


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command."""
    add_config(parser)
    for name, text in (
        ("user", "of a user, by name or id"),
        ("provider", "of a provider, by name"),
        ("model", "of a model"),
        ("client", "of a client, like 'Claude Code'"),
        ("session", "of a session"),
    ):
        parser.add_argument(f"--{name}", help=f"only those {text}")
    parser.add_argument("--status", choices=STATUSES, help="only those that ended so")
    parser.add_argument(
        "--after", type=_time, metavar="TIME", help="only what began then or later: 2026-01-31T12:00:00Z"
    )
    parser.add_argument("--before", type=_time, metavar="TIME", help="only what began before that")
    parser.add_argument("--limit", type=_count, help="only the last so many")
    parser.add_argument("--follow", action="store_true", help="print interceptions as they end")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="CSV with a line of names")


def show(options: argparse.Namespace) -> None:
    """Print what was recorded; what is printed while somebody waits for a file is counted on the terminal."""
    store = upgraded_store(load_config(options))
    filters = _filters(options)
    is_long = not options.follow and sys.stderr.isatty() and not sys.stdout.isatty()
    if not is_long:
        end_with_the_pipe()
    records = _follow(store, filters, options.limit) if options.follow else store.last_records(filters, options.limit)
    if not is_long:
        _print(options, records)
        return
    count = store.count_interceptions(filters)
    with _counted(records, count if options.limit is None else min(count, options.limit)) as counted:
        _print(options, counted)


def _print(options: argparse.Namespace, records: Iterable[Record]) -> None:
    lines: Iterator[str]
    if options.json:
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
    elif options.csv:
        lines = _csv(records)
    else:
        lines = _table(records, is_live=options.follow)
    for line in lines:
        print(line, flush=options.follow)


def _follow(store: "Store", filters: "Filters", limit: int | None) -> Iterator[Record]:
    """Yield what ends from now on; a store that is away meanwhile is waited for, which is said once."""
    cursor = store.end_cursor()
    remaining = float("inf") if limit is None else limit
    is_away = False
    while remaining > 0:
        try:
            for place, record in store.ended_after(cursor, filters):
                cursor = place
                yield record
                remaining -= 1
                if remaining <= 0:
                    return
            is_away = False
        except StoreUnavailable as exc:
            if not is_away:
                print(f"bridgecore: {exc}; waiting for it", file=sys.stderr)
            is_away = True
        _wait()


def _wait() -> None:
    time.sleep(FOLLOW_POLL_S)


def _csv(records: Iterable[Record]) -> Iterator[str]:
    from bridgeserver.api import spreadsheets

    rows = chain([spreadsheets.INTERCEPTIONS], (spreadsheets.interception(record) for record in records))
    for row in rows:
        yield spreadsheets.lines([row]).removesuffix("\n")


def _table(records: Iterable[Record], *, is_live: bool) -> Iterator[str]:
    """Yield the lines of a table, as wide as the terminal at most."""
    rows = ([_plain(cell(record)) for _most, cell in COLUMNS.values()] for record in records)
    measured = [] if is_live else list(islice(rows, MEASURED_ROWS))
    widths = _widths(measured)
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in chain([list(COLUMNS)], measured, rows):
        cells = (_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))
        line = "  ".join(cells).rstrip()
        yield line if limit is None else _cut(line, limit)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    most = [width for width, _cell in COLUMNS.values()]
    if not rows:
        return most
    return [
        min(width, max(map(len, column))) for width, column in zip(most, zip(COLUMNS, *rows, strict=True), strict=True)
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _plain(text: str) -> str:
    """Return a text in one line that does nothing to a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


@contextmanager
def _counted(records: Iterable[Record], total: int) -> Generator[Iterable[Record]]:
    """Yield the same records; how many there were is shown on standard error meanwhile."""
    with progress(total, "interceptions") as bar:
        try:
            yield bar.over(records)
            sys.stdout.flush()
        except BrokenPipeError:  # its reader has enough; without this the end would try to write again, and fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _filters(options: argparse.Namespace) -> "Filters":
    from bridgeserver.store.queries.filters import Filters

    return Filters(
        user=options.user,
        provider=options.provider,
        model=options.model,
        client=options.client,
        session_id=options.session,
        status=options.status,
        started_after=options.after,
        started_before=options.before,
    )


def _time(text: str) -> int:
    from bridgeserver.api.parameters import INSTANTS

    try:
        at: int = INSTANTS.read(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError("expected a time like 2026-01-31T12:00:00Z") from exc
    return at


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text}")
    return int(text)
