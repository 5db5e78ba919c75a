"""The pool of bridges: built once, leased, retired without hurting anybody.

The numbers in the names are rows of the acceptance table.
"""

import asyncio
import gc
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from bridgecore import Cause
from bridgeserver import pool as pools
from bridgeserver.bridge import RequestBridge
from bridgeserver.config import ProviderConfig
from bridgeserver.errors import BridgeError, ConfigError, GatewayStopped
from bridgeserver.generation import Generation
from bridgeserver.identity import Caller
from bridgeserver.pool import BridgePool
from bridgeserver.providers import build

A1 = Caller("a", "ann", "1", is_admin=False)
A2 = Caller("a", "ann", "2", is_admin=False)
B1 = Caller("b", "bob", "1", is_admin=False)


class Box:
    """The sessions of one bridge, which say when they are ended."""

    def __init__(self, lab: "Lab", caller: Caller) -> None:
        self.caller = caller
        self.sessions = lab.sessions
        self.is_degraded = False
        self.closed = 0
        self._lab = lab

    async def close(self) -> None:
        """End, when the lab lets it."""
        self.closed += 1
        await self._lab.closing.wait()
        if self._lab.close_fails:
            raise OSError("the server is gone")


class Lab:
    """A pool whose clock, chance and servers are in our hands."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.sessions = 0
        self.boxes: list[Box] = []
        self.connected = asyncio.Event()
        self.connected.set()
        self.closing = asyncio.Event()
        self.closing.set()
        self.close_fails = False
        self.fails: BaseException | None = None
        self.then: Callable[[], object] | None = None
        self.pool = BridgePool(Generation(1, {}), self.connect, clock=lambda: self.now, random=lambda: 0.0, **options)

    async def connect(self, caller: Caller, _generation: Generation) -> Box:
        """Be the servers."""
        await self.connected.wait()
        if self.fails is not None:
            raise self.fails
        if self.then is not None:  # after the build's last step, and before those who wait for it have their turn
            asyncio.get_running_loop().call_soon(self.then)
        self.boxes.append(Box(self, caller))
        return self.boxes[-1]

    async def use(self, caller: Caller = A1, generation: Generation | None = None) -> RequestBridge:
        """Lease a bridge and give it back."""
        async with self.pool.lease(caller, generation) as bridge:
            return bridge

    def publish(self) -> Generation:
        """Publish the next generation."""
        generation = Generation(self.pool.generation.number + 1, {})
        self.pool.publish(generation)
        return generation


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def opened(**options: Any) -> AsyncGenerator[Lab]:
    """A lab, and nothing left of it afterwards."""
    lab = Lab(**options)
    yield lab
    lab.closing.set()
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
async def test_p1_p2_the_first_request_builds_and_the_second_finds() -> None:
    """The same instance; a hit builds nothing."""
    async with opened() as lab:
        first = await lab.use()
        assert await lab.use() is first
        stats = lab.pool.stats()
        assert (stats.misses, stats.hits, stats.builds, stats.added, stats.live) == (1, 1, 1, 1, 1)


@scenario
async def test_p3_a_full_pool_evicts_and_shuts_down() -> None:
    """In the background, with its cause."""
    async with opened(max_bridges=1) as lab:
        await lab.use(A1)
        await lab.use(B1)
        await settle()
        assert [box.closed for box in lab.boxes] == [1, 0]
        assert lab.pool.stats().evicted[Cause.EVICTED] == 1


@scenario
async def test_p4_p8_two_keys_of_a_user_share_nothing() -> None:
    """Not even a build that is under way."""
    async with opened() as lab:
        lab.connected.clear()
        waiting = [asyncio.create_task(lab.use(caller)) for caller in (A1, A2, A1, A2)]
        await settle()
        lab.connected.set()
        one, two, *others = await asyncio.gather(*waiting)
        assert (one.caller, two.caller, others) == (A1, A2, [one, two])
        assert lab.pool.stats().builds == 2


@scenario
async def test_p5_p6_time_is_not_extended_by_use() -> None:
    """A bridge that was used a moment before is built anew when its time is over."""
    async with opened(ttl_s=100.0) as lab:
        first = await lab.use()
        for _ in range(9):
            lab.now += 10
            assert await lab.use() is first
        lab.now += 11
        assert await lab.use() is not first
        await settle()
        assert [box.closed for box in lab.boxes] == [1, 0]


@scenario
async def test_bridges_for_which_nobody_asks_are_swept() -> None:
    """Their sessions end soon after their time."""
    async with opened(ttl_s=100.0) as lab:
        await lab.use()
        lab.now += 102
        lab.pool.sweep()
        await settle()
        assert lab.boxes[0].closed == 1
        assert lab.pool.stats().evicted[Cause.EXPIRED] == 1


@scenario
async def test_p7_p24_p31_simultaneous_requests_share_a_build() -> None:
    """Also after the one that began it has gone."""
    async with opened() as lab:
        lab.connected.clear()
        leader = asyncio.create_task(lab.use())
        await settle()
        others = [asyncio.create_task(lab.use()) for _ in range(16)]
        await settle()
        leader.cancel()
        await settle()
        lab.connected.set()
        bridges = await asyncio.gather(*others)
        assert len({id(bridge) for bridge in bridges}) == 1
        assert len(lab.boxes) == 1
        assert lab.pool.stats().joined == 16
        with suppress(asyncio.CancelledError):
            await leader


@scenario
async def test_a_build_that_everybody_left_is_kept() -> None:
    """The next request finds it."""
    async with opened() as lab:
        lab.connected.clear()
        task = asyncio.create_task(lab.use())
        await settle()
        task.cancel()
        lab.connected.set()
        await settle()
        assert task.cancelled()
        await lab.use()
        assert (len(lab.boxes), lab.pool.stats().leased) == (1, 0)


@scenario
async def test_p9_p34_after_a_publish_everything_is_new() -> None:
    """The next request has the new generation, and the old bridge ends."""
    async with opened() as lab:
        old = await lab.use()
        generation = lab.publish()
        await settle()
        assert lab.boxes[0].closed == 1
        new = await lab.use()
        assert (new.generation, old.generation.number) == (generation, 1)
        assert lab.pool.stats().evicted[Cause.CLEARED] == 1


@scenario
async def test_p10_p14_a_build_under_an_old_generation_serves_and_is_not_kept() -> None:
    """And nobody of the new generation joins it."""
    async with opened() as lab:
        lab.connected.clear()
        before = asyncio.create_task(lab.use())
        await settle()
        generation = lab.publish()
        after = asyncio.create_task(lab.use())
        await settle()
        lab.connected.set()
        old, new = await before, await after
        assert (old.generation.number, new.generation) == (1, generation)
        assert await lab.use() is new
        assert lab.pool.stats().uncached == 1


@scenario
async def test_p11_p12_p13_nothing_that_happens_after_the_lease_is_seen_by_it() -> None:
    """Three generations come and go; the leased bridge serves on, and ends once it is given back."""
    async with opened() as lab:
        async with lab.pool.lease(A1) as bridge:
            for _ in range(3):
                lab.publish()
                await settle()
            assert (bridge.generation.number, lab.boxes[0].closed) == (1, 0)
            assert lab.pool.stats().retired == 1
        await settle()
        assert lab.boxes[0].closed == 1
        assert lab.pool.stats().builds == 1


@scenario
async def test_a_waiter_has_its_lease_whatever_happens_before_its_turn() -> None:
    """A publish, right after the build has ended and before anybody who waited for it runs."""
    async with opened() as lab:
        seen: list[int] = []

        async def use() -> None:
            async with lab.pool.lease(A1):
                await settle()
                seen.append(lab.boxes[0].closed)

        lab.then = lab.publish
        await asyncio.gather(*(use() for _ in range(5)))
        assert lab.pool.generation.number == 2
        assert seen == [0] * 5


@scenario
async def test_a_request_of_an_older_generation_has_a_bridge_of_it() -> None:
    """It is shared by those who ask at the same time, and never kept."""
    async with opened() as lab:
        old = lab.pool.generation
        lab.publish()
        bridges = await asyncio.gather(*(lab.use(A1, old) for _ in range(4)))
        assert {bridge.generation for bridge in bridges} == {old}
        await settle()
        assert lab.pool.stats().live == 0
        assert lab.boxes[0].closed == 1


@scenario
async def test_a_dropped_bridge_ends_when_it_is_given_back() -> None:
    """Those of other callers stay."""
    async with opened() as lab:
        await lab.use(B1)
        async with lab.pool.lease(A1):
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
                async with pool.lease(A1):
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


class Span:
    """A span that writes down what it is told."""

    def __init__(self, name: str) -> None:
        self.told: list[Any] = [name]

    def is_recording(self) -> bool:
        """Be one that somebody reads."""
        return True

    def set_attributes(self, attributes: dict[str, str]) -> None:
        """Take attributes."""
        self.told.append(attributes)

    def add_event(self, name: str) -> None:
        """Take an event."""
        self.told.append(name)

    def record_exception(self, error: Exception) -> None:
        """Take an error."""
        self.told.append(str(error))

    def end(self) -> None:
        """End."""
        self.told.append("end")


def test_a_look_up_is_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says whose, and whether there was a bridge."""
    spans: list[Span] = []

    class Tracer:
        """Makes them."""

        def start_span(self, name: str) -> Span:
            """Make one."""
            spans.append(Span(name))
            return spans[-1]

    monkeypatch.setattr(pools, "tracer", Tracer())

    async def run() -> None:
        async with opened() as lab:
            await lab.use()
            await lab.use()

    asyncio.run(run())
    whose = {"user_id": "a", "key_id": "1"}
    assert [span.told for span in spans] == [
        ["BridgePool.acquire", whose, "cache_miss", "end"],
        ["BridgePool.acquire", whose, "cache_hit", "end"],
    ]


