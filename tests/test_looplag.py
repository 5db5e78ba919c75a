"""How late timers are, on a clock that the test moves."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bridgeserver.counting import SEPARATOR, SUM, Counters
from bridgeserver.looplag import EVERY_S, REMEMBERED_S, LoopLag


class Clock:
    """A clock that each timer moves on by as much as it was set for, and by how late it fires."""

    def __init__(self) -> None:
        self.now = 0.0
        self.late_s = list[float]()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Fire, or end the test when there is nothing more to try."""
        if not self.late_s:
            raise asyncio.CancelledError
        self.now += seconds + self.late_s.pop(0)


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[LoopLag, dict[str, int]]]:
    """Let timers fire that late, one after another; return what was noted."""

    def follow(*late_s: float) -> tuple[LoopLag, dict[str, int]]:
        clock, counters = Clock(), Counters()
        clock.late_s += late_s
        monkeypatch.setattr("bridgeserver.looplag.asyncio.sleep", clock.sleep)
        lag = LoopLag(counters, clock)
        work: Any = lag.follow()
        with pytest.raises(asyncio.CancelledError):
            work.send(None)
        return lag, counters.take()

    return follow


Follow = Callable[..., tuple[LoopLag, dict[str, int]]]


def test_each_timer_counts_once(follow: Follow) -> None:
    """In the bucket of how late it was; one that is early is not late."""
    lag, counted = follow(0.0, 0.0005, 0.02, 3.0, -0.01)
    assert SEPARATOR not in "".join(counted)
    assert counted.pop(f"loop_lag.{SUM}") == pytest.approx(3_020_500, abs=5)
    assert counted == {"loop_lag.0": 3, "loop_lag.3": 1, "loop_lag.8": 1}
    assert lag.max_us == pytest.approx(3_000_000, abs=5)


def test_the_longest_is_forgotten_after_a_while(follow: Follow) -> None:
    """It is seen for 30 s at least, and for a minute at most."""
    quiet = [0.0] * round(REMEMBERED_S / EVERY_S)
    assert follow(0.5, *quiet)[0].max_us == pytest.approx(500_000, abs=5)
    assert follow(*quiet, 0.5, *quiet)[0].max_us == pytest.approx(500_000, abs=5)
    assert follow(0.5, *quiet, *quiet, 0.0)[0].max_us < 10
