"""The gateway's tools in a conversation of the Chat Completions protocol."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bridgecore import Event, find_each, find_member
from bridgeserver.protocols import lenient
from bridgeserver.tools.tool import Catalog, Tool
from bridgeserver.weaving.content import text_of
from bridgeserver.weaving.edits import (
    Edit,
    Span,
    added,
    added_up,
    appended,
    elements_of,
    encode,
    inserted,
    is_array,
    is_empty_array,
    replaced,
    shifted,
    spans_of,
    splice,
)
from bridgeserver.weaving.weaver import Call, Memories, Memory, NotWoven, Outcome, Weaver, frame, memories_in, split

_CUT = frozenset({"length", "content_filter"})
"""Reasons to stop after which a call may not be whole."""

_ONCE = frozenset({"id", "name", "role", "type"})
"""Members of a delta that are told once, and not in pieces."""


class ChatWeaver(Weaver):
    """One conversation in the Chat Completions protocol."""

    def __init__(self, body: bytes, catalog: Catalog, *, drops_usage: bool) -> None:
        text, at = _inject(body, catalog.prepared("chat", _define))
        super().__init__(text, at, catalog)
        self._drops_usage = drops_usage
        self._message: dict[str, Any] = {}
        self._answered: list[_Call] = []
        self._open: dict[int, _Call] = {}
        self._shown = 0
        self._id = b""
        self._own: dict[str, Any] = {}
        self._finish_reason = ""
        self._end = b""

    @property
    def held_bytes(self) -> int:
        text = sum(len(value) for value in self._message.values() if isinstance(value, str))
        return text + sum(len(call.arguments) for call in self._answered)

    def begin(self) -> None:
        super().begin()
        self._message = {}
        self._answered = []
        self._open = {}
        self._own = {}
        self._finish_reason = ""

    def event(self, event: Event, raw: bytes) -> bytes:
        if event.data.startswith(b"[DONE]"):
            self._end_turn()
            return self._kept_back(raw)
        chunk = lenient.read(event.data)
        if not isinstance(chunk, dict) or lenient.mapping(chunk).get("error") is not None:
            return raw
        members = lenient.mapping(chunk)
        if not self._id:
            span = find_member(event.data, "id")
            self._id = event.data[slice(*span)] if span is not None else b'""'
        usage = members.get("usage")
        if isinstance(usage, dict):
            self._own = lenient.mapping(usage)
        choices = lenient.array(members.get("choices"))
        if not choices:
            return self._choiceless(event, raw, members)
        choice = lenient.mapping(choices[0])
        is_changed = self._take(choice)
        if self._finish_reason and choice.get("finish_reason"):
            self._end_turn()
        if is_changed:
            members["choices"] = [choice]
        if self.calls and choice.get("finish_reason"):
            return self._without_end(event, members, choice)
        if is_changed and _is_empty(choice) and not isinstance(usage, dict):
            return b""
        return self._written(event, raw, members if is_changed else None)

    def whole(self, body: bytes) -> bytes:
        answer = lenient.mapping(lenient.read(body))
        choices = lenient.array(answer.get("choices"))
        if not choices:
            return body
        choice = lenient.mapping(choices[0])
        self._own = lenient.mapping(answer.get("usage"))
        self._finish_reason = lenient.text(choice.get("finish_reason"))
        message = lenient.mapping(choice.get("message"))
        self._message = {name: value for name, value in message.items() if name != "tool_calls" and value is not None}
        for fragment in map(lenient.mapping, lenient.array(message.get("tool_calls"))):
            self._answered.append(self._begun(fragment))
        self._end_turn()
        edits: list[Edit] = []
        usage = find_member(body, "usage")
        if self._turns > 1 and usage is not None:
            edits.append(Edit(*usage, encode(added_up(self._usage, self._own))))
        if any(call.tool for call in self._answered):
            edits += self._shown_calls(body)
        return splice(body, edits)

    def ended(self) -> bytes:
        end, self._end = self._end, b""
        return end

    def proceed(self, outcomes: Sequence[Outcome]) -> bytes:
        self._usage = added_up(self._usage, self._own)
        self._end = b""
        calls = [call.members for call in self._answered]
        message = {"content": None, **self._message, "role": "assistant", "tool_calls": calls}
        return self._grow([encode(message), *map(_result, outcomes)])

    def remembered(self, outcomes: Sequence[Outcome]) -> Memory:
        anchor = next(call.id for call in self._answered if call.tool is None)
        elements = [(encode(call.members), call.tool is not None) for call in self._answered]
        before, after = split(elements, lambda element: lenient.mapping(lenient.read(element)).get("id") == anchor)
        return Memory(anchor, tuple(before), tuple(after), tuple(map(_result, outcomes)))

    def _take(self, choice: dict[str, Any]) -> bool:
        """Take one chunk's part of the message, leave what the client does not get, and return whether that is any."""
        is_changed = False
        delta = lenient.mapping(choice.get("delta"))
        self._finish_reason = lenient.text(choice.get("finish_reason")) or self._finish_reason
        _merge(self._message, {name: value for name, value in delta.items() if name != "tool_calls"})
        fragments = [lenient.mapping(fragment) for fragment in lenient.array(delta.get("tool_calls"))]
        if fragments:
            shown: list[dict[str, Any]] = []
            for fragment in fragments:
                call = self._call_of(fragment)
                if call.tool is not None:
                    is_changed = True
                    continue
                if lenient.count(fragment.get("index")) not in {call.shown_at, None}:
                    is_changed = True
                    fragment["index"] = call.shown_at
                shown.append(fragment)
            if is_changed:
                delta["tool_calls"] = shown
                if not shown:
                    del delta["tool_calls"]
        if self._turns > 1 and delta.pop("role", None) is not None:
            is_changed = True
        return is_changed

    def _call_of(self, fragment: dict[str, Any]) -> "_Call":
        """Return the call that a fragment belongs to; some providers give all calls the index 0, or none."""
        index = lenient.count(fragment.get("index")) or 0
        call = self._open.get(index)
        if call is None or call.is_replaced_by(fragment):
            call = self._open[index] = self._begun(fragment)
            self._answered.append(call)
        else:
            call.add(fragment)
        return call

    def _begun(self, fragment: dict[str, Any]) -> "_Call":
        name = lenient.text(lenient.mapping(fragment.get("function")).get("name"))
        call = _Call(fragment, self._catalog.find(name), self._shown)
        self._shown += call.tool is None
        return call

    def _end_turn(self) -> None:
        """Say what has to be called, unless the answer was cut off before its calls were whole."""
        if self._finish_reason not in _CUT:
            self.calls = [Call(call.id, call.tool, call.arguments) for call in self._answered if call.tool is not None]
            self.is_mixed = bool(self.calls) and len(self.calls) < len(self._answered)

    def _choiceless(self, event: Event, raw: bytes, members: dict[str, Any]) -> bytes:
        """Return what the client gets of a chunk of usage, or of one that says even less."""
        if not isinstance(members.get("usage"), dict):
            return raw if self._turns == 1 else b""
        return b"" if self._drops_usage else self._kept_back(self._written(event, raw, None))

    def _without_end(self, event: Event, members: dict[str, Any], choice: dict[str, Any]) -> bytes:
        """Return what a chunk that ends the turn says beside that, and hold its end back."""
        end: dict[str, Any] = {**members, "choices": [{**choice, "delta": {}}]}
        self._end += self._written(event, b"", end)
        rest = {**choice, "finish_reason": None}
        if _is_empty(rest):
            return b""
        said = {name: value for name, value in members.items() if name != "usage"}
        return self._written(event, b"", {**said, "choices": [rest]})

    def _kept_back(self, raw: bytes) -> bytes:
        """Hold what ends the stream back, as long as this turn may not be the last."""
        if not self.calls:
            return raw
        self._end += raw
        return b""

    def _written(self, event: Event, raw: bytes, members: dict[str, Any] | None) -> bytes:
        """Return a chunk with new *members*, or as it came; with the id of the first and the usage of all turns."""
        if self._turns == 1:
            return raw if members is None else frame(event, encode(members))
        data = event.data if members is None else encode(members)
        data = replaced(data, "id", self._id)
        span = find_member(data, "usage")
        if span is not None and data[span[0] : span[0] + 1] == b"{":
            data = splice(data, [Edit(*span, encode(added_up(self._usage, self._own)))])
        return frame(event, data)

    def _shown_calls(self, body: bytes) -> list[Edit]:
        """Return the edit that leaves the client's calls alone in a whole answer."""
        choices = find_member(body, "choices")
        message = choices and find_member(body, "message", choices[0] + 1)
        span = message and find_member(body, "tool_calls", message[0])
        if not span:
            return []
        elements = zip(elements_of(body[slice(*span)]), self._answered, strict=True)
        return [Edit(*span, b"[%b]" % b",".join(element for element, call in elements if call.tool is None))]


