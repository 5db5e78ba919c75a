"""The records of an interception as log lines, for those who collect logs: one line a record, once it is kept."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from bridgeserver.errors import NotRecordable
from bridgeserver.journal import Sink, Then
from bridgeserver.logs import RECORDS
from bridgeserver.records import (
    AnyRecord,
    Interception,
    InterceptionEnd,
    ModelThought,
    TokenUsage,
    ToolUse,
    UserPrompt,
)
from bridgeserver.tokens import redact

log = structlog.get_logger(RECORDS)

Fields = dict[str, Any]


class LoggedRecords:
    """Passes records on, and logs them.

    What somebody has written (prompts, arguments, thoughts, errors) is left out unless *content* is set, and *secret*,
    which says what the provider is shown at the moment, is masked in it.
    """

    def __init__(self, sink: Sink, *, content: bool, secret: Callable[[], str]) -> None:
        self._sink = sink
        self._content = content
        self._secret = secret

    def begin(self, records: Sequence[AnyRecord], then: Then) -> None:
        """Pass on an interception and its prompt, and log them once they are kept."""

        def kept(failure: NotRecordable | None) -> object:
            if failure is None:
                self._log(records)
            return then(failure)

        self._sink.begin(records, kept)

    def append(self, record: AnyRecord) -> None:
        """Pass on a record of an open interception."""
        self._sink.append(record)
        self._log([record])

    def end(self, records: Sequence[AnyRecord]) -> None:
        """Pass on the last ones."""
        self._sink.end(records)
        self._log(records)

    def _log(self, records: Sequence[AnyRecord]) -> None:
        for record in records:
            fields = fields_of(record)
            if self._content:
                fields |= content_of(record)
            log.info("interception log", **{name: self._masked(value) for name, value in fields.items()})

    def _masked(self, value: Any) -> Any:
        """Return a text without what must not be read, also where its writer has put it there."""
        if not isinstance(value, str):
            return value
        secret = self._secret()
        return redact(value.replace(secret, "…") if secret else value)


def fields_of(record: AnyRecord) -> Fields:
    """Return what a record's line says, but for what somebody has written."""
    match record:
        case Interception():
            return {
                "record_type": "interception_start",
                "interception_id": record.id,
                "initiator_id": record.user_id,
                "api_key_id": record.key_id,
                "provider": record.provider,
                "provider_name": record.provider_name,
                "model": record.model,
                "streaming": record.streaming,
                "client": record.client,
                "user_agent": record.user_agent,
                "client_session_id": record.session_id,
                "correlating_tool_call_id": record.correlating_tool_call_id,
                "credential_kind": record.credential_kind,
                "started_at": _instant(record.started_at),
            }
        case InterceptionEnd():
            return {
                "record_type": "interception_end",
                "interception_id": record.interception_id,
                "status": record.status,
                "http_status": record.http_status,
                "error_type": record.error_type,
                "attempts": record.attempts,
                "ended_at": _instant(record.ended_at),
            }
        case TokenUsage():
            return _child("token_usage", record) | {
                "msg_id": record.response_id,
                "input_tokens": record.input_tokens,
                "output_tokens": record.output_tokens,
                "cache_read_input_tokens": record.cache_read_tokens,
                "cache_write_input_tokens": record.cache_write_tokens,
                "partial": record.partial,
                "metadata": record.extra,
            }
        case ToolUse():
            return _child("tool_usage", record) | {
                "msg_id": record.response_id,
                "tool_call_id": record.tool_call_id,
                "tool": record.name,
                "server_url": record.server,
                "injected": record.injected,
                "failed": record.error is not None,
                "duration_us": record.duration_us,
            }
        case UserPrompt():
            return _child("prompt_usage", record)
        case ModelThought():
            return _child("model_thought", record) | {"metadata": {"source": record.source}}
        case _:
            return {"record_type": type(record).__name__}


def content_of(record: AnyRecord) -> Fields:
    """Return what somebody has written of a record: the user, the model, a tool or the provider."""
    match record:
        case UserPrompt():
            return {"prompt": record.text}
        case ToolUse():
            return {"input": record.arguments, "invocation_error": record.error}
        case ModelThought():
            return {"content": record.text}
        case InterceptionEnd():
            return {"error_message": record.error_message}
        case _:
            return {}


def _child(kind: str, record: TokenUsage | ToolUse | UserPrompt | ModelThought) -> Fields:
    return {
        "record_type": kind,
        "interception_id": record.interception_id,
        "created_at": _instant(record.created_at),
    }


def _instant(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()
