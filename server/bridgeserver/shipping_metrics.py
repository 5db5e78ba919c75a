"""The way of the records to the store, as metrics."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from bridgeserver.status import ShippingStatus

PREFIX = "bridgecore_journal_"


def families(shipping: ShippingStatus) -> Iterator[Metric]:
    """Yield the families of one scrape."""
    yield _gauge("lag_seconds", "For how long the store has not taken all that waits; 0 while it does.", shipping.lag_s)
    yield _gauge("bytes", "Written and not in the store yet, of all workers.", shipping.journal_bytes)
    yield _gauge("segments", "Files of the journal.", shipping.segments)
    yield _counter("records_shipped", "Records that were taken to the store.", shipping.records)
    yield _counter("records_refused", "Records that the store refused for what they are.", shipping.refused)
    yield _counter("frames_damaged", "Frames and records that could not be read.", shipping.damaged)
    yield _counter("shipping_failures", "Passes in which the store or a journal failed.", shipping.failures)
    yield SummaryMetricFamily(
        f"{PREFIX}batch_seconds",
        "Time that batches took which the store accepted.",
        count_value=shipping.batches,
        sum_value=shipping.batch_s,
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)
