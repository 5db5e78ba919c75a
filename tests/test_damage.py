"""Damage in a journal: what cannot be read is kept aside, and nothing else is lost or taken for it."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from bridgeserver.frames import SEAL, find_frame
from bridgeserver.journal import FRAME, SEGMENT_BYTES, Journal, frame, segment_path
from bridgeserver.records import AnyRecord
from bridgeserver.shipper import Shipper
from bridgeserver.tail import LOOK_BEHIND_NOTHING_S, LOOK_S, Tail
from journallab import Shelf, abandoned, end, in_loop, interception, kept, prompt, ship_all

COUNT = 5


def flip(data: bytearray, at: int) -> None:
    """Change the bits of one byte, as a bad disk does."""
    data[at] ^= 0xFF


def overwrite_length(length: int) -> Callable[[bytearray, int, int], None]:
    """Return what writes another length into a frame's header."""

    def damage(data: bytearray, start: int, _stop: int) -> None:
        data[start : start + 4] = length.to_bytes(4, "little")

    return damage


def flip_payload(data: bytearray, start: int, _stop: int) -> None:
    flip(data, start + FRAME.size + 20)


def flip_checksum(data: bytearray, start: int, _stop: int) -> None:
    flip(data, start + 5)


def zero(data: bytearray, start: int, stop: int) -> None:
    data[start:stop] = bytes(stop - start)


def scribble(data: bytearray, start: int, stop: int) -> None:
    data[start:stop] = random.Random(7).randbytes(stop - start)


DAMAGE = {
    "payload": flip_payload,
    "checksum": flip_checksum,
    "zeroed": zero,
    "garbage": scribble,
    "no length": overwrite_length(0),
    "short length": overwrite_length(9),
    "long length": overwrite_length(4000),
    "beyond the segment": overwrite_length(SEGMENT_BYTES - 1),
    "absurd length": overwrite_length(SEGMENT_BYTES + 1),
    "like a seal": overwrite_length(0xFFFFFFFF),
}


def damaged_journal(damage: Callable[[bytearray, int, int], None], number: int) -> tuple[bytes, int, int]:
    """Return frames of which one is damaged, and where that one begins and ends."""
    frames = [frame(interception(n)) for n in range(COUNT)]
    start = sum(map(len, frames[:number]))
    data = bytearray(b"".join(frames))
    damage(data, start, start + len(frames[number]))
    return bytes(data), start, start + len(frames[number])


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("number", range(COUNT - 1))
def test_a_damaged_frame_costs_its_own_records_only(
    tmp_path: Path, damage: Callable[[bytearray, int, int], None], number: int
) -> None:
    """Reading goes on at the next whole frame; the bytes between are kept, counted and logged."""
    data, start, stop = damaged_journal(damage, number)
    abandoned(tmp_path, data)
    shelf = Shelf()
    with structlog.testing.capture_logs() as logs:
        shipper = ship_all(tmp_path, shelf)
    assert shelf.records == [interception(n) for n in range(COUNT) if n != number]
    assert (tmp_path / f"dead-00000001-{start}.damaged").read_bytes() == data[start:stop]
    assert shipper.stats().damaged == 1
    (line,) = [line for line in logs if line["event"] == "journal_damaged"]
    assert (line["offset"], line["bytes"]) == (start, stop - start)
    assert not (tmp_path / "dead").exists()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_does_not_stop_a_living_worker(tmp_path: Path, damage: Callable[[bytearray, int, int], None]) -> None:
    """What a living worker wrote behind the damage is shipped while it lives."""

    async def scenario() -> None:
        now = 0.0
        journal = Journal(tmp_path, max_bytes=1 << 30)
        for number in range(COUNT):
            await kept(journal, [interception(number)])
        path = segment_path(tmp_path / journal.worker, 1)
        start = len(frame(interception(0)))
        data = bytearray(path.read_bytes()[: 2 * start])
        damage(data, start, 2 * start)
        with path.open("r+b") as file:
            file.write(data)
        shelf = Shelf()
        shipper = Shipper(tmp_path, shelf, clock=lambda: now)
        while shipper.ship():
            now += LOOK_BEHIND_NOTHING_S
        await kept(journal, [interception(COUNT)])
        assert shipper.ship() == 1
        assert shelf.records == [interception(n) for n in range(COUNT + 1) if n != 1]
        assert shelf.interrupted == []
        journal.close()

    in_loop(scenario)


