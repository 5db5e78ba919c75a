"""What the operations that read answer from the store: to an administrator of everybody, to a user of itself alone."""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from bridgeserver.api import exports, openapi
from bridgeserver.api.parameters import read, read_terms
from bridgeserver.api.routes import SELECTION, STARTED, Operation
from bridgeserver.asks import Answer, Ask, Refused
from bridgeserver.errors import InvalidMembers
from bridgeserver.records import now_us
from bridgeserver.store import Store
from bridgeserver.store.instants import iso
from bridgeserver.store.queries import sessions, threads, usage
from bridgeserver.store.queries.filters import Filters
from bridgeserver.store.views import Clients, Models, Unpriced, UsageReport, Users

DAY_US = 86_400_000_000
PERIOD_DAYS = 30
MAX_GROUPS = 10_000
"""Rows of a report that are sent in one piece."""

_BY_NAME = {parameter.name: parameter for parameter in (*SELECTION, *STARTED)}

TERMS = {
    "initiator": _BY_NAME["user"],
    "provider": _BY_NAME["provider_type"],
    "provider_name": _BY_NAME["provider"],
    **{name: _BY_NAME[name] for name in ("model", "client", "session_id", "started_after", "started_before")},
}
"""What may stand in `q`, and which parameter it is: here, as in the reference, `provider` is a type."""

Given = dict[str, Any]


class Queries:
    """Answers from *store*; any thread may call it. *clock* is the time in microseconds since the epoch."""

    def __init__(self, store: Store, clock: Callable[[], int] = now_us) -> None:
        self._store = store
        self._clock = clock
        self._handlers: dict[str, Callable[..., Any]] = {
            "list_interceptions": self._list_interceptions,
            "export_interceptions": self._export_interceptions,
            "get_interception": self._get_interception,
            "list_sessions": self._list_sessions,
            "get_session": self._get_session,
            "list_models": self._list_models,
            "list_clients": self._list_clients,
            "list_users": self._list_users,
            "get_usage": self._get_usage,
            "get_unpriced": self._get_unpriced,
            "export_usage": self._export_usage,
            "get_openapi": self._get_openapi,
        }

    def answer(self, operation: Operation, ask: Ask, *places: str) -> Answer:
        """Return the answer; raises BridgeError or Refused."""
        given = read(ask.query, operation.parameters or ())
        found = self._handlers[operation.name](ask, given, *places)
        return found if isinstance(found, Answer) else Answer(200, msgspec.json.encode(found))

    def _list_interceptions(self, ask: Ask, given: Given) -> Any:
        return self._store.newest_interceptions(_filters(ask, given), given["after"], given["limit"])

    def _get_interception(self, ask: Ask, _given: Given, id_: str) -> Any:
        return self._store.find_interception(decoded(id_, "an id"), _owner(ask))

    def _list_sessions(self, ask: Ask, given: Given) -> Any:
        terms = read_terms(given["q"], TERMS)
        mistakes = [f"{name}: found it in q as well, expected it once" for name in terms if given[name] is not None]
        if given["after_session_id"] is not None and given["offset"] is not None:
            mistakes.append("offset: found it beside after_session_id, expected one of the two")
        if mistakes:
            raise InvalidMembers(mistakes)
        page = sessions.Page(given["limit"], given["after_session_id"], given["offset"] or 0)
        return self._store.newest_sessions(_filters(ask, given | terms), page)

    def _get_session(self, ask: Ask, given: Given, id_: str) -> Any:
        if given["after_id"] is not None and given["before_id"] is not None:
            raise InvalidMembers(["before_id: found it beside after_id, expected one of the two"])
        page = threads.Page(given["limit"], given["after_id"], given["before_id"])
        return self._store.find_session(decoded(id_, "an id"), _filters(ask, given), page)

    def _list_models(self, ask: Ask, given: Given) -> Any:
        return Models(models=self._store.models(_filters(ask, given), given["prefix"], given["limit"]))

    def _list_clients(self, ask: Ask, given: Given) -> Any:
        return Clients(clients=self._store.clients(_filters(ask, given), given["prefix"], given["limit"]))

    def _list_users(self, ask: Ask, given: Given) -> Any:
        return Users(users=self._store.initiators(_filters(ask, given), given["prefix"], given["limit"]))

    def _get_usage(self, ask: Ask, given: Given) -> Any:
        filters = self._period(ask, given)
        found = self._store.usage(given["group_by"], filters, limit=MAX_GROUPS + 1)
        if len(found) > MAX_GROUPS:
            raise Refused(413, f"group_by: found more than {MAX_GROUPS} groups: ask for fewer, or for usage/export")
        rows = [row for _place, row in found]
        return UsageReport(
            since=iso(filters.started_after or 0),
            until=iso(filters.started_before or 0),
            rows=rows,
            totals=usage.total(rows),
        )

    def _get_unpriced(self, ask: Ask, given: Given) -> Any:
        filters = self._period(ask, given)
        return Unpriced(**_period_of(filters), models=self._store.unpriced(filters, MAX_GROUPS))

    def _export_interceptions(self, ask: Ask, given: Given) -> Answer:
        filters = _filters(ask, given)
        if filters.started_before is None:  # else an export of a busy gateway would have no end
            filters = msgspec.structs.replace(filters, started_before=self._clock() + 1)
        return exports.interceptions(self._store, filters, given["format"], exports.Cursor.of(ask))

    def _export_usage(self, ask: Ask, given: Given) -> Answer:
        filters = self._period(ask, given)
        return exports.usage(self._store, given["group_by"], filters, given["format"], exports.Cursor.of(ask))

    def _get_openapi(self, _ask: Ask, _given: Given) -> Any:
        return openapi.document()

    def _period(self, ask: Ask, given: Given) -> Filters:
        """Return the filters with both times of the period."""
        until = self._clock() if given["to"] is None else given["to"]
        since = until - PERIOD_DAYS * DAY_US if given["from"] is None else given["from"]
        if since >= until:
            raise InvalidMembers([f"from: found {iso(since)}, expected a time before {iso(until)}"])
        return msgspec.structs.replace(_filters(ask, given), started_after=since, started_before=until)


def decoded(place: str, what: str) -> str:
    """Return what stands in a raw path, %-escapes and all; raises Refused for what is no UTF-8."""
    try:
        return unquote_to_bytes(place.encode("latin-1")).decode()
    except UnicodeError as exc:
        raise Refused(400, f"path: found {what} that is no UTF-8, expected one with %-escapes") from exc


def _owner(ask: Ask) -> str | None:
    """Return the id of the only user whose rows may be seen, None for an administrator."""
    return None if ask.is_admin else ask.user_id


def _filters(ask: Ask, given: Given) -> Filters:
    chosen = {parameter.name: given.get(parameter.name) for parameter in (*SELECTION, *STARTED)}
    return Filters(owner=_owner(ask), **chosen)


def _period_of(filters: Filters) -> dict[str, str]:
    return {"since": iso(filters.started_after or 0), "until": iso(filters.started_before or 0)}
