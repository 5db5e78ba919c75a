"""A journal at its limits: full, synced, on a disk that fails or has vanished, with a clock that jumps."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import structlog

import gateway as gateways
import samples
from bridgeserver import fakeprovider
from bridgeserver import journal as journals
from bridgeserver import recorder as recorders
from bridgeserver.errors import NotRecordable
from bridgeserver.journal import RESERVE_BYTES, SEGMENT_BYTES, Journal, frame, segment_path
from bridgeserver.recorder import Recorder
from bridgeserver.records import AnyRecord, InterceptionEnd, UserPrompt
from bridgeserver.tail import Tail
from journallab import abandoned, end, in_loop, interception, kept, prompt, read_all

SEGMENTS = 8


async def fill(journal: Journal, text: str) -> int:
    """Begin interceptions until no more are taken, and return how many were."""
    begun = 0
    with pytest.raises(NotRecordable, match="no room"):
        while True:
            await kept(journal, [interception(begun), prompt(begun, text)])
            begun += 1
    return begun


def test_running_requests_have_room_that_new_ones_cannot_take(tmp_path: Path) -> None:
    """When new interceptions are refused, what runs still records large thoughts and tools, and its end."""
    text = "x" * 200_000

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=SEGMENTS * SEGMENT_BYTES)
        begun = await fill(journal, text)
        with structlog.testing.capture_logs():
            for number in range(20):
                journal.append(prompt(number, text))
            assert journal.dropped == 0
            with pytest.raises(NotRecordable):
                await kept(journal, [interception(begun)])
        for number in range(begun):
            journal.end([end(number)])
        await asyncio.sleep(0)
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        assert sum(isinstance(record, UserPrompt) for record in records) == begun + 20
        assert sum(isinstance(record, InterceptionEnd) for record in records) == begun

    in_loop(scenario)


def test_the_journal_stays_within_its_limit(tmp_path: Path) -> None:
    """What finds no room at all is counted; the files never take more than was allowed."""
    text = "x" * 200_000

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=SEGMENTS * SEGMENT_BYTES)
        begun = await fill(journal, text)
        with structlog.testing.capture_logs() as logs:
            for _ in range(60):
                journal.append(prompt(0, text))
                await asyncio.sleep(0)
        assert 0 < journal.dropped < 60
        assert len([line for line in logs if line["event"] == "record_dropped"]) == journal.dropped
        for number in range(begun):
            journal.end([end(number)])
        await asyncio.sleep(0)
        folder = tmp_path / journal.worker
        assert sum(path.stat().st_size for path in folder.glob("*.seg")) <= SEGMENTS * SEGMENT_BYTES
        assert sum(isinstance(record, InterceptionEnd) for record in read_all(Tail(folder))) == begun
        journal.close()

    in_loop(scenario)


def test_what_is_shipped_makes_room_again(tmp_path: Path) -> None:
    """A full journal takes new interceptions as soon as the shipper has removed a segment."""

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=SEGMENTS * SEGMENT_BYTES)
        begun = await fill(journal, "x" * 200_000)
        read_all(Tail(tmp_path / journal.worker))
        await kept(journal, [interception(begun)])
        journal.close()

    in_loop(scenario)


def test_what_dead_workers_left_counts(tmp_path: Path) -> None:
    """A gateway whose workers die while nothing is shipped does not fill the disk; what is shipped makes room again."""
    for number in range(1, SEGMENTS + 1):
        abandoned(tmp_path, frame(interception(number)), number)

    async def scenario() -> None:
        shared = Journal(tmp_path, max_bytes=SEGMENTS * SEGMENT_BYTES, workers=4)
        assert await fill(shared, "x" * 500_000) > 10
        folder = tmp_path / shared.worker
        assert len(list(folder.glob("*.seg"))) == SEGMENTS - SEGMENTS // 4 - 1
        alone = Journal(tmp_path, max_bytes=SEGMENTS * SEGMENT_BYTES)
        with pytest.raises(NotRecordable, match="no room"):
            await kept(alone, [interception(1)])
        shutil.rmtree(tmp_path / "dead")
        await kept(alone, [interception(1)])
        shared.close()
        alone.close()

    in_loop(scenario)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of everything that is synced from now on."""
    paths = list[str]()

    def fsync(descriptor: int) -> None:
        paths.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


