"""Anthropic's Messages protocol."""

import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from bridgecore import Interest
from bridgeserver.protocols import Facts, Failure, Finding, Splice, Thought, Tool, Usage, lenient
from bridgeserver.protocols.bodies import BodyReader, last
from bridgeserver.protocols.failure import reported
from bridgeserver.protocols.pieces import KEPT_LIMIT, OPEN_LIMIT, Pieces
from bridgeserver.records import ErrorType

_RECORDED = frozenset({"thinking", "tool_use"})

_EXTRA_COUNTS = (
    ("server_tool_use", "web_search_requests", "web_search_requests"),
    ("server_tool_use", "web_fetch_requests", "web_fetch_requests"),
    ("cache_creation", "ephemeral_5m_input_tokens", "cache_ephemeral_5m_input"),
    ("cache_creation", "ephemeral_1h_input_tokens", "cache_ephemeral_1h_input"),
)

_TYPES_BY_STATUS: dict[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_TYPES: dict[ErrorType, str] = {
    "bad_request": "invalid_request_error",
    "unauthorized": "authentication_error",
    "rate_limited": "rate_limit_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
}


class _Request(msgspec.Struct):
    model: Any = None
    stream: Any = None
    metadata: Any = None
    messages: list[msgspec.Raw] | None = None


class _Answer(msgspec.Struct):
    id: Any = None
    error: Any = None
    usage: Any = None
    stop_reason: Any = None
    content: list[msgspec.Raw] | None = None


class _Conversation(msgspec.Struct):
    messages: list[msgspec.Raw]


_REQUEST = BodyReader(_Request)
_CONVERSATION = msgspec.json.Decoder(_Conversation)
_ANSWER = msgspec.json.Decoder(_Answer)


class Messages:
    """Anthropic's Messages protocol."""

    name = "messages"

    def facts(self, body: bytes) -> Facts:
        before: list[tuple[int, int]] = []
        request, _text = _REQUEST.read(body, before)
        message = lenient.mapping(last(request.messages))
        if message.get("role") == "system":
            message = _before_system(body, before)
        hint = lenient.mapping(request.metadata).get("user_id")
        return Facts(
            model=lenient.identifier(request.model),
            stream=request.stream is True,
            prompt=_prompt(message),
            correlating_tool_call_id=_correlating_id(message),
            session_hint=hint if isinstance(hint, str) else None,
        )

    def tap(self) -> "MessagesTap":
        return MessagesTap()

    def usage_splice(self, body: bytes) -> Splice | None:
        """Return None: a Messages stream always tells its usage."""
        del body
        return None

    def error_body(self, status: int, message: str, error_type: ErrorType) -> bytes:
        return _error(error_name(status, error_type), message)

    def error_event(self, message: str, error_type: ErrorType) -> bytes:
        return b"event: error\ndata: " + _error(_TYPES.get(error_type, "api_error"), message) + b"\n\n"


def error_name(status: int, error_type: ErrorType | None = None) -> str:
    """Return what Anthropic calls a failure with that status, or of that type."""
    return _TYPES_BY_STATUS.get(status) or _TYPES.get(error_type or "unknown", "api_error")


class MessagesTap:
    """Watches one answer in the Messages protocol."""

    def __init__(self) -> None:
        self.response_id = ""
        self.usage: Usage | None = None
        self.stop_reason = ""
        self.service_tier = ""
        self.complete = False
        self.failure: Failure | None = None
        self.object_ids: tuple[str, ...] = ()
        self._blocks: dict[int | None, _Block] = {}

    def event(self, name: bytes, data: bytes) -> list[Finding]:
        if name:
            take = self._EVENTS.get(name)
            return take(self, data, lenient.mapping(lenient.read(data))) if take else []
        event = lenient.mapping(lenient.read(data))
        take = self._EVENTS.get(lenient.text(event.get("type")).encode("utf-8", "replace"))
        return take(self, data, event) if take else []

    def body(self, data: bytes) -> list[Finding]:
        answer = _read_answer(data)
        if answer is None:
            return []
        if answer.error is not None:
            self.failure = reported(answer.error)
            return []
        self.complete = True
        self.response_id = lenient.identifier(answer.id)
        self.stop_reason = lenient.identifier(answer.stop_reason)
        self._count(answer.usage)
        findings = (_whole_block(block) for block in lenient.array(answer.content))
        return [finding for finding in findings if finding]

    def is_extra_usage(self, data: bytes) -> bool:
        """Return False: usage is part of the protocol."""
        del data
        return False

    def _message_start(self, _data: bytes, event: dict[str, Any]) -> list[Finding]:
        message = lenient.mapping(event.get("message"))
        self.response_id = lenient.identifier(message.get("id"))
        self._count(message.get("usage"))
        return []

    def _block_start(self, data: bytes, event: dict[str, Any]) -> list[Finding]:
        block = lenient.mapping(event.get("content_block"))
        if lenient.text(block.get("type")) in _RECORDED and len(self._blocks) < OPEN_LIMIT:
            arguments = lenient.member_text(data, "content_block", "input") or "{}"
            self._blocks[lenient.count(event.get("index"))] = _Block(block, arguments)
        return []

    def _block_delta(self, _data: bytes, event: dict[str, Any]) -> list[Finding]:
        block = self._blocks.get(lenient.count(event.get("index")))
        if block is not None:
            block.add(lenient.mapping(event.get("delta")))
        return []

    def _block_stop(self, _data: bytes, event: dict[str, Any]) -> list[Finding]:
        block = self._blocks.pop(lenient.count(event.get("index")), None)
        finding = block.finding() if block is not None else None
        return [finding] if finding else []

    def _message_delta(self, _data: bytes, event: dict[str, Any]) -> list[Finding]:
        delta = lenient.mapping(event.get("delta"))
        self.stop_reason = lenient.identifier(delta.get("stop_reason")) or self.stop_reason
        self._count(event.get("usage"))
        return []

    def _message_stop(self, _data: bytes, _event: dict[str, Any]) -> list[Finding]:
        self.complete = True
        findings = [block.finding() for block in self._blocks.values()]
        self._blocks.clear()
        return [finding for finding in findings if finding]

    def _error(self, _data: bytes, event: dict[str, Any]) -> list[Finding]:
        self.failure = reported(event.get("error"))
        return []

    def _count(self, usage: Any) -> None:
        """Take over the counts that are there: each is the total so far, never a step."""
        if not isinstance(usage, dict):
            return
        members = lenient.mapping(usage)
        self.service_tier = lenient.identifier(members.get("service_tier")) or self.service_tier
        before = self.usage or Usage()
        self.usage = Usage(
            input=_newer(members.get("input_tokens"), before.input),
            output=_newer(members.get("output_tokens"), before.output),
            cache_read=_newer(members.get("cache_read_input_tokens"), before.cache_read),
            cache_write=_newer(members.get("cache_creation_input_tokens"), before.cache_write),
            extra=before.extra | _extra(members),
        )

    _EVENTS: ClassVar[dict[bytes, Callable[["MessagesTap", bytes, dict[str, Any]], list[Finding]]]] = {
        b"message_start": _message_start,
        b"content_block_start": _block_start,
        b"content_block_delta": _block_delta,
        b"content_block_stop": _block_stop,
        b"message_delta": _message_delta,
        b"message_stop": _message_stop,
        b"error": _error,
    }

    # Most events are text. Inside a string these quotes would be escaped, so this is the member itself.
    interest: ClassVar[Interest | None] = Interest(_EVENTS, {b"content_block_delta": b'"type":"text_delta"'})


class _Block:
    """A content block of a stream that has begun and not ended."""

    __slots__ = ("_arguments", "_call_id", "_name", "_pieces", "_type")

    def __init__(self, start: dict[str, Any], arguments: str) -> None:
        self._type = start.get("type")
        self._call_id = lenient.identifier(start.get("id"))
        self._name = lenient.identifier(start.get("name"))
        self._arguments = arguments[:KEPT_LIMIT]
        self._pieces = Pieces()
        self.add(start)

    def add(self, delta: dict[str, Any]) -> None:
        member = "thinking" if self._type == "thinking" else "partial_json"
        self._pieces.add(lenient.text(delta.get(member)))

    def finding(self) -> Finding | None:
        text = str(self._pieces)
        if self._type == "tool_use":
            return Tool(self._call_id, self._name, text or self._arguments)
        return Thought("thinking", text) if text else None


def _read_answer(data: bytes) -> _Answer | None:
    try:
        return _ANSWER.decode(data)
    except (ValueError, RecursionError):
        members = lenient.read(data)
        return lenient.fill(_Answer, lenient.mapping(members)) if isinstance(members, dict) else None


def _whole_block(raw: Any) -> Finding | None:
    block = lenient.mapping(lenient.element(raw))
    if lenient.text(block.get("type")) not in _RECORDED:
        return None
    if isinstance(raw, msgspec.Raw):
        arguments = lenient.member_text(bytes(raw), "input")
    else:
        arguments = _written(block.get("input", {}))
    return _Block(block, arguments or "{}").finding()


def _written(value: Any) -> str:
    """Write what only the general parser could read; the provider's own spelling is lost then."""
    try:
        return json.dumps(value)
    except RecursionError:
        return ""


def _before_system(body: bytes, before: list[tuple[int, int]]) -> dict[str, Any]:
    """Return the last message that is not the system's: Claude Code puts what it tells the model itself at the end."""
    if len(before) == 1:
        message = lenient.mapping(lenient.read(body[slice(*before[0])]))
        if message.get("role") != "system":
            return message
    try:
        messages: Sequence[Any] = _CONVERSATION.decode(body).messages
    except (ValueError, RecursionError):
        messages = lenient.array(lenient.mapping(lenient.read(body)).get("messages"))
    for element in reversed(messages):
        message = lenient.mapping(lenient.element(element))
        if message.get("role") != "system":
            return message
    return {}


def _prompt(message: dict[str, Any]) -> str | None:
    if message.get("role") != "user":
        return None
    content = message.get("content")
    if isinstance(content, str):
        return content
    for block in map(lenient.mapping, reversed(lenient.array(content))):
        if block.get("type") == "text" and isinstance(block.get("text"), str):
            return lenient.text(block["text"])
    return None


def _correlating_id(message: dict[str, Any]) -> str | None:
    for block in map(lenient.mapping, reversed(lenient.array(message.get("content")))):
        call_id = lenient.identifier(block.get("tool_use_id"))
        if block.get("type") == "tool_result" and call_id:
            return call_id
    return None


def _newer(value: Any, before: int) -> int:
    found = lenient.count(value)
    return before if found is None else found


def _extra(members: dict[str, Any]) -> dict[str, int]:
    found = ((name, lenient.count(lenient.mapping(members.get(at)).get(member))) for at, member, name in _EXTRA_COUNTS)
    return {name: value for name, value in found if value is not None}


def _error(name: str, message: str) -> bytes:
    text = message.encode("utf-8", "replace").decode()
    return msgspec.json.encode({"type": "error", "error": {"type": name, "message": text}})
