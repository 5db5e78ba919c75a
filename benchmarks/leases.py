"""What it costs a request to have its caller's bridge: the look-up and the lease of one that is in the pool."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import uvloop
from keys import joined
from rounds import Row

from bridgecore import Cache
from bridgeserver.generation import Generation
from bridgeserver.identity import Caller
from bridgeserver.pool import BridgePool

CALLERS = 1_000

Loop = Callable[[], Awaitable[float]]


def _callers() -> Sequence[Caller]:
    return [Caller(joined(number), "user", joined(number), is_admin=False) for number in range(CALLERS)]


async def _use(pool: BridgePool, callers: Sequence[Caller]) -> float:
    start = time.perf_counter_ns()
    for caller in callers:
        with pool.find(caller, pool.generation) or await pool.acquire(caller, pool.generation):
            pass
    return (time.perf_counter_ns() - start) / CALLERS


async def _use_cache(cache: Cache[tuple[str, str], object], callers: Sequence[Caller]) -> float:
    start = time.perf_counter_ns()
    for caller in callers:
        lease = cache.acquire2(caller.user_id, caller.key_id)
        if lease is not None:
            lease.release()
    return (time.perf_counter_ns() - start) / CALLERS


def pool() -> Row:
    callers = _callers()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    async def make() -> BridgePool:
        made = BridgePool(Generation(1, {}))
        await _use(made, callers)
        return made

    bridges = runner.run(make())
    cache: Cache[tuple[str, str], object] = Cache(CALLERS)
    for caller in callers:
        cache.set2(caller.user_id, caller.key_id, caller)
    ways: dict[str, Callable[[], float]] = {
        "bridgecore: BridgePool.lease": lambda: runner.run(_use(bridges, callers)),
        "bridgecore: acquire2, release": lambda: runner.run(_use_cache(cache, callers)),
    }
    return Row("leased bridge", ways)


ROWS = (pool,)
