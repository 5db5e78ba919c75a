"""Times and memory of bridgecore's cache, hash and singleflight, against what else Python has.

    python benchmarks/micro.py --json benchmarks/results/micro.json

What is measured stands in speed.py, expiry.py, hashes.py, flights.py, leases.py, pauses.py and memory.py; how, in
rounds.py and benchmarks/README.md. Medians and minima are printed, and after them the ratios that the project watches.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import expiry
import flights
import hashes
import leases
import memory
import pauses
import speed
from common import about, save, table
from rounds import measure
from subjects import MAKERS

from bridgecore import cache

PACKAGES = ("cachebox", "moka-py", "theine", "theine_core", "cachetools", "uvloop")

RATIOS = (
    ("get hit", "bridgecore", "cachebox LRU"),
    ("get hit", "bridgecore", "moka-py"),
    ("get hit", "bridgecore, listener", "bridgecore"),
    ("get hit, equal keys", "bridgecore", "cachebox LRU"),
    ("get hit, equal keys", "bridgecore", "moka-py"),
    ("get hit, fresh keys", "bridgecore", "cachebox LRU"),
    ("get hit, fresh keys", "bridgecore", "moka-py"),
    ("get hit, 100 entries", "bridgecore", "cachebox LRU"),
    ("get hit, 100,000 entries", "bridgecore", "cachebox LRU"),
    ("get or set, zipf", "bridgecore", "cachebox LRU"),
    ("get or set, zipf", "bridgecore", "moka-py"),
    ("get or set, zipf", "bridgecore, listener", "bridgecore"),
    ("set that evicts", "bridgecore", "moka-py, listener"),
    ("set that evicts", "bridgecore, listener", "moka-py, listener"),
    ("set that evicts", "bridgecore, listener", "bridgecore"),
    ("set update", "bridgecore, listener", "bridgecore"),
    ("delete and set", "bridgecore, listener", "bridgecore"),
    ("get of two parts", "bridgecore: get2", "bridgecore: join, then get"),
    ("get of two fresh parts", "bridgecore: get2", "bridgecore: join, then get"),
    ("get hit, 4 threads", "bridgecore", "bridgecore, 1 thread"),
    ("singleflight, await", "bridgecore: run", "await of a shielded task"),
    ("singleflight, await of a turn", "bridgecore: run", "await of a shielded task"),
    ("singleflight, await, uvloop", "bridgecore: run", "await of a shielded task"),
    ("leased bridge", "bridgecore: BridgePool.lease", "bridgecore: acquire2, release"),
)
"""Row, contender, and the contender it is compared with."""


def ratios(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what RATIOS asks for, as far as it was measured: the median of the quotients of each round."""
    contenders = {row["row"]: row["contenders"] for row in rows}
    found = [line for line in RATIOS if {line[1], line[2]} <= contenders.get(line[0], {}).keys()]
    return [
        {
            "row": row,
            "of": name,
            "to": rival,
            "ratio": round(median(map(truediv, *_slices(contenders[row], name, rival))), 3),
        }
        for row, name, rival in found
    ]


def _slices(contenders: Mapping[str, Any], *names: str) -> list[list[float]]:
    return [contenders[name]["slices"] for name in names]


def _print_row(row: Mapping[str, Any]) -> None:
    lines = (
        (name, f"{result['median']:,.0f}", f"{result['minimum']:,.0f}") for name, result in row["contenders"].items()
    )
    print(table([row["row"], f"median {row['unit']}", f"minimum {row['unit']}"], lines), end="\n\n", flush=True)


def _memory(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return bytes an entry of each kind of cache; 1,000,000 entries take seconds to fill."""
    rows: list[dict[str, Any]] = [{"name": name, "bytes": {}} for name in memory.NAMES if MAKERS[name][0] is not None]
    for row, size in itertools.product(rows, sizes):
        row["bytes"][str(size)] = memory.measure(row["name"], size)
    return rows


def _print_memory(rows: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> None:
    lines = ([row["name"], *(f"{row['bytes'][str(size)]:,.0f}" for size in sizes)] for row in rows)
    print(table(["bytes an entry", *(f"{size:,} entries" for size in sizes)], lines), end="\n\n")


def _print_pauses(rows: Iterable[Mapping[str, Any]]) -> None:
    lines = ([row["name"], *(f"{time_ns:,}" for time_ns in row["ns"].values())] for row in rows)
    print(table(["ns of single sets", *pauses.FIGURES], lines), end="\n\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="times and memory of the cache, the hash and singleflight")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the raw results")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="rows with this word in their name only, and no memory"
    )
    return parser.parse_args()


def main() -> None:
    options = _options()
    if cache.IS_DEBUG:
        sys.exit("this is a debug build of bridgecore, whose times mean nothing; build the release")
    for name in sorted(name for name, (package, _) in MAKERS.items() if package is None):
        print(f"{name}: not installed, left out", file=sys.stderr)
    began = time.perf_counter()
    rows = measure((*speed.ROWS, *expiry.ROWS, *hashes.ROWS, *flights.ROWS, *leases.ROWS), options.only)
    for row in rows:
        _print_row(row)
    compared = ratios(rows)
    lines = ([line["row"], line["of"], line["to"], f"{line['ratio']:.2f}"] for line in compared)
    print(table(["row", "of", "to", "ratio"], lines, words=3), end="\n\n", flush=True)
    slowest = [] if options.only else pauses.measure()
    weighed = [] if options.only else _memory(memory.SIZES)
    if not options.only:
        _print_pauses(slowest)
        _print_memory(weighed, memory.SIZES)
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    if options.json:
        save(
            options.json,
            {"about": about(PACKAGES)},
            {"rows": rows, "ratios": compared, "pauses": slowest, "memory": weighed},
        )


if __name__ == "__main__":
    main()
