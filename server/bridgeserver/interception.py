"""The life of one bridged request: record, send, relay, account, end."""

from collections.abc import Awaitable
from typing import NamedTuple

from bridgecore import Connection, Guard, Head, Reply, Request, by_name, uuid7
from bridgeserver.account import Account, read_along
from bridgeserver.breaker import Circuit
from bridgeserver.clients import detect
from bridgeserver.config import LogsConfig
from bridgeserver.dumps import Dump, Dumps
from bridgeserver.errors import (
    BadResponse,
    BridgeError,
    CircuitOpen,
    ClientClosed,
    Ended,
    KeysRateLimited,
    TurnRefused,
    UpstreamTimeout,
)
from bridgeserver.headers import Pairs, answer_lines
from bridgeserver.identity import Caller
from bridgeserver.journal import Journal, Sink
from bridgeserver.limits import Budget
from bridgeserver.observing import TracedRecords
from bridgeserver.ownership import Ownership
from bridgeserver.protocols import Facts, Finding, Protocol, Tool
from bridgeserver.protocols.failure import classify
from bridgeserver.providers import Translation
from bridgeserver.recorder import Recorder
from bridgeserver.recordlog import LoggedRecords
from bridgeserver.records import Interception as InterceptionRecord
from bridgeserver.records import Status, now_us
from bridgeserver.relay import Timeouts, Watch, relay
from bridgeserver.spans import Trace, gen_ai
from bridgeserver.target import Target
from bridgeserver.toolloop import KeptAlive, ToolLoop, Tools, WovenStream, read_whole
from bridgeserver.traffic import Traffic
from bridgeserver.upstream import Exchange, head_of
from bridgeserver.weaving import Outcome, Weaver

ID_LINE = b"x-bridge-interception-id: %b\r\n"
"""What every answer to a bridged request carries."""


class Means(NamedTuple):
    """What all interceptions of a worker share."""

    journal: Journal
    ownership: Ownership
    timeouts: Timeouts
    accounting: Budget
    dumps: Dumps
    bodies: Budget
    traffic: Traffic
    logs: LogsConfig = LogsConfig()
    recorder: type[Recorder] = Recorder


