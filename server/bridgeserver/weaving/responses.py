"""The gateway's tools in a conversation of the Responses protocol."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bridgecore import Event, find_each, find_member, find_members
from bridgeserver.protocols import lenient
from bridgeserver.tools.tool import Catalog, Tool
from bridgeserver.weaving.content import Image, parts_of
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
    renumbered,
    shifted,
    spans_of,
    splice,
)
from bridgeserver.weaving.weaver import Call, Memories, Memory, NotWoven, Outcome, Weaver, frame, memories_in, split

CONTINUED = "previous_response_id"

_BEGINNINGS = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_FOR_CLIENT = frozenset({"function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call"})
"""Items that the client has to answer."""

_SENDABLE = frozenset(
    {
        "apply_patch_call",
        "code_interpreter_call",
        "compaction",
        "computer_call",
        "custom_tool_call",
        "file_search_call",
        "function_call",
        "image_generation_call",
        "local_shell_call",
        "mcp_call",
        "message",
        "reasoning",
        "shell_call",
        "web_search_call",
    }
)
"""Items of an answer that the provider takes as input."""


class ResponsesWeaver(Weaver):
    """One conversation in the Responses protocol.

    An item of reasoning is held until the next item has begun: where that is a call of the gateway's, the client gets
    neither, because the provider refuses reasoning that comes back without the item that it led to.
    """

    def __init__(self, body: bytes, catalog: Catalog, *, drops_usage: bool) -> None:
        del drops_usage  # usage is part of the protocol's own events
        injected = _inject(body, catalog.prepared("responses", _define))
        super().__init__(injected.body, injected.input[1] - 1, catalog)
        self._input: Span | None = injected.input
        self._is_conversation = injected.is_conversation
        self._is_stored = self._may_be_stored = injected.may_be_stored
        self._items: dict[int, _Item] = {}
        self._held: list[tuple[Event, bytes, dict[str, Any]]] = []
        self._before: list[bytes] = []
        self._shown = 0
        self._sequence = -1
        self._is_changed = False
        self._own: dict[str, Any] = {}
        self._end = b""
        self._first_id = ""

    @property
    def held_bytes(self) -> int:
        held = sum(len(raw) for _event, raw, _members in self._held)
        return held + sum(len(item.text) for item in self._items.values()) + sum(map(len, self._before))

    def begin(self) -> None:
        super().begin()
        self._items = {}
        self._held = []
        self._own = {}
        self._is_changed = self._turns > 1

    def event(self, event: Event, raw: bytes) -> bytes:
        found = lenient.read(event.data)
        if not isinstance(found, dict):
            return raw
        members = lenient.mapping(found)
        kind = event.name.decode("latin-1") or lenient.text(members.get("type"))
        if kind in _BEGINNINGS:
            if self._turns > 1:
                return b""
            self._first_id = lenient.text(lenient.mapping(members.get("response")).get("id"))
            return self._emitted(event, raw, members)
        if kind in _ENDS:
            return self._released() + self._last(event, raw, members)
        index = lenient.count(members.get("output_index"))
        if index is None:
            return self._emitted(event, raw, members)
        item = self._items.get(index)
        released = b""
        if item is None:
            item = self._items[index] = self._begun(lenient.mapping(members.get("item")))
            released = self._decided(item)
        if kind == "response.output_item.done":
            item.finish(event.data)
        if item.is_hidden:
            self._is_changed = True
            return released
        if not item.is_decided:
            self._held.append((event, raw, members))
            return released
        return released + self._emitted(event, raw, members)

    def whole(self, body: bytes) -> bytes:
        answer = lenient.mapping(lenient.read(body))
        output = find_member(body, "output") if answer else None
        if output is None or not is_array(body, output):
            return body
        self._take_end(answer, body[slice(*output)])
        edits: list[Edit] = []
        usage = find_member(body, "usage")
        if self._turns > 1 and usage is not None:
            edits.append(Edit(*usage, encode(added_up(self._usage, self._own))))
        if any(item.is_hidden for item in self._items.values()):
            edits.append(Edit(*output, b"[%b]" % b",".join(self._visible())))
        return splice(body, edits)

    def ended(self) -> bytes:
        end, self._end = self._end, b""
        return end

    def proceed(self, outcomes: Sequence[Outcome]) -> bytes:
        self._usage = added_up(self._usage, self._own)
        self._end = b""
        self._before += self._visible()
        results = [_result(outcome) for outcome in outcomes]
        if self._is_conversation:
            return self._tell(results)
        return self._continue([*filter(None, map(self._sent, self._items.values())), *results])

    def remembered(self, outcomes: Sequence[Outcome]) -> Memory:
        anchor = next(item.call_id for item in self._items.values() if item.is_for_client)
        elements = [(self._sent(item), item.is_hidden) for item in self._items.values()]
        before, after = split(elements, lambda element: lenient.mapping(lenient.read(element)).get("call_id") == anchor)
        return Memory(anchor, tuple(filter(None, before)), tuple(filter(None, after)), tuple(map(_result, outcomes)))

    def _begun(self, members: dict[str, Any]) -> "_Item":
        is_call = members.get("type") == "function_call"
        return _Item(members, self._catalog.find(lenient.text(members.get("name"))) if is_call else None)

    def _decided(self, item: "_Item") -> bytes:
        """Decide about the reasoning before an item, now that it is known what it led to."""
        if item.kind == "reasoning":
            return b""
        waiting = [before for before in self._items.values() if not before.is_decided and before is not item]
        if item.tool is not None:
            item.is_hidden = True
            for before in waiting:
                before.is_hidden = True
            self._held.clear()
            self._is_changed = True
        self._show([*waiting, item])
        return self._flushed()

    def _released(self) -> bytes:
        """Return what was held and led to nothing."""
        self._show([item for item in self._items.values() if not item.is_decided])
        return self._flushed()

    def _show(self, items: list["_Item"]) -> None:
        for item in items:
            item.is_decided = True
            if not item.is_hidden:
                item.shown_at = self._shown
                self._shown += 1

    def _flushed(self) -> bytes:
        held, self._held = self._held, []
        return b"".join(self._emitted(*one) for one in held)

    def _emitted(self, event: Event, raw: bytes, members: dict[str, Any]) -> bytes:
        """Return an event with the numbers that it has for the client."""
        numbers: dict[str, int] = {}
        sequence = lenient.count(members.get("sequence_number"))
        if sequence is not None:
            self._sequence = self._sequence + 1 if self._is_changed else sequence
            numbers["sequence_number"] = self._sequence
        index = lenient.count(members.get("output_index"))
        if index is not None and index in self._items:
            numbers["output_index"] = self._items[index].shown_at
        if all(members[name] == number for name, number in numbers.items()):
            return raw
        return frame(event, renumbered(event.data, numbers))

    def _last(self, event: Event, raw: bytes, members: dict[str, Any]) -> bytes:
        """Take the event that ends a turn."""
        response = lenient.mapping(members.get("response"))
        outer = find_member(event.data, "response")
        output, usage, own_id = (
            find_each(event.data, ("output", "usage", "id"), outer[0]) if outer and response else (None, None, None)
        )
        self._take_end(response, event.data[slice(*output)] if output is not None else b"[]")
        is_hiding = any(item.is_hidden for item in self._items.values())
        edits: list[Edit] = []
        if output is not None and (is_hiding or self._before):
            edits.append(Edit(*output, b"[%b]" % b",".join([*self._before, *self._visible()])))
        if usage is not None and self._usage and self._own:
            edits.append(Edit(*usage, encode(added_up(self._usage, self._own))))
        last_id = lenient.text(response.get("id"))
        if own_id is not None and self._first_id and last_id != self._first_id:
            # A client takes the stream for one response, and checks that; it goes on from the id that it knows.
            edits.append(Edit(*own_id, encode(self._first_id)))
            self.continued = (lenient.identifier(self._first_id), lenient.identifier(last_id))
        if is_hiding:
            self._is_changed = True
        text = splice(event.data, edits)
        sequence = lenient.count(members.get("sequence_number"))
        if sequence is not None and self._is_changed:
            text = renumbered(text, {"sequence_number": self._sequence + 1})
        shown = raw if text == event.data else frame(event, text)
        if not self.calls:
            return shown
        self._end = shown
        if self.is_mixed and sequence is not None:
            self._sequence += 1
        return b""

    def _take_end(self, response: dict[str, Any], output: bytes) -> None:
        """Take the response as a whole, and say what has to be called unless it was cut off."""
        self._own = lenient.mapping(response.get("usage"))
        self._is_stored = self._may_be_stored and response.get("store") is not False
        for index, element in enumerate(elements_of(output)):
            if index not in self._items:
                item = self._items[index] = self._begun(lenient.mapping(lenient.read(element)))
                self._decided(item)
            self._items[index].text = element
        self._show([item for item in self._items.values() if not item.is_decided])
        if response.get("status") in ("completed", None):  # no set: it may be anything
            self.calls = [item.call(item.tool) for item in self._items.values() if item.tool is not None]
            self.is_mixed = bool(self.calls) and any(item.is_for_client for item in self._items.values())

    def _visible(self) -> list[bytes]:
        return [item.text for item in self._items.values() if not item.is_hidden and item.text]

    def _sent(self, item: "_Item") -> bytes:
        """Return an item as it goes back to the provider, or nothing."""
        members = lenient.mapping(lenient.read(item.text)) if item.text else {}
        if lenient.text(members.get("type")) not in _SENDABLE:
            return b""
        if self._is_stored:
            return item.text
        # What is not stored is not found by its id; reasoning then goes on only as encrypted text.
        if members.get("type") == "reasoning" and not members.get("encrypted_content"):
            return b""
        return encode({name: value for name, value in members.items() if name != "id"})

    def _tell(self, results: list[bytes]) -> bytes:
        """Return the request that has nothing but the results: the conversation at the provider holds the rest."""
        start, end = self._input or (0, 0)
        told = b"[%b]" % b",".join(results)
        self.body = self.body[:start] + told + self.body[end:]
        self._input = (start, start + len(told))
        return self.body

    def _continue(self, items: list[bytes]) -> bytes:
        if self._input is not None:
            start, end = self._input
            self._input = None
            if self.body[start : start + 1] == b'"':
                said = b'[{"role":"user","content":%b}]' % self.body[start:end]
                self.body = self.body[:start] + said + self.body[end:]
                end = start + len(said)
            edit = appended(self.body, (start, end), b",".join(items))
            self.body = splice(self.body, [edit])
            self._at = edit.start + len(edit.data)
            return self.body
        return self._grow(items)


class _Item:
    """An item of the output."""

    def __init__(self, members: dict[str, Any], tool: Tool | None) -> None:
        self.kind = lenient.text(members.get("type"))
        self.tool = tool
        self.is_decided = False
        self.is_hidden = False
        self.shown_at = -1
        self.text = b""
        """The whole item as JSON text, once it is known."""

    @property
    def is_for_client(self) -> bool:
        """Whether it is a call that the client has to answer."""
        return self.tool is None and self.kind in _FOR_CLIENT

    @property
    def call_id(self) -> str:
        """By which the result of a call is told."""
        return lenient.text(lenient.mapping(lenient.read(self.text)).get("call_id"))

    def finish(self, data: bytes) -> None:
        """Take the event that holds the whole item."""
        span = find_member(data, "item")
        if span is not None:
            self.text = data[slice(*span)]

    def call(self, tool: Tool) -> Call:
        """Return the call that it is."""
        members = lenient.mapping(lenient.read(self.text))
        return Call(self.call_id, tool, lenient.text(members.get("arguments")))


def restore(body: bytes, memories: Memories) -> bytes:
    """Return a request with what its client does not have of the turns that it shared with the gateway.

    A client that goes on from a response by its id sends results alone; the provider has the calls then.
    """
    span = find_member(body, "input")
    if span is None or not is_array(body, span):
        return body
    edits: list[Edit] = []
    done: set[str] = set()
    spans = spans_of(body, span)
    for number, item in enumerate(spans):
        for memory in memories_in(body, item, memories):
            members = _members(body, item)
            if members.get("call_id") != memory.anchor or memory.anchor in done:
                continue
            done.add(memory.anchor)
            if lenient.text(members.get("type")).endswith("_output"):
                edits += inserted(item, memory.results, ())
            else:
                first = _beginning(body, spans[: number + 1])
                edits += inserted((first, item[1]), memory.before, (*memory.after, *memory.results))
    return splice(body, edits)


def _beginning(body: bytes, spans: Sequence[Span]) -> int:
    """Return where the reasoning begins that led to the last of these items; nothing may come between the two."""
    number = len(spans) - 1
    while number and _members(body, spans[number - 1]).get("type") == "reasoning":
        number -= 1
    return spans[number][0]


def _members(body: bytes, item: Span) -> dict[str, Any]:
    return lenient.mapping(lenient.read(body[slice(*item)]))


def continued_from(body: bytes) -> list[str]:
    """Return the ids of the responses from which a request goes on; it should be one, and JSON lets it be more."""
    return [response_id for _span, response_id in _continued(body)]


def restart(body: bytes, last: Mapping[str, str]) -> bytes:
    """Return a request that goes on from the *last* turns of responses, of which its client knows the first ones."""
    edits = [Edit(*span, encode(last[first])) for span, first in _continued(body) if first in last]
    return splice(body, edits)


def _continued(body: bytes) -> list[tuple[Span, str]]:
    found = [(span, lenient.text(lenient.read(body[slice(*span)]))) for span in find_members(body, CONTINUED)]
    return [(span, response_id) for span, response_id in found if response_id]


class _Injected(NamedTuple):
    body: bytes
    input: Span
    is_conversation: bool
    """Whether the provider itself keeps what was said."""
    may_be_stored: bool
    """Whether the client did not forbid that answers are kept."""


def _inject(body: bytes, definitions: bytes) -> _Injected:
    """Put the tools behind the client's, and ask for one call at a time."""
    names = ("tools", "input", "parallel_tool_calls", "conversation", "background", "store")
    tools, asked, parallel, conversation, background, store = find_each(body, names)
    if asked is None or body[asked[0] : asked[0] + 1] not in {b"[", b'"'}:
        raise NotWoven("the request has no input that could be continued")
    if background is not None and body[slice(*background)] == b"true":
        raise NotWoven("the request runs in the background, where nobody waits for its calls")
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
    start, end = shifted(asked[0], edits), shifted(asked[1] - 1, edits) + 1
    is_conversation = conversation is not None and body[slice(*conversation)] != b"null"
    may_be_stored = store is None or body[slice(*store)] != b"false"
    return _Injected(splice(body, edits), (start, end), is_conversation, may_be_stored)


def _define(tools: Sequence[Tool]) -> bytes:
    return b",".join(
        encode(
            {
                "type": "function",
                "name": tool.id,
                "description": tool.description,
                "parameters": tool.schema,
                "strict": False,
            }
        )
        for tool in tools
    )


def _result(outcome: Outcome) -> bytes:
    parts = parts_of(outcome)
    output: Any = "\n".join(part for part in parts if isinstance(part, str))
    if any(isinstance(part, Image) for part in parts):
        output = [
            {"type": "input_image", "image_url": part.url}
            if isinstance(part, Image)
            else {"type": "input_text", "text": part}
            for part in parts
        ]
    return encode({"type": "function_call_output", "call_id": outcome.call.id, "output": output})
