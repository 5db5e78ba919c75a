"""The gateway's tools in a conversation of the Messages protocol."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

from bridgecore import Event, find_each, find_member
from bridgeserver.protocols import lenient
from bridgeserver.tools.tool import Catalog, Tool
from bridgeserver.weaving.content import Image, parts_of
from bridgeserver.weaving.edits import (
    Edit,
    Span,
    added,
    added_up,
    elements_of,
    encode,
    inserted,
    is_array,
    is_empty_array,
    prepended,
    renumbered,
    replaced,
    shifted,
    spans_of,
    splice,
)
from bridgeserver.weaving.weaver import Call, Memories, Memory, NotWoven, Outcome, Weaver, frame, memories_in, split

_ONE_CALL = b'"disable_parallel_tool_use":true'
_EARLY = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "server_tool_use")
"""What a stream tells at its beginning, or in a turn that is not the last; its end tells their sums."""


class MessagesWeaver(Weaver):
    """One conversation in the Messages protocol."""

    ping: ClassVar[bytes] = b'event: ping\ndata: {"type": "ping"}\n\n'

    def __init__(self, body: bytes, catalog: Catalog, *, drops_usage: bool) -> None:
        del drops_usage  # usage is part of the protocol's own events
        text, at = _inject(body, catalog.prepared("messages", _define))
        super().__init__(text, at, catalog)
        self._blocks: list[_Block] = []
        self._open: dict[int, _Block] = {}
        self._content = b""
        self._shown = 0
        self._own: dict[str, Any] = {}
        self._stop_reason = ""
        self._end = b""

    @property
    def held_bytes(self) -> int:
        return sum(block.size for block in self._blocks)

    def begin(self) -> None:
        super().begin()
        self._blocks = []
        self._open = {}
        self._own = {}
        self._stop_reason = ""

    def event(self, event: Event, raw: bytes) -> bytes:
        members = lenient.mapping(lenient.read(event.data))
        kind = event.name.decode("latin-1") or lenient.text(members.get("type"))
        take = self._EVENTS.get(kind)
        return raw if take is None else take(self, event, raw, members)

    def whole(self, body: bytes) -> bytes:
        answer = lenient.mapping(lenient.read(body))
        span = find_member(body, "content") if answer else None
        if span is None or not is_array(body, span):
            return body
        self._own = lenient.mapping(answer.get("usage"))
        self._stop_reason = lenient.text(answer.get("stop_reason"))
        self._blocks = [_Block(lenient.mapping(block), self._tool(block)) for block in answer["content"]]
        self._end_turn()
        self._content = body[slice(*span)]
        edits: list[Edit] = []
        if any(block.tool for block in self._blocks):
            elements = zip(elements_of(self._content), self._blocks, strict=True)
            shown = b",".join(element for element, block in elements if block.tool is None)
            edits.append(Edit(*span, b"[%b]" % shown))
        usage = find_member(body, "usage")
        if self._turns > 1 and usage is not None:
            edits.append(Edit(*usage, encode(self._total())))
        return splice(body, edits)

    def ended(self) -> bytes:
        end, self._end = self._end, b""
        return end

    def proceed(self, outcomes: Sequence[Outcome]) -> bytes:
        self._usage = self._total()
        self._end = b""
        content = self._content or b"[%b]" % b",".join(block.json() for block in self._blocks if block.is_sendable)
        self._content = b""
        results = b",".join(map(_result, outcomes))
        return self._grow(
            (b'{"role":"assistant","content":%b}' % content, b'{"role":"user","content":[%b]}' % results),
        )

    def remembered(self, outcomes: Sequence[Outcome]) -> Memory:
        anchor = next(block.id for block in self._blocks if block.is_for_client)
        elements = [(block.json(), block.tool is not None) for block in self._blocks]
        before, after = split(elements, lambda element: lenient.mapping(lenient.read(element)).get("id") == anchor)
        return Memory(anchor, tuple(before), tuple(after), tuple(map(_result, outcomes)))

    def _tool(self, block: Any) -> Tool | None:
        members = lenient.mapping(block)
        return self._catalog.find(lenient.text(members.get("name"))) if members.get("type") == "tool_use" else None

    def _total(self) -> dict[str, Any]:
        return added_up(self._usage, self._own)

    def _end_turn(self) -> None:
        """Say what has to be called, unless the answer was cut off before its calls were whole."""
        if self._stop_reason == "tool_use":
            self.calls = [block.call(block.tool) for block in self._blocks if block.tool is not None]
            self.is_mixed = bool(self.calls) and any(block.is_for_client for block in self._blocks)

    def _message_start(self, _event: Event, raw: bytes, members: dict[str, Any]) -> bytes:
        self._own = lenient.mapping(lenient.mapping(members.get("message")).get("usage"))
        return raw if self._turns == 1 else b""

    def _block_start(self, event: Event, raw: bytes, members: dict[str, Any]) -> bytes:
        content = lenient.mapping(members.get("content_block"))
        block = _Block(content, self._tool(content))
        if block.tool is None:
            block.shown_at = self._shown
            self._shown += 1
        self._blocks.append(block)
        self._open[lenient.count(members.get("index")) or 0] = block
        return self._shown_block(event, raw, members)

    def _block_delta(self, event: Event, raw: bytes, members: dict[str, Any]) -> bytes:
        block = self._open.get(lenient.count(members.get("index")) or 0)
        if block is not None:
            block.add(lenient.mapping(members.get("delta")))
        return self._shown_block(event, raw, members)

    def _block_stop(self, event: Event, raw: bytes, members: dict[str, Any]) -> bytes:
        return self._shown_block(event, raw, members)

    def _shown_block(self, event: Event, raw: bytes, members: dict[str, Any]) -> bytes:
        index = lenient.count(members.get("index")) or 0
        block = self._open.get(index)
        if block is None or block.shown_at == index:
            return raw
        if block.tool is not None:
            return b""
        return frame(event, renumbered(event.data, {"index": block.shown_at}))

    def _message_delta(self, event: Event, raw: bytes, members: dict[str, Any]) -> bytes:
        self._stop_reason = lenient.text(lenient.mapping(members.get("delta")).get("stop_reason")) or self._stop_reason
        usage = lenient.mapping(members.get("usage"))
        self._own = {**self._own, **{name: value for name, value in usage.items() if value is not None}}
        if self._turns > 1 and usage:
            total = self._total()
            names = dict.fromkeys([*usage, *(name for name in _EARLY if name in total)])
            raw = frame(event, replaced(event.data, "usage", encode({name: total.get(name) for name in names})))
        return self._kept_back(raw)

    def _message_stop(self, _event: Event, raw: bytes, _members: dict[str, Any]) -> bytes:
        self._end_turn()
        return self._kept_back(raw)

    def _kept_back(self, raw: bytes) -> bytes:
        """Hold what ends the client's message back, as long as this turn may not be the last."""
        if self._stop_reason != "tool_use" or all(block.tool is None for block in self._blocks):
            return raw
        self._end += raw
        return b""

    _EVENTS: ClassVar[dict[str, Callable[["MessagesWeaver", Event, bytes, dict[str, Any]], bytes]]] = {
        "message_start": _message_start,
        "content_block_start": _block_start,
        "content_block_delta": _block_delta,
        "content_block_stop": _block_stop,
        "message_delta": _message_delta,
        "message_stop": _message_stop,
    }