def test_p15_a_generation_keeps_a_copy() -> None:
    """Whoever made it may change what it was made of."""
    providers = build((ProviderConfig(name="x", type="openai", base_url="http://x/v1", auth="none"),))
    generation = Generation(1, providers)
    providers.clear()
    assert list(generation.providers) == ["x"]


@scenario
async def test_p16_p19_a_closed_pool_refuses() -> None:
    """A publish does nothing, a lease says why, and closing twice is closing once."""
    async with opened() as lab:
        await lab.use()
        await lab.pool.close(0.0)
        await lab.pool.close(0.0)
        before = lab.pool.generation
        lab.publish()
        assert lab.pool.generation is before
        with pytest.raises(GatewayStopped, match="shutting down"):
            await lab.use()


@scenario
async def test_p17_p18_publishing_leasing_and_closing_at_once() -> None:
    """Served or refused, in every order of their turns."""
    for turns in range(12):
        async with opened() as lab:
            lab.connected.clear()
            tasks: list[Awaitable[Any]] = [asyncio.create_task(lab.use()) for _ in range(4)]
            for turn in range(turns):
                if turn == 3:
                    lab.connected.set()
                await asyncio.sleep(0)
            closing = asyncio.create_task(lab.pool.close(1.0))
            lab.publish()
            lab.connected.set()
            outcomes = await asyncio.gather(*tasks, closing, return_exceptions=True)
            assert all(isinstance(outcome, RequestBridge | GatewayStopped | None) for outcome in outcomes)


