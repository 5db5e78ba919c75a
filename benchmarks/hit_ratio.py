"""Hit ratios of bridgecore.Cache against theine, moka-py, cachebox, LRU and the offline optimum.

    python benchmarks/hit_ratio.py --traces DIR --json benchmarks/results/hit_ratio.json

Replays streams of requests: a miss inserts the key, with cost 1 and no TTL. Without --traces the streams are generated.
Traces with sizes are also replayed by cost. The method is in benchmarks/README.md.
"""

import argparse
import functools
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import traces
from common import about, save, table
from optimum import next_uses, optimal_hits
from policies import POLICIES, Policy
from shares import overall, shares

PACKAGES = ("theine", "theine_core", "moka-py", "cachebox")


class Job(NamedTuple):
    """One trace at one capacity, for all policies."""

    trace: str
    path: Path | None
    capacity: int
    is_sized: bool
    policies: tuple[str, ...]
    seeds: int


@functools.lru_cache(maxsize=1)
def _load(name: str, path: Path | None) -> traces.Trace:
    return traces.generate(name) if path is None else traces.read(path)


@functools.lru_cache(maxsize=1)
def _following(name: str, path: Path | None) -> Sequence[int]:
    return next_uses(_load(name, path).keys)


def _chosen(job: Job) -> Iterator[tuple[Policy, range]]:
    for policy in POLICIES:
        if policy.name in job.policies:
            yield policy, range(1, 1 + (job.seeds if policy.is_random else 1))


def _measure(job: Job) -> dict[str, Any]:
    """Return a row of raw results: hits of each policy, one number a seed."""
    trace = _load(job.trace, job.path)
    row: dict[str, Any] = {"trace": job.trace, "requests": len(trace.keys), "capacity": job.capacity}
    if trace.costs is not None and job.is_sized:
        results = {
            policy.name: [policy.replay_sized(trace.keys, trace.costs, job.capacity, seed) for seed in seeds]
            for policy, seeds in _chosen(job)
            if policy.replay_sized
        }
        return row | {
            "bytes": sum(trace.costs),
            "hits": {name: [sized.requests for sized in runs] for name, runs in results.items()},
            "hit_bytes": {name: [sized.bytes for sized in runs] for name, runs in results.items()},
        }
    return row | {
        "keys": len(set(trace.keys)),
        "optimum": optimal_hits(_following(job.trace, job.path), job.capacity),
        "hits": {
            policy.name: [policy.replay(trace.keys, job.capacity, seed) for seed in seeds]
            for policy, seeds in _chosen(job)
        },
    }


def percent(part: float, whole: float) -> str:
    """Return a share as a percentage with two places."""
    return f"{100 * part / whole:.2f}"


def names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the policies that have results."""
    return list(rows[0]["hits"]) if rows else []


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print hit ratios in percent, and the shares of the optimum."""
    columns = names(rows)
    print(
        table(
            ["trace", "capacity", "optimum", *columns],
            (
                [row["trace"], f"{row['capacity']:,}", percent(row["optimum"], row["requests"])]
                + [percent(fmean(row["hits"][name]), row["requests"]) for name in columns]
                for row in rows
            ),
        )
    )
    by_trace = shares(rows)
    if not by_trace:
        return
    by_trace["mean over the traces"] = overall(rows)
    lines = ([trace, *(f"{share[name]:.3f}" for name in columns)] for trace, share in by_trace.items())
    print("\nShare of the optimum, mean over the capacities\n")
    print(table(["trace", *columns], lines))


def print_sized(rows: Sequence[dict[str, Any]]) -> None:
    """Print hit ratios of replays by cost: requests, then bytes."""
    columns = names(rows)
    print("\nBy cost: percent of requests that hit / percent of bytes\n")
    print(
        table(
            ["trace", "capacity in bytes", *columns],
            (
                [row["trace"], f"{row['capacity']:,}"]
                + [
                    f"{percent(fmean(row['hits'][name]), row['requests'])} / "
                    f"{percent(fmean(row['hit_bytes'][name]), row['bytes'])}"
                    for name in columns
                ]
                for row in rows
            ),
        )
    )


def _jobs(options: argparse.Namespace, policies: tuple[str, ...]) -> Iterator[Job]:
    paths: dict[str, Path | None] = dict.fromkeys(traces.GENERATORS)
    if options.traces:
        paths = dict(traces.find(options.traces))
    if unknown := set(options.only or ()) - set(paths):
        sys.exit(f"no such trace: {', '.join(sorted(unknown))}; there are: {', '.join(paths)}")
    for name, path in paths.items():
        if options.only and name not in options.only:
            continue
        trace = _load(name, path)
        for capacity in options.sizes or trace.sizes():
            yield Job(name, path, capacity, False, policies, options.seeds)
        if trace.costs is not None:
            for capacity in trace.byte_sizes():
                yield Job(name, path, capacity, True, policies, options.seeds)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="hit ratios against other caches and the offline optimum")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="folder of trace files; without it, generated ones")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the raw results")
    parser.add_argument("--only", type=_names, metavar="NAME,...", help="these traces only")
    parser.add_argument("--sizes", type=_sizes, metavar="N,...", help="these capacities instead of the trace's own")
    parser.add_argument("--peers", type=_names, metavar="NAME,...", help="these policies beside bridgecore")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each policy that varies between runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes that work at the same time")
    return parser.parse_args()


def _policies(wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the policies to replay, and say which cannot be."""
    known = [policy.name for policy in POLICIES]
    if unknown := set(wanted or ()) - set(known):
        sys.exit(f"no such policy: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    chosen = [policy for policy in POLICIES if wanted is None or policy.name in {"bridgecore", *wanted}]
    for policy in chosen:
        if policy.package is None:
            print(f"{policy.name}: not installed, left out", file=sys.stderr)
    return tuple(policy.name for policy in chosen if policy.package is not None)


def main() -> None:
    options = _options()
    jobs = list(_jobs(options, _policies(options.peers)))
    began = time.perf_counter()
    results: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for job, row in zip(jobs, (pool.map if options.jobs > 1 else map)(_measure, jobs), strict=True):
            results.append(row)
            elapsed = time.perf_counter() - began
            unit = "bytes" if job.is_sized else "entries"
            print(f"{elapsed:6.1f} s  {job.trace} at {job.capacity:,} {unit}", file=sys.stderr)
    rows = [row for row in results if "optimum" in row]
    sized = [row for row in results if "bytes" in row]
    print_rows(rows)
    if sized:
        print_sized(sized)
    if options.json:
        save(options.json, {"about": about(PACKAGES), "seeds": options.seeds}, {"rows": rows, "sized": sized})


if __name__ == "__main__":
    main()
