"""Series of a worker: how many are kept, and what is told of them."""

from collections import Counter

import pytest

from bridgeserver import traffic as traffics
from bridgeserver.counting import Counters, join, total
from bridgeserver.protocols import Usage
from bridgeserver.traffic import Series, Traffic


@pytest.fixture
def traffic() -> Traffic:
    """Traffic on a clock that stands still."""
    return Traffic(Counters(), clock=lambda: 1.0)


def series_of(traffic: Traffic, model: str = "m") -> Series:
    """Return the series of one model."""
    return traffic.series("p", "/r", model, "Codex", "ann")


def test_a_request_is_told_once(traffic: Traffic) -> None:
    """Also one that goes on over several reports; what has not changed is not told again."""
    series = series_of(traffic)
    began = series.begin("hello")
    assert traffic.take() == {join("prompts", ("p", "m", "Codex", "")): 1}
    assert traffic.take() == {}
    assert traffic.inflight() == {join("interceptions_inflight", ("p", "m", "/r")): 1}
    series.tokens(Usage(input=3, extra={"output_reasoning": 0}))
    tokens = {name: count for name, count in traffic.take().items() if name.startswith("tokens.")}
    assert sorted(tokens.values()) == [0, 0, 0, 0, 3]
    series.end("completed", began)
    assert total(traffic.take(), "interceptions") == 1
    assert traffic.take() == {}
    assert traffic.inflight() == {}


def test_series_that_were_let_go_lose_nothing(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are too many, those that run end all the same, and both of two with the same labels count."""
    monkeypatch.setattr(traffics, "SERIES", 3)
    first = series_of(traffic)
    began = first.begin(None)
    for number in range(10):
        series_of(traffic, f"m{number}")
    second = series_of(traffic)
    assert second is not first
    second.end("failed", second.begin(None))
    assert sum(traffic.inflight().values()) == 1
    first.end("failed", began)
    counted = traffic.take()
    assert counted[join("interceptions", ("p", "m", "failed", "/r", "POST", "Codex", ""))] == 2
    assert not traffic.active


def test_a_model_with_a_long_name_is_one_series(traffic: Traffic) -> None:
    """What is beyond what is shown tells nothing apart, and is not kept."""
    assert series_of(traffic, "x" * 500) is series_of(traffic, "x" * 1_000_000)


def test_durations_and_first_bytes_have_buckets_of_their_own() -> None:
    """Every number of a series is told under a name of its own."""
    now = iter((0.0, 20.0))
    traffic = Traffic(Counters(), clock=lambda: next(now))
    series = series_of(traffic)
    began = series.begin(None)
    series.answered(0.3)
    series.carried(5, 7)
    series.end("cancelled", began)
    assert traffic.take() == Counter(
        {
            join("first_byte", ("p", "m", "3")): 1,
            join("first_byte", ("p", "m", "sum")): 300_000,
            join("interceptions_duration", ("p", "m", "4")): 1,
            join("interceptions_duration", ("p", "m", "sum")): 20_000_000,
            join("interceptions", ("p", "m", "completed", "/r", "POST", "Codex", "")): 1,
            join("interceptions_cancelled", ("p", "m")): 1,
            join("sent_bytes", ("p",)): 5,
            join("received_bytes", ("p",)): 7,
        }
    )
