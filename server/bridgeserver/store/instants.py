"""Times as people and other programs read them."""

from bridgeserver.store.schema import EPOCH, MICROSECOND


def iso(at: int) -> str:
    """Return microseconds since the epoch as ISO 8601 in UTC, always with six decimals."""
    return (EPOCH + at * MICROSECOND).isoformat(timespec="microseconds").replace("+00:00", "Z")


def iso_or_none(at: int | None) -> str | None:
    """Return the same for a time that may be missing."""
    return None if at is None else iso(at)