@scenario
async def test_p20_p44_closing_waits_for_leases() -> None:
    """And not at all when there are none, however short its time."""
    async with opened() as lab:
        async with lab.pool.lease(A1):
            closing = asyncio.create_task(lab.pool.close(60.0))
            await settle()
            assert not closing.done()
            assert lab.boxes[0].closed == 0
        await closing
        assert lab.pool.stats().forced == 0
        await lab.pool.close(0.0)


@scenario
async def test_p21_closing_cancels_builds_when_its_time_is_over() -> None:
    """Those who wait are told that the pool shuts down."""
    async with opened() as lab:
        lab.connected.clear()
        task = asyncio.create_task(lab.use())
        await settle()
        await lab.pool.close(0.0)
        with pytest.raises(GatewayStopped, match="shutting down"):
            await task


@scenario
async def test_p22_closing_ends_what_is_still_leased() -> None:
    """It is counted, and giving it back later ends it no second time."""
    async with opened() as lab:
        async with lab.pool.lease(A1):
            await lab.pool.close(0.0)
            assert lab.boxes[0].closed == 1
        assert (lab.pool.stats().forced, lab.pool.stats().shut_down) == (1, 1)


@scenario
async def test_p23_p25_a_bridge_that_the_cache_refuses_serves() -> None:
    """All who wait share it, nothing is added, and it ends after the last of them."""
    async with opened(max_bridges=2) as lab:
        lab.sessions = 5
        lab.connected.clear()
        ended: list[int] = []

        async def use() -> None:
            async with lab.pool.lease(A1):
                await settle()
                ended.append(lab.boxes[0].closed)

        waiting = [asyncio.create_task(use()) for _ in range(16)]
        await settle()
        lab.connected.set()
        await asyncio.gather(*waiting)
        await settle()
        assert ended == [0] * 16
        assert [box.closed for box in lab.boxes] == [1]
        stats = lab.pool.stats()
        assert (stats.added, stats.builds, stats.uncached) == (0, 1, 16)


