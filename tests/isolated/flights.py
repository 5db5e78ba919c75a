"""Rounds of flights with results, errors and cancellations leave no memory and no garbage behind."""

import asyncio
import gc
import resource
import threading
import tracemalloc
from contextlib import suppress
from itertools import pairwise

from bridgecore import FlightGroup


class Failure(Exception):
    """What the work raises."""


def fail() -> None:
    """Raise it."""
    raise Failure("failed")


async def fail_later() -> None:
    """Raise it, after others have joined."""
    await asyncio.sleep(0)
    raise Failure("failed")


async def succeed() -> list[int]:
    """Return something that would be seen if it stayed."""
    await asyncio.sleep(0)
    return [1]


async def never() -> None:
    """Wait until it is cancelled."""
    await asyncio.get_running_loop().create_future()


async def tasks(group: FlightGroup) -> None:
    """Share results and errors, and leave some flights early."""
    results = await asyncio.gather(*(group.run("good", succeed) for _ in range(5)))
    assert results == [[1]] * 5
    errors = await asyncio.gather(*(group.run("bad", fail_later) for _ in range(5)), return_exceptions=True)
    assert [type(error) for error in errors] == [Failure] * 5
    del results, errors
    left = [asyncio.ensure_future(group.run("never", never)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    group.forget("never")


def threads(group: FlightGroup) -> None:
    """Share a result and an error between threads."""
    entered = threading.Event()
    leave = threading.Event()

    def work() -> None:
        entered.set()
        assert leave.wait(30)
        raise Failure("failed")

    def ask() -> None:
        try:
            group.do("shared", work)
        except Failure:
            return
        raise AssertionError("no failure")

    asking = [threading.Thread(target=ask) for _ in range(3)]
    joined = group.stats().joined
    for thread in asking:
        thread.start()
    assert entered.wait(30)
    pause = threading.Event()
    while group.stats().joined < joined + 2:
        pause.wait(0.0002)
    leave.set()
    for thread in asking:
        thread.join()


def rounds(count: int) -> int:
    """Return how much memory is in use after that many rounds."""
    groups = [FlightGroup("finish"), FlightGroup("cancel")]
    with asyncio.Runner() as runner:
        for _ in range(count):
            runner.run(tasks(groups[1]))
            for group in groups:
                threads(group)
                assert group.do("plain", lambda: 5) == 5
                with suppress(Failure):
                    group.do("plain", fail)
    assert [len(group) for group in groups] == [0, 0]
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def peak() -> int:
    """Return the most memory that the process had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


tracemalloc.start()
rounds(30)
resident = peak()
used = [rounds(30) for _ in range(7)]
tracemalloc.stop()
# The interpreter's own free lists fill at their own times; a leak of ours shows in every difference.
assert min(after - before for before, after in pairwise(used)) < 30 * 32, used
assert peak() - resident < 8192, (resident, peak())

lonely = FlightGroup()
gc.collect()
gc.disable()
gc.set_debug(gc.DEBUG_SAVEALL)
for _turn in range(3):
    threads(lonely)
    with suppress(Failure):
        lonely.do("plain", fail)
gc.collect()
assert gc.garbage == [], gc.garbage
gc.set_debug(0)
