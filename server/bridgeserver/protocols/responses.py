"""OpenAI's Responses protocol."""

import json
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import msgspec

from bridgecore import Interest, find_members
from bridgeserver.protocols import Facts, Failure, Finding, Splice, Thought, Tool, Usage, lenient, openai
from bridgeserver.protocols.bodies import BodyReader, last
from bridgeserver.protocols.failure import reported
from bridgeserver.records import ErrorType, ThoughtSource

ITEM_LIMIT = 4096
"""Items of one response that are remembered, so that its last event does not bring them again."""

KEPT_ITEM_LIMIT = 256
"""Stored items of one response whose ids are remembered as its user's."""


class _Request(msgspec.Struct):
    model: Any = None
    stream: Any = None
    input: str | list[msgspec.Raw] | None = None
    previous_response_id: Any = None
    conversation: Any = None


class _Tokens(msgspec.Struct):
    input_tokens: openai.Count | None = None
    output_tokens: openai.Count | None = None
    input_tokens_details: openai.Details | None = None
    output_tokens_details: openai.Details | None = None

    def usage(self) -> Usage:
        return openai.usage(
            self.input_tokens,
            self.output_tokens,
            self.input_tokens_details,
            self.output_tokens_details,
            ("input", "output"),
        )


_REQUEST = BodyReader(_Request)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


class Responses:
    """OpenAI's Responses protocol."""

    name = "responses"

    def facts(self, body: bytes) -> Facts:
        request, text = _REQUEST.read(body)
        item = lenient.mapping(last(request.input))
        return Facts(
            model=_model(request.model),
            stream=request.stream is True,
            prompt=request.input if isinstance(request.input, str) else _prompt(item),
            correlating_tool_call_id=_correlating_id(item),
            object_ids=_object_ids(text) + _referenced_items(body),
        )

    def tap(self) -> "ResponsesTap":
        return ResponsesTap()

    def usage_splice(self, body: bytes) -> Splice | None:
        """Return None: a Responses stream always tells its usage."""
        del body
        return None

    def error_body(self, status: int, message: str, error_type: ErrorType) -> bytes:
        return openai.error_body(status, message, error_type)

    def error_event(self, message: str, error_type: ErrorType) -> bytes:
        error = openai.error_object(message, error_type)
        # The provider's own numbering is not followed; clients do not order by it.
        event = {
            "type": "error",
            "code": error["code"],
            "message": error["message"],
            "param": None,
            "sequence_number": 0,
        }
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


