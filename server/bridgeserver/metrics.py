"""The gateway's state and counters in the text format of Prometheus.

Nothing is kept between two scrapes: every family is made from what is there now, so that a provider that was
removed is gone from the next scrape, and no registry has to be told.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.exposition import generate_latest

from bridgeserver.counting import SEPARATOR
from bridgeserver.status import ReloadStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "bridgecore_"


class Family(NamedTuple):
    """How one counter of the workers is exposed."""

    name: str
    """Without the prefix, and without the `_total` that every counter gets at its end."""
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    """The labels whose values are the parts after the dots: `pool_evicted.cost`; the last value may hold dots.

    Where others may, the parts after the first dot are told apart by a separator.
    """
    scale: float = 1
    """What one unit of the counter is in the unit of the metric."""


CIRCUIT = ("provider", "endpoint", "model")

FAMILIES = {
    "interceptions": Family("interceptions", "counter", "Requests that were bridged and recorded."),
    "passthrough": Family("passthrough_requests", "counter", "Requests that were passed through unrecorded."),
    "pool_hits": Family("pool_hits", "counter", "Look-ups that found their bridge in the pool."),
    "pool_misses": Family("pool_misses", "counter", "Look-ups that did not find their bridge in the pool."),
    "pool_joined": Family("pool_joined", "counter", "Look-ups that waited for a bridge that was being built."),
    "pool_builds": Family("pool_builds", "counter", "Bridges that were begun to be built."),
    "pool_build_failures": Family("pool_build_failures", "counter", "Bridges that could not be built."),
    "pool_build_us": Family("pool_build_seconds", "counter", "Time that was spent on building bridges.", scale=1e-6),
    "pool_added": Family("pool_added", "counter", "Bridges that were put into the pool."),
    "pool_uncached": Family("pool_uncached", "counter", "Bridges that served their waiters and were not kept."),
    "pool_evicted": Family("pool_evicted", "counter", "Bridges that left the pool, by the reason.", labels=("cause",)),
    "pool_shut_down": Family("pool_shut_down", "counter", "Bridges that were shut down."),
    "pool_forced": Family("pool_forced", "counter", "Shutdowns that were cut off, or failed."),
    "pool_live": Family("pool_live", "gauge", "Bridges in the pool."),
    "pool_leased": Family("pool_leased", "gauge", "Leases that are out."),
    "pool_retired": Family("pool_retired", "gauge", "Bridges that have left the pool and are still leased."),
    "key_pool_state": Family(
        "key_pool_state", "gauge", "Central keys in each state, summed over the workers.", ("provider", "state")
    ),
    "key_pool_transitions": Family(
        "key_pool_state_transitions", "counter", "Keys that were found refused or limited.", ("provider", "reason")
    ),
    "key_pool_exhaustions": Family(
        "key_pool_exhaustions", "counter", "Requests for which no key was left.", ("provider", "outcome")
    ),
    "circuit_breaker_state": Family(
        "circuit_breaker_state",
        "gauge",
        "Of circuits that have ever opened: 0 closed, 0.5 half-open, 1 open; the highest of all workers.",
        CIRCUIT,
    ),
    "circuit_breaker_trips": Family("circuit_breaker_trips", "counter", "How often a circuit opened.", CIRCUIT),
    "circuit_breaker_rejects": Family(
        "circuit_breaker_rejects", "counter", "Requests that a circuit refused.", CIRCUIT
    ),
    "journal_records_dropped": Family(
        "journal_records_dropped", "counter", "Records of running requests for which the journal had no room."
    ),
    "injected_tool_invocations": Family(
        "injected_tool_invocations",
        "counter",
        "Calls of MCP tools that the gateway made.",
        ("provider", "model", "server", "name"),
    ),
    "non_injected_tool_selections": Family(
        "non_injected_tool_selections",
        "counter",
        "Calls of tools that are the client's own to answer.",
        ("provider", "model", "name"),
    ),
}
"""Every counter of the workers, by its name up to the dot."""

OTHER = "other"
"""The family of the counters that no line above knows: nothing is lost silently."""


def render(status: ReloadStatus, counters: Mapping[str, float]) -> bytes:
    """Return one scrape; *counters* are the sums over all workers."""
    return generate_latest(_Scrape(status, counters))


class _Scrape:
    """The families of one scrape, as the library collects them."""

    def __init__(self, status: ReloadStatus, counters: Mapping[str, float]) -> None:
        self._status = status
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        yield from _reload_families(self._status)
        yield from _counter_families(self._counters)


def _reload_families(status: ReloadStatus) -> Iterator[Metric]:
    ready = sum(worker.ready for worker in status.workers)
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
    found = {name: _metric(family) for name, family in FAMILIES.items()}
    others = UnknownMetricFamily(
        PREFIX + OTHER, "Counters of the workers that have no metric of their own.", labels=("name",)
    )
    # A counter that has not counted yet is 0 and not absent: rates and alerts need a first value.
    unlabelled = {name: 0.0 for name, family in FAMILIES.items() if not family.labels}
    for name, value in sorted((unlabelled | dict(counters)).items()):
        base, dot, rest = name.partition(".")
        family = FAMILIES.get(base)
        values: list[str] = []
        if family is not None and dot:
            values = rest.split(SEPARATOR) if SEPARATOR in rest else rest.split(".", len(family.labels) - 1)
        if family is not None and len(values) == len(family.labels):
            found[base].add_metric(values, value * family.scale)
        else:
            others.add_metric((name,), value)
    yield from found.values()
    yield others


def _metric(family: Family) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    return kind(PREFIX + family.name, family.help, labels=family.labels)
