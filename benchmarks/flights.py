"""What bridgecore.FlightGroup adds to a call: from a thread, from a task, and for 1,000 tasks that join.

The comparisons are what one would write without it: the call itself, and a shielded task, which is the least that
keeps work alive when its caller is cancelled.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from common import optional
from keys import joined
from rounds import Row, own, timed

from bridgecore import FlightGroup

CALLS = 1_000
JOINED = 1_000

Work = Callable[[], Awaitable[None]]
Loop = Callable[[Any, Sequence[str], Work], Awaitable[None]]


def _nothing() -> None:
    pass


async def _at_once() -> None:
    pass


async def _after_a_turn() -> None:
    await asyncio.sleep(0)


def _each_call(_group: FlightGroup, keys: Sequence[str], work: Callable[[], None]) -> None:
    for _key in keys:
        work()


def _each_do(group: FlightGroup, keys: Sequence[str], work: Callable[[], None]) -> None:
    do = group.do
    for key in keys:
        do(key, work)


async def _each_await(_group: FlightGroup, keys: Sequence[str], work: Work) -> None:
    for _key in keys:
        await work()


async def _each_shield(_group: FlightGroup, keys: Sequence[str], work: Any) -> None:
    shield, create_task = asyncio.shield, asyncio.create_task
    for _key in keys:
        await shield(create_task(work()))


async def _each_run(group: FlightGroup, keys: Sequence[str], work: Work) -> None:
    run = group.run
    for key in keys:
        await run(key, work)


def do() -> Row:
    group, keys = FlightGroup(), [joined(number) for number in range(CALLS)]

    def way(loop: Callable[..., object]) -> Callable[[], float]:
        loop = own(loop)
        return lambda: timed(loop, group, keys, _nothing) / CALLS

    return Row("singleflight, call", {"the call": way(_each_call), "bridgecore: do": way(_each_do)})


def _run(name: str, make_loop: Callable[[], asyncio.AbstractEventLoop], work: Work) -> Row:
    group, keys = FlightGroup(), [joined(number) for number in range(CALLS)]
    runner = asyncio.Runner(loop_factory=make_loop)

    def way(loop: Loop) -> Callable[[], float]:
        loop = own(loop)

        async def slice_of() -> int:
            await loop(group, keys, work)
            start = time.perf_counter_ns()
            await loop(group, keys, work)
            return time.perf_counter_ns() - start

        return lambda: runner.run(slice_of()) / CALLS

    ways = {
        "await": way(_each_await),
        "await of a shielded task": way(_each_shield),
        "bridgecore: run": way(_each_run),
    }
    return Row(name, ways, rounds=15)


def run_at_once() -> Row:
    return _run("singleflight, await", asyncio.new_event_loop, _at_once)


def run_after_a_turn() -> Row:
    return _run("singleflight, await of a turn", asyncio.new_event_loop, _after_a_turn)


def run_uvloop() -> Row:
    uvloop = optional("uvloop")
    make_loop = uvloop.new_event_loop if uvloop else asyncio.new_event_loop
    return _run("singleflight, await, uvloop", make_loop, _at_once)


async def _wake(join: Callable[[Work], Awaitable[None]]) -> float:
    """Return the microseconds from the end of the work until the last of JOINED tasks has its answer."""
    gate = asyncio.Event()
    ended_ns = 0
    woken_ns: list[int] = []

    async def work() -> None:
        nonlocal ended_ns
        await gate.wait()
        ended_ns = time.perf_counter_ns()

    async def waiter() -> None:
        await join(work)
        woken_ns.append(time.perf_counter_ns())

    tasks = [asyncio.create_task(waiter()) for _ in range(JOINED)]
    for _ in range(3):
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    return (max(woken_ns) - ended_ns) / 1000


async def _wake_flight() -> float:
    group = FlightGroup()
    elapsed = await _wake(lambda work: group.run("key", work))
    if group.stats().started != 1:
        raise RuntimeError(f"the tasks did not join: {group.stats()}")
    return elapsed


async def _wake_shields() -> float:
    shared: list[asyncio.Task[None]] = []

    def join(work: Any) -> Awaitable[None]:
        if not shared:
            shared.append(asyncio.create_task(work()))
        return asyncio.shield(shared[0])

    return await _wake(join)


def joined_tasks() -> Row:
    runner = asyncio.Runner()
    ways = {
        "shields of one task": lambda: runner.run(_wake_shields()),
        "bridgecore: run": lambda: runner.run(_wake_flight()),
    }
    return Row("1,000 joined tasks wake", ways, rounds=15, unit="us")


ROWS = (do, run_at_once, run_after_a_turn, run_uvloop, joined_tasks)
