"""Several gateways on one database: each ends what is its own, and what nobody ships any more ends once."""

import os
import shutil
import threading
from pathlib import Path

import pytest
import structlog

import samples
from bridgeserver.errors import BridgeError
from bridgeserver.journal import Journal, frame
from bridgeserver.registry import RENEW_S, WATCH_S, journal_id
from bridgeserver.shipper import Shipper
from bridgeserver.store import Store, open_store
from bridgeserver.supervisor import lock_journal
from journallab import Shelf, abandoned, in_loop, interception, kept

DAY_S = 86_400.0
YEAR_US = 365 * 86_400 * 1_000_000


class Gateway:
    """The shipper of one gateway, with clocks of its own."""

    def __init__(self, folder: Path, store: Store, lost_after_s: float = DAY_S) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.now = 0.0
        self.wall_us = 1_764_000_000_000_000
        self.shipper = Shipper(
            folder, store, lost_after_s=lost_after_s, clock=lambda: self.now, wall_us=lambda: self.wall_us
        )

    def pass_time(self, seconds: float) -> None:
        """Let both clocks go on, and make a pass."""
        self.now += seconds
        self.wall_us += round(seconds * 1_000_000)
        self.shipper.ship()


@pytest.fixture
def store(emptied_store: Store) -> Store:
    """An empty store of either engine."""
    return emptied_store


@pytest.fixture
def gateways(tmp_path: Path, store: Store) -> tuple[Gateway, Gateway]:
    """Two gateways on one database."""
    return Gateway(tmp_path / "one", store), Gateway(tmp_path / "two", store)


def statuses(store: Store) -> dict[str, str]:
    """Return what became of each interception."""
    return {str(record["id"]): str(record["status"]) for record in store.records()}


def rows(store: Store) -> tuple[int, int]:
    """Return how many journals and workers the store knows."""
    found = samples.tables(store, ("journals", "workers"))
    return len(found["journals"]), len(found["workers"])


