"""The parent's answers below `/-/`: providers, MCP servers, users' tokens, readiness in detail, metrics, queries.

A worker has checked who asks. Everything here is synchronous and runs in a thread of the parent; what it keeps
between two requests is in the store and in the reloader.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from bridgeserver import metrics
from bridgeserver.api.answers import NewToken, Providers, Servers, TokenView, UserTokens
from bridgeserver.api.queries import Queries, decoded
from bridgeserver.api.routes import MCP_SERVERS, OPERATIONS, PROVIDERS
from bridgeserver.asks import ADMIN_NEEDED, MAX_ANSWER_BYTES, Answer, Ask, Refused, refusal
from bridgeserver.bodies import convert, read
from bridgeserver.catalog import Catalog, State
from bridgeserver.errors import BridgeError
from bridgeserver.provider_catalog import ProviderCatalog
from bridgeserver.sealing import Vault
from bridgeserver.server_catalog import ServerCatalog
from bridgeserver.status import ShippingStatus
from bridgeserver.store import Store
from bridgeserver.store.instants import iso
from bridgeserver.store.stored import UserToken
from bridgeserver.tokens import redact
from bridgeserver.usertokens import check_server

log = structlog.get_logger("bridgecore")

APPLY_S = 1.0
"""How long an answer waits until every worker follows the change."""

APPLIED = "x-bridge-applied"
"""`true` where every worker follows the change that was asked for, `false` where some are still about to."""


AnyCatalog = Catalog[Any, Any, Any]

Handler = Callable[..., Answer]
"""Takes a request and what stands at the places of its path."""


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
        self._shipping = shipping
        self._further = further
        queries = Queries(store)
        handlers: dict[str, Handler] = {
            "list_tokens": self._list_tokens,
            "set_token": self._set_token,
            "remove_token": self._remove_token,
            **self._kind("provider", PROVIDERS, ProviderCatalog(store, vault, state), Providers),
            **self._kind("mcp_server", MCP_SERVERS, ServerCatalog(store, vault, state), Servers),
        }
        self._handlers = [
            (operation, partial(queries.answer, operation) if operation.is_open else handlers[operation.name])
            for operation in OPERATIONS
        ]
        self._own: dict[str, Handler] = {"/-/readyz": self._readiness, "/-/metrics": self._metrics}

    def answer(self, ask: Ask) -> Answer:
        """Return the answer, whatever happens; never raises."""
        try:
            return _bounded(self._route(ask))
        except Refused as refused:
            return refused.answer
        except BridgeError as error:
            after = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
            return refusal(error.status, str(error), after)
        except Exception:
            log.exception("administration_failed", method=ask.method, path=redact(ask.path))
            return refusal(500, "the gateway failed; its log says why")

    def _route(self, ask: Ask) -> Answer:
        allowed: list[str] = []
        for operation, handler in self._handlers:
            match = operation.pattern.fullmatch(ask.path)
            if match and operation.method == ask.method:
                if not (ask.is_admin or operation.is_open):
                    raise Refused(403, ADMIN_NEEDED)
                return handler(ask, *match.groups())
            if match:
                allowed.append(operation.method)
        if not ask.is_admin:
            raise Refused(403, ADMIN_NEEDED)
        own = self._own.get(ask.path)
        if own is not None:
            allowed.append("GET")
            if ask.method == "GET":
                return own(ask)
        if allowed:
            names = ", ".join(allowed).replace("GET", "GET, HEAD")
            raise Refused(405, f"method not allowed: {ask.method}; use {names}", {"allow": names})
        raise Refused(404, f"route not supported: {ask.method} {redact(ask.path)}")

    def _kind(self, noun: str, path: str, catalog: AnyCatalog, listed: type[Struct]) -> dict[str, Handler]:
        """Return what can be done with one kind; *listed* is the answer that has all of it."""
        return {
            f"list_{noun}s": partial(self._list, catalog, listed),
            f"create_{noun}": partial(self._create, catalog, path),
            f"get_{noun}": partial(self._get, catalog),
            f"change_{noun}": partial(self._change, catalog),
            f"delete_{noun}": partial(self._delete, catalog),
            f"reset_{noun}": partial(self._reset, catalog),
        }

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

    def _list(self, catalog: AnyCatalog, listed: type[Struct], _ask: Ask) -> Answer:
        return _json(200, listed(catalog.views()))

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
        return _json(200, UserTokens([_token_view(token) for token in self._store.list_user_tokens(_decoded(user))]))

    def _set_token(self, ask: Ask, user: str, server: str) -> Answer:
        check_server(server, self._state.status().mcp_servers)
        given = convert(read(ask.body), NewToken)
        token = self._store.set_user_token(self._vault, _decoded(user), server, given.token, ask.actor)
        return _json(201 if token.created_at == token.updated_at else 200, _token_view(token))

    def _remove_token(self, ask: Ask, user: str, server: str) -> Answer:
        # Also where the configuration has that server no longer.
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


def _bounded(answer: Answer) -> Answer:
    """Return the answer, or a refusal where no line to a worker could hold it."""
    size = len(answer.body)
    if size <= MAX_ANSWER_BYTES:
        return answer
    reason = f"the answer has {size} bytes, and at most {MAX_ANSWER_BYTES} are sent"
    return refusal(413, f"{reason}: ask for less with `limit`, or for an export")


def _instant(at: float | None) -> str | None:
    return None if at is None else iso(round(at * 1_000_000))


def _decoded(user: str) -> str:
    return decoded(user, "a user's name")


def _token_view(token: UserToken) -> TokenView:
    return TokenView(token.server, token.created_at, token.updated_at)
