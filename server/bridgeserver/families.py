"""What the workers count: the name of each family, its labels, and how it is told to Prometheus."""

from typing import Literal, NamedTuple


class Family(NamedTuple):
    """One family of counters, gauges or histograms."""

    name: str
    """Without the prefix, and without the `_total` that every counter gets at its end."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    scale: float = 1
    """What one unit of the counter is in the unit of the metric; for a histogram, of its sum."""
    bounds: tuple[float, ...] = ()
    """The upper bounds of a histogram's buckets, without the last one, which has none."""


MODEL = ("provider", "model")
CALLER = ("client", "user")
"""The user is always the last label, and empty unless it is asked for; an empty label is none."""

CIRCUIT = ("provider", "endpoint", "model")
KEYS = ("provider",)
MICRO = 1e-6

FREE = frozenset({"model", "name", "user"})
"""Labels whose values others choose; beyond the limits such a value is `other`."""

FAMILIES = {
    "interceptions": Family(
        "interceptions",
        "counter",
        "Requests that were bridged, recorded, and have ended.",
        ("provider", "model", "status", "route", "method", *CALLER),
    ),
    "interceptions_cancelled": Family(
        "interceptions_cancelled", "counter", "Of the completed ones, those whose client left before the end.", MODEL
    ),
    "interceptions_inflight": Family(
        "interceptions_inflight", "gauge", "Requests that are being bridged.", ("provider", "model", "route")
    ),
    "interceptions_duration": Family(
        "interceptions_duration_seconds",
        "histogram",
        "Time from the record of a bridged request to that of its end.",
        MODEL,
        MICRO,
        (0.5, 2, 5, 15, 30, 60, 120),
    ),
    "first_byte": Family(
        "upstream_first_byte_seconds",
        "histogram",
        "Time until the head of the provider's answer was here, in bridged requests.",
        MODEL,
        MICRO,
        (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60),
    ),
    "prompts": Family("prompts", "counter", "Prompts of users that were recorded.", (*MODEL, *CALLER)),
    "tokens": Family("tokens", "counter", "Tokens of each type, as providers count them.", (*MODEL, "type", *CALLER)),
    "passthrough": Family(
        "passthrough",
        "counter",
        "Requests that were passed through unrecorded.",
        ("provider", "route", "method"),
    ),
    "sent_bytes": Family("upstream_sent_bytes", "counter", "Bodies of requests that providers were sent.", KEYS),
    "received_bytes": Family("upstream_received_bytes", "counter", "Bodies of answers that providers gave.", KEYS),
    "pool_hits": Family("pool_hits", "counter", "Look-ups that found their bridge in the pool."),
    "pool_misses": Family("pool_misses", "counter", "Look-ups that did not find their bridge in the pool."),
    "pool_joined": Family("pool_joined", "counter", "Look-ups that waited for a bridge that was being built."),
    "pool_builds": Family("pool_builds", "counter", "Bridges that were begun to be built."),
    "pool_build_failures": Family("pool_build_failures", "counter", "Bridges that could not be built."),
    "pool_build_us": Family("pool_build_seconds", "counter", "Time that was spent on building bridges.", scale=MICRO),
    "pool_added": Family("pool_added", "counter", "Bridges that were put into the pool."),
    "pool_uncached": Family("pool_uncached", "counter", "Bridges that served their waiters and were not kept."),
    "pool_evicted": Family("pool_evicted", "counter", "Bridges that left the pool, by the reason.", ("cause",)),
    "pool_shut_down": Family("pool_shut_down", "counter", "Bridges that were shut down."),
    "pool_forced": Family("pool_forced", "counter", "Shutdowns that were cut off, or failed."),
    "pool_live": Family("pool_live", "gauge", "Bridges in the pool."),
    "pool_leased": Family("pool_leased", "gauge", "Leases that are out."),
    "pool_retired": Family("pool_retired", "gauge", "Bridges that have left the pool and are still leased."),
    "spans_dropped": Family("spans_dropped", "counter", "Spans that the collector did not take, or not in time."),
    "key_pool_state": Family(
        "key_pool_state", "gauge", "Central keys in each state, summed over the workers.", ("provider", "state")
    ),
    "key_pool_transitions": Family(
        "key_pool_state_transitions", "counter", "Keys that were found refused or limited.", ("provider", "reason")
    ),
    "key_pool_exhaustions": Family(
        "key_pool_exhaustions", "counter", "Requests for which no key was left.", ("provider", "outcome")
    ),
    "key_pool_tries": Family(
        "key_pool_failover_attempts",
        "histogram",
        "Keys that a provider with several was shown for one request.",
        KEYS,
        MICRO,
        (1, 2, 3, 4, 5, 10, 25),
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
    "unpriced_token_usages": Family(
        "cost_control_unpriced_token_usage_records",
        "counter",
        "Responses whose cost is not known: the model has no price, or the counts cannot be.",
        ("provider", "provider_type", "model"),
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
    "open_streams": Family("open_streams", "gauge", "Requests that run, of every kind."),
    "open_connections": Family("open_connections", "gauge", "Connections of clients, idle ones included."),
    "loop_lag": Family(
        "loop_lag_seconds",
        "histogram",
        "How late a timer of a worker's event loop fires, ten times a second.",
        scale=MICRO,
        bounds=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
    ),
    "loop_lag_max_us": Family(
        "loop_lag_max_seconds", "gauge", "The latest of each worker's timers in the last minute.", ("pid",), MICRO
    ),
}
"""Every family of the workers, by its name up to the first dot."""
