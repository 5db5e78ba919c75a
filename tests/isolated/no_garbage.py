"""Nothing that the core makes is left to the collector of cycles by itself."""

import asyncio
import gc
from contextlib import suppress
from typing import Any

from bridgecore import Cache, FlightGroup

gc.collect()
gc.disable()
gc.set_debug(gc.DEBUG_SAVEALL)


def fail() -> None:
    raise ZeroDivisionError


def caches() -> None:
    cache: Cache[str, list[int]] = Cache(10, on_exit=lambda _key, _value, _cause: None)
    for number in range(50):
        cache.set(str(number), [number])
    unhashable: Any = []
    with suppress(TypeError):
        cache.get(unhashable)
    with cache.set_and_acquire("a", [1]) as value:
        assert value == [1]
    cache.close()


def flights() -> None:
    group = FlightGroup()
    for _ in range(20):
        with suppress(ZeroDivisionError):
            group.do("key", fail)


async def tasks() -> None:
    group = FlightGroup()

    async def work() -> int:
        await asyncio.sleep(0)
        return 1

    assert await asyncio.gather(*[group.run("key", work) for _ in range(20)]) == [1] * 20


caches()
flights()
gc.collect()
left = [made for made in gc.garbage if type(made).__module__.startswith("bridgecore")]
assert left == [], left
gc.set_debug(0)
gc.garbage.clear()
asyncio.run(tasks())