def test_what_is_being_written_is_not_damage(tmp_path: Path) -> None:
    """However long a frame takes to be whole, and wherever it is cut meanwhile, it is read once it is there."""
    data = frame(interception(1)) + frame(interception(2), prompt(2, "x" * 300))
    cut = len(frame(interception(1)))

    async def scenario() -> None:
        now = 0.0
        journal = Journal(tmp_path, max_bytes=1 << 30)
        path = segment_path(tmp_path / journal.worker, 1)
        tail = Tail(tmp_path / journal.worker, lambda: now)
        for size in range(cut, len(data), 7):
            with path.open("r+b") as file:
                file.write(data[:size])
            piece = tail.read(10)
            piece.advance()
            assert piece.damaged == 0
            assert piece.records == ([interception(1)] if size == cut else [])
            now += LOOK_BEHIND_NOTHING_S
        with path.open("r+b") as file:
            file.write(data)
        assert tail.read(10).records == [interception(2), prompt(2, "x" * 300)]
        tail.close()
        journal.close()

    in_loop(scenario)
    assert not list(tmp_path.glob("*.damaged"))


def test_what_became_whole_during_the_look_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame behind may be seen before the one in front of it is; then that one is looked at once more."""
    first, second = frame(interception(1)), frame(interception(2))
    folder = abandoned(tmp_path, bytes(len(first)) + second)

    def find(descriptor: int, offset: int) -> int | None:
        found = find_frame(descriptor, offset)
        segment_path(folder, 1).write_bytes(first + second)
        return found

    monkeypatch.setattr("bridgeserver.tail.find_frame", find)
    tail = Tail(folder)
    assert tail.read(10, is_abandoned=True).records == []
    assert tail.read(10, is_abandoned=True).records == [interception(1), interception(2)]


def test_a_living_worker_is_searched_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a segment is not read ten times a second: seldom behind nothing, more often behind bytes."""
    searches = list[int]()

    def find(_descriptor: int, offset: int) -> None:
        searches.append(offset)

    monkeypatch.setattr("bridgeserver.tail.find_frame", find)
    now = 0.0
    folder = abandoned(tmp_path, b"")
    tail = Tail(folder, lambda: now)
    for _ in range(101):
        tail.read(10)
        now += LOOK_BEHIND_NOTHING_S / 10
    assert len(searches) == 11
    segment_path(folder, 1).write_bytes(b"\x07" * 100)
    for _ in range(100):
        tail.read(10)
        now += LOOK_S / 10
    assert len(searches) in {20, 21, 22}


@pytest.mark.parametrize("is_seal_whole", [True, False])
def test_damage_up_to_the_end_of_a_segment(tmp_path: Path, *, is_seal_whole: bool) -> None:
    """With a later segment begun, what stands here is kept, and reading goes on there."""
    bad = bytearray(frame(interception(1)))
    flip(bad, len(bad) - 3)
    data = frame(interception(0)) + bytes(bad) + (SEAL if is_seal_whole else b"")
    abandoned(tmp_path, data)
    abandoned(tmp_path, b"", number=2)
    abandoned(tmp_path, frame(interception(2)), number=3)
    shelf = Shelf()
    ship_all(tmp_path, shelf)
    assert shelf.records == [interception(0), interception(2)]
    (aside,) = tmp_path.glob("*.damaged")
    assert aside.read_bytes().rstrip(b"\0") == data[len(frame(interception(0))) :].rstrip(b"\0")


def test_much_damage_is_taken_in_pieces(tmp_path: Path) -> None:
    """What is kept aside at once is bounded like what is read at once."""
    for number in range(1, 9):
        abandoned(tmp_path, random.Random(number).randbytes(1000), number)
    abandoned(tmp_path, frame(interception(1)), number=9)
    shelf = Shelf()
    tail = Tail(tmp_path / "dead")
    piece = tail.read(10, 2500, is_abandoned=True)
    assert (piece.damaged, piece.is_full) == (3, True)
    piece.advance()
    shipper = ship_all(tmp_path, shelf)
    assert (shelf.records, shipper.stats().damaged) == ([interception(1)], 5)


