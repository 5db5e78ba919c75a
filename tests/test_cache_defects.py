"""Defects that the cache once had and that no other test describes."""

import gc
from typing import Any

import pytest

from bridgecore import Cache, Cause


class Once:
    """A listener that raises at the first exit."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def __call__(self, _key: object, _value: object, _cause: Cause) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error


class Odd(KeyboardInterrupt):
    """An interrupt that must not be asked for its truth."""

    def __bool__(self) -> bool:
        raise ZeroDivisionError


def test_the_truth_of_an_interrupt_is_not_asked() -> None:
    """An interrupt that fails when it is asked for its truth comes out, after all exits, like any other."""
    cache: Cache[int, int] = Cache(10, on_exit=Once(Odd()))
    cache.set(1, 1)
    cache.set(2, 2)
    with pytest.raises(Odd):
        cache.clear()
    assert cache.stats().exits[Cause.CLEARED] == 2
    cache.audit()


@pytest.mark.parametrize("arguments", [(), (0,), ("x",), (1, 2)])
def test_a_cache_that_was_never_made_is_dropped_in_peace(arguments: tuple[Any, ...]) -> None:
    """Bad arguments raise, and the half-made object goes without a trace."""
    with pytest.raises((ValueError, TypeError)):
        Cache(*arguments)
    gc.collect()


def test_an_interrupt_out_of_a_set_gives_the_lease_back() -> None:
    """Who is interrupted gets no lease, so none is left behind."""
    cache: Cache[int, int] = Cache(10, on_exit=Once(KeyboardInterrupt()))
    cache.set(1, 1)
    with pytest.raises(KeyboardInterrupt):
        cache.set_and_acquire(1, 2)
    stats = cache.stats()
    assert (stats.leases, stats.lost_leases) == (0, 0)
    assert cache.get(1) == 2


def test_the_count_of_uses_does_not_go_below_zero() -> None:
    """A large cache that is emptied, and then used a little, halves its counters and still knows what is popular."""
    cache: Cache[int, int] = Cache(300, seed=1)
    for _ in range(3):
        for number in range(300):
            cache.set(number, number)
    cache.clear()
    for _ in range(2_000):
        cache.set(1, 1)
    snapshot = cache._snapshot()  # type: ignore[attr-defined]
    assert 0 <= snapshot["additions"] < 20 * 300
    assert snapshot["frequencies"] == {1: 15}


def test_an_entry_that_outgrows_a_shadow_leaves_it() -> None:
    """A popular key whose cost rises above what a shadow cache may hold corrupts nothing."""
    cache: Cache[int, int] = Cache(1_000, seed=1)
    for number in range(3_000):
        cache.set(number % 40, number, 1 if number < 1_500 else 900)
    cache.audit()
