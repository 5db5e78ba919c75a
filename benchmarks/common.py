"""What every benchmark here says about itself, and the form of its results."""

import datetime as dt
import importlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def optional(module: str) -> Any:
    """Return the module, or None when the package is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None


def _processor() -> str:
    """Return the name of the processor as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _command() -> str:
    """Return the command, with the last part only of paths that mean something on this machine alone."""
    arguments = [Path(argument).name if argument.startswith(("/", "..")) else argument for argument in sys.argv[1:]]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])


def about(packages: Iterable[str]) -> dict[str, Any]:
    """Return the machine, the interpreter, the versions of the packages, the command and the day."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {package: version for package in packages if (version := _version(package))},
        "command": _command(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def save(path: Path, head: Mapping[str, Any], tables: Mapping[str, Iterable[object]]) -> None:
    """Write results: the head, and tables with one row a line, so that a difference can be read."""
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for name, rows in tables.items():
        lines = ",\n".join("  " + json.dumps(row) for row in rows)
        parts.append(f"{json.dumps(name)}: [\n{lines}\n]")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Return a Markdown table whose first *words* columns are words and whose others are numbers."""
    rule = ["---" if column < words else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