class _Block:
    """A content block, as a whole or as it grows."""

    def __init__(self, start: dict[str, Any], tool: Tool | None) -> None:
        self.tool = tool
        self.shown_at = -1
        self.size = 0
        self._start = start
        self._pieces: dict[str, list[str]] = {}
        self._citations: list[Any] = []

    @property
    def is_for_client(self) -> bool:
        """Whether it is a call that the client has to answer."""
        return self.tool is None and self._start.get("type") == "tool_use"

    @property
    def id(self) -> str:
        """The id of a call."""
        return lenient.text(self._start.get("id"))

    @property
    def is_sendable(self) -> bool:
        """Whether the provider takes it back: it refuses text without a character."""
        return self._start.get("type") != "text" or bool(self._text("text"))

    def add(self, delta: dict[str, Any]) -> None:
        """Take a delta: text adds to the member of the block that has the same name, in kinds not known yet too."""
        if "citation" in delta:
            self._citations.append(delta["citation"])
        for member, piece in delta.items():
            if member != "type" and isinstance(piece, str):
                self.size += len(piece)
                self._pieces.setdefault(member, []).append(piece)

    def call(self, tool: Tool) -> Call:
        """Return the call that it is."""
        arguments = "".join(self._pieces.get("partial_json", ())) or encode(self._start.get("input") or {}).decode()
        return Call(self.id, tool, arguments)

    def json(self) -> bytes:
        """Return the block as it goes back to the provider."""
        block = dict(self._start)
        for member in self._pieces:
            if member != "partial_json":
                block[member] = self._text(member)
        if self._citations:
            block["citations"] = [*lenient.array(block.get("citations")), *self._citations]
        if "partial_json" in self._pieces:
            found = lenient.read("".join(self._pieces["partial_json"]).encode("utf-8", "surrogatepass"))
            block["input"] = found if isinstance(found, dict) else {}
        return encode(block)

    def _text(self, member: str) -> str:
        return lenient.text(self._start.get(member)) + "".join(self._pieces.get(member, ()))


