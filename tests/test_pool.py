"""The bridge pool: what callers may rely on, row by row of its acceptance table, and chance."""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

import pool_lab
from bridgecore import Cause
from bridgeserver import pool as pools
from bridgeserver.bridge import RequestBridge
from bridgeserver.config import ProviderConfig
from bridgeserver.errors import BridgeError, GatewayStopped
from bridgeserver.generation import Generation
from bridgeserver.identity import Caller
from bridgeserver.providers import build
from pool_lab import ANN, ANN_2, BOB, EVE, TTL_S, Box, Lab, Request, leased, now, settle, turns

LATER_S = 3.0
"""More than the ticks in which the cache sweeps."""

EACH_TURN = range(10)
"""Turns of the loop: more of them than a build needs from the answer of the servers to the last of its waiters."""

at_each_turn = pytest.mark.parametrize("turn", EACH_TURN)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A maker of pools, whose time and servers are in the test's hands."""
    with pool_lab.opened() as lab:
        yield lab


class Panic(BaseException):
    """What nobody expects and no handler of Exception sees."""


class Constructor:
    """Stands in for the class of bridges, and fails while it is told to."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.made = 0

    def __call__(self, *args: Any, **options: Any) -> RequestBridge:
        if self.error is not None:
            raise self.error
        self.made += 1
        return RequestBridge(*args, **options)


@pytest.fixture
def constructor(monkeypatch: pytest.MonkeyPatch) -> Constructor:
    """What the pool makes its bridges with."""
    constructor = Constructor()
    monkeypatch.setattr(pools, "RequestBridge", constructor)
    return constructor


def provider(name: str, *, enabled: bool = True) -> ProviderConfig:
    """Return the configuration of a provider."""
    return ProviderConfig(name=name, type="openai", base_url="http://127.0.0.1:9/v1", auth="none", enabled=enabled)


# --- One caller after the other -----------------------------------------------------------------------------------


def test_p1_the_first_request_builds_a_bridge(lab: Lab) -> None:
    """A miss, one build, and a bridge with the caller, the generation and the tools that were asked for."""

    async def main() -> None:
        pool = lab.open(max_bridges=1)
        request = lab.request(pool)
        bridge = await request.leased()
        assert (bridge.caller, bridge.generation, bridge.tools) == (ANN, pool.generation, lab.boxes[0])
        assert not bridge.is_degraded
        stats = pool.stats()
        assert (stats.hits, stats.misses, stats.builds, stats.added) == (0, 1, 1, 1)
        assert (stats.live, stats.leased, stats.retired, stats.uncached) == (1, 1, 0, 0)
        await request.served()
        assert (pool.stats().live, pool.stats().leased) == (1, 0)

    lab.run(main())


def test_p2_the_second_request_has_the_same_bridge(lab: Lab) -> None:
    """A hit connects to nothing, whether the first lease is out or back."""

    async def main() -> None:
        pool = lab.open()
        first = lab.request(pool)
        bridge = await first.leased()
        assert await lab.serve(pool) is bridge
        await first.served()
        assert await lab.serve(pool) is bridge
        stats = pool.stats()
        assert (stats.hits, stats.misses, stats.builds, len(lab.dials)) == (2, 1, 1, 1)

    lab.run(main())


def test_p3_a_full_pool_lets_one_bridge_go(lab: Lab) -> None:
    """It is counted as evicted, and shut down while nobody waits for that."""

    async def main() -> None:
        pool = lab.open(max_bridges=1)
        await lab.serve(pool, ANN)
        lab.boxes[0].gate.clear()
        await lab.serve(pool, BOB)
        await settle()
        assert (lab.boxes[0].is_closing, lab.boxes[1].closes) == (True, 0)
        stats = pool.stats()
        assert (stats.evicted[Cause.EVICTED], stats.live, stats.shut_down) == (1, 1, 0)
        lab.boxes[0].gate.set()
        await settle()
        assert (pool.stats().shut_down, pool.stats().forced) == (1, 0)

    lab.run(main())


def test_p4_another_key_of_a_user_has_another_bridge(lab: Lab) -> None:
    """What is recorded under one key must not go through the bridge of the other."""

    async def main() -> None:
        pool = lab.open()
        one, two = await lab.serve(pool, ANN), await lab.serve(pool, ANN_2)
        assert one is not two
        assert (one.caller, two.caller) == (ANN, ANN_2)
        assert await lab.serve(pool, ANN) is one

    lab.run(main())


def test_keys_are_not_joined_to_one_text(lab: Lab) -> None:
    """User `a` with key `b|c` is not user `a|b` with key `c`, nor `ab` with an empty one."""

    async def main() -> None:
        pool = lab.open()
        names = [("a", "b|c"), ("a|b", "c"), ("ab", "|c"), ("ab|c", ""), ("", "ab|c")]
        callers = [Caller(user, "x", key, is_admin=False) for user, key in names]
        assert len({id(await lab.serve(pool, caller)) for caller in callers}) == 5
        assert pool.stats().live == 5

    lab.run(main())


def test_a_pool_without_servers_builds_bridges_without_tools(lab: Lab) -> None:
    """They are whole, cached, and closed like others."""

    async def main() -> None:
        pool = lab.open(has_servers=False)
        bridge = await lab.serve(pool)
        assert (bridge.tools, bridge.is_degraded) == (None, False)
        assert await lab.serve(pool) is bridge
        lab.publish(pool)
        await settle()
        assert (pool.stats().shut_down, pool.stats().live) == (1, 0)

    lab.run(main())


# --- Time ---------------------------------------------------------------------------------------------------------


def test_p5_an_expired_bridge_is_built_anew(lab: Lab) -> None:
    """The servers are asked again, and the old sessions end."""

    async def main() -> None:
        pool = lab.open()
        old = await lab.serve(pool)
        lab.now += TTL_S + 0.001
        new = await lab.serve(pool)
        await settle()
        assert new is not old
        assert len(lab.dials) == 2
        assert [box.closes for box in lab.boxes] == [1, 0]
        assert (pool.stats().misses, pool.stats().evicted[Cause.EXPIRED]) == (2, 1)

    lab.run(main())


def test_p6_use_does_not_prolong_the_life_of_a_bridge(lab: Lab) -> None:
    """Sessions are made anew from time to time, however busy their caller is."""

    async def main() -> None:
        pool = lab.open()
        bridge = await lab.serve(pool)
        for _ in range(8):
            lab.now += TTL_S * 0.11
            assert await lab.serve(pool) is bridge
        lab.now += TTL_S * 0.12 + 0.001
        assert await lab.serve(pool) is not bridge

    lab.run(main())


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.5, 0.999])
def test_a_bridge_lives_for_nine_tenths_of_its_time_at_least(lab: Lab, chance: float) -> None:
    """And never for longer than its time, whatever chance says."""

    async def main() -> None:
        lab.chance = chance
        pool = lab.open()
        bridge = await lab.serve(pool)
        lab.now += TTL_S * 0.9 - 0.001
        assert await lab.serve(pool) is bridge
        lab.now += TTL_S * 0.1 + 0.002
        assert await lab.serve(pool) is not bridge

    lab.run(main())


def test_bridges_of_one_moment_do_not_expire_in_one_moment(lab: Lab) -> None:
    """Chance decides, so that a start with thousands of callers is not repeated each quarter of an hour."""

    async def main() -> None:
        pool = lab.open()
        early_and_late: list[RequestBridge] = []
        for lab.chance, caller in ((0.0, ANN), (0.999, BOB)):
            early_and_late.append(await lab.serve(pool, caller))
        lab.now += TTL_S * 0.95
        again = [await lab.serve(pool, caller) for caller in (ANN, BOB)]
        assert sum(one is two for one, two in zip(early_and_late, again, strict=True)) == 1

    lab.run(main())


def test_an_expired_bridge_serves_those_who_hold_it(lab: Lab) -> None:
    """Its time ends the finding, not the serving."""

    async def main() -> None:
        pool = lab.open()
        held = lab.request(pool)
        await held.leased()
        lab.now += TTL_S + LATER_S
        pool.sweep()
        await settle()
        assert (pool.stats().retired, pool.stats().live, lab.boxes[0].closes) == (1, 0, 0)
        assert await lab.serve(pool) is not await held.served()
        await settle()
        assert [box.closes for box in lab.boxes] == [1, 0]

    lab.run(main())


def test_sweep_ends_what_nobody_asks_for(lab: Lab) -> None:
    """And leaves alone what has time left."""

    async def main() -> None:
        pool = lab.open()
        for caller in (ANN, BOB):
            await lab.serve(pool, caller)
        lab.now += TTL_S / 2
        await lab.serve(pool, EVE)
        pool.sweep()
        assert pool.stats().live == 3
        lab.now += TTL_S / 2 + LATER_S
        pool.sweep()
        await settle()
        assert [box.closes for box in lab.boxes] == [1, 1, 0]
        assert (pool.stats().evicted[Cause.EXPIRED], pool.stats().live) == (2, 1)

    lab.run(main())


# --- Many requests at one time ------------------------------------------------------------------------------------


def test_p7_simultaneous_requests_of_one_caller_share_a_build(lab: Lab) -> None:
    """A thousand of them: one miss is built, and each has a lease of its own on it."""

    async def main() -> None:
        pool = lab.open()
        first = await lab.dial(pool)
        others = [lab.request(pool) for _ in range(999)]
        await settle()
        lab.dials[0].answer()
        bridges = {await request.leased() for request in [first, *others]}
        stats = pool.stats()
        assert (len(bridges), len(lab.dials), stats.builds, stats.joined) == (1, 1, 1, 999)
        assert (stats.leased, stats.added, stats.uncached) == (1000, 1, 0)

    lab.run(main())


def test_p8_builds_of_two_keys_are_two(lab: Lab) -> None:
    """They run side by side, and neither hands anything to the other."""

    async def main() -> None:
        pool = lab.open()
        one = await lab.dial(pool, ANN)
        two = await lab.dial(pool, ANN_2)
        lab.dials[1].answer()
        assert (await two.served()).caller == ANN_2
        assert not one.is_holding
        lab.dials[0].answer()
        assert (await one.served()).caller == ANN

    lab.run(main())


@at_each_turn
def test_a_request_that_comes_around_the_end_of_a_build_is_served(lab: Lab, turn: int) -> None:
    """It joins, or it finds, and nothing is built twice, at whatever turn of the loop it comes."""

    async def main() -> None:
        pool = lab.open()
        first = await lab.dial(pool)
        lab.dials[0].answer()
        await turns(turn)
        second = lab.request(pool)
        assert await second.leased() is await first.leased()
        assert pool.stats().builds == 1

    lab.run(main())


@at_each_turn
def test_a_request_that_comes_around_the_end_of_a_refused_build_is_served(lab: Lab, turn: int) -> None:
    """It joins, or it builds for itself: there is no moment at which it finds half of each."""

    async def main() -> None:
        pool = lab.open(max_bridges=1)
        first = await lab.dial(pool)
        lab.dials[0].answer(sessions=9)
        await turns(turn)
        lab.dials_at_once, lab.sessions = True, 9
        second = lab.request(pool)
        await second.leased()
        await first.leased()
        assert pool.stats().uncached == 2

    lab.run(main())


@at_each_turn
def test_p31_a_leader_that_is_cancelled_disturbs_nobody(lab: Lab, turn: int) -> None:
    """Those who joined its build are served by it, before and after its end."""

    async def main() -> None:
        pool = lab.open()
        leader = await lab.dial(pool)
        followers = [lab.request(pool) for _ in range(3)]
        await settle()
        lab.dials[0].answer()
        await turns(turn)
        leader.cancel()
        bridges = {await request.served() for request in followers}
        assert leader.task.cancelled()
        assert (len(bridges), len(lab.dials), pool.stats().leased) == (1, 1, 0)

    lab.run(main())


def test_p31_a_leader_that_is_cancelled_while_its_servers_are_dialled(lab: Lab) -> None:
    """The dial goes on, for those who wait."""

    async def main() -> None:
        pool = lab.open()
        leader = await lab.dial(pool)
        follower = lab.request(pool)
        await settle()
        leader.cancel()
        await settle()
        assert leader.task.done()
        assert not lab.dials[0].was_cancelled
        lab.dials[0].answer()
        assert await follower.served() is await lab.serve(pool)

    lab.run(main())


@at_each_turn
def test_a_follower_that_leaves_takes_no_lease_along(lab: Lab, turn: int) -> None:
    """At whatever turn it is cancelled, the lease is back or was never out."""

    async def main() -> None:
        pool = lab.open()
        leader = await lab.dial(pool)
        follower = lab.request(pool)
        await settle()
        lab.dials[0].answer()
        await turns(turn)
        follower.cancel()
        await leader.leased()
        await settle()
        assert follower.task.cancelled()
        assert pool.stats().leased == 1

    lab.run(main())


def test_a_build_that_everybody_left_is_finished_and_kept(lab: Lab) -> None:
    """Its sessions are paid for; the next request finds them."""

    async def main() -> None:
        pool = lab.open()
        requests = [await lab.dial(pool), lab.request(pool)]
        await settle()
        for request in requests:
            request.cancel()
        await settle()
        assert not lab.dials[0].was_cancelled
        lab.dials[0].answer()
        await settle()
        assert (pool.stats().live, pool.stats().leased) == (1, 0)
        await lab.serve(pool)
        assert (pool.stats().hits, len(lab.dials)) == (1, 1)

    lab.run(main())


def test_a_build_that_everybody_left_and_nobody_can_find_is_shut_down(lab: Lab) -> None:
    """Too costly for the cache or of an old generation, it has nobody to serve."""

    async def main() -> None:
        pool = lab.open(max_bridges=2)
        for caller, sessions in ((ANN, 9), (BOB, 0)):
            request = await lab.dial(pool, caller)
            request.cancel()
            lab.publish(pool)
            lab.dials[-1].answer(sessions)
            await settle()
        assert [box.closes for box in lab.boxes] == [1, 1]
        assert (pool.stats().live, pool.stats().retired, pool.stats().shut_down) == (0, 0, 2)

    lab.run(main())


def test_a_build_that_everybody_left_can_be_joined(lab: Lab) -> None:
    """Who comes before its end need not dial again."""

    async def main() -> None:
        pool = lab.open()
        (await lab.dial(pool)).cancel()
        await settle()
        late = lab.request(pool)
        await settle()
        lab.dials[0].answer()
        await late.served()
        assert (len(lab.dials), pool.stats().joined) == (1, 1)

    lab.run(main())


def test_p36_a_request_that_is_over_before_it_begins_builds_nothing(lab: Lab) -> None:
    """Cancelled before its first turn, it asks for nothing."""

    async def main() -> None:
        pool = lab.open()
        request = lab.request(pool)
        request.cancel()
        await settle()
        assert request.task.cancelled()
        assert lab.dials == []
        assert (pool.stats().builds, pool.stats().misses) == (0, 0)

    lab.run(main())


def test_p36_a_lease_that_is_never_awaited_is_none(lab: Lab) -> None:
    """Asking for one costs nothing, and awaiting it later is still possible."""

    async def main() -> None:
        pool = lab.open()
        assert pool.find(ANN, pool.generation) is None
        lease = pool.acquire(ANN, pool.generation)
        await settle()
        assert (pool.stats().builds, pool.stats().leased) == (0, 0)
        with await lease as bridge:
            assert bridge.caller == ANN

    lab.run(main())


# --- Generations --------------------------------------------------------------------------------------------------


def test_p9_p34_after_a_publish_everything_is_of_the_new_generation(lab: Lab) -> None:
    """The next request reaches the new providers only, and the old bridge ends."""

    async def main() -> None:
        pool = lab.open()
        pool.publish(Generation(2, build((provider("old"),))))
        await lab.serve(pool)
        pool.publish(Generation(3, build((provider("new"),))))
        assert pool.stats().live == 0
        assert list((await lab.serve(pool)).generation.providers) == list(pool.generation.providers) == ["new"]
        await settle()
        assert [box.closes for box in lab.boxes] == [1, 0]
        assert pool.stats().evicted[Cause.CLEARED] == 1
        assert pool.stats().builds == 2  # the counters go on

    lab.run(main())


def test_p10_a_build_of_an_old_generation_serves_and_is_not_kept(lab: Lab) -> None:
    """Those who waited are served; who comes after the publish does not join, and finds nothing of it."""

    async def main() -> None:
        pool = lab.open()
        before = [await lab.dial(pool), lab.request(pool)]
        await settle()
        generation = lab.publish(pool)
        after = await lab.dial(pool)
        assert [dial.generation.number for dial in lab.dials] == [1, 2]
        lab.dials[0].answer()
        served = {await request.leased() for request in before}
        assert (len(served), pool.stats().live, pool.stats().added) == (1, 0, 0)
        assert not after.is_holding
        lab.dials[1].answer()
        bridge = await after.served()
        assert bridge.generation is generation
        assert await lab.serve(pool) is bridge
        assert pool.stats().uncached == 2
        assert lab.boxes[0].closes == 0
        for request in before:
            await request.served()
        await settle()
        assert [box.closes for box in lab.boxes] == [1, 0]

    lab.run(main())


def test_p10_an_old_build_that_ends_last_displaces_nothing(lab: Lab) -> None:
    """The bridge of the new generation stays where it is, and is what the next request finds."""

    async def main() -> None:
        pool = lab.open()
        before = await lab.dial(pool)
        lab.publish(pool)
        after = await lab.dial(pool)
        lab.dials[1].answer()
        bridge = await after.served()
        lab.dials[0].answer()
        assert (await before.served()).generation.number == 1
        assert await lab.serve(pool) is bridge
        await settle()
        assert [(box.caller, box.closes) for box in lab.boxes] == [(ANN, 0), (ANN, 1)]

    lab.run(main())


@at_each_turn
def test_p11_p14_a_publish_around_the_end_of_a_build_fails_nobody(lab: Lab, turn: int) -> None:
    """Who waited is served by the bridge it leased, without a second build; who comes later has the new generation."""

    async def main() -> None:
        pool = lab.open()
        before = [await lab.dial(pool), lab.request(pool), lab.request(pool)]
        await settle()
        lab.dials[0].answer()
        await turns(turn)
        generation = lab.publish(pool)
        bridges = {await request.leased() for request in before}
        await settle()
        assert (len(bridges), pool.stats().builds, lab.boxes[0].closes) == (1, 1, 0)
        lab.dials_at_once = True
        assert (await lab.serve(pool)).generation is generation
        for request in before:
            await request.served()
        await settle()
        assert [box.closes for box in lab.boxes] == [1, 0]

    lab.run(main())


@at_each_turn
def test_p11_p25_an_eviction_around_the_end_of_a_build_fails_nobody(lab: Lab, turn: int) -> None:
    """Two builds for one place end within a few turns: whoever has to go serves its waiters first."""

    async def main() -> None:
        pool = lab.open(max_bridges=1)
        requests = [await lab.dial(pool, ANN), lab.request(pool, ANN)]
        requests += [await lab.dial(pool, BOB), lab.request(pool, BOB)]
        await settle()
        lab.dials[0].answer()
        await turns(turn)
        lab.dials[1].answer()
        bridges = [await request.leased() for request in requests]
        await settle()
        assert bridges[0] is bridges[1]
        assert bridges[2] is bridges[3]
        assert [box.closes for box in lab.boxes] == [0, 0]
        stats = pool.stats()
        assert (stats.live, stats.retired, stats.leased) == (1, 1, 4)

    lab.run(main())


@at_each_turn
def test_p11_an_expiry_around_the_end_of_a_build_fails_nobody(lab: Lab, turn: int) -> None:
    """A bridge whose time was over before its waiters had their turn serves them all the same."""

    async def main() -> None:
        pool = lab.open()
        requests = [await lab.dial(pool), lab.request(pool), lab.request(pool)]
        await settle()
        lab.dials[0].answer()
        await turns(turn)
        lab.now += TTL_S + LATER_S
        pool.sweep()
        assert len({await request.leased() for request in requests}) == 1
        await settle()
        assert lab.boxes[0].closes == 0

    lab.run(main())


def test_p12_p13_a_lease_outlives_any_number_of_publishes(lab: Lab) -> None:
    """A long stream goes on with the generation it began in; its bridge is shut down once it is given back."""

    async def main() -> None:
        pool = lab.open()
        stream = lab.request(pool)
        bridge = await stream.leased()
        for number in range(2, 6):
            assert lab.publish(pool).number == number
            await lab.serve(pool)
            await settle()
        assert (bridge.generation.number, lab.boxes[0].closes, bridge.tools) == (1, 0, lab.boxes[0])
        assert (pool.stats().retired, pool.stats().leased) == (1, 1)
        assert await stream.served() is bridge
        await settle()
        assert [box.closes for box in lab.boxes] == [1, 1, 1, 1, 0]
        assert (pool.stats().builds, pool.stats().retired) == (5, 0)

    lab.run(main())


def test_p13_a_retired_bridge_ends_with_the_last_of_its_leases(lab: Lab) -> None:
    """Not with the first, nor with the one that built it."""

    async def main() -> None:
        pool = lab.open()
        requests = [lab.request(pool) for _ in range(3)]
        for request in requests:
            await request.leased()
        lab.publish(pool)
        for request in requests:
            await settle()
            assert lab.boxes[0].closes == 0
            await request.served()
        await settle()
        assert lab.boxes[0].closes == 1

    lab.run(main())


def test_p15_a_generation_is_not_changed_through_what_it_was_made_of(lab: Lab) -> None:
    """It has a copy, and nobody can write into that."""

    async def main() -> None:
        pool = lab.open()
        providers = build((provider("one"), provider("two")))
        pool.publish(Generation(2, providers))
        del providers["one"]
        providers.update(build((provider("three"),)))
        assert sorted((await lab.serve(pool)).generation.providers) == ["one", "two"]

    lab.run(main())


def test_p35_a_disabled_provider_is_part_of_its_generation(lab: Lab) -> None:
    """Its prefix is known, so that it can say that it is disabled; the others are there beside it."""

    async def main() -> None:
        pool = lab.open()
        pool.publish(Generation(2, build((provider("on"), provider("off", enabled=False)))))
        providers = (await lab.serve(pool)).generation.providers
        assert {name: provider.enabled for name, provider in providers.items()} == {"on": True, "off": False}

    lab.run(main())


def test_p38_a_generation_without_providers_is_one(lab: Lab) -> None:
    """Its bridges are built, found and ended like others."""

    async def main() -> None:
        pool = lab.open()
        pool.publish(Generation(2, build(())))
        bridge = await lab.serve(pool)
        assert dict(bridge.generation.providers) == {}
        assert await lab.serve(pool) is bridge

    lab.run(main())


def test_p42_two_providers_of_one_name_are_refused(lab: Lab) -> None:
    """The mistake names it, before there is a generation; the pool serves on with the one it has."""

    async def main() -> None:
        pool = lab.open()
        bridge = await lab.serve(pool)
        with pytest.raises(BridgeError, match="twin"):
            build((provider("twin"), provider("other"), provider("twin")))
        assert await lab.serve(pool) is bridge

    lab.run(main())


def test_a_request_of_an_older_generation_has_a_bridge_of_it(lab: Lab) -> None:
    """Neither the bridge in the cache nor a build of the generation in force is for it, and it displaces neither."""

    async def main() -> None:
        pool = lab.open()
        old = pool.generation
        lab.publish(pool)
        new = await lab.serve(pool)
        assert (await lab.serve(pool, ANN, old)).generation is old
        assert await lab.serve(pool) is new
        await settle()
        assert [box.closes for box in lab.boxes] == [0, 1]
        stats = pool.stats()
        assert (stats.live, stats.added, stats.uncached) == (1, 1, 1)

    lab.run(main())


def test_an_older_generation_is_shared_while_it_is_built_and_never_stored(lab: Lab) -> None:
    """Simultaneous requests share one bridge; one that comes when they have gone builds its own."""

    async def main() -> None:
        pool = lab.open()
        old = pool.generation
        lab.publish(pool)
        requests = [await lab.dial(pool, ANN, old), lab.request(pool, ANN, old), lab.request(pool, ANN, old)]
        await settle()
        lab.dials[0].answer()
        assert len({await request.leased() for request in requests}) == 1
        for request in requests:
            await request.served()
        await settle()
        assert lab.boxes[0].closes == 1
        lab.dials_at_once = True
        await lab.serve(pool, ANN, old)
        stats = pool.stats()
        assert (stats.builds, stats.live, stats.added, stats.uncached) == (2, 0, 0, 4)

    lab.run(main())


def test_the_generation_in_force_may_be_named(lab: Lab) -> None:
    """It finds and stores as if it had not been."""

    async def main() -> None:
        pool = lab.open()
        bridge = await lab.serve(pool, ANN, pool.generation)
        assert await lab.serve(pool) is await lab.serve(pool, ANN, pool.generation) is bridge
        assert (pool.stats().added, pool.stats().uncached) == (1, 0)

    lab.run(main())


def test_a_build_for_a_generation_that_another_request_began_is_not_kept_by_a_publish_between(lab: Lab) -> None:
    """Begun in the turn in which its generation ended, it is of the old one."""

    async def main() -> None:
        pool = lab.open()
        request = lab.request(pool)
        asyncio.get_running_loop().call_soon(lab.publish, pool)  # after the request asked, before its build runs
        assert (await request.served()).generation.number == 1
        assert pool.stats().live == 0
        assert (await lab.serve(pool)).generation.number == 2

    lab.run(main())


def test_p39_a_storm_of_publishes_fails_nobody(lab: Lab) -> None:
    """Requests and publishes in every order: each request has a bridge of the generation in force when it came."""

    async def main() -> None:
        pool = lab.open(max_bridges=3)
        for turn in range(60):
            for number in range(8):
                lab.request(pool, Caller(str(number % 5), "x", "1", is_admin=False)).finish()
            await turns(turn % 7)
            lab.publish(pool)
        for request in lab.requests:
            await request.served()
            assert request.began_in is (await request.leased()).generation
        assert len(lab.requests) == 480

    lab.run(main())


# --- What the cache refuses ---------------------------------------------------------------------------------------


def test_p23_a_bridge_that_costs_too_much_serves_uncached(lab: Lab) -> None:
    """One build, nothing added, one lease counted, and its sessions end with it."""

    async def main() -> None:
        pool = lab.open(max_bridges=4)
        lab.sessions = 4
        request = lab.request(pool)
        bridge = await request.leased()
        assert bridge.tools is lab.boxes[0]
        stats = pool.stats()
        assert (stats.builds, stats.added, stats.uncached, stats.live, stats.leased) == (1, 0, 1, 0, 1)
        assert lab.boxes[0].closes == 0
        await request.served()
        await settle()
        assert lab.boxes[0].closes == 1
        assert await lab.serve(pool) is not bridge
        assert (pool.stats().builds, pool.stats().uncached) == (2, 2)

    lab.run(main())


def test_p24_sixteen_requests_share_a_bridge_that_is_refused(lab: Lab) -> None:
    """The servers are dialled once, and told to end once, after the last has finished."""

    async def main() -> None:
        pool = lab.open(max_bridges=2)
        requests = [await lab.dial(pool), *(lab.request(pool) for _ in range(15))]
        await settle()
        lab.dials[0].answer(sessions=2)
        assert len({await request.leased() for request in requests}) == 1
        for request in requests:
            await settle()
            assert lab.boxes[0].closes == 0
            await request.served()
        await settle()
        assert (len(lab.dials), lab.boxes[0].closes) == (1, 1)
        assert (pool.stats().uncached, pool.stats().builds, pool.stats().added) == (16, 1, 0)

    lab.run(main())


def test_p25_an_evicted_bridge_serves_those_who_hold_it(lab: Lab) -> None:
    """It is out of the cache and of its sum of costs, and ends when it is given back."""

    async def main() -> None:
        pool = lab.open(max_bridges=1)
        requests = {caller: lab.request(pool, caller) for caller in (ANN, BOB, EVE)}
        for request in requests.values():
            await request.leased()
        await settle()
        assert (pool.stats().live, pool.stats().retired, pool.stats().leased) == (1, 2, 3)
        assert [box.closes for box in lab.boxes] == [0, 0, 0]
        for request in requests.values():
            await request.served()
        await settle()
        assert sum(box.closes for box in lab.boxes) == 2
        assert (pool.stats().live, pool.stats().retired, pool.stats().shut_down) == (1, 0, 2)

    lab.run(main())


def test_sessions_count_as_bridges(lab: Lab) -> None:
    """One with three sessions takes the place of four without."""

    async def main() -> None:
        pool = lab.open(max_bridges=8)
        lab.sessions = 3
        for caller in (ANN, BOB):
            await lab.serve(pool, caller)
        assert (pool.stats().live, sum(pool.stats().evicted.values())) == (2, 0)
        lab.sessions = 0
        await lab.serve(pool, EVE)
        assert (pool.stats().live, pool.stats().evicted[Cause.EVICTED]) == (2, 1)

    lab.run(main())


def test_the_largest_bridge_that_fits_is_kept(lab: Lab) -> None:
    """Only what costs more than the whole pool is refused."""

    async def main() -> None:
        pool = lab.open(max_bridges=4)
        lab.sessions = 3
        bridge = await lab.serve(pool)
        assert await lab.serve(pool) is bridge
        assert pool.stats().uncached == 0

    lab.run(main())


def test_p23_a_refusal_is_told_once_a_minute(lab: Lab) -> None:
    """Each request would otherwise write a line, for a limit that only an operator can raise."""

    async def main() -> None:
        pool = lab.open(max_bridges=1)
        lab.sessions = 1
        with structlog.testing.capture_logs() as logs:
            for caller in (ANN, BOB, ANN, EVE):
                await lab.serve(pool, caller)
        told = [entry for entry in logs if entry["event"] == "bridge_not_cached"]
        assert [entry["log_level"] for entry in told] == ["warning"]

    lab.run(main())


def test_p23_a_refusal_is_told_again_after_a_minute(lab: Lab) -> None:
    """By the clock that the pool was given."""

    async def main() -> None:
        pool = lab.open(max_bridges=1)
        lab.sessions = 1
        with structlog.testing.capture_logs() as logs:
            for seconds in (0, 59, 2, 59, 2):
                lab.now += seconds
                await lab.serve(pool)
        assert [entry["event"] for entry in logs] == ["bridge_not_cached"] * 3

    lab.run(main())


# --- Failures -----------------------------------------------------------------------------------------------------


def test_p26_a_caller_whose_servers_fail_is_served_without_tools(lab: Lab) -> None:
    """All who wait share the degraded bridge, the log has a warning, and nothing counts as a failed build."""

    async def main() -> None:
        pool = lab.open()
        requests = [await lab.dial(pool), lab.request(pool)]
        await settle()
        with structlog.testing.capture_logs() as logs:
            lab.dials[0].fail(OSError("no route to host"))
            bridges = [await request.leased() for request in requests]
        assert bridges[0] is bridges[1]
        assert (bridges[0].tools, bridges[0].is_degraded, bridges[0].caller) == (None, True, ANN)
        assert [entry["log_level"] for entry in logs] == ["warning"]
        assert (pool.stats().builds, pool.stats().build_failures, pool.stats().live) == (1, 0, 1)

    lab.run(main())


def test_p26_a_bridge_without_its_tools_heals_within_half_a_minute(lab: Lab) -> None:
    """Until then it is found like another, so that dead servers are not dialled for each request."""

    async def main() -> None:
        pool = lab.open()
        request = await lab.dial(pool)
        lab.dials[0].fail(OSError("no route to host"))
        degraded = await request.served()
        lab.dials_at_once = True
        lab.now += 20
        assert await lab.serve(pool) is degraded
        lab.now += 10.001
        healed = await lab.serve(pool)
        assert (healed.tools, healed.is_degraded) == (lab.boxes[0], False)

    lab.run(main())


def test_p26_a_bridge_that_misses_one_server_keeps_the_others(lab: Lab) -> None:
    """It has its tools, is degraded, and heals within half a minute."""

    async def main() -> None:
        pool = lab.open()
        lab.is_degraded = True
        degraded = await lab.serve(pool)
        assert (degraded.tools, degraded.is_degraded) == (lab.boxes[0], True)
        assert await lab.serve(pool) is degraded
        lab.now += 30.001
        assert await lab.serve(pool) is not degraded

    lab.run(main())


def test_p26_a_degraded_bridge_lives_no_longer_than_a_whole_one(lab: Lab) -> None:
    """Half a minute is a limit and not a promise."""

    async def main() -> None:
        pool = lab.open(ttl_s=10.0)
        lab.is_degraded = True
        degraded = await lab.serve(pool)
        lab.now += 10.001
        assert await lab.serve(pool) is not degraded

    lab.run(main())


@pytest.mark.parametrize("error", [BridgeError("no bridge"), Panic("no bridge")])
def test_p27_p28_a_bridge_that_cannot_be_made_is_an_error_for_all(
    lab: Lab, constructor: Constructor, error: BaseException
) -> None:
    """What was connected is closed, nothing is remembered, and the next request builds again."""

    async def main() -> None:
        pool = lab.open()
        requests = [await lab.dial(pool), lab.request(pool)]
        await settle()
        constructor.error = error
        lab.dials[0].answer()
        for request in requests:
            failure = await request.failure()
            assert (type(failure), str(failure)) == (type(error), "no bridge")
        assert lab.boxes[0].closes == 1
        stats = pool.stats()
        assert (stats.builds, stats.build_failures, stats.live, stats.leased, stats.added) == (1, 1, 0, 0, 0)
        constructor.error = None
        lab.dials_at_once = True
        await lab.serve(pool)
        assert (pool.stats().builds, pool.stats().live) == (2, 1)

    lab.run(main())


@at_each_turn
def test_p27_a_request_that_comes_around_a_failure_hears_of_it_or_builds(
    lab: Lab, constructor: Constructor, turn: int
) -> None:
    """It has that error, or a bridge of its own; never something between."""

    async def main() -> None:
        pool = lab.open()
        first = await lab.dial(pool)
        constructor.error = BridgeError("no bridge")
        lab.dials[0].answer()
        lab.dials_at_once = True
        await turns(turn)
        failed_before = first.task.done()
        second = lab.request(pool)
        assert str(await first.failure()) == "no bridge"
        assert str(await second.failure()) == "no bridge"
        assert pool.stats().builds in ({2} if failed_before else {1, 2})

    lab.run(main())


def test_p27_sessions_that_do_not_end_do_not_hide_why_the_bridge_failed(lab: Lab, constructor: Constructor) -> None:
    """The waiters hear what the constructor raised, and not what the clean-up did."""

    async def main() -> None:
        pool = lab.open()
        request = await lab.dial(pool)
        constructor.error = BridgeError("no bridge")
        lab.dials[0].answer()
        while not lab.boxes:
            await asyncio.sleep(0)
        lab.boxes[0].error = OSError("the server is gone")
        assert str(await request.failure()) == "no bridge"

    # the box has to fail before it is closed, which is in the turn that made it
    make = lab.connect

    async def connect_and_break(caller: Caller, generation: Generation) -> Box:
        box = await make(caller, generation)
        box.error = OSError("the server is gone")
        return box

    lab.connect = connect_and_break  # type: ignore[method-assign]
    lab.run(main())


def test_p28_a_panic_of_the_servers_is_no_degraded_bridge(lab: Lab) -> None:
    """Only an Exception is a server that failed; anything else is told to both who wait, and not remembered."""

    async def main() -> None:
        pool = lab.open()
        requests = [await lab.dial(pool), lab.request(pool)]
        await settle()
        lab.dials[0].fail(Panic("at the disco"))
        assert [str(await request.failure()) for request in requests] == ["at the disco"] * 2
        lab.dials_at_once = True
        await lab.serve(pool)
        assert (pool.stats().builds, pool.stats().build_failures) == (2, 1)

    lab.run(main())


def test_p29_servers_that_cancel_themselves_are_missing_tools(lab: Lab) -> None:
    """Nobody asked for that cancellation: those who wait are served without the tools."""

    async def main() -> None:
        pool = lab.open()
        requests = [await lab.dial(pool), lab.request(pool)]
        await settle()
        lab.dials[0].fail(asyncio.CancelledError("of its own"))
        for request in requests:
            bridge = await request.leased()
            assert (bridge.is_degraded, bridge.tools) == (True, None)

    lab.run(main())


@pytest.mark.parametrize("error", [ValueError("broken"), Panic("broken"), asyncio.CancelledError("broken")])
def test_p30_a_request_that_breaks_gives_its_lease_back(lab: Lab, error: BaseException) -> None:
    """Once; its error is its own, the bridge stays for others, and ends once when its time has come."""

    async def main() -> None:
        pool = lab.open()
        with pytest.raises(type(error), match="broken"):
            async with leased(pool, ANN):
                raise error
        assert (pool.stats().leased, pool.stats().live, lab.boxes[0].closes) == (0, 1, 0)
        with pytest.raises(type(error), match="broken"):
            async with leased(pool, ANN):
                lab.publish(pool)
                raise error
        await settle()
        assert (pool.stats().leased, pool.stats().retired, lab.boxes[0].closes) == (0, 0, 1)

    lab.run(main())


def test_p37_a_request_that_is_cancelled_in_its_stream_gives_its_lease_back(lab: Lab) -> None:
    """The client left; the bridge stays for its next request."""

    async def main() -> None:
        pool = lab.open()
        stream, other = lab.request(pool), lab.request(pool)
        bridge = await stream.leased()
        await other.leased()
        stream.cancel()
        await settle()
        assert (pool.stats().leased, lab.boxes[0].closes) == (1, 0)
        assert await lab.serve(pool) is bridge

    lab.run(main())


def test_p43_giving_back_twice_is_giving_back_once(lab: Lab) -> None:
    """The second time takes nothing from the others who hold the bridge."""

    async def main() -> None:
        pool = lab.open()
        other = lab.request(pool)
        await other.leased()
        lease = pool.find(ANN, pool.generation)
        assert lease is not None
        with lease:
            assert pool.stats().leased == 2
        for _ in range(3):
            lease.release()
        assert pool.stats().leased == 1
        lab.publish(pool)
        await settle()
        assert lab.boxes[0].closes == 0

    lab.run(main())


# --- Shutting bridges down ----------------------------------------------------------------------------------------


def test_nobody_waits_for_a_bridge_that_shuts_down(lab: Lab) -> None:
    """Neither who gives it back, nor who publishes, nor the next request."""

    async def main() -> None:
        pool = lab.open()
        request = lab.request(pool)
        await request.leased()
        lab.boxes[0].gate.clear()
        lab.publish(pool)
        await request.served()
        await lab.serve(pool)
        await settle()
        assert (lab.boxes[0].is_closing, pool.stats().shut_down, now()) == (True, 0, 0.0)

    lab.run(main())


def test_p32_evictions_in_quick_succession_end_each_bridge_once(lab: Lab) -> None:
    """Whatever slots of the cache they had, those that left are closed and those that stayed are not."""

    async def main() -> None:
        pool = lab.open(max_bridges=3)
        callers = [Caller(str(number), "x", "1", is_admin=False) for number in range(40)]
        for caller in callers:
            lab.request(pool, caller).finish()
        await settle()
        assert sum(box.closes for box in lab.boxes) == pool.stats().evicted[Cause.EVICTED] == 37
        left = [box.caller for box in lab.boxes if not box.closes]
        hits = pool.stats().hits
        for caller in left:
            await lab.serve(pool, caller)
        assert pool.stats().hits == hits + 3

    lab.run(main())


def test_p33_a_shutdown_has_five_seconds_from_its_own_start(lab: Lab) -> None:
    """Not from the publish that retired the bridge, and not from the start of another shutdown."""

    async def main() -> None:
        pool = lab.open()
        requests = [lab.request(pool, caller) for caller in (ANN, BOB)]
        for request in requests:
            await request.leased()
        for box in lab.boxes:
            box.gate.clear()
        lab.publish(pool)
        for request in requests:
            await asyncio.sleep(3.0)
            await request.served()
        await asyncio.sleep(60.0)
        ends = [(box.closing_at, box.closed_at, box.was_cut) for box in lab.boxes]
        assert ends == [(3.0, 8.0, True), (6.0, 11.0, True)]
        assert (pool.stats().forced, pool.stats().shut_down) == (2, 2)

    lab.run(main())


def test_p33_a_shutdown_within_its_time_is_not_cut_short(lab: Lab) -> None:
    """4.9 seconds are less than five, and nothing was forced."""

    async def main() -> None:
        pool = lab.open()
        await lab.serve(pool)
        box = lab.boxes[0]
        box.gate.clear()
        lab.publish(pool)
        await asyncio.sleep(4.9)
        assert box.is_closing
        box.gate.set()
        await settle()
        assert (box.was_cut, box.closed_at) == (False, 4.9)
        assert (pool.stats().forced, pool.stats().shut_down) == (0, 1)

    lab.run(main())


@pytest.mark.parametrize("error", [OSError("gone"), TimeoutError("slow"), asyncio.CancelledError("of its own")])
def test_a_shutdown_that_fails_is_counted_and_over(lab: Lab, error: BaseException) -> None:
    """As forced, with a warning; it is not tried again, and disturbs no other."""

    async def main() -> None:
        pool = lab.open()
        for caller in (ANN, BOB):
            await lab.serve(pool, caller)
        lab.boxes[0].error = error
        with structlog.testing.capture_logs() as logs:
            lab.publish(pool)
            await settle()
        assert [box.closes for box in lab.boxes] == [1, 1]
        assert (pool.stats().forced, pool.stats().shut_down) == (1, 2)
        assert [entry["log_level"] for entry in logs] == ["warning"]

    lab.run(main())


@pytest.mark.parametrize(
    ("callers", "failing"),
    [
        pytest.param((), (), id="gw-U3-none"),
        pytest.param((ANN, BOB, EVE), (), id="gw-U3-all-ok"),
        pytest.param((ANN, BOB, EVE), (0,), id="gw-U3-one-error"),
        pytest.param((ANN, BOB, EVE), (1, 2), id="gw-U3-two-errors"),
    ],
)
def test_shutdowns_beside_each_other(lab: Lab, callers: tuple[Caller, ...], failing: tuple[int, ...]) -> None:
    """Bridges are shut down at the same time; each that fails is told of, and none of the others is cut for it."""

    async def main() -> None:
        pool = lab.open()
        for caller in callers:
            await lab.serve(pool, caller)
        for number, box in enumerate(lab.boxes):
            box.gate.clear()
            box.error = OSError(f"box {number}") if number in failing else None
        with structlog.testing.capture_logs() as logs:
            closing = asyncio.create_task(pool.close(60.0))
            await settle()
            assert all(box.is_closing for box in lab.boxes)
            for box in lab.boxes:
                box.gate.set()
            await closing
        assert [box.was_cut for box in lab.boxes] == [False] * len(callers)
        assert len(logs) == len(failing)
        assert all(any(f"box {number}" in str(entry) for entry in logs) for number in failing)
        assert pool.stats().shut_down == len(callers)

    lab.run(main())


def test_a_bridge_is_closed_once_however_often_it_is_asked() -> None:
    """Its sessions see one close, also when two ask at one time."""
    with pool_lab.opened() as lab:

        async def main() -> None:
            bridge = RequestBridge(ANN, Generation(1, {}), box := Box(lab, ANN, 0, False))
            box.gate.clear()
            first = asyncio.create_task(bridge.close())
            await settle()
            second = asyncio.create_task(bridge.close())
            await settle()
            box.gate.set()
            await asyncio.gather(first, second)
            await bridge.close()
            assert box.closes == 1

        lab.run(main())


# --- Closing the pool ---------------------------------------------------------------------------------------------


def test_p16_p45_a_closed_pool_refuses_and_publishes_nothing(lab: Lab) -> None:
    """The refusal is a 503 that may be tried elsewhere."""

    async def main() -> None:
        pool = lab.open()
        await lab.serve(pool)
        await pool.close(0.0)
        generation = pool.generation
        lab.publish(pool)
        pool.sweep()
        assert pool.generation is generation
        for asked_for in (None, generation):
            failure = await lab.request(pool, ANN, asked_for).failure()
            assert isinstance(failure, GatewayStopped)
            assert (str(failure), failure.status) == ("the bridge pool is shutting down", 503)
        assert len(lab.dials) == 1
        stats = pool.stats()
        assert (stats.live, stats.shut_down, stats.forced) == (0, 1, 0)

    lab.run(main())


def test_p45_a_request_that_arrives_while_the_pool_closes_is_refused_at_once(lab: Lab) -> None:
    """Also for a bridge that is there and leased, and before anything has ended."""

    async def main() -> None:
        pool = lab.open()
        held = lab.request(pool)
        await held.leased()
        closing = asyncio.create_task(pool.close(60.0))
        await asyncio.sleep(0)
        for caller in (ANN, BOB):
            assert isinstance(await lab.request(pool, caller).failure(), GatewayStopped)
        lab.publish(pool)
        assert pool.generation.number == 1
        assert not closing.done()
        await held.served()
        await closing
        assert now() == 0.0

    lab.run(main())


@at_each_turn
def test_p17_p18_closing_beside_publishing_and_leasing(lab: Lab, turn: int) -> None:
    """In every order of their turns a request is served or told that the pool shuts down, and all comes to an end."""

    async def main() -> None:
        for wait in EACH_TURN:
            for grace_s in (0.0, 1.0):
                lab.dials_at_once = wait % 2 == 0
                pool = lab.open(max_bridges=1)
                requests = [lab.request(pool, caller) for caller in (ANN, BOB, ANN)]
                for request in requests:
                    request.finish()
                    request.is_expected_to_fail = True
                await turns(turn)
                closing = asyncio.create_task(pool.close(grace_s))
                await turns(wait // 2)
                lab.publish(pool)
                late = lab.request(pool, EVE)
                late.finish()
                late.is_expected_to_fail = True
                await turns(wait // 3)
                for dial in lab.dials:
                    dial.answer()
                await closing
                for request in (*requests, late):
                    await request.task
                    assert (request.bridge is None) == isinstance(request.error, GatewayStopped), request.error

    lab.run(main())


@at_each_turn
def test_p18_closing_at_once_around_the_end_of_a_build(lab: Lab, turn: int) -> None:
    """Without grace a waiter is served or refused; in no order does it hear of the inside of the pool."""

    async def main() -> None:
        pool = lab.open()
        requests = [await lab.dial(pool), lab.request(pool)]
        await settle()
        lab.dials[0].answer()
        await turns(turn)
        closing = asyncio.create_task(pool.close(0.0))
        for request in requests:
            request.finish()
            request.is_expected_to_fail = True
        await closing
        for request in requests:
            await request.task
            assert (request.bridge is None) == isinstance(request.error, GatewayStopped), request.error
        lab.wrongs.clear()  # a lease of that moment may be on a bridge that was ended by force

    lab.run(main())


def test_p19_a_pool_is_closed_once(lab: Lab) -> None:
    """A second close waits as the first does, whatever its own grace, and says nothing either."""

    async def main() -> None:
        pool = lab.open()
        held = lab.request(pool)
        await held.leased()
        first = asyncio.create_task(pool.close(60.0))
        await settle()
        second = asyncio.create_task(pool.close(0.0))
        await settle()
        assert not first.done()
        assert not second.done()
        assert lab.boxes[0].closes == 0
        await held.served()
        await asyncio.gather(first, second)
        await pool.close(1.0)
        assert pool.stats().forced == 0

    lab.run(main())


def test_closing_goes_on_when_who_asked_for_it_is_cancelled(lab: Lab) -> None:
    """Half a shutdown is none; a later call waits for the rest."""

    async def main() -> None:
        pool = lab.open()
        held = lab.request(pool)
        await held.leased()
        asked = asyncio.create_task(pool.close(60.0))
        await settle()
        asked.cancel()
        await settle()
        assert asked.cancelled()
        assert lab.boxes[0].closes == 0
        await held.served()
        await pool.close(60.0)
        assert (lab.boxes[0].closes, pool.stats().forced) == (1, 0)

    lab.run(main())


def test_p20_closing_waits_for_leases_and_builds(lab: Lab) -> None:
    """What had begun is served to its end, and nothing is forced."""

    async def main() -> None:
        pool = lab.open()
        held = lab.request(pool, BOB)
        lab.dials_at_once = True
        await held.leased()
        waiting = await lab.dial(pool, ANN)
        closing = asyncio.create_task(pool.close(60.0))
        await asyncio.sleep(20.0)
        lab.dials[1].answer()
        await waiting.leased()
        await held.served()
        await asyncio.sleep(20.0)
        assert not closing.done()
        await waiting.served()
        await closing
        assert now() == 40.0
        assert [box.closes for box in lab.boxes] == [1, 1]
        assert (pool.stats().forced, pool.stats().shut_down) == (0, 2)

    lab.run(main())


def test_closing_ends_at_once_what_nobody_holds(lab: Lab) -> None:
    """Bridges in the cache do not wait for those that are leased."""

    async def main() -> None:
        pool = lab.open()
        await lab.serve(pool, BOB)
        held = lab.request(pool, ANN)
        await held.leased()
        closing = asyncio.create_task(pool.close(60.0))
        await settle()
        assert [(box.caller, box.closes) for box in lab.boxes] == [(BOB, 1), (ANN, 0)]
        await held.served()
        await closing

    lab.run(main())


def test_p21_closing_cancels_builds_when_its_time_is_over(lab: Lab) -> None:
    """All who wait hear that the pool shuts down, and the servers that they are not wanted any more."""

    async def main() -> None:
        pool = lab.open()
        requests = [await lab.dial(pool), lab.request(pool)]
        await settle()
        await pool.close(3.0)
        assert now() == 3.0
        assert lab.dials[0].was_cancelled
        for request in requests:
            failure = await request.failure()
            assert isinstance(failure, GatewayStopped)
            assert str(failure) == "the bridge pool is shutting down"
        assert (pool.stats().leased, pool.stats().live, pool.stats().forced) == (0, 0, 0)

    lab.run(main())


@pytest.mark.parametrize("answer", ["a toolbox", "an error"])
def test_p21_servers_that_answer_a_cancel_leave_nothing_behind(lab: Lab, answer: str) -> None:
    """Libraries turn a cancel into an error or into a result; whatever came of it is closed, once."""
    connect = lab.connect

    async def stubborn(caller: Caller, generation: Generation) -> Box:
        try:
            return await connect(caller, generation)
        except asyncio.CancelledError:
            if answer == "an error":
                raise OSError("interrupted") from None
            lab.boxes.append(Box(lab, caller, 0, False))
            return lab.boxes[-1]

    async def main() -> None:
        pool = lab.open()
        request = await lab.dial(pool)
        request.is_expected_to_fail = True
        request.finish()
        await pool.close(0.0)
        await request.task
        lab.wrongs.clear()  # if it has its lease, then on a bridge that was ended by force
        assert (request.bridge is None) == isinstance(request.error, GatewayStopped), request.error

    lab.connect = stubborn  # type: ignore[method-assign]
    lab.run(main())


def test_p22_closing_ends_what_is_leased_when_its_time_is_over(lab: Lab) -> None:
    """That is counted as forced, one for each bridge; giving the lease back later ends nothing a second time."""

    async def main() -> None:
        pool = lab.open()
        requests = [lab.request(pool), lab.request(pool), lab.request(pool, BOB)]
        for request in requests:
            await request.leased()
        await pool.close(3.0)
        assert now() == 3.0
        assert [box.closes for box in lab.boxes] == [1, 1]
        assert (pool.stats().forced, pool.stats().shut_down, pool.stats().leased) == (2, 2, 3)
        assert len(lab.wrongs) == 2  # closed under their leases, as they had to be
        lab.wrongs.clear()
        for request in requests:
            await request.served()
        await settle()
        assert (pool.stats().forced, pool.stats().shut_down, pool.stats().leased) == (2, 2, 0)

    lab.run(main())


def test_p22_a_bridge_is_forced_once_even_if_its_shutdown_fails_too(lab: Lab) -> None:
    """`forced` counts bridges, and never more of them than were shut down."""

    async def main() -> None:
        pool = lab.open()
        request = lab.request(pool)
        await request.leased()
        lab.boxes[0].error = OSError("gone")
        await pool.close(0.0)
        lab.wrongs.clear()
        assert (pool.stats().forced, pool.stats().shut_down) == (1, 1)

    lab.run(main())


def test_p44_closing_without_grace_forces_nothing_that_is_idle(lab: Lab) -> None:
    """Bridges that nobody holds are shut down in peace, and closing returns when they have ended."""

    async def main() -> None:
        pool = lab.open()
        for caller in (ANN, BOB):
            await lab.serve(pool, caller)
        for box in lab.boxes:
            box.gate.clear()
        asyncio.get_running_loop().call_later(2.0, lab.boxes[0].gate.set)
        asyncio.get_running_loop().call_later(4.0, lab.boxes[1].gate.set)
        await pool.close(0.0)
        assert now() == 4.0
        assert [box.closed_at for box in lab.boxes] == [2.0, 4.0]
        assert (pool.stats().forced, pool.stats().shut_down) == (0, 2)

    lab.run(main())


def test_closing_is_over_when_the_last_shutdown_had_its_time(lab: Lab) -> None:
    """A bridge that was forced has its five seconds from then on."""

    async def main() -> None:
        pool = lab.open()
        request = lab.request(pool)
        await request.leased()
        lab.boxes[0].gate.clear()
        await pool.close(3.0)
        lab.wrongs.clear()
        assert (now(), lab.boxes[0].was_cut, pool.stats().shut_down) == (8.0, True, 1)

    lab.run(main())


def test_an_unused_pool_closes_at_once(lab: Lab) -> None:
    """However long its grace."""

    async def main() -> None:
        await lab.open().close(3600.0)
        assert now() == 0.0

    lab.run(main())


# --- Chance -------------------------------------------------------------------------------------------------------


class Walk:
    """Somebody who does anything at all to a pool, in an order that a seed decides."""

    def __init__(self, lab: Lab, constructor: Constructor, seed: int) -> None:
        self.lab = lab
        self.constructor = constructor
        self.choices = random.Random(seed)
        self.max_bridges = self.choices.choice([2, 5, 12])
        self.pool = lab.open(max_bridges=self.max_bridges)
        self.callers = [
            Caller(f"u{user}", f"name-{user}", f"k{key}", is_admin=False) for user in range(5) for key in range(2)
        ]
        self.generations = [self.pool.generation]
        self.requests: list[Request] = []
        self.acts: dict[Callable[[], None], int] = {
            self.begin: 30,
            self.begin_in_the_past: 5,
            self.finish: 18,
            self.cancel: 6,
            self.answer: 25,
            self.publish: 3,
            self.let_time_pass: 4,
            self.end_a_shutdown: 20,
            self.toggle_the_constructor: 3,
        }

    def begin(self) -> None:
        """Let a request begin in the generation in force."""
        self.requests.append(self.lab.request(self.pool, self.choices.choice(self.callers)))

    def begin_in_the_past(self) -> None:
        """Let a request begin in a generation that may be over."""
        generation = self.choices.choice(self.generations[-3:])
        self.requests.append(self.lab.request(self.pool, self.choices.choice(self.callers), generation))

    def finish(self) -> None:
        """Let a request end once it has been served."""
        if self.requests:
            self.choices.choice(self.requests).finish()

    def cancel(self) -> None:
        """Cancel a request, wherever it is."""
        if self.requests:
            self.choices.choice(self.requests).cancel()

    def answer(self) -> None:
        """Let the servers answer one dial, well or badly."""
        if waiting := [dial for dial in self.lab.dials if not dial.is_over]:
            dial = self.choices.choice(waiting)
            if self.choices.random() < 0.2:
                dial.fail(OSError("no route to host"))
            else:
                sessions = self.choices.choice([0, 0, 1, self.max_bridges])
                dial.answer(sessions, is_degraded=self.choices.random() < 0.2)

    def publish(self) -> None:
        """Publish the next generation."""
        self.generations.append(self.lab.publish(self.pool))

    def let_time_pass(self) -> None:
        """A little of it or a lot, and sweep."""
        self.lab.now += self.choices.choice([0.5, 20.0, TTL_S / 3, TTL_S])
        self.pool.sweep()

    def end_a_shutdown(self) -> None:
        """Let sessions end that were asked to."""
        if closing := [box for box in self.lab.boxes if box.is_closing]:
            box = self.choices.choice(closing)
            box.error = OSError("gone") if self.choices.random() < 0.1 else None
            box.gate.set()

    def toggle_the_constructor(self) -> None:
        """Let the making of bridges fail, or no longer."""
        self.constructor.error = BridgeError("no bridge") if self.choices.random() < 0.3 else None

    async def step(self) -> None:
        """Do something, let the loop turn a few times, and look whether all is well."""
        boxes = len(self.lab.boxes)
        self.lab.chance = self.choices.random()
        self.choices.choices(list(self.acts), list(self.acts.values()))[0]()
        for _ in range(self.choices.choice([0, 0, 1, 1, 2, 3, 25])):
            await asyncio.sleep(0)
            for box in self.lab.boxes[boxes:]:  # sessions end when this walk lets them, not at once
                box.gate.clear()
            boxes = len(self.lab.boxes)
        self.check()

    def check(self) -> None:
        """Look at what must hold at any moment; what is wrong with a lease is in `wrongs`."""
        assert self.lab.wrongs == []
        for request in self.requests:
            if request.error is not None:
                assert str(request.error) == "no bridge"
                request.is_expected_to_fail = True
        self.requests = [request for request in self.requests if not request.task.done()]
        stats = self.pool.stats()
        assert stats.live <= self.max_bridges
        assert stats.leased >= sum(request.is_holding for request in self.requests)
        assert stats.live + stats.retired + stats.shut_down <= self.constructor.made

    async def settle(self) -> None:
        """Let the loop come to rest, and look at what must hold then."""
        await settle()
        self.check()
        held = [request.bridge for request in self.requests if request.is_holding]
        stats = self.pool.stats()
        assert stats.leased == len(held)
        assert stats.retired <= len({id(bridge) for bridge in held})
        ending = sum(box.is_closing for box in self.lab.boxes)
        failing = stats.build_failures  # their boxes are ended by the build, and never had a bridge
        made = self.constructor.made
        assert made - failing <= stats.live + stats.retired + stats.shut_down + ending <= made + failing + ending
        assert stats.builds == len(self.lab.dials)


@pytest.mark.parametrize("seed", range(12))
def test_a_random_walk_breaks_nothing(lab: Lab, constructor: Constructor, seed: int) -> None:
    """Callers, publishes, evictions, expiry, cancellations and failures in any order: nobody is harmed."""

    async def main() -> None:
        lab.dials_at_once = False
        walk = Walk(lab, constructor, seed)
        for number in range(1500):
            await walk.step()
            if number % 50 == 49:
                await walk.settle()
        constructor.error = None
        stats = walk.pool.stats()
        # The walk went everywhere.
        assert min(stats.hits, stats.misses, stats.joined, stats.uncached, stats.build_failures) > 0
        assert stats.evicted[Cause.CLEARED] > 0

    lab.run(main())
