"""What recording costs: a short chat in a worker's journal, and on its way from there to SQLite.

    python benchmarks/recording.py [--quick] [--json OUT]

A chat is what one short request leaves: its beginning with a prompt, its tokens and its end. The time is CPU time of
the process; disks matter only where a sync waits, and no row has one but SQLite's checkpoints. The rows:

- journal: a worker's recorder and journal, one chat after another, and 16 in each turn of the loop;
- shipping: the shipper's passes over a journal, with a full batch waiting (as after an outage) or 100 chats a pass
  (as at 1,000 requests/s);
- idle pass: what the shipper does ten times a second for each worker when nothing happens.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import uvloop
from common import about, save, table

from bridgecore import uuid7
from bridgeserver.counting import Counters
from bridgeserver.journal import Journal
from bridgeserver.protocols import Usage
from bridgeserver.protocols.chat import Chat
from bridgeserver.recorder import Recorder
from bridgeserver.records import Interception, now_us
from bridgeserver.shipper import Shipper
from bridgeserver.store import open_store
from bridgeserver.traffic import Traffic

PACKAGES = ("msgspec", "sqlalchemy", "uvloop")
USAGE = Usage(input=12, output=9)
USER, KEY = uuid7(), uuid7()
RECORDS_A_CHAT = 4
TRAFFIC = Traffic(Counters())

TAP = Chat().tap()
TAP.response_id, TAP.stop_reason, TAP.service_tier = "chatcmpl-Bq1xYxU2x4dN1zE6cT0hR8aWk5", "stop", "default"


class Scale(NamedTuple):
    """How much is measured."""

    chats: int
    rounds: int
    idle_passes: int


FULL = Scale(chats=50_000, rounds=5, idle_passes=2_000)
QUICK = Scale(chats=600, rounds=2, idle_passes=20)


def _begin(journal: Journal) -> Recorder:
    return Recorder(
        journal,
        Interception(
            id=uuid7(),
            user_id=USER,
            key_id=KEY,
            provider="openai",
            provider_name="openai",
            protocol="chat",
            model="gpt-5-mini",
            streaming=False,
            client="OpenAI SDK",
            user_agent="OpenAI/Python 2.8.0",
            session_id=None,
            correlating_tool_call_id=None,
            credential_kind="centralized",
            credential_hint="sk-a...wxyz",
            worker=journal.worker,
            started_at=now_us(),
        ),
        TRAFFIC.series("openai", "/chat/completions", "gpt-5-mini", "OpenAI SDK", "u"),
    )


async def _chat(journal: Journal) -> None:
    recorder = _begin(journal)
    kept = asyncio.get_running_loop().create_future()
    recorder.begin("Say hello to the world, in one short sentence.", kept.set_result)
    await kept
    await asyncio.sleep(0)  # the provider's turn
    recorder.usage(USAGE, TAP, partial=False)
    recorder.end("completed", http_status=200, attempts=1)
    await asyncio.sleep(0)


async def _chats(journal: Journal, count: int, at_once: int) -> None:
    async def client() -> None:
        for _ in range(count // at_once):
            await _chat(journal)

    await asyncio.gather(*(client() for _ in range(at_once)))


async def _turns(count: int, at_once: int) -> None:
    """Take as many turns of the loop as chats do, which is no part of their cost."""

    async def client() -> None:
        for _ in range(2 * count // at_once):
            await asyncio.sleep(0)

    await asyncio.gather(*(client() for _ in range(at_once)))


def _cpu_us(work: Callable[[], object], count: int) -> float:
    began = time.process_time_ns()
    work()
    return (time.process_time_ns() - began) / 1000 / count


def _journal_row(folder: Path, count: int, at_once: int) -> float:
    async def scenario() -> float:
        with closing(Journal(folder, max_bytes=1 << 40)) as journal:
            began = time.process_time_ns()
            await _chats(journal, count, at_once)
            middle = time.process_time_ns()
            await _turns(count, at_once)
            return (2 * middle - began - time.process_time_ns()) / 1000 / count

    return uvloop.run(scenario())


def _shipping_row(folder: Path, count: int, at_once: int | None) -> float:
    """Return the cost of shipping *count* chats, *at_once* a pass, or all that are there."""
    journals = folder / "journal"
    journals.mkdir()
    with closing(open_store(f"sqlite:///{folder / 'records.db'}")) as store:
        store.upgrade()
        shipper = Shipper(journals, store)

        def ship() -> None:
            while shipper.ship():
                pass

        async def scenario() -> float:
            cost = 0.0
            with closing(Journal(journals, max_bytes=1 << 40)) as journal:
                for _ in range(count // (at_once or count)):
                    await _chats(journal, at_once or count, 1)
                    cost += _cpu_us(ship if at_once is None else shipper.ship, count)
            return cost

        cost = uvloop.run(scenario())
    if shipper.shipped != count * RECORDS_A_CHAT:
        raise RuntimeError(f"shipped {shipper.shipped} records, expected {count * RECORDS_A_CHAT}")
    return cost


def _idle_row(folder: Path, count: int) -> float:
    with closing(open_store(f"sqlite:///{folder / 'records.db'}")) as store:
        store.upgrade()
        journals = folder / "journal"
        journals.mkdir()
        shipper = Shipper(journals, store)

        async def scenario() -> float:
            with closing(Journal(journals, max_bytes=1 << 30)) as journal:
                await _chats(journal, 1, 1)
                shipper.attempt()
                return _cpu_us(lambda: [shipper.attempt() for _ in range(count)], count)

        return asyncio.run(scenario())


def measure(scale: Scale, base: Path) -> list[dict[str, Any]]:
    """Return CPU µs of each row, round by round, with everything below *base*."""
    rows: dict[str, Callable[[Path], float]] = {
        "journal, a chat": lambda folder: _journal_row(folder, scale.chats, 1),
        "journal, a chat, 16 a turn": lambda folder: _journal_row(folder, scale.chats // 16 * 16, 16),
        "shipping, a chat, full batches": lambda folder: _shipping_row(folder, scale.chats, None),
        "shipping, a chat, 100 a pass": lambda folder: _shipping_row(folder, scale.chats, 100),
        "shipping, an idle pass": lambda folder: _idle_row(folder, scale.idle_passes),
    }
    results: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(scale.rounds):
        for name, row in rows.items():
            folder = Path(tempfile.mkdtemp(dir=base))
            results[name].append(round(row(folder), 2))
            shutil.rmtree(folder)
    return [{"row": name, "cpu_us": costs, "median": median(costs)} for name, costs in results.items()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CPU time of recording, in the worker and in the shipper")
    parser.add_argument("--quick", action="store_true", help="a second, to see that it runs; its times mean little")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the raw results")
    return parser.parse_args()


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as base:
        rows = measure(QUICK if options.quick else FULL, Path(base))
    lines = (
        (
            row["row"],
            f"{row['median']:.1f}",
            f"{min(row['cpu_us']):.1f}",
            f"{RECORDS_A_CHAT * 1e6 / row['median']:,.0f}" if "a chat" in row["row"] else "",
        )
        for row in rows
    )
    print(table(["row", "median CPU µs", "minimum CPU µs", "records a CPU second"], lines))
    if options.json:
        save(options.json, {"about": about(PACKAGES)}, {"rows": rows})


if __name__ == "__main__":
    main()
