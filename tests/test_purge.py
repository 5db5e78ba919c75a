"""Forgetting: what is older than the retention goes, with all that belongs to it, and nothing else."""

import subprocess
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

import gateway as gateways
import samples
from bridgeserver.errors import StoreUnavailable
from bridgeserver.purge import BATCH, DAY_US, EVERY_S, FIRST_S, PAUSE_S, Purger, days_ago, purge
from bridgeserver.records import AnyRecord, ModelThought, TokenUsage, ToolUse, UserPrompt, now_us
from bridgeserver.store import Store, open_store

NOW_US = 1_796_000_000_000_000
CHILDREN = ("user_prompts", "token_usages", "tool_usages", "model_thoughts")


@pytest.fixture
def store(emptied_store: Store) -> Store:
    """An empty store of either engine."""
    return emptied_store


def request(number: int, at: int, *, session: str | None = None, is_open: bool = False) -> list[AnyRecord]:
    """Return what a request leaves that began at that time."""
    children: list[UserPrompt | TokenUsage | ToolUse | ModelThought] = [
        samples.prompt(number),
        samples.usage(number),
        samples.tool(number),
        samples.thought(number),
    ]
    begun = msgspec.structs.replace(samples.interception(number, started_at=at), session_id=session)
    rest = [msgspec.structs.replace(child, created_at=at) for child in children]
    return [begun, *rest] if is_open else [begun, *rest, samples.end(number, ended_at=at + 1)]


def purged(store: Store, before: int) -> int:
    """Purge without waiting."""
    return purge(store, before, pause=lambda _seconds: False)


def left(store: Store) -> dict[str, list[str]]:
    """Return the ids of what is left, by table."""
    found = samples.tables(store)
    names = {name: [row["interception_id"] for row in found[name]] for name in CHILDREN}
    return names | {"interceptions": [row["id"] for row in found["interceptions"]]}


def sessions(store: Store) -> list[tuple[Any, ...]]:
    """Return the rows of the sessions."""
    return [tuple(row.values()) for row in samples.tables(store)["sessions"]]


@pytest.mark.parametrize("is_open", [False, True])
def test_the_retention_is_a_boundary(store: Store, *, is_open: bool) -> None:
    """At 30 days a request of 31 days goes and one of 29 stays, with its records; open ones go by their beginning."""
    for number, days in enumerate((31, 29, 30), 1):
        store.apply(request(number, NOW_US - days * DAY_US, is_open=is_open))
    assert purged(store, days_ago(30, NOW_US / 1e6)) == 1
    assert all(ids == ["i0002", "i0003"] for ids in left(store).values())
    assert [row[1] for row in sessions(store)] == ["i0002", "i0003"]
    assert purged(store, days_ago(30, NOW_US / 1e6)) == 0


def test_an_end_that_comes_later_brings_nothing_back(store: Store) -> None:
    """What was in flight when it was purged stays gone, and so do records of it that come later."""
    store.apply(request(1, 100, is_open=True))
    purged(store, 200)
    late = msgspec.structs.replace(samples.usage(1, 9), created_at=150)
    store.apply([late, samples.end(1)])
    purged(store, 200)
    assert not any(left(store).values())


def test_records_without_an_interception_go_by_their_own_time(store: Store) -> None:
    """A record whose interception is missing is as old as it says; one of a kept interception stays."""
    store.apply(request(1, 100)[1:-1])
    store.apply(request(2, 300)[1:-1])
    store.apply(request(3, 300))
    assert purged(store, 200) == 0
    found = left(store)
    assert found.pop("interceptions") == ["i0003"]
    assert all(ids == ["i0002", "i0003"] for ids in found.values())


def test_many_go_in_batches_with_pauses(store: Store) -> None:
    """No transaction deletes more than a batch, between two there is a pause, and each is told."""
    store.apply([record for number in range(2 * BATCH + 1) for record in request(number, number)])
    pauses, batches = list[float](), list[int]()
    total = purge(store, 2 * BATCH, pause=pauses.append, on_batch=batches.append)
    assert (total, batches) == (2 * BATCH, [BATCH, BATCH])
    assert pauses[:2] == [PAUSE_S, PAUSE_S]
    assert left(store)["interceptions"] == [f"i{2 * BATCH:04d}"]


def test_a_purge_can_be_stopped(store: Store) -> None:
    """It ends after the batch that is running; what is left is purged the next time."""
    store.apply([record for number in range(BATCH + 1) for record in request(number, number)])
    assert purge(store, 10_000, pause=lambda _seconds: True) == BATCH
    assert purged(store, 10_000) == 1


def test_many_orphans_go_in_batches(store: Store) -> None:
    """As with interceptions, one batch after another."""
    store.apply([record for number in range(2 * BATCH + 1) for record in request(number, 1)[1:-1]])
    purged(store, 10)
    assert not any(left(store).values())


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_a_session_is_what_is_left_of_it(store: Store, limit: int) -> None:
    """It begins with its first request that is left, forgets a prompt that is gone, and goes with its last request."""
    store.apply([*request(1, 100, session="s"), *request(2, 200, session="s")])
    promptless = [record for record in request(3, 400, session="s") if not isinstance(record, type(samples.prompt()))]
    store.apply([*promptless, *request(4, 150, session="t"), *request(5, 500, session="t")])
    found = dict[int, list[tuple[Any, ...]]]()
    for before in (150, 300, 450):
        while store.purge(before, limit):
            pass
        found[before] = sessions(store)
    assert found == {
        150: [("u", "s", 200, 200, 200), ("u", "t", 150, 500, 500)],
        300: [("u", "s", 400, None, 400), ("u", "t", 500, 500, 500)],
        450: [("u", "t", 500, 500, 500)],
    }