class _Call:
    """A call, as a whole or as its fragments so far."""

    def __init__(self, first: dict[str, Any], tool: Tool | None, shown_at: int) -> None:
        self.tool = tool
        self.shown_at = shown_at
        self._members: dict[str, Any] = {}
        self._arguments: list[str] = []
        self.add(first)

    @property
    def id(self) -> str:
        """By which its result is told."""
        return lenient.text(self._members.get("id"))

    @property
    def arguments(self) -> str:
        """The arguments so far."""
        return "".join(self._arguments)

    @property
    def members(self) -> dict[str, Any]:
        """The call as it goes back to the provider."""
        members: dict[str, Any] = {"type": "function", **self._members}
        if "function" in members:
            members["function"] = {**members["function"], "arguments": self.arguments or "{}"}
        return members

    def add(self, fragment: dict[str, Any]) -> None:
        """Take the next fragment."""
        members = {name: value for name, value in fragment.items() if name != "index"}
        function = dict(lenient.mapping(members.get("function")))
        self._arguments.append(lenient.text(function.pop("arguments", None)))
        if function:
            members["function"] = function
        else:
            members.pop("function", None)
        _merge(self._members, members)

    def is_replaced_by(self, fragment: dict[str, Any]) -> bool:
        """Whether *fragment* begins another call."""
        call_id = lenient.text(fragment.get("id"))
        name = lenient.text(lenient.mapping(fragment.get("function")).get("name"))
        return bool(name and call_id and self.id and call_id != self.id)


