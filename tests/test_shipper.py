"""The shipper's pace, what it does with records that the store refuses, and what it says of itself."""

import os
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from sqlalchemy import Engine, event

import samples
from bridgeserver import batches
from bridgeserver import shipper as shippers
from bridgeserver.batches import BYTES, GROWTH, RECORDS
from bridgeserver.errors import StoreError, StoreUnavailable
from bridgeserver.journal import Journal, frame
from bridgeserver.records import AnyRecord, Interception, InterceptionEnd
from bridgeserver.registry import journal_id
from bridgeserver.shipper import Shipper
from bridgeserver.shipping_metrics import families
from bridgeserver.status import ShippingStatus
from bridgeserver.store import open_store, sqlite
from journallab import Shelf, abandoned, end, in_loop, interception, kept, prompt, ship_all

OPERATIONS = Path(__file__).parent.parent / "docs/operations.md"


def whole(number: int) -> list[AnyRecord]:
    """Return what a short request leaves."""
    return [interception(number), prompt(number, "hello"), end(number)]


def test_batches_grow_while_more_waits_and_shrink_again(tmp_path: Path) -> None:
    """Each full batch doubles the next one up to a limit; when little comes it is as small as at first."""
    count = RECORDS * (4 * GROWTH)
    abandoned(tmp_path, b"".join(frame(interception(n)) for n in range(count)))
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    while len(shelf.records) < count:
        shipper.ship()
    steps = [size // RECORDS for size in shelf.batches[:-1]]
    assert steps[:5] == [1, 2, 4, 8, 8]
    assert max(steps) == GROWTH
    while shipper.ship():
        pass
    for _ in range(4):
        shipper.ship()
    abandoned(tmp_path, b"".join(frame(interception(n)) for n in range(2 * RECORDS)))
    shelf.batches.clear()
    shipper.ship()
    assert shelf.batches == [RECORDS]


def test_a_batch_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Of large records a batch has few, so that memory is bounded by bytes and not by their number."""
    big = [prompt(n, "x" * (BYTES // 3)) for n in range(12)]
    folder = abandoned(tmp_path, b"")
    (folder / "00000001.seg").write_bytes(b"".join(map(frame, big)))
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    shipper.ship()
    assert shelf.batches == [3]
    shipper.ship()
    assert shelf.batches == [3, 6]


def test_a_failure_makes_the_next_batch_small(tmp_path: Path) -> None:
    """A store that failed over a large batch is offered a small one next."""
    abandoned(tmp_path, b"".join(frame(interception(n)) for n in range(RECORDS * 8)))
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    shipper.attempt()
    shipper.attempt()
    shelf.fails = True
    with structlog.testing.capture_logs():
        assert shipper.attempt() is None
    shelf.fails = False
    shipper.attempt()
    assert shelf.batches == [RECORDS, 2 * RECORDS, RECORDS]


def test_the_lag_counts_while_batches_stay_full(tmp_path: Path) -> None:
    """A store that takes records more slowly than they come lags too, although it never fails."""
    now = 100.0
    abandoned(tmp_path, b"".join(frame(interception(n)) for n in range(RECORDS * 2)))
    shipper = Shipper(tmp_path, Shelf(), clock=lambda: now)
    assert shipper.attempt() == RECORDS
    now = 103.0
    assert shipper.lag_s == 3
    while shipper.attempt():
        pass
    assert shipper.lag_s == 0


def test_backs_off_with_jitter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails is tried less and less often, at times that gateways do not share; then as before."""
    abandoned(tmp_path, frame(interception(1)))
    shelf = Shelf()
    shelf.fails = True
    pauses = list[float]()
    ended = threading.Event()

    class Bell(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            if len(pauses) == 8:
                shelf.fails = False
            if len(pauses) == 10:
                self.set()
                ended.set()
            return True

    shipper = Shipper(tmp_path, shelf, chance=lambda: 0.0 if len(pauses) % 2 else 1.0)
    monkeypatch.setattr(shipper, "_stopping", Bell())
    with structlog.testing.capture_logs():
        shipper.start()
        assert ended.wait(10)
        assert shipper.stop(10)
    assert pauses == [0.2, 0.2, 0.8, 0.8, 3.2, 2.5, 5.0, 2.5, shippers.POLL_S, shippers.POLL_S]
    assert shelf.records == [interception(1)]


def test_a_refused_record_is_kept_aside(tmp_path: Path) -> None:
    """One that the store cannot hold is found by halving; all others are stored, and it holds nobody up."""
    records = [record for n in range(50) for record in whole(n)]
    abandoned(tmp_path, frame(*records))
    shelf = Shelf()
    bad = prompt(17, "hello")
    shelf.refuses = lambda record: record == bad
    with structlog.testing.capture_logs() as logs:
        shipper = ship_all(tmp_path, shelf)
    assert shelf.records == [record for record in records if record != bad]
    assert (tmp_path / "dead.refused").read_bytes() == msgspec.json.encode(bad) + b"\n"
    assert (shipper.stats().refused, shipper.stats().records) == (1, len(records) - 1)
    (line,) = [line for line in logs if line["event"] == "record_refused"]
    assert (line["kind"], "hello" in str(line)) == ("UserPrompt", False)


def test_all_of_a_refused_interception_is_kept_together(tmp_path: Path) -> None:
    """Its prompt and end go where it went, in this batch, in later ones, and after a restart."""
    abandoned(tmp_path, frame(*whole(1), interception(2), prompt(2, "kept")) + frame(*whole(3)) + frame(end(2)))
    shelf = Shelf()
    shelf.refuses = lambda record: isinstance(record, Interception) and record.id == "i2"
    with structlog.testing.capture_logs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "RECORDS", 5)
        Shipper(tmp_path, shelf).ship()
        shelf.records.clear()
        ship_all(tmp_path, shelf)
    assert shelf.records == [*whole(1), *whole(3)]
    kept_aside = msgspec.json.Decoder(AnyRecord).decode_lines((tmp_path / "dead.refused").read_bytes())
    assert kept_aside == [interception(2), prompt(2, "kept"), end(2)]


def test_a_broken_store_refuses_nothing(tmp_path: Path) -> None:
    """When the store itself is at fault all records wait, whatever its error is called."""
    abandoned(tmp_path, frame(*whole(1)))
    shelf = Shelf()
    shelf.is_broken = True
    with structlog.testing.capture_logs():
        shipper = Shipper(tmp_path, shelf)
        assert shipper.attempt() is None
    assert not (tmp_path / "dead.refused").exists()
    shelf.is_broken = False
    while shipper.ship():
        pass
    assert shelf.records == whole(1)


def test_a_disk_that_is_full_keeps_what_would_be_kept_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it can be written down elsewhere, what is refused or damaged stays in the journal."""
    data = bytearray(frame(interception(1)) + frame(interception(2)) + frame(prompt(1, "hello")) + frame(end(1)))
    first = len(frame(interception(1)))
    data[first + 30] ^= 0xFF
    abandoned(tmp_path, bytes(data))
    shelf = Shelf()
    shelf.refuses = lambda record: record == prompt(1, "hello")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    journal_id(tmp_path)
    shipper = Shipper(tmp_path, shelf)
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(os, "fsync", full)
        assert shipper.attempt() is None
        assert "No space left on device" in str(logs)
    shelf.records.clear()
    with structlog.testing.capture_logs():
        while shipper.ship():
            pass
    assert shelf.records == [interception(1), end(1)]
    assert (tmp_path / "dead.refused").read_bytes() == msgspec.json.encode(prompt(1, "hello")) + b"\n"
    (damaged,) = tmp_path.glob("*.damaged")
    assert damaged.read_bytes() == data[first : first + len(frame(interception(2)))]
    assert (shipper.stats().refused, shipper.stats().damaged) == (1, 1)


@pytest.mark.parametrize(
    "error", [OverflowError("too large"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate")]
)
def test_what_a_driver_cannot_convert_is_refused(tmp_path: Path, error: Exception) -> None:
    """Drivers raise Python's own errors before the database sees a value; the text of those may hold it."""
    abandoned(tmp_path, frame(*whole(1)))

    class Driver(Shelf):
        def apply(self, records: Sequence[AnyRecord]) -> int:
            if any(isinstance(record, InterceptionEnd) for record in records):
                raise error
            return super().apply(records)

    shelf = Driver()
    with structlog.testing.capture_logs() as logs:
        ship_all(tmp_path, shelf)
    assert shelf.records == whole(1)[:2]
    assert [line["reason"] for line in logs if line["event"] == "record_refused"] == [type(error).__name__]


def test_sqlite_refuses_a_number_that_it_cannot_hold(tmp_path: Path) -> None:
    """With the real store: the record that does not fit is kept aside, and the rest of its request is there."""
    journal = tmp_path / "journal"
    journal.mkdir()
    huge = msgspec.structs.replace(samples.tool(1), duration_us=1 << 80)
    abandoned(journal, frame(samples.interception(1), huge, samples.end(1)))
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    store.upgrade()
    with structlog.testing.capture_logs():
        shipper = Shipper(journal, store)
        while shipper.ship():
            pass
    (record,) = store.records()
    store.close()
    assert (record["status"], record["tools"]) == ("completed", [])
    assert (journal / "dead.refused").read_bytes() == msgspec.json.encode(huge) + b"\n"


def test_a_broken_database_refuses_nothing(tmp_path: Path) -> None:
    """Without its tables, read-only, or full, SQLite is unavailable or broken, and every record waits."""
    journal = tmp_path / "journal"
    journal.mkdir()
    abandoned(journal, frame(*samples.whole(1)))
    url = f"sqlite:///{tmp_path}/a.db"
    with closing(open_store(url)) as store, structlog.testing.capture_logs():
        assert Shipper(journal, store).attempt() is None  # there is no schema yet
        store.upgrade()
    for pragma in ("query_only = ON", "max_page_count = 1"):
        with limited(pragma), closing(open_store(url)) as store, structlog.testing.capture_logs():
            if pragma.startswith("query_only"):
                assert Shipper(journal, store).attempt() is None
            with pytest.raises(StoreUnavailable, match=r"readonly|full"):
                store.apply([samples.interception(7), *(samples.prompt(7, n, "x" * 9000) for n in range(99))])
    assert not list(journal.glob("*.refused"))
    with closing(open_store(url)) as store:
        shipper = Shipper(journal, store)
        while shipper.ship():
            pass
        assert [record["status"] for record in store.records()] == ["completed"]


@contextmanager
def limited(pragma: str) -> Generator[None]:
    """Have every connection of stores that are opened meanwhile begin with a pragma."""
    original = sqlite.open_engine

    def limit(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA {pragma}")

    def opened(path: Path, synchronous: str) -> Engine:
        engine = original(path, synchronous)
        event.listen(engine, "connect", limit)
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "open_engine", opened)
        yield


def test_stats_tell_what_waits(tmp_path: Path) -> None:
    """Bytes that wait are those that were written and not shipped, of all workers, and 0 when all is shipped."""

    async def scenario() -> None:
        now = 0.0
        shelf = Shelf()
        shipper = Shipper(tmp_path, shelf, clock=lambda: now)
        journal, other = Journal(tmp_path, max_bytes=1 << 30), Journal(tmp_path, max_bytes=1 << 30)
        shipper.ship()
        assert (shipper.stats().journal_bytes, shipper.stats().segments) == (0, 2)
        shelf.fails = True
        await kept(journal, [interception(1)])
        await kept(other, [interception(2), prompt(2, "x")])
        expected = len(frame(interception(1))) + len(frame(interception(2), prompt(2, "x")))
        with structlog.testing.capture_logs():
            shipper.attempt()
        now = 4.0
        stats = shipper.stats()
        assert (stats.journal_bytes, stats.failures, stats.lag_s, stats.records) == (expected, 1, 4.0, 0)
        shelf.fails = False
        assert shipper.attempt() == 3
        stats = shipper.stats()
        assert (stats.journal_bytes, stats.records, stats.batches, stats.lag_s) == (0, 3, 2, 0.0)
        journal.close()
        other.close()

    in_loop(scenario)


def test_bytes_of_several_segments_wait(tmp_path: Path) -> None:
    """Of a long backlog the earlier segments count whole."""
    text = "x" * 1_000_000

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        written = 0
        for number in range(20):
            await kept(journal, [prompt(number, text)])
            written += len(frame(prompt(number, text)))
        shelf = Shelf()
        shipper = Shipper(tmp_path, shelf)
        shelf.refuses = lambda _record: True
        shelf.is_broken = True
        with structlog.testing.capture_logs():
            shipper.attempt()
        stats = shipper.stats()
        assert stats.segments == 3
        assert written <= stats.journal_bytes < written + 3_000_000
        journal.close()

    in_loop(scenario)


def test_the_time_of_batches_is_measured(tmp_path: Path) -> None:
    """Seconds spent in batches that the store took; one that fails is none."""
    now = 0.0

    class Slow(Shelf):
        def apply(self, records: Sequence[AnyRecord]) -> int:
            nonlocal now
            now += 2.5
            return super().apply(records)

    abandoned(tmp_path, frame(*whole(1)))
    shipper = Shipper(tmp_path, Slow(), clock=lambda: now)
    while shipper.ship():
        pass
    stats = shipper.stats()
    assert (stats.batches, stats.batch_s) == (1, 2.5)


def test_the_metrics_of_shipping() -> None:
    """Each number has its family; docs/operations.md lists every one by its name."""
    status = ShippingStatus(1.5, 2, 3, 4, 5, 6.5, 7, 8, 9)
    values = {sample.name: sample.value for family in families(status) for sample in family.samples}
    assert values == {
        "bridgecore_journal_lag_seconds": 1.5,
        "bridgecore_journal_bytes": 2,
        "bridgecore_journal_segments": 3,
        "bridgecore_journal_records_shipped_total": 4,
        "bridgecore_journal_batch_seconds_count": 5,
        "bridgecore_journal_batch_seconds_sum": 6.5,
        "bridgecore_journal_records_refused_total": 7,
        "bridgecore_journal_frames_damaged_total": 8,
        "bridgecore_journal_shipping_failures_total": 9,
    }
    documented = OPERATIONS.read_text()
    assert [name for name in values if f"`{name.removesuffix('_count').removesuffix('_sum')}" not in documented] == []


def test_a_clock_that_jumps_changes_no_lag(tmp_path: Path) -> None:
    """The wall clock may go back an hour or forward a year: lag and order of shipping are not its business."""
    wall = time.time_ns() // 1000
    now = 0.0
    shelf = Shelf()
    shelf.fails = True
    year_us = 365 * 86_400 * 1_000_000
    late = msgspec.structs.replace(interception(1), started_at=wall + year_us)
    early = msgspec.structs.replace(interception(2), started_at=wall - 3600 * 1_000_000)
    abandoned(tmp_path, frame(late) + frame(early))
    shipper = Shipper(tmp_path, shelf, clock=lambda: now, wall_us=lambda: wall)
    with structlog.testing.capture_logs():
        shipper.attempt()
        wall += year_us
        now += 2.0
        shipper.attempt()
        assert shipper.lag_s == 2.0
        wall -= 2 * year_us
        shelf.fails = False
        while shipper.attempt():
            pass
    assert shipper.lag_s == 0.0
    assert shelf.records == [late, early]
    assert shelf.interrupted == [("dead", early.started_at)]


def test_an_error_of_the_store_says_nothing_of_the_records(tmp_path: Path) -> None:
    """What is logged of a refusal is the driver's own words, which hold no value."""
    abandoned(tmp_path, frame(interception(1), prompt(1, "very private")))
    shelf = Shelf()

    def refuse(record: AnyRecord) -> bool:
        if record == prompt(1, "very private"):
            raise StoreError("NOT NULL constraint failed: user_prompts.seq")
        return False

    shelf.refuses = refuse
    with structlog.testing.capture_logs() as logs:
        ship_all(tmp_path, shelf)
    (line,) = [line for line in logs if line["event"] == "record_refused"]
    assert line["reason"] == "NOT NULL constraint failed: user_prompts.seq"
