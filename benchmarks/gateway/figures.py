"""From samples to figures."""

import math
from collections.abc import Sequence
from statistics import median


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least *share* of the samples do not exceed; they are sorted already.

    Nothing is interpolated: the figure is a time that one request did take.
    """
    if not ordered:
        raise ValueError("expected at least one sample, found none")
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


def percentiles(samples: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Return the percentiles of samples in any order."""
    ordered = sorted(samples)
    return [percentile(ordered, share) for share in shares]


def added(through: Sequence[float], direct: Sequence[float]) -> float:
    """Return the median over rounds of what is added to the direct figure of the same round."""
    return median(one - other for one, other in zip(through, direct, strict=True))


def ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """Return the median quotient of the same round: what disturbs a round disturbs both sides."""
    return median(one / other for one, other in zip(these, those, strict=False))
