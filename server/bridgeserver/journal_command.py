"""`bridgecore journal`: what waits for the store, worker by worker, and what was kept aside.

It looks at files alone, beside a running gateway or without one. How far shipping has come stands in the file
`position` of each worker's folder; without it all that is there is shown as waiting.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bridgeserver.console import add_config, end_with_the_pipe, load_config, print_table
from bridgeserver.disk import is_abandoned
from bridgeserver.frames import find_frame, opened, read_frames, segment_numbers
from bridgeserver.journal import FRAME
from bridgeserver.records import now_us


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command."""
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def show(options: argparse.Namespace) -> None:
    """Print what is in the journal."""
    folder = load_config(options).journal.path
    survey = look_at(folder)
    if options.json:
        end_with_the_pipe()
        print(json.dumps(survey))
        return
    print(f"journal {folder}" + ("" if survey["exists"] else ": there is none"))
    columns = ("worker", "alive", "segments", "bytes", "frames", "records", "oldest", "lag_s")
    if survey["workers"]:
        print_table(columns, ([_cell(worker[column]) for column in columns] for worker in survey["workers"]))
    if survey["kept_aside"]:
        print_table(("kept aside", "bytes"), ((file["name"], file["bytes"]) for file in survey["kept_aside"]))


def look_at(folder: Path) -> dict[str, Any]:
    """Return what is in the journal *folder*, as `--json` prints it."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        "journal": str(folder),
        "exists": folder.is_dir(),
        "workers": [_worker(path) for path in paths if path.is_dir() and not path.name.startswith(".")],
        "kept_aside": [
            {"name": path.name, "bytes": path.stat().st_size}
            for path in paths
            if path.suffix in {".damaged", ".refused"} and path.is_file()
        ],
    }


def _worker(folder: Path) -> dict[str, Any]:
    """Return what waits in the folder of one worker; the shipper may remove parts of it meanwhile."""
    waiting = Waiting()
    for payload in _waiting_payloads(folder):
        waiting.add(payload)
    return {
        "worker": folder.name,
        "alive": not is_abandoned(folder),
        "segments": len(segment_numbers(folder)),
        "bytes": waiting.bytes,
        "frames": waiting.frames,
        "records": waiting.records,
        "oldest": None if waiting.oldest_us is None else _iso(waiting.oldest_us),
        "lag_s": 0.0 if waiting.oldest_us is None else max(0.0, round((now_us() - waiting.oldest_us) / 1e6, 3)),
    }


class Waiting:
    """Frames, counted."""

    def __init__(self) -> None:
        self.bytes = self.frames = self.records = 0
        self.oldest_us: int | None = None

    def add(self, payload: bytes) -> None:
        self.bytes += FRAME.size + len(payload)
        self.frames += 1
        self.records += payload.count(b"\n") or 1
        if self.oldest_us is None:  # a journal is in the order of time
            self.oldest_us = _time_of(payload)


class _Times(msgspec.Struct):
    """The members of a record that say when it was made; each has one of them."""

    started_at: int | None = None
    created_at: int | None = None
    ended_at: int | None = None


def _time_of(payload: bytes) -> int | None:
    try:
        times = msgspec.json.decode(payload.partition(b"\n")[0], type=_Times)
    except msgspec.DecodeError:  # of another version
        return None
    return next((at for at in (times.started_at, times.created_at, times.ended_at) if at is not None), None)


def _waiting_payloads(folder: Path) -> Iterator[bytes]:
    """Yield the frames that were not shipped yet, passing over damage."""
    first, offset = _position(folder)
    for number in segment_numbers(folder):
        if number < first:
            continue
        start = offset if number == first else 0
        with suppress(FileNotFoundError), opened(folder, number) as descriptor:  # or shipped a moment ago
            yield from _payloads(descriptor, start)


def _payloads(descriptor: int, start: int) -> Iterator[bytes]:
    place: int | None = start
    while place is not None:
        for payload, end in read_frames(descriptor, place):
            if payload is None:
                return
            yield payload
            place = end
        place = find_frame(descriptor, place)


def _position(folder: Path) -> tuple[int, int]:
    """Return the segment and the offset up to which the records are in the store."""
    try:
        number, offset = (folder / "position").read_text("ascii").split()
        return int(number), int(offset)
    except (FileNotFoundError, ValueError):
        return 0, 0


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else value
