"""Writes the tables of the project's README from the raw results, so that no figure is copied by hand.

python benchmarks/render.py           # rewrites what stands between the markers
python benchmarks/render.py --check   # changes nothing; exits with 1 when it would
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from common import RESULTS, table
from shares import overall

README = Path(__file__).parent.parent / "README.md"
OURS = "bridgecore"

POLICIES = {
    OURS: OURS,
    "theine": "theine",
    "moka-py": "moka-py",
    "LRU": "LRU",
    "cachebox LFU": "LFU",
}
"""Name in the results: heading in the README. LFU is cachebox's; its LRU hits as often as the plain one."""

CONTENDERS = {
    "bridgecore": "bridgecore",
    "bridgecore, listener": "with a listener",
    "cachebox LRU": "cachebox LRU",
    "moka-py": "moka-py",
    "theine nolock": "theine",
    "cachetools LRU": "cachetools LRU",
    "dict": "dict",
}

OPERATIONS = {
    "get hit": "get, hit: the key object that was set",
    "get hit, equal keys": "get, hit: an equal key",
    "get hit, fresh keys": "get, hit: an equal key not hashed yet",
    "get hit, 100 entries": "get, hit: 100 entries",
    "get hit, 100,000 entries": "get, hit: 100,000 entries",
    "get miss": "get, miss",
    "get or set, zipf": "get, on a miss set: zipf 0.99, 10,000 keys",
    "set that evicts": "set that evicts",
    "set update": "set of a present key",
    "delete and set": "delete, then set",
    "get hit, 4 threads": "get, hit, from 4 threads",
}

DETAILS = (
    ("key of two parts, hit", "get of two parts", "bridgecore: get2", "bridgecore: join, then get"),
    ("the same, parts not hashed yet", "get of two fresh parts", "bridgecore: get2", "bridgecore: join, then get"),
    ("acquire and release a lease", "lease", "bridgecore: acquire, release", "bridgecore: get"),
    ("1,000 entries expire", "1,000 expirations", "bridgecore", "moka-py"),
    ("singleflight `do`", "singleflight, call", "bridgecore: do", "the call"),
    ("singleflight `run`", "singleflight, await", "bridgecore: run", "await of a shielded task"),
    ("lease of a bridge in the pool", "leased bridge", "bridgecore: BridgePool.lease", "bridgecore: acquire2, release"),
    ("1,000 joined tasks wake", "1,000 joined tasks wake", "bridgecore: run", "shields of one task"),
)
"""Label, row, contender, and the contender it is compared with."""


def _head(about: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{package} {version}" for package, version in about["packages"].items())
    return f"Measured on {about['machine']}; {about['python']}; {packages}; {about['date']}; `{about['command']}`."


def _best(numbers: Sequence[float], texts: Sequence[str]) -> list[str]:
    """Return the texts with those of the highest number in bold."""
    best = texts[max(range(len(numbers)), key=numbers.__getitem__)]
    return [f"**{text}**" if text == best else text for text in texts]


def _ratios(rows: Sequence[Mapping[str, Any]], policies: Sequence[str]) -> Iterator[list[str]]:
    """Yield a line for each trace at its middle capacity, and the mean shares of the optimum at all of them."""
    for trace, group in groupby(rows, lambda row: row["trace"]):
        of_trace = sorted(group, key=lambda row: row["capacity"])
        row = of_trace[len(of_trace) // 2]
        percents = [100 * fmean(row["hits"][name]) / row["requests"] for name in policies]
        optimum = f"{100 * row['optimum'] / row['requests']:.1f}"
        texts = _best(percents, [f"{percent:.1f}" for percent in percents])
        yield [trace, f"{row['requests']:,}", f"{row['capacity']:,}", optimum, *texts]
    means = [overall(rows)[name] for name in policies]
    yield ["share of the optimum", "", "all", "1", *_best(means, [f"{mean:.3f}" for mean in means])]


def hit_ratios(results: Mapping[str, Any]) -> str:
    """Return what the README says about hit ratios."""
    policies = [name for name in POLICIES if name in results["rows"][0]["hits"]]
    header = ["trace", "requests", "capacity", "optimum", *(POLICIES[name] for name in policies)]
    lines = table(header, _ratios(results["rows"], policies))
    what = "Percent of requests that hit at the middle one of a trace's capacities; the last line is the mean over all."
    return f"{what} {_head(results['about'])}\n\n{lines}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _main_rows(rows: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> Iterator[list[str]]:
    for row, label in OPERATIONS.items():
        contenders = rows[row]["contenders"]
        yield [label, *(_number(contenders[name]["median"]) if name in contenders else "" for name in names)]


def _memory(rows: Iterable[Mapping[str, Any]], names: Iterable[str], size: str) -> list[str]:
    by_name = {row["name"]: row["bytes"] for row in rows}
    label = f"bytes an entry beyond key and value, {int(size):,} entries"
    return [label, *(_number(by_name[name][size]) if name in by_name else "" for name in names)]


def _detail_rows(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for label, row, name, rival in DETAILS:
        contenders, unit = rows[row]["contenders"], {"ns": "ns", "us": "µs"}[rows[row]["unit"]]
        if name in contenders and rival in contenders:
            ours, theirs = (f"{_number(contenders[which]['median'])} {unit}" for which in (name, rival))
            yield [label, ours, theirs, rival.removeprefix(f"{OURS}: ")]


def micro(results: Mapping[str, Any]) -> str:
    """Return what the README says about times and memory."""
    rows = {row["row"]: row for row in results["rows"]}
    known = {name for row in results["rows"] for name in row["contenders"]}
    names = [name for name in CONTENDERS if name in known]
    lines = [*_main_rows(rows, names), _memory(results["memory"], names, "10000")]
    main = table(["nanoseconds", *(CONTENDERS[name] for name in names)], lines)
    details = table(["", OURS, "compared with", ""], _detail_rows(rows))
    what = (
        "Medians of one call, one thread unless said, a full cache of 1,000 entries unless said, keys of 49 characters."
    )
    return f"{what} {_head(results['about'])}\n\n{main}\n\n{details}"


def _between(text: str, marker: str, content: str) -> str:
    """Return the text with the content between the opening and the closing marker."""
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if text.count(opening) != 1 or text.count(closing) != 1 or text.index(opening) > text.index(closing):
        sys.exit(f"expected one {opening} and after it one {closing}")
    before, _, rest = text.partition(opening)
    return f"{before}{opening}\n\n{content}\n\n{closing}{rest.partition(closing)[2]}"


def rendered(text: str, results: Path = RESULTS) -> str:
    """Return the README's text as it should be."""
    for marker, name, show in (("hit-ratios", "hit_ratio.json", hit_ratios), ("micro", "micro.json", micro)):
        content = json.loads((results / name).read_text(encoding="utf-8"))
        text = _between(text, marker, show(content))
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="tables of the README from the raw results")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when something would change")
    parser.add_argument("--readme", type=Path, default=README, help="the file with the markers")
    options = parser.parse_args()
    text = options.readme.read_text(encoding="utf-8")
    wanted = rendered(text)
    if options.check and text != wanted:
        sys.exit(f"{options.readme.name} is not what the results say: run python benchmarks/render.py")
    if not options.check:
        options.readme.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
