"""Counters of a worker, with labels whose values others choose."""

from collections import Counter

SEPARATOR = "\x1f"
"""Between the values of labels, which may hold dots; ASCII calls it the unit separator."""

SERIES = 1000
"""Combinations of values that one family may have; what comes later is counted as `other`."""


class Counters(Counter[str]):
    """Counts by name; `add` counts by the name of a family and the values of its labels."""

    def __init__(self) -> None:
        super().__init__()
        self._series = Counter[str]()

    def add(self, family: str, *values: str) -> None:
        """Count one more."""
        key = f"{family}.{SEPARATOR.join(values)}"
        if key not in self:
            if self._series[family] >= SERIES:
                key = f"{family}.{SEPARATOR.join(['other'] * len(values))}"
            self._series[family] += 1
        self[key] += 1
