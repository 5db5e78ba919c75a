"""Answers of a provider that are JSON and nothing else that was promised: the weavers make of them what they can."""

import copy as copies
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from bridgecore import Scanner
from bridgeserver.protocols import Protocol, lenient
from bridgeserver.protocols.chat import Chat
from bridgeserver.protocols.messages import Messages
from bridgeserver.protocols.responses import Responses
from bridgeserver.tools.tool import Catalog
from bridgeserver.weaving import Outcome, Weaver, weave
from toollab import TOOLS, Json, text

PROTOCOLS: Mapping[str, Protocol] = {"messages": Messages(), "chat": Chat(), "responses": Responses()}
ASKED: Mapping[str, Json] = {"messages": {"messages": [1]}, "chat": {"messages": [1]}, "responses": {"input": "x"}}
USAGE: Json = {"output_tokens": 1, "details": {"a": 1}}
CALLS: Mapping[str, Json] = {
    "messages": {"type": "tool_use", "id": "c1", "name": TOOLS[0].id, "input": {}},
    "chat": {"index": 0, "id": "c1", "function": {"name": TOOLS[0].id, "arguments": "{}"}},
    "responses": {"type": "function_call", "call_id": "c1", "name": TOOLS[0].id, "arguments": "{}"},
}
DOCUMENTS: Mapping[str, Json] = {
    "messages": {"content": [CALLS["messages"], {"type": "text"}], "stop_reason": "tool_use", "usage": USAGE},
    "chat": {"choices": [{"finish_reason": "stop", "message": {"content": "", "tool_calls": [CALLS["chat"]]}}]},
    "responses": {
        "output": [CALLS["responses"], {"type": "reasoning"}],
        "status": "completed",
        "store": False,
        "usage": USAGE,
    },
}
STREAMS: Mapping[str, list[Json]] = {
    "messages": [
        {"type": "content_block_start", "index": 0, "content_block": CALLS["messages"]},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": USAGE},
        {"type": "message_stop"},
    ],
    "chat": [
        {"id": "x", "choices": [{"delta": {"role": "a", "tool_calls": [CALLS["chat"]]}, "finish_reason": "stop"}]},
        {"id": "x", "choices": [], "usage": USAGE},
    ],
    "responses": [
        {"type": "response.output_item.added", "output_index": 0, "item": CALLS["responses"], "sequence_number": 0},
        {"type": "response.output_item.done", "output_index": 0, "item": CALLS["responses"]},
        {"type": "response.completed", "response": DOCUMENTS["responses"], "sequence_number": 2},
    ],
}
ODD: list[Any] = [[], [1], {}, {"a": 1}, 0, -1, 1e300, True, None, "", "x", TOOLS[0].id]


@pytest.mark.parametrize("odd", ODD, ids=json.dumps)
@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_any_member_of_a_document_may_be_anything(name: str, odd: Any) -> None:
    """One after the other: nothing is raised, and the client and the provider get JSON."""
    for document in replaced(DOCUMENTS[name], odd):
        weaver = weaver_of(name)
        json.loads(weaver.whole(json.dumps(document).encode()))
        go_on(weaver)


@pytest.mark.parametrize("odd", ODD, ids=json.dumps)
@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_any_member_of_a_stream_may_be_anything(name: str, odd: Any) -> None:
    """One after the other: nothing is raised, the client gets whole events, and the provider JSON."""
    for events in replaced(STREAMS[name], odd):
        weaver = weaver_of(name)
        data = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in events) + b"data: [DONE]\n\n"
        for event in Scanner().feed(data):
            shown = weaver.event(event, data[event.start : event.end])
            assert not shown or shown.endswith(b"\n\n")
        go_on(weaver)


def weaver_of(name: str) -> Weaver:
    """Return a conversation that has begun."""
    weaver = weave(PROTOCOLS[name], json.dumps(ASKED[name]).encode(), Catalog(TOOLS), {}, drops_usage=False)
    weaver.begin()
    return weaver


def go_on(weaver: Weaver) -> None:
    """Answer the calls that there are."""
    outcomes = [Outcome(call, text("mock")) for call in weaver.calls]
    if weaver.is_mixed:
        assert weaver.remembered(outcomes).size > 0
        weaver.ended()
    elif outcomes:
        assert json.loads(weaver.proceed(outcomes))["tools"]


def replaced(value: Any, odd: Any) -> Iterator[Any]:
    """Yield *value* with each of its members and elements, at any depth, replaced by the odd one."""
    places: list[Any] = [*range(len(lenient.array(value))), *lenient.mapping(value)]
    for place in places:
        part: Any = value[place]
        inner = replaced(part, odd) if isinstance(part, dict | list) else ()
        for new in (odd, *inner):
            copy: Any = copies.copy(value)
            copy[place] = new
            yield copy