def test_the_id_of_a_journal_is_made_once(tmp_path: Path) -> None:
    """It stands in a file of the folder, and stays."""
    made = journal_id(tmp_path)
    assert (tmp_path / "id").read_text() == f"{made}\n"
    assert journal_id(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == ["id"]


def test_one_gateway_leaves_the_other_ones_interceptions_alone(gateways: tuple[Gateway, Gateway], store: Store) -> None:
    """A worker whose folder is not here may be alive elsewhere: its interceptions stay open."""
    one, two = gateways

    async def scenario() -> None:
        journal = Journal(one.folder, max_bytes=1 << 30)
        await kept(journal, [interception(1, journal.worker)])
        one.shipper.ship()
        for _ in range(5):
            two.pass_time(RENEW_S)
        assert statuses(store) == {"i1": "open"}
        assert rows(store) == (2, 1)
        journal.close()
        two.pass_time(RENEW_S)
        assert statuses(store) == {"i1": "open"}
        one.shipper.ship()
        assert statuses(store) == {"i1": "interrupted"}
        assert rows(store) == (2, 0)

    in_loop(scenario)


def test_a_gateway_ends_what_its_own_lost_workers_left(gateways: tuple[Gateway, Gateway], store: Store) -> None:
    """A folder of this journal that is gone, with its volume or by hand, will never be shipped."""
    one, _two = gateways
    abandoned(one.folder, frame(samples.interception(1, worker="dead")))
    one.shipper.ship()
    shutil.rmtree(one.folder / "dead")
    with structlog.testing.capture_logs():
        Gateway(one.folder, store).shipper.ship()
    assert statuses(store) == {"i0001": "interrupted"}
    assert rows(store) == (1, 0)


def test_what_belongs_to_nobody_is_ended(gateways: tuple[Gateway, Gateway], store: Store) -> None:
    """Interceptions of earlier versions have a worker without a row; one whose folder is here is shipped first."""
    one, _two = gateways
    store.apply([samples.interception(1, worker="older"), samples.interception(2, worker="dead")])
    abandoned(one.folder, frame(samples.end(2)))
    with structlog.testing.capture_logs():
        while one.shipper.ship():
            pass
    assert statuses(store) == {"i0001": "interrupted", "i0002": "completed"}


def leave(gateway: Gateway, number: int) -> None:
    """Have a gateway ship an open interception and then be gone for good."""
    name = f"w{number}"
    abandoned(gateway.folder, frame(samples.interception(number, worker=name)))
    (gateway.folder / "dead").rename(gateway.folder / name)
    gateway.shipper.ship()


def test_a_lost_journal_is_ended_by_another_gateway(gateways: tuple[Gateway, Gateway], store: Store) -> None:
    """One that is silent for `lost_after_s` does not come back: its interceptions end, and its rows go."""
    one, two = gateways
    leave(one, 1)
    two.pass_time(0)
    for _ in range(10):
        two.pass_time(DAY_S / 11)
    assert statuses(store) == {"i0001": "open"}
    with structlog.testing.capture_logs() as logs:
        two.pass_time(DAY_S / 11 + 1)
        two.pass_time(WATCH_S)
    assert statuses(store) == {"i0001": "interrupted"}
    assert rows(store) == (1, 0)
    (line,) = [line for line in logs if line["event"] == "journal_lost"]
    assert (line["journal"], line["interrupted"]) == (journal_id(one.folder), 1)


def test_a_jump_of_the_clock_ends_nobody(gateways: tuple[Gateway, Gateway], store: Store) -> None:
    """A gateway whose clock goes forward a year sees others that are alive, and leaves them alone."""
    one, two = gateways
    leave(one, 1)
    two.wall_us += YEAR_US
    for _ in range(20):
        one.pass_time(RENEW_S)
        two.pass_time(RENEW_S)
    assert rows(store)[0] == 2
    two.wall_us -= 2 * YEAR_US
    two.pass_time(RENEW_S)
    assert rows(store)[0] == 2


def test_a_journal_that_comes_back_is_known_again(gateways: tuple[Gateway, Gateway], store: Store) -> None:
    """One that was taken for lost goes on, and its living workers are its own again."""
    one, two = gateways

    async def scenario() -> None:
        journal = Journal(one.folder, max_bytes=1 << 30)
        await kept(journal, [interception(1, journal.worker)])
        one.shipper.ship()
        two.pass_time(0)
        with structlog.testing.capture_logs():
            two.pass_time(2 * DAY_S)
        assert statuses(store) == {"i1": "interrupted"}
        await kept(journal, [interception(2, journal.worker)])
        one.pass_time(RENEW_S)
        assert rows(store) == (2, 1)
        with structlog.testing.capture_logs():
            two.pass_time(RENEW_S)
        assert statuses(store) == {"i1": "interrupted", "i2": "open"}
        journal.close()

    in_loop(scenario)


def test_several_gateways_end_a_lost_journal_once(tmp_path: Path, store: Store) -> None:
    """However many try at the same moment, one of them does it, and the others find that it is done."""
    one = Gateway(tmp_path / "one", store)
    leave(one, 1)
    (seen_at,) = (row["seen_at"] for row in samples.tables(store, ("journals",))["journals"])
    lost = journal_id(one.folder)
    results = list[int | None]()
    barrier = threading.Barrier(4)

    def end_it() -> None:
        with_own = open_store(store.url)
        barrier.wait()
        results.append(with_own.end_journal(lost, seen_at, 3_000_000))
        with_own.close()

    threads = [threading.Thread(target=end_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [1, None, None, None]
    assert statuses(store) == {"i0001": "interrupted"}


def test_a_journal_that_was_heard_of_meanwhile_is_not_lost(gateways: tuple[Gateway, Gateway], store: Store) -> None:
    """Between the look and the end it may renew: then nothing is ended."""
    one, _two = gateways
    leave(one, 1)
    (seen_at,) = (row["seen_at"] for row in samples.tables(store, ("journals",))["journals"])
    one.pass_time(RENEW_S)
    assert store.end_journal(journal_id(one.folder), seen_at, 3_000_000) is None
    assert rows(store)[0] == 1


def test_renews_every_ten_seconds(tmp_path: Path) -> None:
    """A pass between two renewals asks the store nothing."""
    shelf = Shelf()
    now, wall = 0.0, 0
    shipper = Shipper(tmp_path, shelf, clock=lambda: now, wall_us=lambda: wall)
    seen = list[int]()
    for _ in range(21):
        shipper.ship()
        seen.append(*shelf.journals.values())
        now, wall = now + RENEW_S / 10, wall + 1
    assert seen == [0] * 10 + [10] * 10 + [20]


def test_two_shippers_never_share_a_journal(tmp_path: Path) -> None:
    """The lock of the folder keeps a second gateway out, until the first one is gone."""
    first = lock_journal(tmp_path)
    with pytest.raises(BridgeError, match=f"another gateway \\(process {os.getpid()}\\) serves from"):
        lock_journal(tmp_path)
    os.close(first)
    os.close(lock_journal(tmp_path))
