"""How times are taken: many rounds, in each of which every contender runs one short slice, in a new random order.

Whatever disturbs the machine for a while disturbs all contenders alike. The collector of cycles is off meanwhile. All
rows are measured, then all of them again with new caches: a disturbance of some seconds, or an unlucky place in
memory, reaches a part of a row only.
"""

import gc
import itertools
import random
import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from types import FunctionType
from typing import Any, NamedTuple

PASSES = 3

_SHUFFLE = random.Random(1).shuffle


class Row(NamedTuple):
    """One question, and the contenders that answer it."""

    name: str
    contenders: Mapping[str, Callable[[], float]]
    """Each runs one slice and returns its time in units."""
    rounds: int = 40
    """In each pass."""
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


def measure(makers: Iterable[Callable[[], Row]], word: str = "") -> list[dict[str, Any]]:
    """Run all passes of all rows with the word in their name, and return a result for each, every slice included."""
    rows: dict[str, Row] = {}
    slices: dict[str, dict[str, list[float]]] = {}
    for make in itertools.chain.from_iterable(itertools.repeat(tuple(makers), PASSES)):
        row = make()
        if word in row.name:
            rows[row.name] = row
            _run(row, slices.setdefault(row.name, {name: [] for name in row.contenders}))
    return [
        {
            "row": name,
            "unit": row.unit,
            "contenders": {contender: _summary(runs) for contender, runs in slices[name].items()},
        }
        for name, row in rows.items()
    ]


def _run(row: Row, slices: Mapping[str, list[float]]) -> None:
    """Add the slices of all rounds of one pass."""
    order = list(row.contenders.items())
    gc.collect()
    gc.disable()
    try:
        for _ in range(row.rounds):
            _SHUFFLE(order)
            for name, run in order:
                slices[name].append(round(run(), 1))
    finally:
        gc.enable()


def _summary(slices: list[float]) -> dict[str, Any]:
    return {"median": round(median(slices), 1), "minimum": min(slices), "slices": slices}
