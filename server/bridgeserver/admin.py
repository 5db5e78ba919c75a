"""The parent's answers below `/-/`: providers, users' tokens, the detail of readiness, the metrics, and queries.

A worker has checked who asks. Everything here is synchronous and runs in a thread of the parent; what it keeps
between two requests is in the store and in the reloader.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import structlog

from bridgeserver import metrics
from bridgeserver.api.answers import NewToken, Providers, TokenView, UserTokens
from bridgeserver.api.queries import Queries, decoded
from bridgeserver.api.routes import OPERATIONS, PROVIDERS
from bridgeserver.asks import ADMIN_NEEDED, MAX_ANSWER_BYTES, Answer, Ask, Refused, refusal
from bridgeserver.bodies import convert, read
from bridgeserver.catalog import Catalog, State
from bridgeserver.errors import BridgeError
from bridgeserver.sealing import Vault
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


Handler = Callable[..., Answer]
"""Takes a request and what stands at the places of its path."""


class Admin:
    """Answers whatever a worker forwards; any thread may call it."""

    def __init__(self, store: Store, vault: Vault, state: State, counters: Callable[[], Mapping[str, float]]) -> None:
        self._catalog = Catalog(store, vault, state)
        self._store = store
        self._vault = vault
        self._state = state
        self._counters = counters
        queries = Queries(store)
        handlers: dict[str, Handler] = {
            "list_providers": self._list,
            "create_provider": self._create,
            "get_provider": self._get,
            "change_provider": self._change,
            "delete_provider": self._delete,
            "reset_provider": self._reset,
            "list_tokens": self._list_tokens,
            "set_token": self._set_token,
            "remove_token": self._remove_token,
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
        }
        return _json(200 if status.is_ready else 503, detail)

    def _metrics(self, _ask: Ask) -> Answer:
        return Answer(200, metrics.render(self._state.status(), self._counters()), metrics.CONTENT_TYPE)

    def _list(self, _ask: Ask) -> Answer:
        return _json(200, Providers(self._catalog.views()))

    def _create(self, ask: Ask) -> Answer:
        name = self._catalog.create(ask.body, ask.actor)
        headers = self._apply() | {"location": f"{PROVIDERS}/{name}"}
        return _json(201, self._catalog.view(name), headers)

    def _get(self, _ask: Ask, id_or_name: str) -> Answer:
        return _json(200, self._catalog.view(id_or_name))

    def _change(self, ask: Ask, id_or_name: str) -> Answer:
        name = self._catalog.change(id_or_name, ask.body, ask.actor)
        headers = self._apply()
        return _json(200, self._catalog.view(name), headers)

    def _delete(self, ask: Ask, id_or_name: str) -> Answer:
        self._catalog.delete(id_or_name, ask.actor)
        return Answer(204, b"", headers=self._apply())

    def _reset(self, ask: Ask, name: str) -> Answer:
        self._catalog.reset(name, ask.actor)
        headers = self._apply()
        view = self._catalog.find(name)  # an override may outlive the file's provider
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