def test_always_syncs_before_a_request_goes_on(tmp_path: Path, synced: list[str]) -> None:
    """The segment of each interception is synced before its request is told; so is what names the segment."""

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30, sync="always")
        assert synced == [tmp_path.name, journal.worker]
        for number in range(3):
            synced.clear()
            await kept(journal, [interception(number)])
            assert synced == ["00000001.seg"]
        synced.clear()
        journal.end([end(1)])
        journal.close()
        assert synced == ["00000001.seg"]

    in_loop(scenario)


def test_interval_syncs_once_for_many(tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it, and it comes soon after."""
    monkeypatch.setattr(journals, "SYNC_INTERVAL_S", 0.01)

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30, sync="interval")
        synced.clear()
        for number in range(5):
            journal.begin([interception(number)], lambda _failure: None)
        await asyncio.sleep(0)
        assert synced == []
        while not synced:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.03)
        assert synced == ["00000001.seg"]
        journal.close()

    in_loop(scenario)


@pytest.mark.parametrize("sync", ["interval", "always"])
def test_a_segment_is_synced_before_the_next_is_begun(tmp_path: Path, synced: list[str], sync: journals.Sync) -> None:
    """What a full segment holds does not depend on a sync of the next one."""

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30, sync=sync)
        while not segment_path(tmp_path / journal.worker, 2).exists() or "00000001.seg" not in synced[2:]:
            await kept(journal, [prompt(1, "x" * 1_000_000)])
        assert journal.worker in synced[2:]
        journal.close()

    in_loop(scenario)


def test_none_syncs_nothing(tmp_path: Path, synced: list[str]) -> None:
    """The default leaves it to the system."""

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        for number in range(10):
            await kept(journal, [interception(number), prompt(number, "x" * 1_000_000)])
        journal.close()

    in_loop(scenario)
    assert synced == []


def test_a_write_that_was_cut_short_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that gets full within a frame leaves no trace once there is room again."""
    original = os.pwrite

    def short(descriptor: int, data: bytes, offset: int) -> int:
        return original(descriptor, data[: len(data) // 2], offset)

    async def scenario() -> list[AnyRecord]:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        await kept(journal, [interception(1)])
        with monkeypatch.context() as patch, structlog.testing.capture_logs():
            patch.setattr(os, "pwrite", short)
            journal.end([end(1)])
            with pytest.raises(NotRecordable, match="cannot be written"):
                await kept(journal, [interception(2)])
            tail = Tail(tmp_path / journal.worker)
            assert tail.read(10).records == [interception(1)]
        journal.end([end(2)])
        await asyncio.sleep(0)
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        return records

    assert in_loop(scenario) == [interception(1), end(1), interception(2), end(2)]
    assert not list(tmp_path.glob("*.damaged"))


def test_a_rotation_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seal that could not be written leaves no segment out of the row."""
    original = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) == journals.FRAME.size:
            raise OSError(28, "No space left on device")
        return original(descriptor, data, offset)

    async def scenario() -> list[AnyRecord]:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        for number in range(8):
            await kept(journal, [prompt(number, "x" * 1_000_000)])
        with monkeypatch.context() as patch, structlog.testing.capture_logs():
            patch.setattr(os, "pwrite", full)
            for _ in range(3):
                with pytest.raises(NotRecordable):
                    await kept(journal, [prompt(8, "x" * 1_000_000)])
        journal.append(prompt(9, "x"))
        await asyncio.sleep(0)
        assert sorted(path.name for path in (tmp_path / journal.worker).glob("*.seg")) == [
            "00000001.seg",
            "00000002.seg",
        ]
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        return records

    assert [record.interception_id for record in in_loop(scenario)] == [f"i{n}" for n in range(10)]


def test_a_segment_whose_folder_cannot_be_synced_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made again when there is need for it, and the row of segments has no hole."""

    def broken(_folder: Path) -> None:
        raise OSError(5, "Input/output error")

    async def scenario() -> list[AnyRecord]:
        journal = Journal(tmp_path, max_bytes=1 << 30, sync="interval")
        for number in range(7):
            await kept(journal, [prompt(number, "x" * 1_000_000)])
        with monkeypatch.context() as patch, structlog.testing.capture_logs():
            patch.setattr(journals, "sync_folder", broken)
            for number in range(5):
                with pytest.raises(NotRecordable, match="no room"):
                    await kept(journal, [interception(number), prompt(number, "x" * 1_400_000)])
        await kept(journal, [prompt(7, "x" * 1_400_000)])
        names = sorted(path.name for path in (tmp_path / journal.worker).glob("*.seg"))
        assert names == ["00000001.seg", "00000002.seg"]
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        return records

    assert [record.interception_id for record in in_loop(scenario)] == [f"i{n}" for n in range(8)]


def gone(how: str, folder: Path, journal: Journal) -> None:
    """Have the journal of a running worker vanish."""
    if how == "the worker's folder":
        shutil.rmtree(folder / journal.worker)
    elif how == "the whole folder":
        shutil.rmtree(folder)
    else:  # as after an unmount: other files are there
        path = segment_path(folder / journal.worker, 1)
        path.unlink()
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["the worker's folder", "the whole folder", "another file in its place"])
def test_a_journal_that_has_vanished_takes_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Writes to files that nobody can find succeed; so the worker looks, refuses, and says what to do."""
    monkeypatch.setattr(journals, "WATCH_S", 0.005)
    folder = tmp_path / "journal"
    folder.mkdir()

    async def scenario() -> None:
        journal = Journal(folder, max_bytes=1 << 30)
        await kept(journal, [interception(1)])
        await asyncio.sleep(0.02)
        assert not journal.is_lost
        gone(how, folder, journal)
        with structlog.testing.capture_logs() as logs:
            while not journal.is_lost:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.02)
            with pytest.raises(NotRecordable, match="the folder of the journal is gone; bring its volume back"):
                await kept(journal, [interception(2)])
            journal.end([end(1)])
            await asyncio.sleep(0)
        assert [line["event"] for line in logs] == ["journal_vanished"]
        journal.close()

    in_loop(scenario)


def test_the_watch_follows_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that was shipped and removed is not taken for a lost one."""
    monkeypatch.setattr(journals, "WATCH_S", 0.001)

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        tail = Tail(tmp_path / journal.worker)
        for number in range(30):
            await kept(journal, [prompt(number, "x" * 1_000_000)])
            read_all(tail)
            await asyncio.sleep(0.002)
            assert not journal.is_lost
        assert not segment_path(tmp_path / journal.worker, 1).exists()
        journal.close()

    in_loop(scenario)


@pytest.mark.parametrize("jump_us", [-3600 * 1_000_000, 365 * 86_400 * 1_000_000])
def test_nothing_ends_before_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_us: int) -> None:
    """A clock that is set back an hour, or forward a year, makes no negative duration."""

    async def scenario() -> list[AnyRecord]:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        begun = interception(1)
        recorder = Recorder(journal, begun, samples.series())
        recorder.begin("hello", lambda _failure: None)
        monkeypatch.setattr(recorders, "now_us", lambda: begun.started_at + jump_us)
        recorder.end("completed", http_status=200, attempts=1)
        await asyncio.sleep(0)
        records = read_all(Tail(tmp_path / journal.worker))
        journal.close()
        return records

    *_others, last = in_loop(scenario)
    assert last.ended_at == interception(1).started_at + max(0, jump_us)


def test_the_reserve_is_kept_for_everybody(tmp_path: Path) -> None:
    """Each open interception has its own room for tokens, tools and end, however full the journal is."""

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=2 * SEGMENT_BYTES)
        begun = await fill(journal, "x" * 20_000)
        for number in range(begun):
            journal.end([prompt(number, "x" * (RESERVE_BYTES - 1000)), end(number)])
        await asyncio.sleep(0)
        folder = tmp_path / journal.worker
        assert len(list(folder.glob("*.seg"))) == 2
        assert sum(isinstance(record, InterceptionEnd) for record in read_all(Tail(folder))) == begun
        journal.close()

    in_loop(scenario)


def test_frames_end_within_their_segment() -> None:
    """The largest record that there can be fits: a prompt whose every byte JSON spells with six."""
    assert len(frame(prompt(1, "\x01" * (1 << 20)))) < SEGMENT_BYTES


def test_a_vanished_journal_is_a_503_and_unready(tmp_path: Path) -> None:
    """Through the gateway: new requests are refused in their own shape, and readiness says so."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url)
        with gateways.running(tmp_path) as gateway:
            path: Any = "/anthropic/v1/messages"
            assert gateway.ask(path, gateways.BODIES[path]).status == 200
            gateway.record()
            shutil.rmtree(tmp_path / "bridgecore.db.journal")
            gateways.eventually(lambda: True if gateway.ask("/-/readyz").status == 503 else None)
            before = len(fake.requests)
            refused = gateway.ask(path, gateways.BODIES[path])
            assert (refused.status, refused.json["type"], refused.headers["retry-after"]) == (503, "error", "5")
            assert "the folder of the journal is gone" in refused.json["error"]["message"]
            assert len(fake.requests) == before
            assert gateway.ask("/openai/v1/models").status == 200