def test_a_thread_outlives_its_beginning(store: Store) -> None:
    """What went on from a request that was purged is still one session, also when more of it comes."""
    first, second, third = (
        msgspec.structs.replace(
            samples.interception(number, started_at=number), session_id=None, correlating_tool_call_id=of
        )
        for number, of in ((1, None), (2, "a"), (3, "b"))
    )
    calls = [
        msgspec.structs.replace(samples.tool(number), tool_call_id=of, user_id="u")
        for number, of in ((1, "a"), (2, "b"))
    ]
    store.apply([first, second, calls[0]])
    purged(store, 2)
    store.apply([third, calls[1]])
    rows = samples.tables(store)["interceptions"]
    assert [(row["thread_parent_id"], row["session_key"]) for row in rows] == [("i0001", "i0001"), ("i0002", "i0001")]
    assert sessions(store) == [("u", "i0001", 2, None, 2)]


def test_stored_responses_stay_their_users(store: Store) -> None:
    """Whose responses a provider keeps is no record of a request, and is not forgotten with it."""
    store.apply([samples.provider_object(), samples.continued_response(), *request(1, 100)])
    purged(store, NOW_US)
    found = samples.tables(store)
    assert (len(found["provider_objects"]), len(found["continued_responses"])) == (1, 1)


class Ticks:
    """A thread's waiting, moved by hand: each wait is reported, and ends when it is told how."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._waiting = threading.Semaphore(0)
        self._answers: list[bool] = []
        self._answered = threading.Semaphore(0)

    def wait(self, seconds: float) -> bool:
        """Wait for `tick`."""
        self.waits.append(seconds)
        self._waiting.release()
        self._answered.acquire()
        return self._answers.pop(0)

    def tick(self, *, stop: bool = False) -> None:
        """Let the wait end that is going on, or comes next, and return when the thread waits again, or was stopped."""
        assert self._waiting.acquire(timeout=10)
        self._answers.append(stop)
        self._answered.release()


def test_a_gateway_purges_once_an_hour(store: Store) -> None:
    """A minute after its start and then each hour, by the time that it is then."""
    now = [NOW_US / 1e6]
    ticks = Ticks()
    purger = Purger(store, 30, clock=lambda: now[0], wait=ticks.wait)
    store.apply([*request(1, NOW_US - 31 * DAY_US), *request(2, NOW_US - 29 * DAY_US)])
    purger.start()
    ticks.tick()
    ticks.tick()  # the pause after the batch
    now[0] += 2 * 86_400
    ticks.tick()
    ticks.tick()
    ticks.tick(stop=True)
    purger.stop()
    assert ticks.waits == [FIRST_S, PAUSE_S, EVERY_S, PAUSE_S, EVERY_S]
    assert left(store)["interceptions"] == []


def test_a_store_that_fails_is_tried_again() -> None:
    """The thread outlives a failure, whatever it was."""

    class Failing:
        def __init__(self) -> None:
            self.calls = 0

        def purge(self, before: int, limit: int) -> int:
            del before, limit
            self.calls += 1
            raise StoreUnavailable("the database is locked")

        def purge_orphans(self, before: int, limit: int) -> int:
            raise AssertionError(before, limit)

    failing, ticks = Failing(), Ticks()
    purger = Purger(failing, 1, wait=ticks.wait)
    purger.start()
    ticks.tick()
    ticks.tick()
    ticks.tick(stop=True)
    purger.stop()
    assert (failing.calls, ticks.waits) == (2, [FIRST_S, EVERY_S, EVERY_S])


def command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `bridgecore store purge`."""
    return gateways.bridgecore(folder, "store", "purge", *arguments)


def test_the_command_purges_at_once(tmp_path: Path) -> None:
    """By the retention or by an age that is given; one line says what was done, and nothing is drawn into a pipe."""
    gateways.write_config(tmp_path, "http://127.0.0.1:9", more="[records]\nretention_days = 30")
    store = open_store(f"sqlite:///{tmp_path}/bridgecore.db")
    store.upgrade()
    for number, days in enumerate((31, 29, 1), 1):
        store.apply(request(number, now_us() - days * DAY_US))
    by_retention = command(tmp_path)
    assert (by_retention.returncode, by_retention.stderr) == (0, "")
    assert by_retention.stdout.startswith("purged 1 interceptions that began before ")
    assert command(tmp_path, "--older-than", "10").stdout.startswith("purged 1 ")
    assert left(store)["interceptions"] == ["i0003"]
    store.close()


def test_the_command_needs_an_age(tmp_path: Path) -> None:
    """Without a retention it says what to do; an age that is none is wrong usage."""
    gateways.write_config(tmp_path, "http://127.0.0.1:9")
    refused = command(tmp_path)
    assert refused.returncode == 1
    assert "records.retention_days: found 0, which keeps records for ever" in refused.stderr
    for age in ("0", "-1", "x", "36501"):
        assert command(tmp_path, "--older-than", age).returncode == 2