class Interception:
    """One bridged request of one caller; `run` takes it from its record to its end."""

    def __init__(
        self,
        means: Means,
        caller: Caller,
        target: Target,
        protocol: Protocol,
        request: Request,
        facts: Facts,
        trace: Trace | None = None,
    ) -> None:
        self.id = uuid7()
        self._trace = trace
        self._means = means
        self._caller = caller
        self._target = target
        self._recorded_credential = target.credential
        self._protocol = protocol
        self._request = request
        self._facts = facts
        self._account: Account | None = None
        self._circuit: Circuit | None = None
        self._dump: Dump | None = None
        self._asked_for_usage = False
        self._claimed: tuple[str, ...] = ()
        self._loop: ToolLoop | None = None
        self._unanswered: list[tuple[Tool, str]] = []
        self._grown = 0

    async def run(
        self, body: bytes, reply: Reply, guard: Guard, *, asked_for_usage: bool, tools: Tools | None = None
    ) -> None:
        """Record the request, send it with *body*, relay the answer, and record how it ended.

        With *tools* the answer is that of as many turns as the model needs for the calls of the gateway's tools.

        Raises the BridgeError that the client is to be told of, if nothing was sent to it yet. Otherwise a
        broken answer is left without its end, which aborts the connection.
        """
        self._asked_for_usage = asked_for_usage
        target = self._target
        record = self._record()
        self._series = self._means.traffic.series(
            target.provider.name, target.route.path, record.model, record.client, self._caller.user_name
        )
        recorder = self._means.recorder(self._sink(record), record, self._series)
        if tools is not None:
            labels = target.provider.name, self._facts.model
            self._loop = ToolLoop(tools, recorder, self._means.traffic.counters, labels)
        exchange = target.exchange()
        try:
            turn = self._enter_circuit()
        except CircuitOpen as error:
            recorder.begin(self._facts.prompt, _send_nothing)
            self._end(recorder, reply, exchange, error)
            raise
        target = self._sent_to()
        head = target.request_head(self._request, body)
        if target.provider.dumps:
            self._dump = self._means.dumps.bridged(target.provider.name, self._facts.model, self.id)
            self._dump.request(head, body, target.provider.extra_fields, target.provider.query)
        exchange.prepare(head, body)
        recorder.begin(self._facts.prompt, exchange.start)  # it leaves in the turn in which it was written down
        try:
            with guard, exchange:
                connection = await self._answer(turn, exchange.answered(), exchange, body, guard)
                if self._loop is None:
                    await self._relay(connection, recorder, reply, guard)
                else:
                    await self._converse(self._loop, connection, exchange, recorder, reply, guard)
        except BridgeError as error:
            account = self._account  # none between two turns, where every event is whole
            can_add_event = self._loop is not None if account is None else account.is_between_events
            self._end(recorder, reply, exchange, error)
            if not reply.status:
                raise
            if can_add_event and not isinstance(error, ClientClosed):
                # A client that still reads is told why its stream breaks off.
                reply.write(self._protocol.error_event(str(error), error.error_type), more=True)
        except BaseException as error:
            self._end(recorder, reply, exchange, BridgeError(f"the gateway failed: {type(error).__name__}"))
            raise
        else:
            self._end(recorder, reply, exchange, None)

    def _enter_circuit(self) -> int:
        """Return the turn of the circuit, 0 without a breaker. Raises CircuitOpen."""
        breaker = self._target.provider.breaker
        if breaker is None:
            return 0
        self._circuit = breaker.circuit(self._target.route.path, self._facts.model)
        return self._circuit.enter()

    async def _answer(
        self, turn: int, answered: Awaitable[Connection], exchange: Exchange, body: bytes, guard: Guard
    ) -> Connection:
        """Return the connection that holds the head of the answer; tell the circuit what it was."""
        target, timeouts = self._target, self._means.timeouts
        status: int | None = None
        since = self._means.traffic.clock()
        try:
            guard.expect(timeouts.upstream_s, timeouts.upstream_error)
            connection = await answered
            if target.is_refused(connection):
                connection, self._target = await target.fall_back(
                    connection, exchange, self._request, body, guard, timeouts
                )
            else:
                target.served_first()
            status = head_of(connection).status
            self._series.answered(self._means.traffic.clock() - since)
        except (UpstreamTimeout, KeysRateLimited) as error:
            status = error.status
            raise
        finally:
            if self._circuit is not None:
                self._circuit.leave(turn, status)
        if self._trace is not None:
            self._trace.answered(head_of(connection).status)
        return connection

    def _relay(self, connection: Connection, recorder: Recorder, reply: Reply, guard: Guard) -> Awaitable[None]:
        head = head_of(connection)
        translation, fields = self._translation(head)
        account = read_along(
            self._protocol.tap(),
            head.status,
            fields,
            self._means.accounting,
            drop_extra_usage=self._asked_for_usage,
        )
        self._account = account
        lines = answer_lines(fields, drop_length=account.edits) + ID_LINE % self.id.encode()
        watch = self._watch(account, translation, recorder, reply)
        if self._dump is not None:
            self._dump.answer(head.status, head.headers)
            watch = self._dump.watching(watch)
        return relay(connection, lines, self._request, reply, guard, self._means.timeouts, watch)

    def _translation(self, head: Head) -> tuple[Translation | None, Pairs]:
        """Return what makes an answer with that head one of the protocol, and the header fields that it has then."""
        provider = self._target.provider
        translation = provider.translation(head.status, head.headers) if provider.translates else None
        return translation, head.headers if translation is None else translation.fields

    def _watch(self, account: Account, translation: Translation | None, recorder: Recorder, reply: Reply) -> Watch:
        def watch(chunk: bytes, is_last: bool) -> bytes:
            if translation is not None:
                chunk = translation.feed(chunk, is_last)
            out, findings = account.feed(chunk) if chunk else (b"", [])
            failure = None if translation is None else translation.failure
            if is_last and failure is None:
                rest, more = account.finish()
                out, findings = out + rest, findings + more
            self._note(account, findings, recorder)
            if failure is not None:
                reply.write(out, more=True)
                raise failure
            return out

        return watch

    async def _converse(
        self,
        loop: ToolLoop,
        connection: Connection,
        exchange: Exchange,
        recorder: Recorder,
        reply: Reply,
        guard: Guard,
    ) -> None:
        """Relay the answers of as many turns as the model takes, as one."""
        weaver = loop.weaver
        while True:
            head = head_of(connection)
            if head.status >= 300:
                if reply.status:
                    raise await self._refusal(connection, guard)
                await self._relay(connection, recorder, reply, guard)
                return
            weaver.begin()
            account, fields, whole = await self._take_turn(weaver, connection, recorder, reply, guard)
            if account.failure() is not None:
                weaver.calls = []
            if not weaver.calls:
                self._finish(reply, head.status, fields, whole)
                return
            self._unanswered.clear()
            guard.rest()
            with KeptAlive(reply, weaver.ping):
                outcomes = await loop.run(account.tap.response_id)
                if weaver.is_mixed:
                    loop.remember(outcomes)
                    self._finish(reply, head.status, fields, weaver.ended() if whole is None else whole)
                    return
                if account.tap.usage is not None:
                    recorder.turn(account.tap.usage, account.tap)
                self._account = None
                body = self._grown_by(weaver, outcomes)
                turn = self._enter_circuit()
                again = exchange.again(self._sent_to().request_head(self._request, body), body)
                connection = await self._answer(turn, again, exchange, body, guard)

    async def _take_turn(
        self, weaver: Weaver, connection: Connection, recorder: Recorder, reply: Reply, guard: Guard
    ) -> tuple[Account, Pairs, bytes | None]:
        """Take one answer; return what read along, the header fields, and what the client gets of a whole body."""
        head = head_of(connection)
        translation, fields = self._translation(head)
        headers = by_name(fields)
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise BadResponse("the provider's answer is encoded, although that was not asked for; tools end with it")
        means = self._means
        is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        if not weaver.is_first_turn and is_stream != bool(reply.status):
            began, now = ("a document", "a stream") if is_stream else ("a stream", "a document")
            raise BadResponse(f"the provider went on with {now} where its answer had begun as {began}")
        if is_stream:
            stream = self._account = WovenStream(self._protocol.tap(), head.status, means.accounting, weaver)
            lines = answer_lines(fields, drop_length=True) + ID_LINE % self.id.encode()
            watch = self._watch(stream, translation, recorder, reply)
            if self._dump is not None and not reply.status:
                self._dump.answer(head.status, head.headers)
                watch = self._dump.watching(watch)
            await relay(
                connection,
                None if reply.status else lines,
                self._request,
                reply,
                guard,
                means.timeouts,
                watch,
                is_last=False,
            )
            return stream, fields, None
        body = await read_whole(connection, guard, means.timeouts)
        account = self._account = read_along(
            self._protocol.tap(), head.status, fields, means.accounting, drop_extra_usage=False
        )
        self._watch(account, translation, recorder, reply)(body, True)
        return account, fields, weaver.whole(body)

    def _finish(self, reply: Reply, status: int, fields: Pairs, rest: bytes | None) -> None:
        """Send what is left of the answer, or all of it where nothing was sent."""
        if reply.status:
            reply.write(rest or b"", more=False)
        else:
            lines = answer_lines(fields, drop_length=True) + ID_LINE % self.id.encode()
            reply.whole(status, lines, rest or b"")

    async def _refusal(self, connection: Connection, guard: Guard) -> TurnRefused:
        """Return why a later turn is refused, which the client can no longer be told by a status."""
        status = head_of(connection).status
        body = await read_whole(connection, guard, self._means.timeouts)
        failure = classify(status, body)
        return TurnRefused(f"the provider refused to go on ({status}): {failure.message}", failure.error_type)

    def _grown_by(self, weaver: Weaver, outcomes: list[Outcome]) -> bytes:
        """Return the body of the next turn, for which there has to be room."""
        before = len(weaver.body)
        text = weaver.proceed(outcomes)
        growth = max(0, len(text) - before)
        self._means.bodies.take(growth)
        self._grown += growth
        provider = self._target.provider
        return provider.outgoing(self._facts, text, self._request.fields).body if provider.translates else text

    def _note(self, account: Account, findings: list[Finding], recorder: Recorder) -> None:
        loop, response_id = self._loop, account.tap.response_id
        for found in findings:
            if not isinstance(found, Tool):
                recorder.finding(found, response_id)
            elif loop is not None and loop.weaver.find(found.name) is not None:
                self._unanswered.append((found, response_id))  # recorded with what comes of it
            else:
                recorder.finding(found, response_id)
                self._means.traffic.counters.add(
                    "non_injected_tool_selections", self._target.provider.name, self._facts.model, found.name
                )
        if account.tap.object_ids is not self._claimed:
            self._claimed = account.tap.object_ids
            self._means.ownership.claim(self._target.provider.name, self._claimed, self._caller.user_id)
        if loop is not None and loop.weaver.continued is not None:
            self._means.ownership.follow(self._target.provider.name, *loop.weaver.continued)

    def _end(self, recorder: Recorder, reply: Reply, exchange: Exchange, error: BridgeError | None) -> None:
        account = self._account
        self._means.bodies.give_back(self._grown)
        self._series.carried(exchange.sent_bytes, exchange.received_bytes)
        if account is not None:
            if error is not None:
                _rest, findings = account.finish()
                self._note(account, findings, recorder)
            is_last = self._loop is None or not self._loop.weaver.calls
            if isinstance(error, ClientClosed) and account.tap.complete and account.is_stream and is_last:
                error = None  # many clients close as soon as they have read the protocol's last event
            if self._loop is not None:
                for call, response_id in self._unanswered:
                    self._loop.not_run(call, response_id)
            if account.tap.usage is not None:
                is_partial = error is not None or account.is_partial or not account.tap.complete
                recorder.usage(account.tap.usage, account.tap, partial=is_partial)
        if error is not None:
            if self._dump is not None:
                self._dump.failed(str(error))
            recorder.end(
                _status_of(error),
                http_status=reply.status or (None if isinstance(error, ClientClosed) else error.status),
                attempts=exchange.attempts,
                error_type=error.error_type,
                error_message=str(error),
                credential_hint=self._last_hint(),
            )
            return
        failure = account.failure() if account is not None else None
        recorder.end(
            "completed" if failure is None else "failed",
            http_status=reply.status,
            attempts=exchange.attempts,
            error_type=failure.error_type if failure else None,
            error_message=failure.message if failure else None,
            credential_hint=self._last_hint(),
        )

    def _sink(self, record: InterceptionRecord) -> Sink:
        """Return what takes the records; the span of serving the request begins, if there is one."""
        sink: Sink = self._means.journal
        if self._means.logs.records:
            sink = LoggedRecords(
                sink, content=self._means.logs.record_content, secret=lambda: self._target.credential.secret
            )
        trace = self._trace
        if trace is None:
            return sink
        facts, provider = self._facts, self._target.provider
        about: dict[str, str | bool] = {"interception_id": self.id, "model": facts.model, "streaming": facts.stream}
        if self._protocol.name == "messages":
            about["aws_bedrock"] = provider.type == "bedrock"
        trace.created(about, is_stream=facts.stream)
        trace.process(gen_ai(provider.type, facts.model, record.session_id, is_stream=facts.stream))
        return TracedRecords(sink, trace)

    def _sent_to(self) -> Target:
        """Return where the request goes; the span of asking there begins, if there is one."""
        trace = self._trace
        if trace is None:
            return self._target
        origin = self._target.provider.origin
        place: dict[str, str | int] = {"server.address": origin.host, "server.port": origin.port}
        line = trace.send({"http.request.method": self._request.method, **place})
        self._target = self._target._replace(context=line)
        return self._target

    def _last_hint(self) -> str | None:
        """Return the hint of the key that served in the end, if it is not the one that was recorded."""
        credential = self._target.credential
        return None if credential is self._recorded_credential else credential.hint

    def _record(self) -> InterceptionRecord:
        headers = self._request.headers
        client, session_id = detect(headers.get, self._facts.session_hint)
        caller, provider, facts = self._caller, self._target.provider, self._facts
        credential = self._recorded_credential
        return InterceptionRecord(  # in the order of its members: names would cost a microsecond
            self.id,
            caller.user_id,
            caller.key_id,
            provider.type,
            provider.name,
            self._protocol.name,
            facts.model,
            facts.stream,
            client,
            headers.get(b"user-agent", b"")[:512].decode("latin-1"),
            session_id[:256] if session_id else None,
            facts.correlating_tool_call_id,
            credential.kind,
            credential.hint,
            self._means.journal.worker,
            now_us(),
        )


def _send_nothing(_failure: BridgeError | None = None) -> None:
    """Do nothing once the record is kept: the request is refused."""


def _status_of(error: BridgeError) -> Status:
    if isinstance(error, ClientClosed):
        return "cancelled"
    return "interrupted" if isinstance(error, Ended) else "failed"
