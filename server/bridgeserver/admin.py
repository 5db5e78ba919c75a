"""The parent's answers to administrators: providers, MCP servers, users' tokens, readiness in detail, and the metrics.

A worker has checked who asks. Everything here is synchronous and runs in a thread of the parent; what it keeps
between two requests is in the store and in the reloader.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
import structlog

from bridgeserver import metrics
from bridgeserver.asks import Answer, Ask, Refused, refusal
from bridgeserver.bodies import convert, read
from bridgeserver.catalog import Catalog, State
from bridgeserver.errors import BridgeError
from bridgeserver.provider_catalog import ProviderCatalog
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.server_catalog import ServerCatalog
from bridgeserver.status import ShippingStatus
from bridgeserver.store import Store
from bridgeserver.store.instants import iso
from bridgeserver.store.stored import UserToken
from bridgeserver.tokens import redact
from bridgeserver.usertokens import check_server

log = structlog.get_logger("bridgecore")

PROVIDERS = "/-/api/v1/providers"
MCP_SERVERS = "/-/api/v1/mcp-servers"
USERS = "/-/api/v1/users"
APPLY_S = 1.0
"""How long an answer waits until every worker follows the change."""

APPLIED = "x-bridge-applied"
"""`true` where every worker follows the change that was asked for, `false` where some are still about to."""


# Nothing but a user's name is decoded in a path: nothing else needs an escape, so what has one is none of ours.
ID = r"([A-Za-z0-9-]{1,128})"
USER = "([^/]+)"


AnyCatalog = Catalog[Any, Any]


class Route(NamedTuple):
    """What can be done at one path."""

    path: str
    methods: Mapping[str, Callable[..., Answer]]


class NewToken(msgspec.Struct, frozen=True):
    """The body of a request that sets a user's token."""

    token: Secret


