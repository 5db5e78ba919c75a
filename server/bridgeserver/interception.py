"""The life of one bridged request: record, send, relay, account, end."""

from collections.abc import Awaitable
from typing import NamedTuple

from bridgecore import Connection, Guard, Reply, Request, uuid7
from bridgeserver.account import Account, read_along
from bridgeserver.breaker import Circuit
from bridgeserver.clients import detect
from bridgeserver.dumps import Dump, Dumps
from bridgeserver.errors import BridgeError, CircuitOpen, ClientClosed, Ended, KeysRateLimited, UpstreamTimeout
from bridgeserver.headers import answer_lines
from bridgeserver.identity import Caller
from bridgeserver.journal import Journal
from bridgeserver.limits import Budget
from bridgeserver.ownership import Ownership
from bridgeserver.protocols import Facts, Finding, Protocol
from bridgeserver.recorder import Recorder
from bridgeserver.records import Interception as InterceptionRecord
from bridgeserver.records import Status, now_us
from bridgeserver.relay import Timeouts, Watch, relay
from bridgeserver.target import Target
from bridgeserver.upstream import Exchange, head_of

ID_LINE = b"x-bridge-interception-id: %b\r\n"
"""What every answer to a bridged request carries."""


class Means(NamedTuple):
    """What all interceptions of a worker share."""

    journal: Journal
    ownership: Ownership
    timeouts: Timeouts
    accounting: Budget
    dumps: Dumps


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
    ) -> None:
        self.id = uuid7()
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

    async def run(self, body: bytes, reply: Reply, guard: Guard, *, asked_for_usage: bool) -> None:
        """Record the request, send it with *body*, relay the answer, and record how it ended.

        Raises the BridgeError that the client is to be told of, if nothing was sent to it yet. Otherwise a
        broken answer is left without its end, which aborts the connection.
        """
        self._asked_for_usage = asked_for_usage
        target = self._target
        recorder = Recorder(self._means.journal, self._record())
        exchange = target.exchange()
        try:
            turn = self._enter_circuit()
        except CircuitOpen as error:
            recorder.begin(self._facts.prompt, _send_nothing)
            self._end(recorder, reply, exchange, error)
            raise
        head = target.request_head(self._request, body)
        if target.provider.dumps:
            self._dump = self._means.dumps.bridged(target.provider.name, self._facts.model, self.id)
            self._dump.request(head, body, target.provider.extra_fields, target.provider.query)
        exchange.prepare(head, body)
        recorder.begin(self._facts.prompt, exchange.start)  # it leaves in the turn in which it was written down
        try:
            with guard, exchange:
                connection = await self._answer(turn, exchange, body, guard)
                await self._relay(connection, recorder, reply, guard)
        except BridgeError as error:
            can_add_event = self._account is not None and self._account.is_between_events
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

    async def _answer(self, turn: int, exchange: Exchange, body: bytes, guard: Guard) -> Connection:
        """Return the connection that holds the head of the answer; tell the circuit what it was."""
        target, timeouts = self._target, self._means.timeouts
        status: int | None = None
        try:
            guard.expect(timeouts.upstream_s, timeouts.upstream_error)
            connection = await exchange.answered()
            if target.is_refused(connection):
                connection, self._target = await target.fall_back(
                    connection, exchange, self._request, body, guard, timeouts
                )
            status = head_of(connection).status
        except (UpstreamTimeout, KeysRateLimited) as error:
            status = error.status
            raise
        finally:
            if self._circuit is not None:
                self._circuit.leave(turn, status)
        return connection

    def _relay(self, connection: Connection, recorder: Recorder, reply: Reply, guard: Guard) -> Awaitable[None]:
        head = head_of(connection)
        provider = self._target.provider
        translation = provider.translation(head.status, head.headers) if provider.translates else None
        fields = head.headers if translation is None else translation.fields
        account = read_along(
            self._protocol.tap(),
            head.status,
            fields,
            self._means.accounting,
            drop_extra_usage=self._asked_for_usage,
        )
        self._account = account
        lines = answer_lines(fields, drop_length=account.edits) + ID_LINE % self.id.encode()

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

        keep: Watch = watch
        if self._dump is not None:
            self._dump.answer(head.status, head.headers)
            keep = self._dump.watching(watch)
        return relay(connection, lines, self._request, reply, guard, self._means.timeouts, keep)

    def _note(self, account: Account, findings: list[Finding], recorder: Recorder) -> None:
        for found in findings:
            recorder.finding(found, account.tap.response_id)
        if account.tap.object_ids is not self._claimed:
            self._claimed = account.tap.object_ids
            self._means.ownership.claim(self._target.provider.name, self._claimed, self._caller.user_id)

    def _end(self, recorder: Recorder, reply: Reply, exchange: Exchange, error: BridgeError | None) -> None:
        account = self._account
        if account is not None:
            if error is not None:
                _rest, findings = account.finish()
                self._note(account, findings, recorder)
            if isinstance(error, ClientClosed) and account.tap.complete and account.is_stream:
                error = None  # many clients close as soon as they have read the protocol's last event
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