def restore(body: bytes, memories: Memories) -> bytes:
    """Return a request with what its client does not have of the turns that it shared with the gateway."""
    span = find_member(body, "messages")
    if span is None or not is_array(body, span):
        return body
    edits: list[Edit] = []
    spans = spans_of(body, span)
    for message, answer in pairwise(spans):
        for memory in memories_in(body, message, memories):
            edits += _restored(body, message, answer, memory)
    return splice(body, edits)


def _restored(body: bytes, message: Span, answer: Span, memory: Memory) -> list[Edit]:
    content = find_member(body, "content", message[0])
    results = find_member(body, "content", answer[0])
    if content is None or results is None or not is_array(body, content) or not is_array(body, results):
        return []
    for block in spans_of(body, content):
        members = lenient.mapping(lenient.read(body[slice(*block)]))
        if (members.get("type"), members.get("id")) == ("tool_use", memory.anchor):
            told = prepended(body, results, b",".join(memory.results))
            return [*inserted(block, memory.before, memory.after), told]
    return []


class _Injected(NamedTuple):
    body: bytes
    at: int
    """Where the conversation goes on: before the bracket that closes its messages."""


def _inject(body: bytes, definitions: bytes) -> _Injected:
    """Put the tools before the client's, so that its cache breakpoints stay, and ask for one call at a time."""
    tools, choice, messages = find_each(body, ("tools", "tool_choice", "messages"))
    if messages is None or not is_array(body, messages) or is_empty_array(body, messages):
        raise NotWoven("the request has no array with messages")
    edits: list[Edit] = []
    members: list[bytes] = []
    if tools is None:
        members.append(b'"tools":[%b]' % definitions)
    elif is_array(body, tools):
        edits.append(prepended(body, tools, definitions))
    elif body[slice(*tools)] == b"null":
        edits.append(Edit(*tools, b"[%b]" % definitions))
    else:
        raise NotWoven("the request's tools are no array")
    if choice is None:
        members.append(b'"tool_choice":{"type":"auto",%b}' % _ONE_CALL)
    else:
        edits += _one_call(body, choice)
    if members:
        edits.append(added(body, members))
    return _Injected(splice(body, edits), shifted(messages[1] - 1, edits))


def _one_call(body: bytes, span: Span) -> list[Edit]:
    """Return the edit that asks for one call at a time; a choice that is not known is the provider's to judge."""
    choice = lenient.read(body[slice(*span)])
    if choice is None or (isinstance(choice, dict) and not lenient.mapping(choice).get("type")):
        return [Edit(*span, encode({**lenient.mapping(choice), "type": "auto", "disable_parallel_tool_use": True}))]
    if lenient.text(lenient.mapping(choice).get("type")) not in {"auto", "any", "tool"}:
        return []
    flag = find_member(body, "disable_parallel_tool_use", span[0])
    if flag is None:
        at = span[0] + 1
        return [Edit(at, at, _ONE_CALL + b",")]
    return [Edit(*flag, b"true")]


def _define(tools: Sequence[Tool]) -> bytes:
    return b",".join(
        encode({"name": tool.id, "description": tool.description, "input_schema": tool.schema, "type": "custom"})
        for tool in tools
    )


def _result(outcome: Outcome) -> bytes:
    content = [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": part.media_type, "data": part.data},
        }
        if isinstance(part, Image)
        else {"type": "text", "text": part or " "}
        for part in parts_of(outcome)
    ]
    return encode(
        {
            "type": "tool_result",
            "tool_use_id": outcome.call.id,
            "content": content,
            "is_error": outcome.is_error,
        }
    )