def restore(body: bytes, memories: Memories) -> bytes:
    """Return a request with what its client does not have of the turns that it shared with the gateway."""
    span = find_member(body, "messages")
    if span is None or not is_array(body, span):
        return body
    edits: list[Edit] = []
    for message in spans_of(body, span):
        for memory in memories_in(body, message, memories):
            edits += _restored(body, message, memory)
    return splice(body, edits)


def _restored(body: bytes, message: Span, memory: Memory) -> list[Edit]:
    calls = find_member(body, "tool_calls", message[0])
    if calls is None or not is_array(body, calls):
        return []
    for call in spans_of(body, calls):
        if lenient.mapping(lenient.read(body[slice(*call)])).get("id") == memory.anchor:
            return [*inserted(call, memory.before, memory.after), *inserted(message, (), memory.results)]
    return []


class _Injected(NamedTuple):
    body: bytes
    at: int
    """Where the conversation goes on: before the bracket that closes its messages."""


def _inject(body: bytes, definitions: bytes) -> _Injected:
    """Put the tools behind the client's, and ask for one call at a time."""
    names = ("tools", "messages", "parallel_tool_calls", "n", "functions")
    tools, messages, parallel, choices, functions = find_each(body, names)
    if messages is None or not is_array(body, messages) or is_empty_array(body, messages):
        raise NotWoven("the request has no array with messages")
    if choices is not None and body[slice(*choices)] not in {b"1", b"null"}:
        raise NotWoven("the request asks for several choices, which cannot be continued as one")
    if functions is not None:
        raise NotWoven("the request uses functions, which came before tools and cannot stand beside them")
    edits: list[Edit] = []
    members: list[bytes] = []
    if tools is None:
        members.append(b'"tools":[%b]' % definitions)
    elif is_array(body, tools):
        edits.append(appended(body, tools, definitions))
    elif body[slice(*tools)] == b"null":
        edits.append(Edit(*tools, b"[%b]" % definitions))
    else:
        raise NotWoven("the request's tools are no array")
    if parallel is None:
        members.append(b'"parallel_tool_calls":false')
    else:
        edits.append(Edit(*parallel, b"false"))
    if members:
        edits.append(added(body, members))
    return _Injected(splice(body, edits), shifted(messages[1] - 1, edits))


def _define(tools: Sequence[Tool]) -> bytes:
    return b",".join(
        encode(
            {
                "type": "function",
                "function": {
                    "name": tool.id,
                    "description": tool.description,
                    "parameters": tool.schema,
                    "strict": False,
                },
            }
        )
        for tool in tools
    )


def _result(outcome: Outcome) -> bytes:
    return encode({"role": "tool", "tool_call_id": outcome.call.id, "content": text_of(outcome)})


def _is_empty(choice: dict[str, Any]) -> bool:
    """Whether a chunk says nothing any more."""
    delta = lenient.mapping(choice.get("delta"))
    return not choice.get("finish_reason") and all(value in (None, "", [], {}) for value in delta.values())


def _merge(known: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta to what is known; members that nobody here knows grow like the others."""
    for name, value in delta.items():
        before = known.get(name)
        if value is None:
            continue
        if isinstance(before, str) and isinstance(value, str):
            known[name] = before or value if name in _ONCE else before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            merged = dict(lenient.mapping(before))
            _merge(merged, lenient.mapping(value))
            known[name] = merged
        elif isinstance(before, list) and isinstance(value, list):
            known[name] = [*lenient.array(before), *lenient.array(value)]
        else:
            known[name] = value
