"""The gateway's state and counters in the text format of Prometheus.

Nothing is kept between two scrapes: every family is made from what is there now, so that a provider that was
removed is gone from the next scrape, and no registry has to be told.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.exposition import generate_latest

from bridgeserver.counting import SUM, split
from bridgeserver.families import FAMILIES, Family
from bridgeserver.status import ReloadStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "bridgecore_"


Families = Callable[[], Iterable[Metric]]
"""Further families of a scrape, as the library spells them, their names with the prefix."""

OTHER = "other"
"""The family of the counters that no line above knows: nothing is lost silently."""


def render(status: ReloadStatus, counters: Mapping[str, float], further: Sequence[Families] = ()) -> bytes:
    """Return one scrape; *counters* are the sums over all workers, *further* what other parts of the parent tell."""
    return generate_latest(_Scrape(status, counters, further))


def journal_limit(max_bytes: int) -> Iterator[Metric]:
    """Yield what there is to compare the size of the journal with."""
    yield GaugeMetricFamily(f"{PREFIX}journal_max_bytes", "Space for records that are not in the store.", max_bytes)


class _Scrape:
    """The families of one scrape, as the library collects them."""

    def __init__(self, status: ReloadStatus, counters: Mapping[str, float], further: Sequence[Families]) -> None:
        self._status = status
        self._counters = counters
        self._further = further

    def collect(self) -> Iterator[Metric]:
        yield from _reload_families(self._status)
        yield from _counter_families(self._counters)
        for families in self._further:
            yield from families()


def _reload_families(status: ReloadStatus) -> Iterator[Metric]:
    ready = sum(worker.ready for worker in status.workers)
    behind = sum(worker.generation < status.number for worker in status.workers)
    # Zero means never, so that an alert on the age of a success fires as well where there was none.
    for name, text, value in (
        ("generation", "Number of the configuration in force.", status.number),
        (
            "providers_last_reload_timestamp_seconds",
            "When the providers were last loaded, whether that succeeded or not.",
            status.last_reload_at or 0,
        ),
        (
            "providers_last_reload_success_timestamp_seconds",
            "When the providers were last loaded with success.",
            status.last_success_at or 0,
        ),
        ("restart_needed", "1 while a change of the configuration waits for a restart.", bool(status.restart_needed)),
        ("workers", "Worker processes.", len(status.workers)),
        ("workers_ready", "Worker processes that take requests.", ready),
        ("workers_behind", "Worker processes that do not serve the configuration in force.", behind),
    ):
        yield GaugeMetricFamily(PREFIX + name, text, value=value)
    info = GaugeMetricFamily(
        f"{PREFIX}provider_info",
        "1 for each provider of the configuration in force, with its status: enabled, disabled or error.",
        labels=("provider_name", "provider_type", "status"),
    )
    for provider in status.providers:
        info.add_metric((provider.name, provider.type, provider.status), 1)
    yield info


def _counter_families(counters: Mapping[str, float]) -> Iterator[Metric]:
    found: dict[str, dict[tuple[str, ...], dict[str, float]]] = {name: {} for name in FAMILIES}
    others = UnknownMetricFamily(
        PREFIX + OTHER, "Counters of the workers that have no metric of their own.", labels=("name",)
    )
    for name, family in FAMILIES.items():
        if not family.labels:  # what has not counted yet is 0 and not absent: rates and alerts need a first value
            found[name][()] = {}
    for name, value in sorted(counters.items()):
        parts = split(name)
        if parts is None:
            others.add_metric((name,), value)
        else:
            found[parts.family].setdefault(parts.values, {})[parts.bucket] = value
    for name, samples in found.items():
        yield _metric(FAMILIES[name], samples)
    yield others


def _metric(family: Family, samples: Mapping[tuple[str, ...], Mapping[str, float]]) -> Metric:
    # An empty label is the same as none, so one that nobody has set is left out.
    has_users = family.labels[-1:] == ("user",) and any(values[-1] for values in samples)
    labels = family.labels if has_users or "user" not in family.labels else family.labels[:-1]
    name = PREFIX + family.name
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=labels)
        for values, buckets in samples.items():
            histogram.add_metric(values[: len(labels)], _cumulated(family, buckets), buckets.get(SUM, 0) * family.scale)
        return histogram
    metric = (CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily)(name, family.help, labels=labels)
    for values, numbers in samples.items():
        metric.add_metric(values[: len(labels)], numbers.get("", 0) * family.scale)
    return metric


def _cumulated(family: Family, buckets: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus counts: each holds those below it too."""
    counts = accumulate(buckets.get(str(number), 0) for number in range(len(family.bounds) + 1))
    return list(zip([*(str(float(bound)) for bound in family.bounds), "+Inf"], counts, strict=True))
