"""How times are taken: many rounds, in each of which every contender runs one short slice, in a new random order.

Whatever disturbs the machine for a while disturbs all contenders alike. The collector of cycles is off meanwhile.
"""

import gc
import random
import time
from collections.abc import Callable, Mapping
from statistics import median
from types import FunctionType
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One question, and the contenders that answer it."""

    name: str
    contenders: Mapping[str, Callable[[], float]]
    """Each runs one slice and returns its time in units."""
    rounds: int = 100
    unit: str = "ns"


def own(loop: Any) -> Any:
    """Return a copy of a function whose bytecode is its own.

    The interpreter specializes bytecode for what it sees. Contenders that ran the same code object would spoil that
    for each other.
    """
    return FunctionType(loop.__code__.replace(), loop.__globals__, loop.__name__)


def timed(loop: Callable[..., object], *arguments: object) -> int:
    """Call the loop once and return how many nanoseconds that took."""
    start = time.perf_counter_ns()
    loop(*arguments)
    return time.perf_counter_ns() - start


def measure(row: Row) -> dict[str, Any]:
    """Run all rounds of a row and return its result, every slice included."""
    slices: dict[str, list[float]] = {name: [] for name in row.contenders}
    order = list(row.contenders.items())
    shuffle = random.Random(1).shuffle
    gc.collect()
    gc.disable()
    try:
        for _ in range(row.rounds):
            shuffle(order)
            for name, run in order:
                slices[name].append(round(run(), 1))
    finally:
        gc.enable()
    return {"row": row.name, "unit": row.unit, "contenders": {name: summary(runs) for name, runs in slices.items()}}


def summary(slices: list[float]) -> dict[str, Any]:
    return {"median": round(median(slices), 1), "minimum": min(slices), "slices": slices}