class ResponsesTap:
    """Watches one answer in the Responses protocol."""

    def __init__(self) -> None:
        self.response_id = ""
        self.usage: Usage | None = None
        self.stop_reason = ""
        self.service_tier = ""
        self.complete = False
        self.failure: Failure | None = None
        self.object_ids: tuple[str, ...] = ()
        self._taken: set[int] = set()
        self._own_ids: tuple[str, ...] = ()
        self._item_ids: list[str] = []
        self._is_stored = True
        self._searches = 0

    def event(self, name: bytes, data: bytes) -> list[Finding]:
        if name:
            take = self._EVENTS.get(name)
            members = lenient.read(data) if take else None
            return take(self, lenient.mapping(members)) if take and isinstance(members, dict) else []
        event = lenient.mapping(lenient.read(data))
        kind = lenient.text(event.get("type")) or ("error" if event.get("error") is not None else "")
        take = self._EVENTS.get(kind.encode("utf-8", "replace"))
        return take(self, event) if take else []

    def body(self, data: bytes) -> list[Finding]:
        answer = lenient.read(data)
        return self._ended({"response": answer}) if isinstance(answer, dict) else []

    def is_extra_usage(self, data: bytes) -> bool:
        """Return False: usage is part of the protocol."""
        del data
        return False

    def _begun(self, event: dict[str, Any]) -> list[Finding]:
        self._envelope(lenient.mapping(event.get("response")))
        return []

    def _item_done(self, event: dict[str, Any]) -> list[Finding]:
        position = lenient.count(event.get("output_index"))
        if position is None:
            position = len(self._taken)
        return self._item(position, lenient.mapping(event.get("item")))

    def _ended(self, event: dict[str, Any]) -> list[Finding]:
        response = lenient.mapping(event.get("response"))
        self._envelope(response)
        self.complete = True
        self._judge(response, event.get("type"))
        details = lenient.mapping(response.get("incomplete_details"))
        self.stop_reason = lenient.identifier(details.get("reason")) or lenient.identifier(response.get("status"))
        found: list[Finding] = []
        if len(self._taken) < ITEM_LIMIT:  # what is beyond the limit cannot be told from what is new
            for position, item in enumerate(lenient.array(response.get("output"))):
                found += self._item(position, lenient.mapping(item))
        if self.usage is not None and self._searches:
            extra = self.usage.extra | {"web_search_requests": self._searches}
            self.usage = msgspec.structs.replace(self.usage, extra=extra)
        return found

    def _error(self, event: dict[str, Any]) -> list[Finding]:
        error = event.get("error")
        # Without an inner object the event itself is the error, and its type says only that.
        self.failure = reported(error if error is not None else {**event, "type": None})
        return []

    def _judge(self, response: dict[str, Any], event_type: Any) -> None:
        """Read the error of a response; a body that is nothing but an error is no response."""
        error = response.get("error")
        if error is not None:
            self.failure = reported(error)
            self.complete = "status" in response
        elif response.get("status") == "failed" or event_type == "response.failed":
            self.failure = Failure("server_error", "the provider says that the response failed, and not why")

    def _envelope(self, response: dict[str, Any]) -> None:
        self.response_id = lenient.identifier(response.get("id")) or self.response_id
        self._is_stored = response.get("store") is not False
        if not self._is_stored:
            self._item_ids.clear()
        kept_id = self.response_id if self._is_stored else ""
        self._own_ids = tuple(filter(None, (kept_id, _conversation_id(response.get("conversation")))))
        self.object_ids = (*self._own_ids, *self._item_ids)
        self.service_tier = lenient.identifier(response.get("service_tier")) or self.service_tier
        usage = response.get("usage")
        if isinstance(usage, dict):
            self.usage = openai.fill(_Tokens, lenient.mapping(usage)).usage()

    def _item(self, position: int, item: dict[str, Any]) -> list[Finding]:
        """Take an output item, once: positions are compared, since some providers change an item's id."""
        if position in self._taken:
            return []
        if len(self._taken) < ITEM_LIMIT:
            self._taken.add(position)
        self._searches += item.get("type") == "web_search_call"
        item_id = lenient.identifier(item.get("id"))
        if item_id and self._is_stored and len(self._item_ids) < KEPT_ITEM_LIMIT:
            self._item_ids.append(item_id)
            self.object_ids = (*self._own_ids, *self._item_ids)
        return _findings(item)

    _EVENTS: ClassVar[dict[bytes, Callable[["ResponsesTap", dict[str, Any]], list[Finding]]]] = {
        b"response.created": _begun,
        b"response.queued": _begun,
        b"response.in_progress": _begun,
        b"response.output_item.done": _item_done,
        b"response.completed": _ended,
        b"response.incomplete": _ended,
        b"response.failed": _ended,
        b"response.cancelled": _ended,
        b"error": _error,
    }

    interest: ClassVar[Interest | None] = Interest(_EVENTS)


def _findings(item: dict[str, Any]) -> list[Finding]:
    kind = item.get("type")
    if kind == "function_call":
        return [_tool(item, "arguments")]
    if kind == "custom_tool_call":
        return [_tool(item, "input")]
    if kind == "reasoning":
        return _thoughts("reasoning_summary", item.get("summary"), None)
    if kind == "message" and item.get("role") == "assistant" and item.get("phase") == "commentary":
        return _thoughts("commentary", item.get("content"), "output_text")
    return []


