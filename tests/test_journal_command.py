"""`bridgecore journal`: what waits for the store, with a gateway beside it and without one."""

import json
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import commandlab
import gateway as gateways
from bridgeserver import fakeprovider
from bridgeserver.frames import SEAL
from bridgeserver.journal import FRAME, Journal, frame
from bridgeserver.journal_command import look_at
from bridgeserver.records import now_us
from bridgeserver.shipper import Shipper
from gateway import BODIES
from journallab import Shelf, abandoned, end, in_loop, interception, kept, prompt

PATH = "/openai/v1/responses"


def worker_of(folder: Path) -> dict[str, Any]:
    """Return what is shown of the only worker."""
    (worker,) = look_at(folder)["workers"]
    return dict(worker)


def test_without_a_journal(tmp_path: Path) -> None:
    """Before the first start there is none, and that is no mistake."""
    done = gateways.bridgecore(tmp_path, "journal")
    assert (done.returncode, done.stdout) == (0, f"journal {tmp_path}/bridgecore.db.journal: there is none\n")
    assert list(tmp_path.iterdir()) == []


def test_a_dead_workers_folder(tmp_path: Path) -> None:
    """Frames, records, bytes and the oldest record are those that are in the files, over all segments."""
    first, second = frame(interception(1), prompt(1, "x")), frame(interception(2))
    abandoned(tmp_path, first + SEAL)
    abandoned(tmp_path, second, number=2)
    assert worker_of(tmp_path) | {"lag_s": 0.0} == {
        "worker": "dead",
        "alive": False,
        "segments": 2,
        "bytes": len(first + second),
        "frames": 2,
        "records": 3,
        "oldest": "1970-01-01T00:00:00.001Z",
        "lag_s": 0.0,
    }
    assert worker_of(tmp_path)["lag_s"] > 1e9


def test_a_living_worker_and_what_is_shipped_of_it(tmp_path: Path) -> None:
    """What the shipper has taken does not wait any more; looking disturbs neither side."""

    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=1 << 30)
        shelf = Shelf()
        shipper = Shipper(tmp_path, shelf)
        await kept(journal, [interception(1)])
        assert (worker_of(tmp_path)["alive"], worker_of(tmp_path)["records"]) == (True, 1)
        shipper.ship()
        shown = worker_of(tmp_path)
        assert (shown["records"], shown["oldest"], shown["lag_s"]) == (0, None, 0.0)
        await kept(journal, [prompt(1, "x"), end(1)])
        assert worker_of(tmp_path)["records"] == 2
        shipper.ship()
        assert shelf.records == [interception(1), prompt(1, "x"), end(1)]
        assert shelf.interrupted == []
        journal.close()

    in_loop(scenario)


def test_a_position_is_never_believed_by_the_shipper(tmp_path: Path) -> None:
    """It is for people: one that is wrong changes what is shown and not what is shipped."""
    folder = abandoned(tmp_path, frame(interception(1)) + frame(end(1)))
    (folder / "position").write_text("00000009 00000000\n")
    assert worker_of(tmp_path)["records"] == 0
    (folder / "position").write_text("nonsense")
    assert worker_of(tmp_path)["records"] == 2
    (folder / "position").write_text("00000009 00000000\n")
    shelf = Shelf()
    shipper = Shipper(tmp_path, shelf)
    while shipper.ship():
        pass
    assert shelf.records == [interception(1), end(1)]


def test_damage_is_passed_over(tmp_path: Path) -> None:
    """What is behind it waits as well; what was kept aside is listed with its size."""
    data = bytearray(frame(interception(1)) + frame(interception(2)) + frame(interception(3)))
    data[len(frame(interception(1))) + 20] ^= 0xFF
    abandoned(tmp_path, bytes(data))
    (tmp_path / "w.damaged").write_bytes(b"12345")
    (tmp_path / "w.refused").write_bytes(b"123")
    survey = look_at(tmp_path)
    assert survey["workers"][0]["records"] == 2
    assert survey["kept_aside"] == [{"name": "w.damaged", "bytes": 5}, {"name": "w.refused", "bytes": 3}]


def test_records_of_another_version_have_no_time(tmp_path: Path) -> None:
    """They are counted all the same."""
    strange = frame(interception(1)).replace(b'"started_at":1001', b'"started_ax":1001')
    payload = strange[FRAME.size :]
    abandoned(tmp_path, FRAME.pack(len(payload), zlib.crc32(payload)) + payload)
    shown = worker_of(tmp_path)
    assert (shown["records"], shown["oldest"], shown["lag_s"]) == (1, None, 0.0)


def test_beside_a_running_gateway(tmp_path: Path) -> None:
    """While the store takes nothing the command shows what waits and since when; then nothing waits."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url)
        with gateways.running(tmp_path) as gateway, closing(sqlite3.connect(tmp_path / "bridgecore.db")) as other:
            assert gateway.ask(PATH, BODIES[PATH]).status == 200
            gateway.record()
            other.execute("BEGIN IMMEDIATE")
            began = now_us()
            for _ in range(3):
                assert gateway.ask(PATH, BODIES[PATH]).status == 200
            shown = json.loads(commandlab.bridgecore(tmp_path, "journal", "--json").stdout)
            (worker,) = shown["workers"]
            assert worker["alive"]
            assert worker["records"] >= 3 * 4 - 2  # tokens and end of the last one may be on their way
            assert 0 < worker["lag_s"] <= (now_us() - began) / 1e6 + 0.01
            table = gateways.bridgecore(tmp_path, "journal").stdout.splitlines()
            assert table[0] == f"journal {tmp_path}/bridgecore.db.journal"
            assert table[1].split() == ["worker", "alive", "segments", "bytes", "frames", "records", "oldest", "lag_s"]
            assert table[2].split()[:2] == [worker["worker"], "yes"]
            other.rollback()
            gateways.eventually(lambda: True if gateway.count_recorded() == 5 else None)
            gateways.eventually(lambda: True if worker_of(tmp_path / "bridgecore.db.journal")["records"] == 0 else None)
