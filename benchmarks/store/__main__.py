"""What a store costs when it is full: shipping records to it, and the queries of the API, on each engine.

    python -m benchmarks.store                                    # a quick look: 20,000 interceptions
    python -m benchmarks.store --rows 2000000 --json benchmarks/results/store.json

fills a SQLite database below `--folder`, unless it is there, and a PostgreSQL one: that of `--postgres`, which may be
filled from an earlier run, or one of a server of its own. Each question is asked several times, with a warm cache of
the file system. What a worker pays for recording is taken from recording.py. `--explain` prints the engines' plans.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import about, save, table
from benchmarks.store import engines, questions, shipping
from bridgeserver.store import open_store

RECORDING = Path(__file__).parent.parent / "recording.py"
PACKAGES = ("asyncpg", "sqlalchemy")
ENGINES = ("sqlite", "postgresql")

Tables = dict[str, list[dict[str, Any]]]


@contextmanager
def _database(engine: str, options: argparse.Namespace) -> Generator[str]:
    """Yield the URL of an engine's database."""
    if engine == "postgresql":
        with engines.postgresql(options.postgres) as url:
            yield url
    else:
        options.folder.mkdir(parents=True, exist_ok=True)
        yield f"sqlite:///{options.folder.absolute()}/{options.rows}.db"


def _measure(engine: str, url: str, options: argparse.Namespace) -> Tables:
    """Return what there is to say about a filled database."""
    with closing(open_store(url)) as store:
        if options.explain:
            for question in questions.questions(store):
                questions.explain(store, question)
        asked = list(questions.measure(store, options.rounds))
        print(table([engine, "median ms"], [[row["question"], f"{row['median_ms']:.2f}"] for row in asked]), flush=True)
        shipped = list(shipping.measure(store, options.rounds, partial(engines.server_us, url)))
    columns = list(shipped[0])
    print(table(columns, [[f"{row[name]}" for name in columns] for row in shipped], words=0), flush=True)
    return {
        "engines": [{"engine": engine, "version": engines.version(url), "interceptions": options.rows}],
        "queries": [{"engine": engine} | row for row in asked],
        "shipping": [{"engine": engine} | row for row in shipped],
    }


def _recording(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what recording costs a worker and its parent."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "recording.json"
        command = [sys.executable, str(RECORDING), "--json", str(out)]
        subprocess.run([*command, "--quick"] if options.quick else command, check=True)
        rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"]
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="interceptions")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--postgres", metavar="URL", help="a database that may be filled, and is filled otherwise")
    parser.add_argument("--folder", type=Path, default=Path("build/store"), help="where the SQLite database is")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a few rounds only, to see that it runs")
    parser.add_argument("--explain", action="store_true", help="print how the engines go about each question")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the raw results")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 2
    tables: Tables = {"engines": [], "queries": [], "shipping": [], "recording": _recording(options)}
    for engine in options.engines:
        with _database(engine, options) as url:
            engines.fill(url, options.rows)
            for name, rows in _measure(engine, url, options).items():
                tables[name] += rows
    if options.json:
        head = about(PACKAGES) | {"command": f"python -m benchmarks.store --rows {options.rows}"}
        save(options.json, {"about": head}, tables)


if __name__ == "__main__":
    main()
