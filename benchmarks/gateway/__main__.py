"""Measures the gateway beside what else is found on this machine.

python -m benchmarks.gateway [--quick] [--only PART,…] [--peers DIR] [--json OUT]

It starts a fake upstream and a load generator on one core and each program under test on another, checks that it
answers rightly, measures part by part and round by round, and writes the raw results. Parts that are not measured keep
what the file says of them, so that a run can be taken up again. `python -m benchmarks.gateway.report` makes the page.
"""

import argparse
import datetime as dt
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, about, save
from benchmarks.gateway.bench import FULL, QUICK, Bench
from benchmarks.gateway.parts import PARTS, measure
from benchmarks.gateway.peers import PINS
from benchmarks.gateway.processes import CORES, LOAD_CORE, Load, NotAlone, Upstream, alone
from benchmarks.gateway.subjects import Subject, found

OUT = RESULTS / "gateway.json"
PACKAGES = ("bridgecore", "uvloop", "httptools", "msgspec", "sqlalchemy")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the gateway beside other gateways, on this machine")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it runs; its figures mean little")
    parser.add_argument("--only", metavar="PART,…", help=f"of {', '.join(PARTS)}; the others keep their results")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where `benchmarks.gateway.prepare` installed peers")
    parser.add_argument("--json", type=Path, default=OUT, metavar="OUT", help="the raw results")
    options = parser.parse_args()
    options.parts = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"expected parts of {', '.join(PARTS)}, found {', '.join(sorted(unknown))}")
    if options.peers and not options.peers.is_dir():
        parser.error(f"expected a folder with peers, found no {options.peers}: run benchmarks.gateway.prepare first")
    return options


def _raise_limit() -> int:
    """Let this process and those that it starts have as many descriptors as the system allows; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _about(
    subjects: Sequence[Subject], earlier: Sequence[Mapping[str, Any]], command: str, most_open: int
) -> dict[str, Any]:
    """Return what this run is about; programs of earlier parts that are not here now keep their place."""
    described = [
        {
            "name": subject.name,
            "title": subject.title,
            "version": subject.version,
            "missing": subject.missing,
            "is_exact": subject.is_exact,
        }
        for subject in subjects
    ]
    names = {subject.name for subject in subjects}
    return {
        **about(PACKAGES),
        "command": command,
        "cores": len(CORES),
        "descriptors": most_open,
        "load_before": round(os.getloadavg()[0], 2),
        "subjects": [*described, *(subject for subject in earlier if subject["name"] not in names)],
    }


def _say_what_is_missing(subjects: Sequence[Subject], peers: Path | None) -> None:
    """Name the programs that are not here, and those that are here in another version than is pinned."""
    versions = {subject.name: subject.version for subject in subjects}
    for name in ("nginx", *PINS):
        if name not in versions:
            print(f"not measured: {name}" + (f", not found in {peers}" if peers and name in PINS else ""))
        elif name in PINS and versions[name] != PINS[name].version:
            print(f"{name}: expected version {PINS[name].version} of peers.toml, found {versions[name]}")


def _command(options: argparse.Namespace) -> str:
    words = ["python -m benchmarks.gateway"]
    words += ["--quick"] if options.quick else []
    words += ["--peers DIR"] if options.peers else []
    return " ".join(words)


def _measure(options: argparse.Namespace, folder: Path, results: dict[str, Any]) -> None:
    most_open = _raise_limit()
    os.sched_setaffinity(0, {LOAD_CORE})
    with Upstream(folder) as upstream, Load(folder) as load:
        subjects = found(folder, upstream.port, options.peers)
        _say_what_is_missing(subjects, options.peers)
        head = _about(subjects, results["subjects"], _command(options), most_open)
        bench = Bench(folder, QUICK if options.quick else FULL, upstream, load, subjects, most_open)
        with closing(bench):
            for part in PARTS:
                if part in options.parts:
                    began = time.monotonic()
                    results["tables"][part] = measure(bench, part)
                    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
                    results["parts"][part] = {"date": date, "seconds": round(time.monotonic() - began, 1)}
                    save(options.json, {"about": head, "parts": results["parts"]}, results["tables"])


def main() -> None:
    options = _options()
    if sys.platform != "linux":
        sys.exit("expected Linux: CPU time and memory of other processes are read from /proc")
    signal.signal(signal.SIGTERM, lambda _signum, _frame: sys.exit(143))  # so that what was started is ended
    results: dict[str, Any] = {"parts": {}, "tables": {}, "subjects": []}
    if options.only and options.json.exists():
        old = json.loads(options.json.read_text(encoding="utf-8"))
        results["parts"], results["subjects"] = old["parts"], old["about"]["subjects"]
        results["tables"] = {name: old[name] for name in PARTS if name in old}
    try:
        with (
            nullcontext() if options.quick else alone(),
            tempfile.TemporaryDirectory(prefix="bridgecore-bench-") as folder,
        ):
            _measure(options, Path(folder), results)
    except NotAlone as exc:
        sys.exit(str(exc))
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