@scenario
async def test_p26_failing_servers_degrade_the_bridge() -> None:
    """It serves without their tools, and for a short time only, so that it heals."""
    async with opened() as lab:
        lab.fails = OSError("no route to host")
        bridge = await lab.use()
        assert (bridge.is_degraded, bridge.tools) == (True, None)
        lab.fails = None
        assert await lab.use() is bridge
        lab.now += pools.DEGRADED_TTL_S + 2
        healed = await lab.use()
        assert (healed.is_degraded, healed.tools) == (False, lab.boxes[0])


def test_p27_p28_p29_a_build_that_fails_is_told_to_all_and_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was half built is shut down; the next request builds again."""

    async def run() -> None:
        async with opened() as lab:
            with monkeypatch.context() as patch:
                patch.setattr(pools, "RequestBridge", _refuse)
                outcomes = await asyncio.gather(*(lab.use() for _ in range(2)), return_exceptions=True)
            assert [str(outcome) for outcome in outcomes] == ["no bridge"] * 2
            assert [box.closed for box in lab.boxes] == [1]
            await lab.use()
            assert (lab.pool.stats().build_failures, lab.pool.stats().builds) == (1, 2)
            lab.publish()
            lab.fails = asyncio.CancelledError()  # which nobody asked for
            assert (await lab.use()).is_degraded

    asyncio.run(run())


def _refuse(*_args: Any, **_options: Any) -> RequestBridge:
    raise BridgeError("no bridge")


@scenario
async def test_p30_p43_a_lease_is_given_back_once() -> None:
    """Also when its request fails, and when it is given back again."""
    async with opened() as lab:
        lease = lab.pool.lease(A1)
        with pytest.raises(ValueError, match="broken"):
            async with lease:
                raise ValueError("broken")
        await lease.__aexit__(None, None, None)
        assert lab.pool.stats().leased == 0


@scenario
async def test_p32_evictions_in_quick_succession_end_each_bridge_once() -> None:
    """Whatever slot of the cache they had."""
    async with opened(max_bridges=3) as lab:
        for number in range(50):
            await lab.use(Caller(str(number), "x", "1", is_admin=False))
        await settle()
        assert sum(box.closed for box in lab.boxes) == 47


def test_p33_a_shutdown_has_its_time_from_its_own_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes longer, or fails, is counted as forced."""
    monkeypatch.setattr(pools, "SHUT_DOWN_S", 0.01)

    async def run() -> None:
        async with opened() as lab:
            await lab.use(A1)
            lab.closing.clear()
            lab.publish()
            while lab.pool.stats().shut_down == 0:
                await asyncio.sleep(0.001)
            lab.closing.set()
            lab.close_fails = True
            await lab.use(B1)
            lab.publish()
            await settle()
            assert (lab.pool.stats().forced, lab.pool.stats().shut_down) == (2, 2)

    asyncio.run(run())


@scenario
async def test_p36_a_request_that_has_ended_builds_nothing() -> None:
    """It was cancelled before its first turn."""
    async with opened() as lab:
        task = asyncio.create_task(lab.use())
        task.cancel()
        await settle()
        assert task.cancelled()
        assert lab.pool.stats().builds == 0


@scenario
async def test_p37_a_waiter_that_leaves_takes_no_lease_along() -> None:
    """At whatever turn it is cancelled."""
    for turns in range(10):
        async with opened() as lab:
            lab.connected.clear()
            task = asyncio.create_task(lab.use())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            lab.connected.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await settle()
            assert lab.pool.stats().leased == 0


def test_p42_two_providers_of_one_name_are_no_generation() -> None:
    """The mistake names it; nothing is published."""
    config = ProviderConfig(name="x", type="openai", base_url="http://x/v1", auth="none")
    with pytest.raises(ConfigError, match="'x' twice"):
        build((config, config))


@scenario
async def test_bridges_made_together_do_not_end_together() -> None:
    """Each lives between nine tenths of its time and all of it."""
    chances = iter([0.0, 1.0])
    pool = BridgePool(Generation(1, {}), ttl_s=100.0, clock=lambda: now, random=lambda: next(chances))
    now = 1000.0
    for caller in (A1, B1):
        async with pool.lease(caller):
            pass
    now = 1092.0
    pool.sweep()
    assert pool.stats().live == 1
    now = 1102.0
    pool.sweep()
    assert pool.stats().live == 0
    await pool.close(0.0)


@scenario
async def test_a_bridge_counts_its_sessions() -> None:
    """Those with tools take more of the pool."""
    async with opened(max_bridges=8) as lab:
        lab.sessions = 3
        for caller in (A1, A2, B1):
            await lab.use(caller)
        assert lab.pool.stats().live == 2


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
