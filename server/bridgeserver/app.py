"""What a request passes on its way, and the one place that maps failures to statuses."""

import asyncio
from collections.abc import Coroutine
from contextlib import nullcontext
from typing import Any

import structlog

from bridgecore import Guard, Reply, Request
from bridgeserver import health
from bridgeserver.editing import edited, restarted, text_of, without_encoding
from bridgeserver.errors import BadRequest, BridgeError, ClientClosed, UpgradeRefused
from bridgeserver.generation import Generation
from bridgeserver.headers import actor_lines, answer_lines
from bridgeserver.identity import Caller, presented_token
from bridgeserver.interception import ID_LINE, Interception
from bridgeserver.logs import identify_request
from bridgeserver.ownership import Claim
from bridgeserver.protocols import Protocol
from bridgeserver.protocols.messages import Messages
from bridgeserver.protocols.responses import Responses
from bridgeserver.providers import Provider, Route
from bridgeserver.relay import Watch, relay
from bridgeserver.request import check_head, client_address, provider_name, read_body, request_id, take_body
from bridgeserver.spans import Trace
from bridgeserver.target import Target
from bridgeserver.tokens import redact
from bridgeserver.tracing import UNTRACED, Begun, Tracing
from bridgeserver.upstream import head_of
from bridgeserver.worker import Worker

log = structlog.get_logger("bridgecore")

ANTHROPIC, OPENAI = Messages(), Responses()
"""The two shapes of an error, for requests whose provider is not known."""


