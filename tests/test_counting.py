"""Names of counters, their limits, and how the parent adds up what its workers tell."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgeserver.counting import (
    CHARACTERS,
    MODELS,
    SEPARATOR,
    SERIES,
    SUM,
    Counters,
    Growth,
    Histogram,
    Parts,
    Sums,
    join,
    split,
    total,
)
from bridgeserver.families import FAMILIES, FREE

TEXTS = st.text(st.characters(codec=None, categories=None), max_size=200)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_is_read_as_it_was_made(family: str) -> None:
    """Whatever the values are, for every family, and for each bucket of a histogram."""
    values = tuple(f"{label}.with dots." for label in FAMILIES[family].labels)
    counters = Counters()
    name = counters.name(family, *values)
    if FAMILIES[family].kind != "histogram":
        assert split(name) == Parts(family, values)
        return
    Histogram(counters, name).observe(0)
    assert sorted(filter(None, map(split, counters))) == [Parts(family, values, "0"), Parts(family, values, SUM)]


@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_what_others_choose_breaks_no_name(chosen: list[str]) -> None:
    """Separators, lone surrogates and megabytes among them: each counts in its family, as text that can be sent."""
    counters = Counters()
    for text in chosen:
        counters.add("non_injected_tool_selections", "p", text, text * 1000)
    for name in counters:
        name.encode()
        parts = split(name)
        assert parts is not None
        assert parts.values[0] == "p"
        assert max(map(len, parts.values)) <= CHARACTERS
    assert total(counters, "non_injected_tool_selections") == len(chosen)


@pytest.mark.parametrize(
    "name", ["", ".", "unheard", "unheard.x", "pool_hits.x", "pool_evicted", "tokens.a", "first_byte.p"]
)
def test_a_name_of_no_family(name: str) -> None:
    """It is told apart."""
    assert split(name) is None


def test_models_are_limited_over_all_families() -> None:
    """The first 200 are shown, everywhere; the others count together."""
    counters = Counters()
    for number in range(MODELS + 50):
        counters.add("interceptions_cancelled", "p", f"m{number}")
    counters.add("prompts", "p", "late", "Codex", "")
    counters.add("prompts", "p", "m1", "Codex", "")
    assert len(counters) == MODELS + 1 + 2
    assert counters[join("interceptions_cancelled", ("p", "other"))] == 50
    assert counters[join("prompts", ("p", "other", "Codex", ""))] == 1
    assert counters[join("prompts", ("p", "m1", "Codex", ""))] == 1


def test_series_are_limited() -> None:
    """What others choose is folded then, and nothing else: a status stays a status, and no user stays none."""
    counters = Counters()
    for number in range(SERIES + 50):
        counters.add("interceptions", "p", "m", "completed", "/r", "POST", "Codex", f"user{number}")
    counters.add("interceptions", "q", "m", "failed", "/r", "POST", "Zed", "")
    counters.add("interceptions", "p", "m", "completed", "/r", "POST", "Codex", "user7")
    assert len(counters) == SERIES + 2
    assert counters[join("interceptions", ("p", "other", "completed", "/r", "POST", "Codex", "other"))] == 50
    assert counters[join("interceptions", ("q", "other", "failed", "/r", "POST", "Zed", ""))] == 1
    assert counters[join("interceptions", ("p", "m", "completed", "/r", "POST", "Codex", "user7"))] == 2
    assert {"model", "user", "name"} == FREE


def test_limits_outlast_what_was_told() -> None:
    """Taking what was counted makes room for nobody."""
    counters = Counters()
    for number in range(MODELS):
        counters.add("interceptions_cancelled", "p", f"m{number}")
    assert len(counters.take()) == MODELS
    assert not counters
    counters.add("interceptions_cancelled", "p", "another")
    assert list(counters) == [join("interceptions_cancelled", ("p", "other"))]


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_a_histogram_has_every_value_in_one_bucket(values: list[float]) -> None:
    """The first whose bound is not below it, as Prometheus has it; the sum is in microseconds."""
    counters = Counters()
    name = counters.name("interceptions_duration", "p", "m")
    histogram = Histogram(counters, name)
    for value in values:
        histogram.observe(value)
    expected = Counter[str]()
    bounds = (*FAMILIES["interceptions_duration"].bounds, math.inf)
    for value in values:
        bucket = min(number for number, bound in enumerate(bounds) if value <= bound)
        expected[f"{name}{SEPARATOR}{bucket}"] += 1
    taken = counters.take()
    assert taken.pop(name + SEPARATOR + SUM, 0) == sum(int(value * 1e6) for value in values)
    assert taken == expected


def test_growth_is_told_once() -> None:
    """Of counters that are kept elsewhere, what is new since the last time."""
    growth = Growth()
    assert growth.take({"a": 2, "b": 0}) == {"a": 2}
    assert growth.take({"a": 2, "b": 0}) == {}
    assert growth.take({"a": 5, "b": 1, "c": 1}) == {"a": 3, "b": 1, "c": 1}


def test_sums_keep_what_is_over() -> None:
    """Counters stay when a worker is gone, its gauges do not; of states the highest counts."""
    sums = Sums()
    sums.add({"pool_hits": 3, "tokens.p\x1fm\x1finput\x1fc\x1f": 0})
    sums.add({"pool_hits": 4})
    found = sums.with_gauges([{"pool_live": 1}, {"pool_live": 2}], [{"s": 0.5}, {"s": 1}, {"s": 0}])
    assert found == {"pool_hits": 7, "tokens.p\x1fm\x1finput\x1fc\x1f": 0, "pool_live": 3, "s": 1}
    assert sums.with_gauges([], []) == {"pool_hits": 7, "tokens.p\x1fm\x1finput\x1fc\x1f": 0}


def test_what_was_in_flight_is_none_later() -> None:
    """Rather than absent, which says nothing."""
    sums = Sums()
    name = join("interceptions_inflight", ("p", "m", "/r"))
    sums.add({}, {name: 2, "pool_live": 1})
    assert sums.with_gauges([{name: 2}, {name: 1}], [])[name] == 3
    assert sums.with_gauges([{}], []) == {name: 0}


def test_the_limits_hold_for_all_workers_together() -> None:
    """Each has models of its own; what does not fit is counted together, and every bucket of it."""
    sums = Sums()
    for worker in range(3):
        counters = Counters()
        for number in range(150):
            Histogram(counters, counters.name("first_byte", "p", f"m{worker}-{number}")).observe(0.2)
            counters[f"circuit_breaker_trips.p./v1/messages.m{worker}-{number}"] += 1
        sums.add(counters.take())
    found = sums.with_gauges([], [])
    other = join("first_byte", ("p", "other"))
    assert found[f"{other}{SEPARATOR}2"] == 3 * 150 - MODELS
    assert found[f"{other}{SEPARATOR}{SUM}"] == 200_000 * (3 * 150 - MODELS)
    assert found[join("circuit_breaker_trips", ("p", "/v1/messages", "other"))] == 3 * 150 - MODELS
    assert len(found) == 2 * (MODELS + 1) + MODELS + 1