def test_a_lost_seal_loses_nothing(tmp_path: Path) -> None:
    """A segment that just ends, with another one behind it, is gone on from."""
    abandoned(tmp_path, frame(interception(0)))
    abandoned(tmp_path, bytes(4096) + frame(interception(1)), number=2)
    shelf = Shelf()
    shipper = ship_all(tmp_path, shelf)
    assert shelf.records == [interception(0), interception(1)]
    assert shipper.stats().damaged == 2


def test_a_lost_segment_is_passed_over(tmp_path: Path) -> None:
    """One that is missing between two others does not keep the later one from being shipped."""
    folder = abandoned(tmp_path, frame(interception(0)) + SEAL)
    abandoned(tmp_path, frame(interception(1)) + SEAL, number=2)
    abandoned(tmp_path, frame(interception(2)), number=3)
    segment_path(folder, 2).unlink()
    shelf = Shelf()
    ship_all(tmp_path, shelf)
    assert shelf.records == [interception(0), interception(2)]


def test_a_prompt_cannot_pass_for_a_frame(tmp_path: Path) -> None:
    """Bytes of a frame within a prompt are not found as one, so nobody can forge a record by damage."""
    forged = frame(interception(99)).decode("latin-1")
    data = bytearray(frame(interception(1), prompt(1, forged + '{"kind":"end"}')) + frame(end(1)))
    flip(data, 3)
    abandoned(tmp_path, bytes(data))
    shelf = Shelf()
    ship_all(tmp_path, shelf)
    assert shelf.records == [end(1)]


def test_looking_again_at_damage_keeps_it_once(tmp_path: Path) -> None:
    """A shipper that died after it had kept something aside, and before it went on, does no harm."""
    data, start, _stop = damaged_journal(flip_payload, 1)
    folder = abandoned(tmp_path, data)
    first = Tail(folder).read(1_000, is_abandoned=True)
    first.advance()
    size = (tmp_path / f"dead-00000001-{start}.damaged").stat().st_size
    shelf = Shelf()
    ship_all(tmp_path, shelf)
    assert [path.stat().st_size for path in tmp_path.glob("*.damaged")] == [size]


def test_random_damage_never_invents_a_record(tmp_path: Path) -> None:
    """Whatever is overwritten, what is read is what was written, in its order, and most of it."""
    chance = random.Random(11)
    written: list[AnyRecord] = [interception(n) for n in range(200)]
    whole = b"".join(map(frame, written))
    for trial in range(30):
        data = bytearray(whole)
        hit = 0
        for _ in range(chance.randint(1, 6)):
            start = chance.randrange(len(data))
            size = chance.choice((1, 8, 100, 512))
            data[start : start + size] = chance.randbytes(len(data[start : start + size]))
            hit += 2 + size // len(frame(interception(0)))
        folder = tmp_path / str(trial)
        folder.mkdir()
        abandoned(folder, bytes(data))
        shelf = Shelf()
        ship_all(folder, shelf)
        read = iter(written)
        assert all(record in read for record in shelf.records)
        assert len(shelf.records) >= len(written) - hit


def test_a_segment_that_cannot_be_read_stops_its_own_worker_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad block of the disk is a failure that is tried again, and the others are shipped."""
    bad = abandoned(tmp_path, frame(interception(1)))
    good = tmp_path / "other"
    bad.rename(tmp_path / "bad")
    abandoned(tmp_path, frame(interception(2))).rename(good)
    original = os.open

    def failing(path: Path, flags: int, mode: int = 0o777) -> int:
        if "bad" in str(path) and str(path).endswith(".seg"):
            raise OSError(5, "Input/output error")
        return original(path, flags, mode)

    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        assert shipper.attempt() is None
        assert shelf.records == [interception(2)]
    while shipper.ship():
        pass
    assert shelf.records == [interception(2), interception(1)]