class Admin:
    """Answers whatever a worker forwards; any thread may call it."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        state: State,
        counters: Callable[[], Mapping[str, float]],
        shipping: Callable[[], ShippingStatus],
        further: Sequence[metrics.Families] = (),
    ) -> None:
        self._store = store
        self._vault = vault
        self._state = state
        self._counters = counters
        self._further = further
        self._shipping = shipping
        self._routes = (
            Route("/-/readyz", {"GET": self._readiness}),
            Route("/-/metrics", {"GET": self._metrics}),
            *self._kind(PROVIDERS, "providers", ProviderCatalog(store, vault, state)),
            *self._kind(MCP_SERVERS, "mcp_servers", ServerCatalog(store, vault, state)),
            Route(f"{USERS}/{USER}/tools", {"GET": self._list_tokens}),
            Route(f"{USERS}/{USER}/tools/{ID}", {"PUT": self._set_token, "DELETE": self._remove_token}),
        )

    def answer(self, ask: Ask) -> Answer:
        """Return the answer, whatever happens; never raises."""
        try:
            return self._route(ask)
        except Refused as refused:
            return refused.answer
        except BridgeError as error:
            after = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
            return refusal(error.status, str(error), after)
        except Exception:
            log.exception("administration_failed", method=ask.method, path=redact(ask.path))
            return refusal(500, "the gateway failed; its log says why")

    def _route(self, ask: Ask) -> Answer:
        for route in self._routes:
            if match := re.fullmatch(route.path, ask.path):
                handler = route.methods.get(ask.method)
                if handler is None:
                    allowed = ", ".join(route.methods).replace("GET", "GET, HEAD")
                    raise Refused(405, f"method not allowed: {ask.method}; use {allowed}", {"allow": allowed})
                return handler(ask, *match.groups())
        raise Refused(404, f"route not supported: {ask.method} {redact(ask.path)}")

    def _kind(self, path: str, member: str, catalog: AnyCatalog) -> tuple[Route, ...]:
        """Return what can be done with one kind; *member* is what its list is called."""
        one = {"GET": self._get, "PATCH": self._change, "DELETE": self._delete}
        return (
            Route(path, {"GET": partial(self._list, catalog, member), "POST": partial(self._create, catalog, path)}),
            Route(f"{path}/{ID}", {method: partial(handler, catalog) for method, handler in one.items()}),
            Route(f"{path}/{ID}/reset", {"POST": partial(self._reset, catalog)}),
        )

    def _readiness(self, _ask: Ask) -> Answer:
        status = self._state.status()
        detail = {
            "ready": status.is_ready,
            "generation": status.number,
            "published": _instant(status.published_at),
            "last_reload": _instant(status.last_reload_at),
            "last_success": _instant(status.last_success_at),
            "last_error": status.last_error,
            "restart_needed": status.restart_needed,
            "store_error": status.store_error,
            "providers": status.providers,
            "mcp_servers": status.mcp_servers,
            "workers": status.workers,
            "shipping": self._shipping(),
        }
        return _json(200 if status.is_ready else 503, detail)

    def _metrics(self, _ask: Ask) -> Answer:
        return Answer(200, metrics.render(self._state.status(), self._counters(), self._further), metrics.CONTENT_TYPE)

    def _list(self, catalog: AnyCatalog, member: str, _ask: Ask) -> Answer:
        return _json(200, {member: catalog.views()})

    def _create(self, catalog: AnyCatalog, path: str, ask: Ask) -> Answer:
        name = catalog.create(ask.body, ask.actor)
        headers = self._apply() | {"location": f"{path}/{name}"}
        return _json(201, catalog.view(name), headers)

    def _get(self, catalog: AnyCatalog, _ask: Ask, id_or_name: str) -> Answer:
        return _json(200, catalog.view(id_or_name))

    def _change(self, catalog: AnyCatalog, ask: Ask, id_or_name: str) -> Answer:
        name = catalog.change(id_or_name, ask.body, ask.actor)
        headers = self._apply()
        return _json(200, catalog.view(name), headers)

    def _delete(self, catalog: AnyCatalog, ask: Ask, id_or_name: str) -> Answer:
        catalog.delete(id_or_name, ask.actor)
        return Answer(204, b"", headers=self._apply())

    def _reset(self, catalog: AnyCatalog, ask: Ask, name: str) -> Answer:
        catalog.reset(name, ask.actor)
        headers = self._apply()
        view = catalog.find(name)  # an override may outlive what the file had of that name
        return Answer(204, b"", headers=headers) if view is None else _json(200, view, headers)

    def _list_tokens(self, _ask: Ask, user: str) -> Answer:
        return _json(200, {"tools": [_token_view(token) for token in self._store.list_user_tokens(_decoded(user))]})

    def _set_token(self, ask: Ask, user: str, server: str) -> Answer:
        check_server(server, self._state.status().mcp_servers)
        given = convert(read(ask.body), NewToken)
        token = self._store.set_user_token(self._vault, _decoded(user), server, given.token, ask.actor)
        return _json(201 if token.created_at == token.updated_at else 200, _token_view(token))

    def _remove_token(self, ask: Ask, user: str, server: str) -> Answer:
        # Also where there is no such server any longer.
        self._store.remove_user_token(_decoded(user), server, ask.actor)
        return Answer(204, b"")

    def _apply(self) -> dict[str, str]:
        """Wait until the change is in force. It is stored whatever happens here, so nothing here can fail it."""
        try:
            is_applied = self._state.apply(APPLY_S)
        except Exception:
            log.exception("change_not_applied", action="it is stored; the next reload tries again")
            is_applied = False
        return {APPLIED: "true" if is_applied else "false"}


def _json(status: int, value: Any, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, msgspec.json.encode(value), headers=headers or {})


def _instant(at: float | None) -> str | None:
    return None if at is None else iso(round(at * 1_000_000))


def _decoded(user: str) -> str:
    try:
        return unquote_to_bytes(user.encode("latin-1")).decode()
    except UnicodeError as exc:
        raise Refused(400, "path: found a user's name that is no UTF-8, expected one with %-escapes") from exc


def _token_view(token: UserToken) -> dict[str, str]:
    return {"server": token.server, "created_at": token.created_at, "updated_at": token.updated_at}
