"""Writes the tables of `docs/performance.md` about the store from the raw results, so that no figure is copied by hand.

python -m benchmarks.store.report           # rewrites what stands between the markers
python -m benchmarks.store.report --check   # changes nothing; exits with 1 when it would
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, table
from benchmarks.gateway.report import between, number

PAGE = Path(__file__).parent.parent.parent / "docs/performance.md"
TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}

LIMITED = "sessions, "
LIMIT_MS = 150
"""Within which a page of sessions answers."""

WORKER = "journal, "
WORKER_LIMIT_US = 15

Results = Mapping[str, Any]


def store(results: Results) -> str:
    """Return what was measured, on what, and when."""
    about = results["about"]
    packages = ", ".join(f"{package} {version}" for package, version in about["packages"].items())
    engines = " and ".join(
        f"{TITLES[each['engine']]} {each['version']} with {each['interceptions']:,} interceptions"
        for each in results["engines"]
    )
    return f"{engines}; {about['machine']}; {about['python']}; {packages}; {about['date']}; `{about['command']}`."


def recording(results: Results) -> str:
    """Return what a request's records cost the worker that writes them."""
    lines = [
        [row["row"].removeprefix(WORKER), _limited(row["median"], WORKER_LIMIT_US), number(min(row["cpu_us"]))]
        for row in results["recording"]
        if row["row"].startswith(WORKER)
    ]
    return table(["CPU µs in the worker", "median", "least"], lines)


def shipping(results: Results) -> str:
    """Return what records cost on their way to the store."""
    header = [
        "",
        "records of a batch",
        "records/s",
        "CPU µs a record, parent",
        "of its server",
        "CPU µs a request, parent",
    ]
    lines = [
        [
            TITLES[row["engine"]],
            f"{row['batch']:,}",
            number(row["records_a_second"]),
            number(row["cpu_us_a_record"]),
            "" if row["server_us_a_record"] is None else number(row["server_us_a_record"]),
            number(row["cpu_us_a_request"]),
        ]
        for row in results["shipping"]
    ]
    return table(header, lines)


def queries(results: Results) -> str:
    """Return how long the answers take; what is over its limit is in bold."""
    medians: dict[str, dict[str, float]] = {}
    for row in results["queries"]:
        medians.setdefault(row["question"], {})[row["engine"]] = row["median_ms"]
    engines = [each["engine"] for each in results["engines"]]
    lines = [[question, *(_cell(question, found.get(each)) for each in engines)] for question, found in medians.items()]
    return table(["median ms", *(TITLES[each] for each in engines)], lines)


def _cell(question: str, milliseconds: float | None) -> str:
    if milliseconds is None:
        return ""
    return _limited(milliseconds, LIMIT_MS if question.startswith(LIMITED) else float("inf"))


def _limited(value: float, limit: float) -> str:
    """Return a number, in bold if it is over its limit."""
    return f"**{number(value)}**" if value > limit else number(value)


BLOCKS: Mapping[str, Callable[[Results], str]] = {
    "store": store,
    "recording": recording,
    "shipping": shipping,
    "queries": queries,
}


def page(text: str, results: Results) -> str:
    """Return the page's text as it should be."""
    for marker, show in BLOCKS.items():
        text = between(text, marker, show(results))
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="the store in docs/performance.md from the raw results")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when something would change")
    parser.add_argument("--json", type=Path, default=RESULTS / "store.json", help="the raw results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the file with the markers")
    options = parser.parse_args(arguments)
    text = options.page.read_text(encoding="utf-8")
    wanted = page(text, json.loads(options.json.read_text(encoding="utf-8")))
    if not options.check:
        options.page.write_text(wanted, encoding="utf-8")
    elif text != wanted:
        sys.exit(f"{options.page.name} is not what the results say: run python -m benchmarks.store.report")


if __name__ == "__main__":
    main()
