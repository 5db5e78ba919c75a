"""The journal and the shipper: what was appended arrives, once, whatever dies in between."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

import samples
from bridgeserver import batches, frames
from bridgeserver import journal as journals
from bridgeserver import shipper as shippers
from bridgeserver.errors import NotRecordable
from bridgeserver.journal import FRAME, RESERVE_BYTES, SEGMENT_BYTES, Journal, frame
from bridgeserver.records import AnyRecord, Interception, InterceptionEnd
from bridgeserver.shipper import Shipper
from bridgeserver.tail import Tail
from journallab import Shelf, abandoned, end, in_loop, interception, kept, prompt, read_all


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of all writes from now on."""
    sizes = list[int]()
    original = os.pwrite

    def counting(descriptor: int, data: bytes, offset: int) -> int:
        sizes.append(len(data))
        return original(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", counting)
    return sizes


def test_records_arrive_in_order(tmp_path: Path, writes: list[int]) -> None:
    """What was begun and appended is read back as it was, one write for all of a turn."""

    async def scenario() -> list[AnyRecord]:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        begun = kept(journal, [interception(1), prompt(1, "hé\x00\n")])
        other = kept(journal, [interception(2)])
        journal.end([end(1)])
        await begun
        assert len(writes) == 1
        await other
        assert len(writes) == 1
        writes.clear()
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        return records

    assert in_loop(scenario) == [interception(1), prompt(1, "hé\x00\n"), interception(2), end(1)]


def test_one_who_fails_when_told_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """Whoever waited for the same write is told of it all the same."""

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        journal.begin([interception(1)], lambda _failure: 1 // 0)
        await kept(journal, [interception(2)])
        journal.close()

    in_loop(scenario)


def test_goes_on_in_the_next_segment_and_drops_what_is_shipped(tmp_path: Path) -> None:
    """Segments are sealed when they are full, read through, and removed once their records are taken."""
    text = "x" * 1_000_000

    async def scenario() -> tuple[int, int]:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        for number in range(20):
            await kept(journal, [interception(number), prompt(number, text)])
            journal.end([end(number)])
        await asyncio.sleep(0)
        folder = tmp_path / journal.worker
        tail = Tail(folder)
        before = len(list(folder.glob("*.seg")))
        count = 0
        while found := tail.read(7).records:
            count += len(found)
            tail.read(7).advance()
        assert len(list(folder.glob("*.seg"))) < before
        journal.close()
        return before, count

    before, count = in_loop(scenario)
    assert before >= 3
    assert count == 60


def test_refuses_what_it_could_not_end(tmp_path: Path) -> None:
    """At its limit the journal refuses new interceptions, and still takes the ends of all that run."""

    async def scenario() -> int:
        journal = Journal(tmp_path, max_bytes=2 * SEGMENT_BYTES)
        begun = 0
        with pytest.raises(NotRecordable, match="no room"):
            while True:
                await kept(journal, [interception(begun), prompt(begun, "x" * 100_000)])
                begun += 1
        for number in range(begun):
            journal.end([end(number)])
        await asyncio.sleep(0)
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        assert sum(isinstance(record, InterceptionEnd) for record in records) == begun
        return begun

    assert in_loop(scenario) > 10


def test_a_full_disk_refuses_new_requests_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no segment can be allocated, what runs is recorded to its end and nothing new begins."""

    def full(_path: Path, _size: int) -> int:
        raise OSError(28, "No space left on device")

    async def scenario() -> int:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        monkeypatch.setattr(journals, "allocate", full)
        begun = 0
        with pytest.raises(NotRecordable):
            while True:
                await kept(journal, [interception(begun)])
                begun += 1
        for number in range(begun):
            journal.end([end(number)])
        await asyncio.sleep(0)
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        return sum(isinstance(record, InterceptionEnd) for record in records)

    assert in_loop(scenario) >= SEGMENT_BYTES // RESERVE_BYTES - 20


def test_a_failing_write_refuses_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interception that could not be written is not one: its future fails, so nothing goes upstream."""

    def broken(_descriptor: int, _data: bytes, _offset: int) -> int:
        raise OSError(5, "Input/output error")

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", broken)
            with pytest.raises(NotRecordable, match="Input/output error"):
                await kept(journal, [interception(1)])
        journal.close()

    in_loop(scenario)


def test_a_cancelled_caller_does_not_disturb_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers of one turn share a sync; one that is cancelled while it waits cancels nobody else."""
    may_sync = threading.Event()
    synced = list[int]()

    def slow(descriptor: int) -> None:
        may_sync.wait(10)
        synced.append(descriptor)

    async def scenario() -> list[AnyRecord]:
        journal = Journal(tmp_path, max_bytes=1 << 30, sync="always")
        monkeypatch.setattr(os, "fsync", slow)

        async def begin(number: int) -> None:
            await kept(journal, [interception(number)])

        first, second = (asyncio.create_task(begin(number)) for number in range(2))
        await asyncio.sleep(0)
        first.cancel()
        may_sync.set()
        await second
        assert (await asyncio.gather(first, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        assert len(synced) == 1
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        return records

    assert in_loop(scenario) == [interception(0), interception(1)]


def test_room_is_not_counted_twice_when_a_frame_does_not_fit(tmp_path: Path) -> None:
    """What is left of a segment behind a large frame is lost, and the ends of all that runs still fit."""

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=3 * SEGMENT_BYTES)
        begun = 0
        with pytest.raises(NotRecordable):
            while True:
                await kept(journal, [interception(begun), prompt(begun, "\x01" * 900_000)])
                begun += 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(journals, "allocate", None)  # no further segment may be needed
            for number in range(begun):
                for _ in range(10):
                    journal.append(prompt(number, "x" * 1000))
                journal.end([end(number)])
            await asyncio.sleep(0)
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        assert sum(isinstance(record, InterceptionEnd) for record in records) == begun > 1

    in_loop(scenario)


def test_a_failed_write_loses_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is written once that is possible; until then nothing new begins."""

    def broken(_descriptor: int, _data: bytes, _offset: int) -> int:
        raise OSError(5, "Input/output error")

    async def scenario() -> list[AnyRecord]:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        await kept(journal, [interception(1)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", broken)
            journal.end([end(1)])
            await asyncio.sleep(0)
            with pytest.raises(NotRecordable, match="cannot be written at the moment"):
                await kept(journal, [interception(2)])
        journal.append(prompt(1, "later"))
        await asyncio.sleep(0)
        await kept(journal, [interception(3)])
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        return records

    assert in_loop(scenario) == [interception(1), end(1), prompt(1, "later"), interception(3)]


def test_many_small_records_leave_room_for_the_ends_of_others(tmp_path: Path) -> None:
    """One request with many tool calls cannot use up what others need to end."""

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=2 * SEGMENT_BYTES)
        for number in range(100):
            await kept(journal, [interception(number)])
        for _ in range(4000):
            journal.append(prompt(0, "x" * 7000))
        await asyncio.sleep(0)
        for number in range(100):
            journal.end([end(number)])
        await asyncio.sleep(0)
        records = read_all(Tail(tmp_path / journal.worker))
        assert len(list((tmp_path / journal.worker).glob("*.seg"))) <= 2
        journal.close()
        assert sum(isinstance(record, InterceptionEnd) for record in records) == 100

    in_loop(scenario)


def test_syncing_survives_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment may be full, and closed, before its sync has begun."""
    may_sync = threading.Event()

    def slow(descriptor: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            may_sync.wait(10)
            os.fstat(descriptor)

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30, sync="always")
        monkeypatch.setattr(os, "fsync", slow)
        waiting = list[Any]()
        for number in range(12):
            waiting.append(kept(journal, [interception(number), prompt(number, "x" * 1_000_000)]))
            await asyncio.sleep(0)
        may_sync.set()
        await asyncio.gather(*waiting)
        assert len(list((tmp_path / journal.worker).glob("*.seg"))) >= 2
        journal.close()

    in_loop(scenario)


def test_a_record_of_another_version_holds_nothing_up(tmp_path: Path) -> None:
    """A record that cannot be read is kept aside, and those behind it and beside it are shipped."""
    strange = b'{"kind":"of another version"}'
    abandoned(
        tmp_path, frame(interception(1)) + FRAME.pack(len(strange), zlib.crc32(strange)) + strange + frame(end(1))
    )
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    while shipper.ship():
        pass
    assert shelf.records == [interception(1), end(1)]
    assert (tmp_path / "dead.damaged").read_bytes() == strange + b"\n"


def test_a_strange_record_does_not_take_its_frame_along(tmp_path: Path) -> None:
    """Of a frame with several records only those that cannot be read are kept aside."""
    strange = b'{"kind":"of another version"}'
    payload = b"\n".join([frame(interception(1))[FRAME.size :], strange, frame(end(1))[FRAME.size :]])
    abandoned(tmp_path, FRAME.pack(len(payload), zlib.crc32(payload)) + payload + frame(interception(2)))
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    while shipper.ship():
        pass
    assert shelf.records == [interception(1), end(1), interception(2)]
    assert (tmp_path / "dead.damaged").read_bytes() == strange + b"\n"


@pytest.mark.parametrize("sync", ["none", "interval", "always"])
def test_every_sync_policy_keeps_records(tmp_path: Path, sync: journals.Sync) -> None:
    """Records are there whatever the policy; `always` waits for the disk first."""
    synced = list[int]()

    async def scenario() -> list[AnyRecord]:
        journal = Journal(tmp_path, max_bytes=1 << 30, sync=sync)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", synced.append)
            await kept(journal, [interception(1)])
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        return records

    assert in_loop(scenario) == [interception(1)]
    assert len(synced) == (sync == "always")


def test_ships_leftovers_and_ends_what_was_open(tmp_path: Path) -> None:
    """A folder without a living worker is shipped, its open interceptions are ended, and it is removed."""
    folder = abandoned(tmp_path, frame(interception(1)) + frame(interception(2)) + frame(end(1)))
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    while shipper.ship():
        pass
    assert shelf.records == [interception(1), interception(2), end(1)]
    assert shelf.interrupted == [("dead", 2001)]
    assert not folder.exists()


def test_ships_what_older_versions_wrote(tmp_path: Path) -> None:
    """A frame for each record, as earlier versions wrote them, beside frames of several."""
    first: list[AnyRecord] = [interception(1), prompt(1, "a\nb"), end(1)]
    lines = [frame(record)[FRAME.size : -1] for record in first]  # without the line's end
    old = b"".join(FRAME.pack(len(line), zlib.crc32(line)) + line for line in lines)
    call = msgspec.structs.replace(samples.tool(2), duration_us=None, result=None)
    then = frame(call).replace(b',"duration_us":null,"result":null', b"")[FRAME.size : -1]
    assert b"result" not in then
    old += FRAME.pack(len(then), zlib.crc32(then)) + then
    abandoned(tmp_path, old + frame(interception(2), prompt(2, "c\nd")) + frame(end(2)))
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    while shipper.ship():
        pass
    assert shelf.records == [
        *first,
        call,
        interception(2),
        prompt(2, "c\nd"),
        end(2),
    ]


def test_frames_of_any_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a reading ends, in a header, in a payload, or at a border, the records are the same."""
    records: list[AnyRecord] = [interception(1), prompt(1, "x" * 300), end(1), interception(2), end(2)]
    folder = abandoned(tmp_path, frame(*records[:2]) + b"".join(map(frame, records[2:])))
    for size in range(FRAME.size, 700):
        monkeypatch.setattr(frames, "READ_BYTES", size)
        assert read_all(Tail(folder)) == records


def test_a_torn_last_frame_is_left_out(tmp_path: Path) -> None:
    """A frame that was cut by the crash is no record; those before it are."""
    whole = frame(interception(1))
    torn = frame(interception(2))[:-5]
    folder = abandoned(tmp_path, whole + torn)
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    while shipper.ship():
        pass
    assert shelf.records == [interception(1)]
    assert not folder.exists()


def test_damage_in_the_middle_is_kept_aside(tmp_path: Path) -> None:
    """When the worker had gone on in a later segment, what cannot be read is kept and the rest is shipped."""
    damaged = bytearray(frame(interception(1)) + frame(interception(2)))
    damaged[-1] ^= 0xFF
    abandoned(tmp_path, bytes(damaged))
    abandoned(tmp_path, frame(interception(3)), number=2)
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    while shipper.ship():
        pass
    assert shelf.records == [interception(1), interception(3)]
    (kept,) = tmp_path.glob("dead*")
    assert kept.name == f"dead-00000001-{len(frame(interception(1)))}.damaged"
    assert kept.read_bytes() == damaged[len(frame(interception(1))) :]


def test_a_failing_store_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """What the store refused is offered again, and what it took is not."""
    abandoned(tmp_path, frame(interception(1)))
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    shelf.fails = True
    assert [shipper.attempt(), shipper.attempt()] == [None, None]
    shelf.fails = False
    while shipper.ship():
        pass
    assert shelf.records == [interception(1)]


def test_measures_for_how_long_the_store_refuses(tmp_path: Path) -> None:
    """The lag grows while the store fails, and is over with the first pass that succeeds."""
    now = 100.0
    shelf = Shelf()
    shelf.fails = True
    abandoned(tmp_path, frame(interception(1)))
    shipper = Shipper(tmp_path, shelf, clock=lambda: now)
    assert shipper.lag_s == 0
    assert shipper.attempt() is None
    now = 107.0
    assert shipper.lag_s == 7
    shelf.fails = False
    assert shipper.attempt() == 1
    assert shipper.lag_s == 0


def test_records_gather_between_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While whole batches wait the shipper goes on at once; after less than one it lets records gather."""
    folder = abandoned(tmp_path, b"".join(frame(interception(number)) for number in range(7)))
    shelf = Shelf()
    seen = list[tuple[int, int, float]]()
    stopped = threading.Event()

    class Bell(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            seen.append((len(shelf.records), len(shelf.interrupted), timeout or 0))
            self.set()
            stopped.set()
            return True

    monkeypatch.setattr(batches, "RECORDS", 3)
    monkeypatch.setattr(batches, "GROWTH", 1)
    shipper = Shipper(tmp_path, shelf)
    monkeypatch.setattr(shipper, "_stopping", Bell())
    shipper.start()
    assert stopped.wait(10)
    assert shipper.stop(10)
    assert not folder.exists()
    assert seen[0] == (7, 0, shippers.POLL_S)
    assert shelf.interrupted == [("dead", 1006)]


def test_interceptions_without_a_journal_are_ended(tmp_path: Path) -> None:
    """When a journal was lost with its volume, the interceptions that the store knew of do not stay open."""
    shelf = Shelf()
    shelf.open = ["gone"]
    Shipper(tmp_path, shelf).attempt()
    assert [worker for worker, _at in shelf.interrupted] == ["gone"]


def test_a_living_worker_is_not_taken_for_dead(tmp_path: Path) -> None:
    """While its lock is held a worker's folder stays, even when all its records are shipped."""

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        await kept(journal, [interception(1, journal.worker)])
        shelf = Shelf()
        shipper = Shipper(tmp_path, shelf)
        assert shipper.ship() == 1
        assert shipper.ship() == 0
        assert not shelf.interrupted
        journal.close()
        assert shipper.ship() == 0
        assert shelf.interrupted == [(journal.worker, 1001)]

    in_loop(scenario)


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from journallab import interception, kept
from bridgeserver.journal import Journal

async def main():
    journal = Journal(Path({folder!r}), max_bytes=1 << 30)
    for number in range(100_000):
        await kept(journal, [interception(number, journal.worker)])
        if number == 500:
            print("go", flush=True)

asyncio.run(main())
"""


def test_what_was_kept_survives_kill_9(tmp_path: Path) -> None:
    """Every interception whose write returned is there after SIGKILL, without a gap."""
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"
        child.send_signal(signal.SIGKILL)
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    while shipper.ship():
        pass
    ids = [record.id for record in shelf.records if isinstance(record, Interception)]
    assert len(ids) > 500
    assert ids == [f"i{number}" for number in range(len(ids))]
    assert len(shelf.interrupted) == 1


def test_frames_are_as_documented() -> None:
    """The format on disk is a contract between versions: length, CRC-32, JSON, one record a line."""
    data = frame(end(7))
    length, checksum = FRAME.unpack_from(data)
    payload = data[FRAME.size :]
    assert length == len(payload)
    assert checksum == zlib.crc32(payload)
    assert payload.startswith(b'{"kind":"end","interception_id":"i7","status":"completed"')
    assert payload.endswith(b"}\n")
    assert frame(end(7), end(8))[FRAME.size :] == payload + frame(end(8))[FRAME.size :]