def _tool(item: dict[str, Any], arguments: str) -> Tool:
    call_id, name = lenient.identifier(item.get("call_id")), lenient.identifier(item.get("name"))
    return Tool(call_id, name, lenient.text(item.get(arguments)))


def _thoughts(source: ThoughtSource, parts: Any, part_type: str | None) -> list[Finding]:
    """Return a thought for each part that has text and is of *part_type*, where one is asked for."""
    members = map(lenient.mapping, lenient.array(parts))
    texts = (lenient.text(part.get("text")) for part in members if part_type is None or part.get("type") == part_type)
    return [Thought(source, text) for text in texts if text]


def _model(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value)[: lenient.IDENTIFIER_LIMIT] if is_number else lenient.identifier(value)


def _object_ids(body: bytes) -> tuple[str, ...]:
    """Return every id that any parser could read in the members that name stored objects.

    Of members of one name one parser takes the last and another the first; whose object it is must hold for all.
    """
    # Letters can be spelled as escapes too, all of which begin like this.
    if not any(mark in body for mark in (b'"previous_response_id"', b'"conversation"', b"\\u00")):
        return ()
    ids = [lenient.read(body[start:end]) for start, end in find_members(body, "previous_response_id")]
    for start, end in find_members(body, "conversation"):
        ids.append(lenient.read(body[start:end]))
        if body[start : start + 1] == b"{":
            ids += [lenient.read(body[first:last]) for first, last in find_members(body, "id", start)]
    return tuple(filter(None, map(lenient.identifier, ids)))


def _referenced_items(body: bytes) -> tuple[str, ...]:
    """Return the ids of all stored items that the input refers to, however the members are spelled or repeated.

    An item is a reference if it says so, or if it says neither what it is nor who said it: the provider takes a bare
    id for one.
    """
    if b'"id"' not in body and b"\\u00" not in body:
        return ()
    found: list[Any] = []
    for start, end in find_members(body, "input"):
        for item in _items(body[start:end]):
            kinds = item.get("type", [])
            if "item_reference" in kinds or not (any(kinds) or "role" in item):
                found += item.get("id", [])
    return tuple(filter(None, map(lenient.identifier, found)))


_Repeated = dict[str, list[Any]]
"""The values of an object's members by their names, of which there may be several of one name."""


def _items(array: bytes) -> Iterator[_Repeated]:
    """Yield what the objects of an array say of themselves, as far as references go by it."""
    try:
        elements = list(map(bytes, _ARRAY.decode(array)))
    except (ValueError, RecursionError):
        yield from _odd_items(array)
        return
    for element in elements:
        if element.startswith(b"{") and (b'"id"' in element or b"\\u00" in element):
            spans = {name: find_members(element, name) for name in ("id", "type", "role")}
            yield {name: [lenient.read(element[a:b]) for a, b in found] for name, found in spans.items() if found}


def _odd_items(array: bytes) -> Iterator[_Repeated]:
    """Read an array that only a general parser can, which holds a lone surrogate for example."""

    def keep_all(pairs: list[tuple[str, Any]]) -> _Repeated:
        members: _Repeated = {}
        for name, value in pairs:
            members.setdefault(name, []).append(value)
        return members

    try:
        value = json.loads(array, object_pairs_hook=keep_all)
    except (ValueError, RecursionError):
        return  # the body was read, so this is no array
    yield from (item for item in lenient.array(value) if isinstance(item, dict))


def _conversation_id(value: Any) -> str:
    return lenient.identifier(value) or lenient.identifier(lenient.mapping(value).get("id"))


def _prompt(item: dict[str, Any]) -> str | None:
    if item.get("role") != "user":
        return None
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in map(lenient.mapping, lenient.array(content)) if part.get("type") == "input_text"]
    texts = [lenient.text(part["text"]) for part in parts if isinstance(part.get("text"), str)]
    return "\n".join(texts) if texts else None


def _correlating_id(item: dict[str, Any]) -> str | None:
    is_output = lenient.text(item.get("type")) in {"function_call_output", "custom_tool_call_output"}
    return lenient.identifier(item.get("call_id")) or None if is_output else None
