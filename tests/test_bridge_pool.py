"""The pool beyond its acceptance table: dropped bridges, stubborn builds, spans, and ten thousand callers."""

import asyncio
import gc
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from bridgeserver import pool as pools
from bridgeserver.bridge import RequestBridge
from bridgeserver.errors import GatewayStopped
from bridgeserver.generation import Generation
from bridgeserver.identity import Caller
from bridgeserver.pool import BridgePool
from bridgeserver.tools.tool import Catalog, Tool, ToolResult
from pool_lab import leased
from tracelab import Spans

A1 = Caller("a", "ann", "1", is_admin=False)
B1 = Caller("b", "bob", "1", is_admin=False)


class Box:
    """The sessions of one bridge, which say when they are ended."""

    sessions = 0
    is_degraded = False
    catalog = Catalog()

    def __init__(self) -> None:
        self.closed = 0

    async def call(self, _tool: Tool, _arguments: Mapping[str, Any]) -> ToolResult:
        """Say nothing."""
        return ToolResult(())

    async def close(self) -> None:
        """End."""
        self.closed += 1


class Lab:
    """A pool whose servers are in our hands."""

    def __init__(self, **options: Any) -> None:
        self.boxes: list[Box] = []
        self.connected = asyncio.Event()
        self.connected.set()
        self.pool = BridgePool(Generation(1, {}), self.connect, **options)

    async def connect(self, _caller: Caller, _generation: Generation) -> Box:
        """Be the servers."""
        await self.connected.wait()
        self.boxes.append(Box())
        return self.boxes[-1]

    async def use(self, caller: Caller = A1) -> RequestBridge:
        """Lease a bridge and give it back."""
        async with leased(self.pool, caller) as bridge:
            return bridge


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def opened(**options: Any) -> AsyncGenerator[Lab]:
    """A lab, and nothing left of it afterwards."""
    lab = Lab(**options)
    yield lab
    lab.connected.set()
    await lab.pool.close(5.0)
    stats = lab.pool.stats()
    assert (stats.leased, stats.retired, stats.live) == (0, 0, 0)
    assert [box.closed for box in lab.boxes] == [1] * len(lab.boxes)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def scenario(run: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of a coroutine function."""

    def test() -> None:
        asyncio.run(run())

    test.__name__, test.__doc__ = run.__name__, run.__doc__
    return test


@scenario
async def test_a_dropped_bridge_ends_when_it_is_given_back() -> None:
    """Those of other callers stay."""
    async with opened() as lab:
        await lab.use(B1)
        async with leased(lab.pool, A1):
            lab.pool.drop(A1)
            await settle()
            assert [box.closed for box in lab.boxes] == [0, 0]
        await settle()
        assert [box.closed for box in lab.boxes] == [0, 1]
        assert lab.pool.stats().live == 1


@scenario
async def test_a_drop_during_a_build_is_no_miss() -> None:
    """The build serves those who wait, is not kept, and nobody joins it any more."""
    async with opened() as lab:
        lab.connected.clear()
        before = asyncio.create_task(lab.use())
        await settle()
        lab.pool.drop(A1)
        after = asyncio.create_task(lab.use(A1._replace(user_name="new")))
        await settle()
        lab.connected.set()
        assert (await before).caller.user_name == "ann"
        assert (await after).caller.user_name == "new"
        assert (await lab.use()).caller.user_name == "new"


def test_a_build_that_ignores_its_end_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool has closed; what the build brings is shut down, and its waiter told."""
    monkeypatch.setattr(pools, "SHUT_DOWN_S", 0.01)

    async def run() -> None:
        async with opened() as lab:
            stubborn = asyncio.Event()

            async def connect(caller: Caller, generation: Generation) -> Box:
                while not stubborn.is_set():
                    with suppress(asyncio.CancelledError):
                        await stubborn.wait()
                return await lab.connect(caller, generation)

            pool = BridgePool(Generation(1, {}), connect)

            async def use() -> None:
                async with leased(pool, A1):
                    pass

            task = asyncio.create_task(use())
            await settle()
            closing = asyncio.create_task(pool.close(0.0))
            await closing
            stubborn.set()
            with pytest.raises(GatewayStopped):
                await task
            assert pool.stats().leased == 0

    asyncio.run(run())


def test_a_look_up_is_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says whose, and whether there was a bridge; the second one finds it."""
    spans = Spans.install(monkeypatch)

    async def run() -> None:
        async with opened() as lab:
            await lab.use()
            await lab.use()

    asyncio.run(run())
    assert spans.names == ["BridgePool.acquire"] * 2
    assert [dict(span.attributes or {}) for span in spans] == [{"user_id": "a", "key_id": "1"}] * 2
    assert [[event.name for event in span.events] for span in spans] == [["cache_miss"], ["cache_hit"]]


@pytest.mark.soak
@scenario
async def test_ten_thousand_callers_through_a_pool_of_500() -> None:
    """Every bridge ends exactly once, and after the first thousand callers memory grows no more."""
    async with opened(max_bridges=500) as lab:
        closed: Counter[int] = Counter()
        used: list[int] = []
        tracemalloc.start()
        for number in range(10_000):
            await lab.use(Caller(f"user-{number}", "x", f"key-{number}", is_admin=False))
            if number % 100 == 99:
                await settle()
                for box in lab.boxes[:]:
                    if box.closed:
                        closed[box.closed] += 1
                        lab.boxes.remove(box)
            if number % 1000 == 999:
                gc.collect()
                used.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert closed == {1: 9500}
        assert lab.pool.stats().live == 500
        assert max(used[1:]) < used[0] * 1.1, used