class Application:
    """What a worker does with its requests."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def serve(self, request: Request, reply: Reply) -> Coroutine[Any, Any, None]:
        """Return what answers one request."""
        if request.path.startswith("/-/"):
            return self._administer(request, reply)
        return Call(self._worker, request, reply).run()

    async def _administer(self, request: Request, reply: Reply) -> None:
        try:
            await health.answer(self._worker, request, reply)
        except Exception as error:
            _log_failure(request, error)
        finally:
            reply.close()


class Call:
    """One request on its way through the gateway."""

    def __init__(self, worker: Worker, request: Request, reply: Reply) -> None:
        self._worker = worker
        self._request = request
        self._reply = reply
        self._protocol: Protocol | None = None
        self._interception: Interception | None = None
        self._trace: Trace | None = None
        self._about: dict[str, str] | None = None
        self._has_body = False

    async def run(self) -> None:
        """Answer the request, whatever happens; an answer that broke off is left without its end."""
        worker = self._worker
        started = worker.loop.time()
        try:
            worker.admit()
            try:
                await self._serve()
            finally:
                worker.admission.leave()
        except ClientClosed as error:
            if not self._has_body:  # it left, or it sent a body that cannot be read
                self._refuse(BadRequest(str(error)))
        except BridgeError as error:
            self._refuse(error)
        except Exception as error:
            _log_failure(self._request, error)
            self._refuse(BridgeError("the gateway failed; its log says why"))
        finally:
            self._reply.close()
            if self._trace is not None:
                self._trace.end(self._reply.status)
            if worker.config.server.access_log:
                self._log_access(worker.loop.time() - started)
            if self._about is not None:
                self._about.clear()  # what goes on in the background is not about this request

    async def _serve(self) -> None:
        worker, request = self._worker, self._request
        server = worker.config.server
        if worker.trusted_proxies and (given := request_id(request, worker.trusted_proxies)):
            self._identify({"request_id": given})
        check_head(request, server.max_head_bytes)
        if request.method == "HEAD" and _is_probe(request.path):
            self._answer_probe()
            return
        presented = presented_token(request)
        caller = worker.keyring.find(presented.text)
        if caller is None:
            address = client_address(request, worker.trusted_proxies)
            caller = await worker.keyring.authenticate(presented.text, address)
        generation = worker.pool.generation  # taken once, and kept to the end
        if request.method == "GET" and b"upgrade" in request.headers:
            self._refuse_socket(generation)
        provider, route = generation.route(request.method, request.path)
        self._protocol = route.protocol or provider.error_protocol
        begun = UNTRACED if worker.tracing is None else self._traced(worker.tracing, caller, provider, route)
        credential = provider.credential(request.headers, is_byok=presented.is_byok)
        tells_actor = provider.actor_headers and route.protocol is not None
        further = actor_lines(caller.user_id, caller.user_name) if tells_actor else b""
        target = Target(generation, provider, route, credential, route.path, further, begun.fields, begun.line)
        task = asyncio.current_task(worker.loop)  # without the loop it would be looked up, which asks the kernel
        assert task is not None  # noqa: S101 - a request has a task of its own
        guard = worker.guards.open(task)
        try:
            with guard:
                body = take_body(request, server.max_body_bytes, worker.budget)
                if body is None:
                    body = await read_body(
                        request,
                        guard,
                        max_bytes=server.max_body_bytes,
                        timeout_s=server.body_timeout_s,
                        budget=worker.budget,
                    )
                self._has_body = True
                guard.rest()
                request.on_lost(guard.leave)
                try:
                    if provider.session is not None and not provider.session.is_ready:
                        await provider.session.ready()
                    if route.protocol is None:
                        await self._pass_through(caller, target, body, guard)
                    else:
                        await self._intercept(caller, target, route.protocol, body, guard)
                finally:
                    worker.budget.give_back(len(body))
        finally:
            worker.guards.close(guard)

    def _traced(self, tracing: Tracing, caller: Caller, provider: Provider, route: Route) -> Begun:
        """Begin the trace of a request, if it is sampled."""
        begun = tracing.begin(self._request, caller, provider, route)
        self._trace = begun.trace
        if begun.trace is not None:
            self._identify(begun.trace.ids)
        return begun

    def _identify(self, fields: dict[str, str]) -> None:
        """Have all log lines that are about this request say so; what they say already stays."""
        if self._about is None:
            self._about = fields
            identify_request(fields)
        else:
            self._about.update(fields | self._about)

    def _refuse_socket(self, generation: Generation) -> None:
        """Raise UpgradeRefused for a WebSocket on a bridged route, where some clients try one first."""
        if self._request.headers[b"upgrade"].lower() == b"websocket" and generation.is_bridged(self._request.path):
            raise UpgradeRefused("WebSocket transport is not supported, use HTTP")

    def _answer_probe(self) -> None:
        """Answer the HEAD by which Claude Code asks, without a token, whether anybody is there."""
        self._worker.generation.provider(self._request.method, self._request.path)
        self._reply.whole(200, b"content-type: text/plain\r\n", b"")

    async def _intercept(self, caller: Caller, target: Target, protocol: Protocol, body: bytes, guard: Guard) -> None:
        worker, generation = self._worker, target.generation
        plain = text_of(self._request, body, worker.config.server.max_body_bytes)
        facts = protocol.facts(plain)
        if facts.object_ids and target.is_shared_account:
            await worker.ownership.check(target.provider.name, facts.object_ids, caller.user_id)
        worker.check_recordable()
        with worker.pool.find(caller, generation) or await worker.pool.acquire(caller, generation) as bridge:
            sent, text, tools, grown = body, plain, None, 0
            if bridge.tools is not None and facts.object_ids:
                text = await restarted(plain, protocol, target.provider.name, worker.ownership)
            splice = protocol.usage_splice(text) if facts.stream else None
            if splice is not None or bridge.tools is not None or target.provider.translates:
                sent, facts, target, tools = edited(self._request, text, facts, protocol, splice, target, bridge)
                if sent is plain:  # nothing was edited
                    sent = body
                elif plain is not body:
                    fields = self._request.fields if target.fields is None else target.fields
                    target = target._replace(fields=without_encoding(fields))
                grown = max(0, len(sent) - len(body))
                worker.budget.take(grown)
            self._interception = Interception(
                worker.means, bridge.caller, target, protocol, self._request, facts, self._trace
            )
            interception_id = self._interception.id
            self._identify({"request_id": interception_id, "interception": interception_id})
            try:
                await self._interception.run(sent, self._reply, guard, asked_for_usage=splice is not None, tools=tools)
            finally:
                worker.budget.give_back(grown)

    async def _pass_through(self, caller: Caller, target: Target, body: bytes, guard: Guard) -> None:
        worker, request, provider = self._worker, self._request, target.provider
        if target.is_shared_account and target.route.object_id is not None:
            await worker.ownership.check(provider.name, [target.route.object_id], caller.user_id)
        worker.traffic.passed_through(provider.name, target.route.pattern, request.method)
        creates = target.route.creates_object
        watch: Watch = Claim(worker.ownership, provider.name, caller.user_id) if creates else _relay_as_it_is
        dump = worker.dumps.passed_through(provider.name, target.route.path) if provider.dumps else None
        head = target.request_head(request, body)
        if dump is not None:
            dump.request(head, body, provider.extra_fields, provider.query)
        exchange = target.exchange()
        try:
            with dump or nullcontext(), exchange:
                exchange.prepare(head, body, is_head_request=request.method == "HEAD")
                exchange.start()
                connection, _target = await target.answer(exchange, request, body, guard, worker.timeouts)
                answer = head_of(connection)
                if dump is not None:
                    dump.answer(answer.status, answer.headers)
                    watch = dump.watching(watch)
                lines = answer_lines(answer.headers)
                await relay(connection, lines, request, self._reply, guard, worker.timeouts, watch)
        finally:
            worker.traffic.carried(provider.name, exchange.sent_bytes, exchange.received_bytes)

    def _refuse(self, error: BridgeError) -> None:
        """Tell the client of a failure in the shape that it understands; after the head it is too late for that."""
        if self._trace is not None:
            self._trace.fail(error)
        if self._reply.status:
            return
        protocol = self._protocol or self._guess_protocol()
        lines = b"content-type: application/json\r\n"
        if error.should_retry is not None:
            lines += b"x-should-retry: true\r\n" if error.should_retry else b"x-should-retry: false\r\n"
        if error.retry_after_s is not None:
            lines += b"retry-after: %d\r\n" % error.retry_after_s
        if self._interception is not None:
            lines += ID_LINE % self._interception.id.encode()
        self._reply.whole(error.status, lines, protocol.error_body(error.status, str(error), error.error_type))

    def _guess_protocol(self) -> Protocol:
        """Return the protocol whose client this seems to be, where no route has told."""
        provider = self._worker.generation.providers.get(provider_name(self._request.path))
        if provider is not None:
            return provider.error_protocol
        return ANTHROPIC if b"anthropic-version" in self._request.headers else OPENAI

    def _log_access(self, duration_s: float) -> None:
        log.info(
            "request",
            method=self._request.method,
            path=redact(self._request.path),
            status=self._reply.status or None,
            duration_ms=round(duration_s * 1000, 1),
            interception=self._interception.id if self._interception else None,
        )


def _is_probe(path: str) -> bool:
    """Whether this is `/<provider>`, or the path below it that newer versions of Claude Code ask for."""
    return path.rstrip("/").removeprefix(f"/{provider_name(path)}") in {"", "/api/hello"}


def _relay_as_it_is(chunk: bytes, _is_last: bool) -> bytes:
    return chunk


def _log_failure(request: Request, error: Exception) -> None:
    log.error("request_failed", method=request.method, path=redact(request.path), exc_info=error)
