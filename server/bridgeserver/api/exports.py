"""Exports, a part at a time: whoever asks comes back with the cursor of the part before, until there is none.

So neither process holds more than a part, and no transaction stays open while a client takes its time. What a period
that ends now includes is settled with the first part.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import msgspec

from bridgeserver.api import spreadsheets
from bridgeserver.asks import Answer, Ask
from bridgeserver.store import Store
from bridgeserver.store.instants import iso
from bridgeserver.store.queries import usage as usages
from bridgeserver.store.queries.filters import Filters
from bridgeserver.store.queries.interceptions import Start
from bridgeserver.store.views import UsageRow

PART_ROWS = 500
DAY_US = usages.DAY_US

CONTENT_TYPES = {"csv": "text/csv; charset=utf-8; header=present", "jsonl": "application/jsonl; charset=utf-8"}

SUMS = ("requests", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
MONEY = ("cost_micros", "unpriced_requests")


class Cursor(msgspec.Struct, frozen=True):
    """Where the next part begins, in a period that is settled."""

    since: int | None
    until: int | None
    day: int | None
    place: list[int | str] | None

    @classmethod
    def of(cls, ask: Ask) -> Self | None:
        """Return the cursor of a request, None for the first part."""
        return None if ask.cursor is None else msgspec.json.decode(ask.cursor, type=cls)


def interceptions(store: Store, filters: Filters, form: str, cursor: Cursor | None) -> Answer:
    """Return a part of the interceptions that match, the oldest first."""
    place = None
    if cursor is not None:
        filters = _within(filters, cursor)
        place = msgspec.convert(cursor.place, Start) if cursor.place else None
    page, has_more = store.started_after(place, PART_ROWS, filters)
    records = [record for _place, record in page]
    following = None
    if has_more:
        following = Cursor(filters.started_after, filters.started_before, None, list(page[-1][0]))
    if form == "jsonl":
        return _part("interceptions", form, _lines(records), following)
    rows = [spreadsheets.interception(record) for record in records]
    header = [] if cursor else [spreadsheets.INTERCEPTIONS]
    return _part("interceptions", form, spreadsheets.lines([*header, *rows]).encode(), following)


def usage(store: Store, groups: Sequence[usages.Group], filters: Filters, form: str, cursor: Cursor | None) -> Answer:
    """Return a part of a report. By day, each day is asked for by itself: no part looks at the others' rows again."""
    period = filters if cursor is None else _within(filters, cursor)
    asked = period
    day: int | None = None
    if "day" in groups:
        day = _next_day(store, period, cursor)
        asked = _on_day(period, day)
    place = tuple(cursor.place) if cursor and cursor.place else None
    found = store.usage(groups, asked, after=place, limit=PART_ROWS)
    following = None
    if len(found) == PART_ROWS and groups:
        following = Cursor(period.started_after, period.started_before, day, list(found[-1][0]))
    elif day is not None and (day + 1) * DAY_US < (period.started_before or 0):
        following = Cursor(period.started_after, period.started_before, day + 1, None)
    rows = [row for _place, row in found]
    if form == "jsonl":
        return _part("usage", form, _lines(rows), following)
    members = _members(groups)
    cells = [[*(getattr(row, member) for member in members), *_period_of(row, period)] for row in rows]
    header = [] if cursor else [(*members, "period_start", "period_end")]
    return _part("usage", form, spreadsheets.lines([*header, *cells]).encode(), following)


def _next_day(store: Store, period: Filters, cursor: Cursor | None) -> int:
    """Return the first day from the cursor's on, or in the period, on which anything began; else the last one."""
    since = period.started_after or 0
    if cursor is not None and cursor.day is not None:
        since = max(since, cursor.day * DAY_US)
    first = store.first_start(msgspec.structs.replace(period, started_after=since))
    return ((period.started_before or 1) - 1 if first is None else first) // DAY_US


def _part(name: str, form: str, body: bytes, following: Cursor | None) -> Answer:
    headers = {"content-disposition": f'attachment; filename="{name}.{form}"'}
    cursor = None if following is None else msgspec.json.encode(following).decode()
    return Answer(200, body, CONTENT_TYPES[form], headers, cursor)


def _lines(rows: Iterable[msgspec.Struct]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _within(filters: Filters, cursor: Cursor) -> Filters:
    return msgspec.structs.replace(filters, started_after=cursor.since, started_before=cursor.until)


def _on_day(period: Filters, day: int) -> Filters:
    """Return the part of a period that is on one day."""
    return msgspec.structs.replace(
        period,
        started_after=max(period.started_after or 0, day * DAY_US),
        started_before=min(period.started_before or 0, (day + 1) * DAY_US),
    )


def _members(groups: Sequence[usages.Group]) -> list[str]:
    """Return the columns of a report by these groups."""
    named: dict[usages.Group, tuple[str, ...]] = {
        "day": ("day",),
        "user": ("user_id", "user"),
        "provider": ("provider", "provider_name"),
        "model": ("model",),
        "client": ("client",),
    }
    return [*(member for group in usages.GROUPS if group in groups for member in named[group]), *SUMS, *MONEY]


def _period_of(row: UsageRow, period: Filters) -> tuple[Any, Any]:
    """Return from when to when the requests of a row began."""
    since, until = period.started_after or 0, period.started_before or 0
    if isinstance(row.day, str):
        day = usages.day_of(row.day)
        since, until = max(since, day * DAY_US), min(until, (day + 1) * DAY_US)
    return iso(since), iso(until)
