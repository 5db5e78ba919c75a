"""What hit ratios come to: the share of the optimum, which can be averaged over traces as hit ratios cannot."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from statistics import fmean
from typing import Any


def shares(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for each trace the share of the optimum that each policy reaches, as the mean over the capacities."""
    able = [row for row in rows if row["optimum"]]
    by_trace = {trace: list(group) for trace, group in groupby(able, lambda row: row["trace"])}
    return {
        trace: {name: fmean(fmean(row["hits"][name]) / row["optimum"] for row in group) for name in group[0]["hits"]}
        for trace, group in by_trace.items()
    }


def overall(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of the shares over the traces, each of which counts the same."""
    by_trace = list(shares(rows).values())
    return {name: fmean(trace[name] for trace in by_trace) for name in by_trace[0]} if by_trace else {}
