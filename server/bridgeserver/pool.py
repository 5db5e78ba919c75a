"""The pool: for each caller one ready bridge, built once for all who wait for it, and kept from ending while leased.

A bridge is in the cache until it is evicted, its time is over, a generation is published or the pool closes. All
of these end in `_exit`, which the cache calls when the last lease is back; so no bridge that somebody uses is shut
down, and none is forgotten. Nothing awaits between the look-up and the lease, so there is no gap to retry over.
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import structlog

from bridgecore import Cache, Cause, FlightAborted, FlightGroup, Lease, Outcome
from bridgeserver.bridge import Connect, RequestBridge
from bridgeserver.errors import GatewayStopped
from bridgeserver.generation import Generation
from bridgeserver.identity import Caller
from bridgeserver.spans import is_traced, span
from bridgeserver.tools.tool import Toolbox

log = structlog.get_logger("bridgecore")

JITTER = 0.1
"""The part of its time to live by which a bridge may end sooner, so that those made together do not end together."""

DEGRADED_TTL_S = 30.0
"""How long a bridge that misses tools is kept at most, so that it heals."""

CONNECT_S = 30.0
"""How long the making of a bridge waits for the sessions of its tools; then it serves without them."""

SHUT_DOWN_S = 5.0
"""How long the shutdown of one bridge may take, from its own start."""

WARNING_PERIOD_S = 60.0

Key = tuple[str, str, int]
"""User, key, and number of the generation."""


class PoolStats(NamedTuple):
    """Counters since the start, and how many there are of what."""

    hits: int
    misses: int
    added: int
    evicted: Mapping[Cause, int]
    builds: int
    build_failures: int
    build_s: float
    joined: int
    uncached: int
    """Leases on bridges that the cache did not take: they cost too much, or their generation was over."""
    live: int
    leased: int
    retired: int
    shut_down: int
    forced: int
    """Shut down while leased, or not within their time, or with an error."""


class _Build:
    """A bridge under construction, and those who wait for it: it is leased until each has a lease of its own."""

    def __init__(self) -> None:
        self.waiting = 0
        self.is_stale = False
        self.lease: Lease[RequestBridge] | None = None

    def leave(self) -> None:
        """Count one waiter out."""
        self.waiting -= 1
        self.release_if_unused()

    def release_if_unused(self) -> None:
        """Give the bridge back if nobody waits for it."""
        if self.waiting == 0 and self.lease is not None:
            self.lease.release()


class BridgePool:
    """The bridges of one worker process; made and used inside its event loop."""

    def __init__(
        self,
        generation: Generation,
        connect: Connect | None = None,
        *,
        max_bridges: int = 5000,
        ttl_s: float = 900.0,
        clock: Callable[[], float] | None = None,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.generation = generation
        self._connect = connect
        self._ttl_s = ttl_s
        self._random = random
        self._clock = clock or time.monotonic
        self._cache: Cache[tuple[str, str], RequestBridge] = Cache(max_bridges, on_exit=self._exit, clock=clock)
        self._cache_generation = self._cache.clear()  # from 1 on, so that every old one has a number below
        self._flights = FlightGroup()
        self._builds: dict[Key, _Build] = {}
        self._bridges: set[RequestBridge] = set()
        self._building: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._closing: asyncio.Task[None] | None = None
        self._is_over = False
        self._counts: Counter[str] = Counter()
        self._build_s = 0.0
        self._warned_at = -math.inf

    def publish(self, generation: Generation) -> None:
        """Serve *generation* from now on. The bridges of the old one end as soon as they are not leased."""
        if self._closing is None:
            self.generation = generation
            self._cache_generation = self._cache.clear()

    def drop(self, caller: Caller) -> None:
        """Let the caller's bridge go: what it was made for has changed. It ends as soon as it is not leased."""
        if self._closing is not None:
            return
        self._cache.delete2(caller.user_id, caller.key_id)
        for key in [key for key in self._builds if key[:2] == (caller.user_id, caller.key_id)]:
            self._builds.pop(key).is_stale = True  # it serves those who wait
            self._flights.forget(key[:2], key[2])

    def sweep(self) -> None:
        """Let bridges go whose time is over and for which nobody asks."""
        if self._closing is None:
            self._cache.expire()

    def stats(self) -> PoolStats:
        """Return what the pool has done and what it holds."""
        cache, flights, counts = self._cache.stats(), self._flights.stats(), self._counts
        return PoolStats(
            hits=cache.hits,
            misses=cache.misses,
            added=cache.added,
            evicted=cache.exits,
            builds=flights.started,
            build_failures=counts["build_failures"],
            build_s=self._build_s,
            joined=flights.joined,
            uncached=counts["uncached"],
            live=cache.entries,
            leased=cache.leases,
            retired=cache.retired,
            shut_down=counts["shut_down"],
            forced=counts["forced"],
        )

    async def close(self, grace_s: float) -> None:
        """Refuse new leases, wait for builds and leases for *grace_s* seconds, then end what is left."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(grace_s))
        await asyncio.shield(self._closing)

    def find(self, caller: Caller, generation: Generation) -> Lease[RequestBridge] | None:
        """Return a lease on the caller's bridge if there is one, and nobody wants a span of looking it up.

        As with `acquire`, nothing shuts the bridge down until the lease is given back. Raises GatewayStopped.
        """
        return None if is_traced() else self._cached(caller, generation)

    async def acquire(self, caller: Caller, generation: Generation) -> Lease[RequestBridge]:
        """Return a lease on the caller's bridge, which is built if there is none; for whom `find` has found none.

        *generation* is the one in force, or the older one with which the request began: such a bridge serves and
        is not kept. Raises GatewayStopped once the pool closes, and whatever the making of a bridge raises.
        """
        if not is_traced():
            return await self._built(caller, generation)
        with span("BridgePool.acquire", {"user_id": caller.user_id, "key_id": caller.key_id}) as traced:
            lease = self._cached(caller, generation)
            traced.event("cache_hit" if lease is not None else "cache_miss")
            return lease if lease is not None else await self._built(caller, generation)

    def _cached(self, caller: Caller, generation: Generation) -> Lease[RequestBridge] | None:
        if self._closing is not None:
            raise _closed()
        return self._cache.acquire2(caller.user_id, caller.key_id) if generation is self.generation else None

    async def _built(self, caller: Caller, generation: Generation) -> Lease[RequestBridge]:
        key = (caller.user_id, caller.key_id, generation.number)
        build = self._builds.get(key)
        if build is None:
            build = self._builds[key] = _Build()
        build.waiting += 1
        try:
            await self._flights.run(key[:2], partial(self._build, key, build, caller, generation), generation.number)
            assert build.lease is not None  # noqa: S101 - a build that did not raise has set it
            if build.lease.outcome in {Outcome.REJECTED, Outcome.STALE}:
                self._counts["uncached"] += 1
            return build.lease.share()
        except FlightAborted as exc:
            raise _closed() from exc
        finally:
            build.leave()

    async def _build(self, key: Key, build: _Build, caller: Caller, generation: Generation) -> None:
        """Make a bridge and offer it to the cache; runs in a task of its own, which no waiter can cancel."""
        is_current = generation is self.generation
        cache_generation = self._cache_generation if is_current else self._cache_generation - 1
        started = time.perf_counter()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a flight runs in a task
        self._track(task, self._building)
        try:
            bridge = await self._make(caller, generation)
            build.lease = await self._keep(bridge, cache_generation - build.is_stale)
            build.release_if_unused()
        except BaseException:
            self._counts["build_failures"] += 1
            raise
        finally:
            self._build_s += time.perf_counter() - started
            if self._builds.get(key) is build:
                del self._builds[key]

    async def _make(self, caller: Caller, generation: Generation) -> RequestBridge:
        tools: Toolbox | None = None
        is_degraded = False
        if self._connect is not None:
            try:
                async with asyncio.timeout(CONNECT_S):
                    tools = await self._connect(caller, generation)
            except (Exception, asyncio.CancelledError) as exc:
                if _is_cancelled(exc):
                    raise
                is_degraded = True
                log.warning("tools_missing", user=caller.user_name, reason=f"{type(exc).__name__}: {exc}")
        try:
            return RequestBridge(caller, generation, tools, is_degraded=is_degraded)
        except BaseException:
            if tools is not None and not await self._end_sessions(tools.close):
                self._counts["forced"] += 1
            raise

    async def _keep(self, bridge: RequestBridge, cache_generation: int) -> Lease[RequestBridge]:
        caller = bridge.caller
        ttl_s = self._ttl_s * (1 - JITTER * self._random())
        if bridge.is_degraded:
            ttl_s = min(ttl_s, DEGRADED_TTL_S)
        if self._is_over:
            await self._end_sessions(bridge.close)
            raise _closed()
        try:
            lease = self._cache.set_and_acquire2(
                caller.user_id, caller.key_id, bridge, bridge.cost, ttl_s, cache_generation
            )
        except BaseException:
            await self._end_sessions(bridge.close)
            raise
        self._bridges.add(bridge)
        self._is_idle.clear()
        if lease.outcome is Outcome.REJECTED:
            self._warn_of(bridge)
        return lease

    def _warn_of(self, bridge: RequestBridge) -> None:
        now = self._clock()
        if now - self._warned_at >= WARNING_PERIOD_S:
            self._warned_at = now
            log.warning(
                "bridge_not_cached",
                user=bridge.caller.user_name,
                cost=bridge.cost,
                reason=f"it costs more than the pool of {self._cache.max_cost} has; raise max_bridges",
            )

    def _exit(self, _key: object, bridge: RequestBridge, _cause: Cause) -> None:
        """Shut a bridge down that has left the cache and is not leased; the cache calls it once for each."""
        if bridge in self._bridges:  # else the pool closed, and could not wait for its lease
            self._retire(bridge, is_forced=False)

    def _retire(self, bridge: RequestBridge, *, is_forced: bool) -> None:
        self._bridges.remove(bridge)
        if bridge.tools is None:
            self._counts["shut_down"] += 1
            self._settle()
        else:
            self._track(asyncio.create_task(self._shut_down(bridge, is_forced=is_forced)), self._ending)

    async def _shut_down(self, bridge: RequestBridge, *, is_forced: bool) -> None:
        if not await self._end_sessions(bridge.close) and not is_forced:
            self._counts["forced"] += 1
        self._counts["shut_down"] += 1

    async def _end_sessions(self, close: Callable[[], Awaitable[None]]) -> bool:
        """Return whether they ended well and in time."""
        try:
            async with asyncio.timeout(SHUT_DOWN_S):
                await close()
        except (Exception, asyncio.CancelledError) as exc:
            if _is_cancelled(exc):
                raise
            reason = (
                f"not within {SHUT_DOWN_S:g} s" if isinstance(exc, TimeoutError) else f"{type(exc).__name__}: {exc}"
            )
            log.warning("sessions_not_ended", reason=reason)
            return False
        return True

    async def _close(self, grace_s: float) -> None:
        self._cache.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._is_idle.wait()
        for task in self._building:
            task.cancel()
        await _wait_for(self._building)
        self._is_over = True
        for bridge in list(self._bridges):
            self._counts["forced"] += 1
            log.warning("bridge_still_leased", reason=f"a request of {bridge.caller.user_name} has not ended")
            self._retire(bridge, is_forced=True)
        await _wait_for(self._ending)
        self._cache.close()

    def _track(self, task: asyncio.Task[None], tasks: set[asyncio.Task[None]]) -> None:
        def end(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            self._settle()

        tasks.add(task)
        self._is_idle.clear()
        task.add_done_callback(end)

    def _settle(self) -> None:
        if not self._building and not self._ending and not self._bridges:
            self._is_idle.set()


async def _wait_for(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait until the tasks have ended, but not for one that does not end although it should have long ago."""
    if tasks:
        await asyncio.wait(list(tasks), timeout=2 * SHUT_DOWN_S)


def _is_cancelled(error: BaseException) -> bool:
    """Whether this is a cancellation of the task that runs; foreign code raises others of its own."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _closed() -> GatewayStopped:
    return GatewayStopped("the bridge pool is shutting down")
