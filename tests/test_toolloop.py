"""The gateway's tools in conversations: injected, called, answered, and hidden; rows L1 to L9 of the tables."""

import asyncio
import gzip
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from bridgeserver.records import ContinuedResponse, InterceptionEnd
from bridgeserver.toolloop import Memories
from bridgeserver.weaving import Memory
from gatelab import PROVIDERS, GateLab, Got, Kept, MakeLab, Play, answer, stream
from toollab import CHAT, MESSAGES, RESPONSES, SCRIPTS, URL, Box, Json, Script, bridge_of, event, events_of, give, text
from tracelab import Spans

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MODES = pytest.mark.parametrize("streaming", [False, True], ids=["blocking", "streaming"])
PROTOCOLS = pytest.mark.parametrize("script", SCRIPTS, ids=["messages", "chat", "responses"])
LIST = "bmcp_coder_coder_list_workspaces"
CALL_SPAN = "Intercept.ProcessRequest.ToolCall"
TEMPLATES = "bmcp_coder_coder_list_templates"


@pytest.fixture
def lab(make_lab: MakeLab) -> GateLab:
    """Return a gateway whose tools and providers are ours."""
    return make_lab(PROVIDERS)


def asked(lab: GateLab, script: Script, *turns: Play, streaming: bool, **members: Any) -> Got:
    """Ask, and have these turns ready; all of them must be wanted."""
    lab.reset()
    lab.provider.push(*turns)
    usage = {"stream_options": {"include_usage": True}} if streaming and script is CHAT else {}
    got = lab.ask(script.path, {**script.request, "stream": streaming, **usage, **members})
    assert (len(lab.provider.answers), lab.provider.surplus) == (0, 0)
    return got


def sent(lab: GateLab, number: int) -> Json:
    """Return what the provider was asked in a turn."""
    body: Json = json.loads(lab.provider.requests[number].body)
    return body


def conversation(lab: GateLab, number: int) -> list[Json]:
    """Return what had been said by then."""
    body = sent(lab, number)
    found: list[Json] = body.get("messages") or body["input"]
    return found


def said(got: Got) -> str:
    """Return the text that the client got, whatever the protocol."""
    if not (got.value("content-type") or "").startswith("text/event-stream"):
        body = got.json
        if "choices" in body:
            return str(body["choices"][0]["message"]["content"] or "")
        parts = body.get("content") or [part for item in body["output"] for part in item.get("content", ())]
        return "".join(part.get("text", "") for part in parts)
    deltas: list[str] = []
    for each in events_of(got.body):
        if each.get("type") == "content_block_delta":
            deltas.append(each["delta"].get("text", ""))
        elif each.get("type") == "response.output_text.delta":
            deltas.append(each["delta"])
        elif each.get("choices"):
            deltas.append(each["choices"][0]["delta"].get("content") or "")
    return "".join(deltas)


def final_usage(got: Got) -> Json:
    """Return the usage that the client was told last."""
    if not (got.value("content-type") or "").startswith("text/event-stream"):
        return dict(got.json["usage"])
    told: list[Json | None] = [each.get("response", each).get("usage") for each in events_of(got.body)]
    return [usage for usage in told if usage][-1]


def tools_of(kept: Kept) -> list[tuple[str, bool, str | None]]:
    """Return the recorded calls."""
    return [(tool.name, tool.injected, tool.error) for tool in kept.tools]


@MODES
@PROTOCOLS
def test_gw_l1_l2_l3_a_call_of_our_own_is_answered_here(lab: GateLab, script: Script, streaming: bool) -> None:
    """gw-L1 to L3, L6, L8: two turns, one answer. Ours sums usage everywhere and keeps the provider's own ids."""
    box = give(lab, Box())
    first = script.turn(
        "t1",
        [script.say("I'll list "), script.call("c1", LIST, '{"owner":"admin"}')],
        (7545, 76),
        streaming=streaming,
    )
    got = asked(
        lab,
        script,
        first,
        script.turn("t2", [script.say("them")], (7763, 128), streaming=streaming),
        streaming=streaming,
    )
    kept = lab.kept()
    assert (got.status, got.is_whole) == (200, True)
    assert box.calls == [("coder_list_workspaces", {"owner": "admin"})]
    assert len(lab.provider.requests) == 2
    assert said(got) == ("I'll list them" if streaming else "them")
    assert LIST.encode() not in got.body
    usage = final_usage(got)
    assert usage.get("input_tokens", usage.get("prompt_tokens")) == 15308
    assert usage.get("output_tokens", usage.get("completion_tokens")) == 204
    assert kept.outcome == ("completed", 200, None)
    assert kept.counts == [(7545, 76, 0, 0), (7763, 128, 0, 0)]
    assert [use.response_id for use in kept.tokens] == ["t1", "t2"]
    assert [prompt.text for prompt in kept.prompts] == ["what workspaces do i have?"]
    (use,) = kept.tools
    assert (use.name, use.server, use.injected, use.error) == ("coder_list_workspaces", URL, True, None)
    assert (use.tool_call_id, use.response_id, json.loads(use.arguments)) == ("c1", "t1", {"owner": "admin"})
    assert use.duration_us is not None
    assert use.result is None
    assert kept.end.attempts == 2
    assert lab.worker.budget.used == 0
    assert lab.worker.means.accounting.used == 0


@MODES
def test_gw_l1_the_conversation_goes_on_with_the_result(lab: GateLab, streaming: bool) -> None:
    """gw-L1, M14: the second request ends with what the model said and with the result, the rest is as it was."""
    give(lab, Box())
    call = MESSAGES.call("c1", LIST, '{"owner":"admin"}')
    thought = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    first = MESSAGES.turn("t1", [thought, MESSAGES.say("Let me see"), call], (1, 2), streaming=streaming)
    asked(
        lab,
        MESSAGES,
        first,
        MESSAGES.turn("t2", [MESSAGES.say("done")], (3, 4), streaming=streaming),
        streaming=streaming,
    )
    user, assistant, result = conversation(lab, 1)
    assert user == MESSAGES.request["messages"][0]
    assert assistant == {"role": "assistant", "content": [thought, MESSAGES.say("Let me see"), call]}
    told = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "content": [{"type": "text", "text": "mock"}],
        "is_error": False,
    }
    assert result == {"role": "user", "content": [told]}
    prefix = lab.provider.requests[0].body.partition(b'"messages"')[0]
    assert lab.provider.requests[1].body.startswith(prefix)


def test_blocks_of_every_kind_go_back_as_they_came(lab: GateLab) -> None:
    """What the provider itself did in the turn, thoughts that nobody may read, and a summary of what was before."""
    give(lab, Box())
    search = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "é"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"encrypted_content": "xyz"}]}
    cited = {"type": "char_location", "cited_text": "hm"}
    compaction: Json = {"type": "compaction", "content": None}
    blocks: list[tuple[Json, list[Json]]] = [
        (compaction, [{"type": "compaction_delta", "content": "what was said", "encrypted_content": "xyz"}]),
        ({"type": "redacted_thinking", "data": "abc"}, []),
        ({**search, "input": {}}, [{"type": "input_json_delta", "partial_json": '{"query": "\\u00e9"}'}]),
        (found, []),
        (
            {"type": "text", "text": "", "citations": None},
            [{"type": "citations_delta", "citation": cited}, {"type": "text_delta", "text": "so"}],
        ),
        ({"type": "text", "text": ""}, []),
        (MESSAGES.call("c1", LIST, "{}"), []),
    ]
    events: list[Json] = [{"type": "message_start", "message": {"id": "t1", "content": []}}]
    for index, (block, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events += [{"type": "message_delta", "delta": {"stop_reason": "tool_use"}}, {"type": "message_stop"}]
    first = stream(*(event(each, each["type"]) for each in events))
    last = MESSAGES.turn("t2", [MESSAGES.say("done")], (3, 4), streaming=True)
    got = asked(lab, MESSAGES, first, last, streaming=True)
    assert conversation(lab, 1)[1]["content"] == [
        {"type": "compaction", "content": "what was said", "encrypted_content": "xyz"},
        {"type": "redacted_thinking", "data": "abc"},
        search,
        found,
        {"type": "text", "text": "so", "citations": [cited]},
        MESSAGES.call("c1", LIST, "{}"),
    ]
    shown = [each["index"] for each in events_of(got.body) if each["type"] == "content_block_start"]
    assert shown == list(range(7))


@MODES
def test_gw_l3_the_chat_goes_on_with_the_result(lab: GateLab, streaming: bool) -> None:
    """gw-L3: an assistant with its calls, then a tool message with the id of the call."""
    give(lab, Box())
    first = CHAT.turn("t1", [CHAT.say("Let me see"), CHAT.call("c1", LIST, "{}")], (1, 2), streaming=streaming)
    asked(lab, CHAT, first, CHAT.turn("t2", [CHAT.say("done")], (3, 4), streaming=streaming), streaming=streaming)
    _user, assistant, result = conversation(lab, 1)
    call = {"id": "c1", "type": "function", "function": {"name": LIST, "arguments": "{}"}}
    assert assistant == {"role": "assistant", "content": "Let me see", "tool_calls": [call]}
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "mock"}


def test_gw_l4_a_chat_that_begins_with_a_call(lab: GateLab) -> None:
    """gw-L4: the head comes at once, the call is made once, the answer follows in the same stream."""
    box = give(lab, Box())
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": LIST, "arguments": '{"owner":"me"}'}}
    usage = {"prompt_tokens": 4, "completion_tokens": 5}
    first = stream(
        event(
            {
                "id": "a",
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": None, "tool_calls": [call]}}],
            }
        ),
        event({"id": "a", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], "usage": usage}),
        b"data: [DONE]\n\n",
    )
    got = asked(lab, CHAT, first, CHAT.turn("b", [CHAT.say("yes")], (1, 2), streaming=True), streaming=True)
    assert (got.value("content-type"), said(got)) == ("text/event-stream", "yes")
    assert got.body.count(b"[DONE]") == 1
    chunks = events_of(got.body)
    assert {chunk["id"] for chunk in chunks} == {"a"}
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks if chunk["choices"]].count("assistant") == 1
    assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == [
        {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 3}
    ]
    assert box.calls == [("coder_list_workspaces", {"owner": "me"})]
    assert lab.kept().counts == [(4, 5, 0, 0), (1, 2, 0, 0)]


def test_gw_l5_no_empty_slots_and_no_arguments(lab: GateLab) -> None:
    """gw-L5: text, then a call at index 1 without arguments; the next request has that one call."""
    box = give(lab, Box())
    call = {"index": 1, "id": "c1", "type": "function", "function": {"name": LIST, "arguments": ""}}
    first = stream(
        event({"id": "a", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hm"}}]}),
        event({"id": "a", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}),
        event({"id": "a", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        b"data: [DONE]\n\n",
    )
    asked(lab, CHAT, first, CHAT.turn("b", [CHAT.say("yes")], (1, 2), streaming=True), streaming=True)
    assert box.calls == [("coder_list_workspaces", {})]
    (told,) = conversation(lab, 1)[1]["tool_calls"]
    assert told["function"] == {"name": LIST, "arguments": "{}"}


@MODES
@PROTOCOLS
def test_gw_l7_l9_an_error_is_told_to_the_model(lab: GateLab, script: Script, streaming: bool) -> None:
    """gw-L7, L9: the record carries the reason, and so does the next request."""
    give(lab, Box(coder_list_workspaces="the server is away"))
    first = script.turn("t1", [script.call("c1", LIST, "{}")], (1, 2), streaming=streaming)
    got = asked(
        lab, script, first, script.turn("t2", [script.say("sorry")], (3, 4), streaming=streaming), streaming=streaming
    )
    assert said(got) == "sorry"
    assert "calling tool: the server is away" in json.dumps(conversation(lab, 1)[-1])
    assert tools_of(lab.kept()) == [("coder_list_workspaces", True, "calling tool: the server is away")]


@MODES
@PROTOCOLS
def test_two_turns_with_calls_and_one_of_the_client(lab: GateLab, script: Script, streaming: bool) -> None:
    """gw-L11: two calls of ours, then one that the client answers; it sees that one alone, and all are counted."""
    box = give(lab, Box())
    turns = [
        script.turn("t1", [script.say("a"), script.call("c1", LIST, '{"owner":"x"}')], (10, 1), streaming=streaming),
        script.turn("t2", [script.say("b"), script.call("c2", TEMPLATES, "{}")], (20, 2), streaming=streaming),
        script.turn("t3", [script.say("c"), script.call("c3", "Read", '{"path":"/x"}')], (30, 3), streaming=streaming),
    ]
    got = asked(lab, script, *turns, streaming=streaming)
    kept = lab.kept()
    assert said(got) == ("abc" if streaming else "c")
    assert b"bmcp_" not in got.body
    assert b'"Read"' in got.body
    assert [name for name, _arguments in box.calls] == ["coder_list_workspaces", "coder_list_templates"]
    assert tools_of(kept) == [
        ("coder_list_workspaces", True, None),
        ("coder_list_templates", True, None),
        ("Read", False, None),
    ]
    assert kept.counts == [(10, 1, 0, 0), (20, 2, 0, 0), (30, 3, 0, 0)]
    usage = final_usage(got)
    assert usage.get("output_tokens", usage.get("completion_tokens")) == 6
    counters = lab.worker.counters
    name = script.path.split("/")[1]
    model = script.request["model"]
    assert counters["\x1f".join([f"injected_tool_invocations.{name}", model, URL, "coder_list_workspaces"])] == 1
    assert counters["\x1f".join([f"non_injected_tool_selections.{name}", model, "Read"])] == 1


def test_usage_of_all_turns_is_in_the_last_event(lab: GateLab) -> None:
    """Also what a turn told in the end that was held back, and what it told at its beginning."""
    give(lab, Box())
    turns: list[Play] = []
    deltas: list[tuple[str, Json]] = [(LIST, {"server_tool_use": {"web_search_requests": 2}}), ("Read", {})]
    for turn, (name, delta) in enumerate(deltas):
        usage = {"input_tokens": 10, "output_tokens": 1, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 7}
        block: Json = {"type": "tool_use", "id": f"c{turn}", "name": name, "input": {}}
        told = {"output_tokens": 20, **delta}
        events: list[Json] = [
            {"type": "message_start", "message": {"id": f"t{turn}", "content": [], "usage": usage}},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": told},
            {"type": "message_stop"},
        ]
        turns.append(stream(*(event(each, each["type"]) for each in events)))
    assert final_usage(asked(lab, MESSAGES, *turns, streaming=True)) == {
        "input_tokens": 20,
        "output_tokens": 40,
        "cache_creation_input_tokens": 10,
        "cache_read_input_tokens": 14,
        "server_tool_use": {"web_search_requests": 2},
    }


@PROTOCOLS
def test_a_streams_numbers_are_unique_and_rise(lab: GateLab, script: Script) -> None:
    """One beginning, one end, and no block, item or event number twice."""
    give(lab, Box())
    turns = [
        script.turn("t1", [script.say("a"), script.call("c1", LIST, "{}")], (10, 1), streaming=True),
        script.turn("t2", [script.say("b"), script.call("c2", TEMPLATES, "{}")], (20, 2), streaming=True),
        script.turn("t3", [script.say("c")], (30, 3), streaming=True),
    ]
    events = events_of(asked(lab, script, *turns, streaming=True).body)
    kinds = [each.get("type") for each in events]
    if script is MESSAGES:
        assert (kinds.count("message_start"), kinds.count("message_stop"), kinds.count("message_delta")) == (1, 1, 1)
        assert [each["index"] for each in events if each["type"] == "content_block_start"] == [0, 1, 2]
    if script is RESPONSES:
        assert (kinds.count("response.created"), kinds.count("response.completed")) == (1, 1)
        assert [each["sequence_number"] for each in events] == list(range(len(events)))
        assert [each["output_index"] for each in events if each["type"] == "response.output_item.added"] == [0, 1, 2]
        items = [each["item"] for each in events if each["type"] == "response.output_item.done"]
        assert events[-1]["response"]["output"] == items
        assert {each["response"]["id"] for each in events if "response" in each} == {"t1"}
    if script is CHAT:
        assert [each["choices"][0].get("finish_reason") for each in events if each["choices"]].count("stop") == 1


@PROTOCOLS
def test_a_first_turn_without_calls_passes_byte_for_byte(lab: GateLab, script: Script) -> None:
    """Tools that nobody calls change nothing of an answer."""
    give(lab, Box())
    for streaming in (False, True):
        play = script.turn("t1", [script.say("a|b"), script.call("c1", "Read", "{}")], (1, 2), streaming=streaming)
        got = asked(lab, script, play, streaming=streaming)
        pieces = play.pieces[1:]
        if streaming:
            assert got.body == b"".join(piece.partition(b"\r\n")[2].removesuffix(b"\r\n") for piece in pieces[:-1])
        else:
            assert got.body == b"".join(pieces)
        assert tools_of(lab.kept()) == [("Read", False, None)]


@MODES
@PROTOCOLS
def test_calls_of_one_turn_run_side_by_side(lab: GateLab, script: Script, streaming: bool) -> None:
    """Two calls in one turn are under way at the same time, and are answered in their order."""
    box = give(lab, Box(coder_list_templates=text("other")))
    calls = [
        script.call("c1", LIST, '{"owner":"a"}'),
        script.call("c2", TEMPLATES, "{}"),
        script.call("c3", LIST, "{}"),
    ]
    first = script.turn("t1", calls, (1, 2), streaming=streaming)
    asked(lab, script, first, script.turn("t2", [script.say("done")], (3, 4), streaming=streaming), streaming=streaming)
    assert box.most == 3
    told = json.dumps(conversation(lab, 1)[2:])
    ids = [told.rindex(f'"{call_id}"') for call_id in ("c1", "c2", "c3")]
    assert ids == sorted(ids)
    assert told.index("other") > 0
    assert [use.tool_call_id for use in lab.kept().tools] == ["c1", "c2", "c3"]


@MODES
@PROTOCOLS
@pytest.mark.parametrize("is_ours_first", [True, False], ids=["ours-first", "clients-first"])
def test_mixed_calls_are_both_answered(lab: GateLab, script: Script, streaming: bool, is_ours_first: bool) -> None:
    """The client gets its call alone; ours is made, and both results are in the client's next request."""
    box = give(lab, Box())
    calls = [script.call("c1", LIST, "{}"), script.call("c2", "Read", '{"path":"/x"}')]
    if not is_ours_first:
        calls.reverse()
    first = script.turn("t1", [script.say("both"), *calls], (1, 2), streaming=streaming)
    got = asked(lab, script, first, streaming=streaming)
    assert said(got) == "both"
    assert b"bmcp_" not in got.body
    assert b'"Read"' in got.body
    assert got.is_whole
    assert box.calls == [("coder_list_workspaces", {})]
    assert sorted(tools_of(lab.kept())) == [("Read", False, None), ("coder_list_workspaces", True, None)]
    said_before = list(script.request.get("messages") or [{"role": "user", "content": script.request["input"]}])
    if script is MESSAGES:
        answered = [
            {"role": "assistant", "content": [script.say("both"), script.call("c2", "Read", '{"path":"/x"}')]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c2", "content": "file"}]},
        ]
    elif script is CHAT:
        calls = [script.call("c2", "Read", '{"path":"/x"}')]
        answered = [
            {"role": "assistant", "content": "both", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c2", "content": "file"},
        ]
    else:
        answered = [
            script.call("c2", "Read", '{"path":"/x"}'),
            {"type": "function_call_output", "call_id": "c2", "output": "file"},
        ]
    member = "input" if script is RESPONSES else "messages"
    asked(
        lab,
        script,
        script.turn("t2", [script.say("done")], (3, 4), streaming=streaming),
        streaming=streaming,
        **{member: said_before + answered},
    )
    told = conversation(lab, 0)
    if script is MESSAGES:
        order = [block.get("id") for block in told[1]["content"]]
        assert order == ([None, "c1", "c2"] if is_ours_first else [None, "c2", "c1"])
        assert [block["tool_use_id"] for block in told[2]["content"]] == ["c1", "c2"]
    elif script is CHAT:
        assert [call["id"] for call in told[1]["tool_calls"]] == (["c1", "c2"] if is_ours_first else ["c2", "c1"])
        assert [message["tool_call_id"] for message in told[2:]] == ["c1", "c2"]
    else:
        outputs = [item["call_id"] for item in told if item.get("type") == "function_call_output"]
        made = [item["call_id"] for item in told if item.get("type") == "function_call"]
        assert (made, outputs) == (["c1", "c2"] if is_ours_first else ["c2", "c1"], ["c1", "c2"])


def test_mixed_calls_of_a_stored_response_are_both_answered(lab: GateLab) -> None:
    """A client that goes on by the response's id sends its result alone; ours is put beside it."""
    give(lab, Box())
    calls = [RESPONSES.call("c1", LIST, "{}"), RESPONSES.call("c2", "Read", "{}")]
    asked(lab, RESPONSES, RESPONSES.turn("resp_1", calls, (1, 2), streaming=False), streaming=False)
    output = {"type": "function_call_output", "call_id": "c2", "output": "file"}
    play = RESPONSES.turn("resp_2", [RESPONSES.say("done")], (3, 4), streaming=False)
    asked(lab, RESPONSES, play, streaming=False, input=[output], previous_response_id="resp_1")
    assert conversation(lab, 0) == [{"type": "function_call_output", "call_id": "c1", "output": "mock"}, output]


def test_what_is_remembered_of_mixed_turns_is_the_callers_own_and_bounded(lab: GateLab) -> None:
    """Another user's request is left as it is, whatever id it names; the oldest memory goes first."""
    give(lab, Box())
    for number in range(40):
        calls = [CHAT.call(f"o{number}", LIST, "{}"), CHAT.call(f"c{number}", "Read", "{}")]
        asked(lab, CHAT, CHAT.turn("t", calls, (1, 2), streaming=False), streaming=False)
    memories = bridge_of(lab).memories.by_call
    assert list(memories) == [f"c{number}" for number in range(8, 40)]
    assert bridge_of(lab, "bob").memories.by_call == {}


@MODES
@PROTOCOLS
@pytest.mark.parametrize("call_id", ["\ud800", "", "call_1"], ids=["surrogate", "empty", "prefix"])
def test_odd_ids_of_calls_harm_no_later_request(lab: GateLab, script: Script, streaming: bool, call_id: str) -> None:
    """A provider may name its calls as it likes; what others ask later is sent as they ask it."""
    give(lab, Box())
    for mixed in (["o", call_id], [call_id, "o"], ["o", f"{call_id}0"]):
        calls = [script.call(mixed[0], LIST, "{}"), script.call(mixed[1], "Read", "{}")]
        assert asked(lab, script, script.turn("t1", calls, (1, 2), streaming=streaming), streaming=streaming).is_whole
        assert [tool.injected for tool in lab.kept().tools].count(True) == 1
    answer = script.turn("t2", [script.say("ok")], (3, 4), streaming=streaming)
    got = asked(lab, script, answer, streaming=streaming)
    assert (got.status, said(got)) == (200, "ok")
    member = "input" if script is RESPONSES else "messages"
    assert sent(lab, 0)[member] == script.request[member]


def test_an_odd_id_of_a_response_ends_no_stream(lab: GateLab) -> None:
    """It is recorded as far as it can be."""
    give(lab, Box())
    turns = [
        RESPONSES.turn("t\ud800", [RESPONSES.call("c1", LIST, "{}")], (1, 2), streaming=True),
        RESPONSES.turn("u" * 5000, [RESPONSES.say("ok")], (3, 4), streaming=True),
    ]
    got = asked(lab, RESPONSES, *turns, streaming=True)
    assert (said(got), got.is_whole) == ("ok", True)
    (record,) = [record for record in lab.records() if isinstance(record, ContinuedResponse)]
    assert (record.first_id, record.last_id) == ("t?", "u" * 1024)


def test_ids_that_come_again_take_the_place_of_their_first() -> None:
    """Some providers count the calls of each answer from 0: such a memory is kept once, and counted once."""
    memories = Memories()
    for size in (3 << 20, 1, 3 << 20, 1):
        memories.add(Memory("call_0", (), (), (b"x" * size,)))
    memories.add(Memory("other", (), (), (b"x" * (3 << 20),)))
    assert list(memories.by_call) == ["call_0", "other"]
    memories.add(Memory("call_0", (), (), (b"y",)))
    assert list(memories.by_call) == ["other", "call_0"]


@MODES
@PROTOCOLS
def test_the_turns_of_a_conversation_are_bounded(make_lab: MakeLab, script: Script, streaming: bool) -> None:
    """At the limit the model is told so; if it goes on all the same, the client is told of it."""
    lab = make_lab(PROVIDERS)
    box = give(lab, Box(), max_turns=2)
    turns = [script.turn(f"t{n}", [script.call(f"c{n}", LIST, "{}")], (1, 1), streaming=streaming) for n in range(4)]
    got = asked(lab, script, *turns, streaming=streaming)
    kept = lab.kept()
    assert len(box.calls) == 2
    assert "limit of 2 turns" in json.dumps(conversation(lab, 3)[-1])
    assert b"went on calling tools after 2 turns" in got.body
    assert (got.status, got.is_whole) == ((200, False) if streaming else (502, True))
    assert kept.outcome == ("failed", got.status, "server_error")
    assert [tool.error is None for tool in kept.tools] == [True, True, False, False]
    assert len(kept.tokens) == 4


@PROTOCOLS
def test_a_later_turn_that_is_refused_ends_the_stream_with_its_reason(lab: GateLab, script: Script) -> None:
    """The head is gone: the reason comes as an event, and the answer is not ended as if it were whole."""
    give(lab, Box())
    first = script.turn("t1", [script.say("hm"), script.call("c1", LIST, "{}")], (1, 2), streaming=True)
    refusal = answer(b'{"error":{"message":"too long","type":"invalid_request_error"}}', status="400 Bad Request")
    got = asked(lab, script, first, refusal, streaming=True)
    assert (got.status, got.is_whole) == (200, False)
    assert b"the provider refused to go on (400): too long" in got.body
    assert lab.kept().outcome == ("failed", 200, "bad_request")
    assert lab.worker.budget.used == 0


@MODES
def test_a_circuit_that_opens_while_a_tool_runs_ends_the_conversation(make_lab: MakeLab, streaming: bool) -> None:
    """The next turn is not sent, and the client is told why."""
    lab = make_lab(PROVIDERS.replace('type = "anthropic"', 'type = "anthropic"\nbreaker_failures = 1'))
    box = give(lab, Box())
    box.gate.clear()
    lab.provider.push(
        MESSAGES.turn("t1", [MESSAGES.call("c1", LIST, "{}")], (1, 2), streaming=streaming),
        answer(b"{}", status="529 Overloaded"),
    )
    visit = lab.begin(MESSAGES.path, {**MESSAGES.request, "stream": streaming})
    lab.settle()
    assert lab.ask(MESSAGES.path, MESSAGES.request).status == 529
    lab.records()
    box.gate.set()
    got = visit.finish()
    assert (got.status, got.is_whole) == ((200, False) if streaming else (503, True))
    assert b"circuit breaker is open" in got.body
    (end,) = [record for record in lab.records() if isinstance(record, InterceptionEnd)]
    assert (end.status, end.error_type, end.attempts) == ("failed", "overloaded", 1)
    assert len(lab.provider.requests) == 2


@PROTOCOLS
def test_a_later_turn_that_is_refused_is_the_answer_where_nothing_was_sent(lab: GateLab, script: Script) -> None:
    """Without a stream the client gets the provider's own error, byte for byte."""
    give(lab, Box())
    first = script.turn("t1", [script.call("c1", LIST, "{}")], (1, 2), streaming=False)
    body = b'{"error" : {"message":"too long","type":"invalid_request_error"}}'
    refusal = answer(body, status="400 Bad Request", fields=[("request-id", "req_1")])
    got = asked(lab, script, first, refusal, streaming=False)
    assert (got.status, got.body, got.value("request-id")) == (400, body, "req_1")
    kept = lab.kept()
    assert kept.outcome == ("failed", 400, "bad_request")
    assert kept.counts == [(1, 2, 0, 0)]


@MODES
@PROTOCOLS
def test_a_later_turn_of_the_other_kind_is_refused(lab: GateLab, script: Script, streaming: bool) -> None:
    """A document cannot go on in a stream, nor a stream in a document: the client is told, and gets no mixture."""
    give(lab, Box())
    first = script.turn("t1", [script.say("a"), script.call("c1", LIST, "{}")], (1, 2), streaming=streaming)
    second = script.turn("t2", [script.say("bee")], (3, 4), streaming=not streaming)
    got = asked(lab, script, first, second, streaming=streaming)
    assert (got.status, got.is_whole) == ((200, False) if streaming else (502, True))
    assert b"the provider went on with a " in got.body
    assert b"bee" not in got.body
    kept = lab.kept()
    assert kept.outcome == ("failed", got.status, "upstream_broken")
    assert kept.counts == [(1, 2, 0, 0)]


@MODES
@pytest.mark.parametrize("script", [CHAT, RESPONSES], ids=["chat", "responses"])
def test_arguments_that_are_no_object_are_told_to_the_model(lab: GateLab, script: Script, streaming: bool) -> None:
    """Nothing is called with them; the input of a call in Messages is an object in any case."""
    box = give(lab, Box())
    first = script.turn("t1", [script.call("c1", LIST, '{"owner":')], (1, 2), streaming=streaming)
    asked(lab, script, first, script.turn("t2", [script.say("ok")], (3, 4), streaming=streaming), streaming=streaming)
    assert box.calls == []
    assert "not a JSON object" in json.dumps(conversation(lab, 1)[-1])
    (use,) = lab.kept().tools
    assert (use.arguments, use.error) == ('{"owner":', "not called: the arguments are not a JSON object")


@MODES
@PROTOCOLS
def test_a_call_that_was_cut_off_is_not_made(lab: GateLab, script: Script, streaming: bool) -> None:
    """The model ran out of tokens: the client is told so, and the record says that nothing was called."""
    stop = {MESSAGES: "max_tokens", CHAT: "length", RESPONSES: "incomplete"}[script]
    box = give(lab, Box())
    blocks = [script.say("hm"), script.call("c1", LIST, "{}")]
    got = asked(lab, script, script.turn("t1", blocks, (1, 2), streaming=streaming, stop=stop), streaming=streaming)
    assert (got.is_whole, said(got), box.calls) == (True, "hm", [])
    assert stop.encode() in got.body
    assert b"bmcp_" not in got.body
    assert tools_of(lab.kept()) == [("coder_list_workspaces", True, "not called: the answer ended before")]


def test_a_stream_that_breaks_after_a_call_calls_nothing(lab: GateLab) -> None:
    """What came is accounted for, and the connection is aborted."""
    box = give(lab, Box())
    whole = MESSAGES.turn("t1", [MESSAGES.say("hm"), MESSAGES.call("c1", LIST, "{}")], (1, 2), streaming=True)
    got = asked(lab, MESSAGES, Play(whole.pieces[:-3], "close"), streaming=True)
    assert (got.is_whole, said(got), box.calls) == (False, "hm", [])
    assert lab.kept().outcome == ("failed", 200, "upstream_broken")


@PROTOCOLS
def test_a_client_that_leaves_ends_the_call(lab: GateLab, script: Script) -> None:
    """The running tool is cancelled, which the record says."""
    box = give(lab, Box())
    box.gate.clear()
    lab.reset()
    lab.provider.push(script.turn("t1", [script.say("hm"), script.call("c1", LIST, "{}")], (1, 2), streaming=True))
    visit = lab.begin(script.path, {**script.request, "stream": True})
    lab.settle()
    assert (box.running, said(visit.got)) == (1, "hm")
    visit.leave()
    kept = lab.kept()
    assert box.running == 0
    assert kept.outcome == ("cancelled", 200, "client_closed")
    assert tools_of(kept) == [("coder_list_workspaces", True, "cancelled: the request ended")]
    assert kept.counts == [(1, 2, 0, 0)]


@MODES
@PROTOCOLS
@pytest.mark.parametrize("phase", ["first head", "tool", "second head", "second body"])
def test_a_client_may_leave_at_any_time(lab: GateLab, script: Script, streaming: bool, phase: str) -> None:
    """What was done by then is recorded, nothing goes on, and everything that was taken is given back."""
    box = give(lab, Box())
    if phase == "tool":
        box.gate.clear()
    silence = Play((), "silence")
    second = script.turn("t2", [script.say("ok|more")], (3, 4), streaming=streaming)
    turns = {"first head": [silence], "second head": [silence], "second body": [Play(second.pieces[:1], "silence")]}
    if phase != "first head":
        calls = [script.say("hm"), script.call("c1", LIST, "{}")]
        lab.provider.push(script.turn("t1", calls, (1, 2), streaming=streaming))
    lab.provider.push(*turns.get(phase, []))
    visit = lab.begin(script.path, {**script.request, "stream": streaming})
    lab.settle()
    assert box.running == (phase == "tool")
    visit.client.leave()
    lab.wait(visit.over)
    kept = lab.kept()
    is_begun = streaming and phase != "first head"
    assert kept.outcome == ("cancelled", 200 if is_begun else None, "client_closed")
    assert kept.counts[:1] == ([] if phase == "first head" else [(1, 2, 0, 0)])
    error = "cancelled: the request ended" if phase == "tool" else None
    calls_made = [] if phase == "first head" else [("coder_list_workspaces", True, error)]
    assert tools_of(kept) == calls_made
    assert len(lab.provider.requests) == (1 if phase in {"first head", "tool"} else 2)
    assert (box.running, lab.server.running, lab.worker.pool.stats().leased) == (0, 0, 0)
    assert (lab.worker.budget.used, lab.worker.means.accounting.used) == (0, 0)
    assert not asyncio.all_tasks(lab.loop)


@PROTOCOLS
def test_a_tool_that_takes_long_keeps_the_stream_alive(lab: GateLab, script: Script) -> None:
    """The preamble is there at once; pings follow until the tool has answered."""
    box = give(lab, Box())
    box.gate.clear()
    lab.reset()
    lab.provider.push(
        script.turn("t1", [script.say("hm"), script.call("c1", LIST, "{}")], (1, 2), streaming=True),
        script.turn("t2", [script.say("ok")], (3, 4), streaming=True),
    )
    visit = lab.begin(script.path, {**script.request, "stream": True})
    lab.settle()
    assert said(visit.got) == "hm"
    lab.pass_time(7)
    ping = b"event: ping\n" if script is MESSAGES else b": a tool is running\n"
    assert visit.client.wire.sent.count(ping) == 2
    box.gate.set()
    got = visit.finish()
    assert (said(got), got.is_whole, got.body.count(ping)) == ("hmok", True, 2)


@pytest.mark.parametrize("script", [MESSAGES, RESPONSES], ids=["messages", "responses"])
def test_what_is_hidden_and_takes_long_keeps_the_stream_alive(lab: GateLab, script: Script) -> None:
    """The arguments of our call, or reasoning that may lead to one: a ping comes for them, and not for each."""
    give(lab, Box())
    if script is MESSAGES:
        block = MESSAGES.call("c1", LIST, "{}")
        begin: Json = {"type": "content_block_start", "index": 0, "content_block": block}
        delta: Json = {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta"}}
    else:
        item: Json = {"id": "r", "type": "reasoning", "summary": []}
        begin = {"type": "response.output_item.added", "output_index": 0, "item": item}
        delta = {"type": "response.reasoning_summary_text.delta", "output_index": 0, "item_id": "r", "delta": "hm"}
    lab.provider.push(stream(event(begin, begin["type"]), end="silence"))
    visit = lab.begin(script.path, {**script.request, "stream": True})
    for _ in range(6):
        lab.pass_time(2)
        lab.provider.lines[-1].play(event(delta, delta["type"]))
        lab.settle()
    ping = b"event: ping\n" if script is MESSAGES else b": a tool is running\n"
    assert visit.client.wire.sent.count(ping) == 3
    assert b"delta" not in visit.client.wire.sent
    visit.leave()
    assert lab.worker.means.accounting.used == 0


@MODES
def test_reasoning_that_led_to_our_call_is_hidden_with_it(lab: GateLab, streaming: bool) -> None:
    """The provider refuses reasoning without the item that it led to; what leads to the answer is shown."""
    give(lab, Box())
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    turns = [
        RESPONSES.turn("t1", [reasoning, RESPONSES.call("c1", LIST, "{}")], (1, 2), streaming=streaming),
        RESPONSES.turn("t2", [reasoning, RESPONSES.say("ok")], (3, 4), streaming=streaming),
    ]
    got = asked(lab, RESPONSES, *turns, streaming=streaming)
    assert b"item_t1_0" not in got.body
    assert b"item_t2_0" in got.body
    assert [item.get("type") for item in conversation(lab, 1)] == [
        None,
        "reasoning",
        "function_call",
        "function_call_output",
    ]
    assert [thought.text for thought in lab.kept().thoughts] == ["hm", "hm"]
    if streaming:
        events = events_of(got.body)
        assert [each["sequence_number"] for each in events] == list(range(len(events)))
        assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message"]


@MODES
@pytest.mark.parametrize("who", ["client", "provider"])
def test_what_is_not_stored_goes_back_without_its_ids(lab: GateLab, who: str, streaming: bool) -> None:
    """An id that the provider does not keep would not be found; reasoning goes back only as encrypted text.

    The client says that nothing is to be kept, or the provider that nothing is.
    """
    give(lab, Box())
    plain: Json = {"type": "reasoning", "summary": []}
    items = [plain, {**plain, "encrypted_content": "xyz"}, RESPONSES.call("c1", LIST, "{}")]
    play = RESPONSES.turn("t1", items, (1, 2), streaming=streaming)
    if who == "provider":
        told = [piece.replace(b'"error": null', b'"store":false') for piece in play.pieces]  # just as long
        play = Play(tuple(told), play.end)
    last = RESPONSES.turn("t2", [RESPONSES.say("ok")], (3, 4), streaming=streaming)
    store = {"store": False} if who == "client" else {}
    asked(lab, RESPONSES, play, last, streaming=streaming, **store)
    _user, thought, call, _output = conversation(lab, 1)
    assert (thought["encrypted_content"], "id" in thought, "id" in call) == ("xyz", False, False)


@MODES
def test_reasoning_that_led_to_the_clients_call_stays_beside_it(lab: GateLab, streaming: bool) -> None:
    """Also when a call of ours, with its own reasoning, is put back before them."""
    give(lab, Box())
    thought: Json = {"type": "reasoning", "summary": []}
    ours, theirs = RESPONSES.call("c1", LIST, "{}"), RESPONSES.call("c2", "Read", "{}")
    first = RESPONSES.turn("t1", [thought, ours, thought, theirs], (1, 2), streaming=streaming)
    got = asked(lab, RESPONSES, first, streaming=streaming)
    seen = (events_of(got.body)[-1]["response"] if streaming else got.json)["output"]
    assert [item["id"] for item in seen] == ["item_t1_2", "fc_c2"]
    user = {"role": "user", "content": "what?"}
    output = {"type": "function_call_output", "call_id": "c2", "output": "file"}
    last = RESPONSES.turn("t2", [RESPONSES.say("ok")], (3, 4), streaming=streaming)
    asked(lab, RESPONSES, last, streaming=streaming, input=[user, *seen, output])
    told = [item.get("id") or item.get("call_id") for item in conversation(lab, 0)]
    assert told == [None, "item_t1_0", "fc_c1", "item_t1_2", "fc_c2", "c1", "c2"]


def test_a_conversation_at_the_provider_is_told_the_results_alone(lab: GateLab) -> None:
    """It holds the rest itself, and would hold it twice."""
    give(lab, Box())
    turns = [
        RESPONSES.turn("t1", [RESPONSES.call("c1", LIST, "{}")], (1, 2), streaming=False),
        RESPONSES.turn("t2", [RESPONSES.call("c2", LIST, "{}")], (1, 2), streaming=False),
        RESPONSES.turn("t3", [RESPONSES.say("ok")], (1, 2), streaming=False),
    ]
    lab.provider.push(answer(b'{"id":"conv_1","object":"conversation"}'))
    lab.ask("/openai/v1/conversations", {})
    asked(lab, RESPONSES, *turns, streaming=False, conversation="conv_1")
    assert [[item["call_id"] for item in conversation(lab, number)] for number in (1, 2)] == [["c1"], ["c2"]]


@PROTOCOLS
def test_gw_m17_small_models_get_no_tools(lab: GateLab, script: Script) -> None:
    """gw-M17: clients use them for titles and the like. Ours skips them in both modes, and lets the pattern be set."""
    give(lab, Box())
    for streaming in (False, True):
        asked(
            lab,
            script,
            script.turn("t1", [script.say("a")], (1, 2), streaming=streaming),
            streaming=streaming,
            model="claude-haiku-4-5",
        )
        assert "tools" not in sent(lab, 0)


def test_results_are_recorded_only_if_asked_for(lab: GateLab) -> None:
    """With `record_results` the record holds what the tool said."""
    give(lab, Box(), record_results=True)
    turns = [
        CHAT.turn("t1", [CHAT.call("c1", LIST, "{}")], (1, 2), streaming=False),
        CHAT.turn("t2", [CHAT.say("ok")], (1, 2), streaming=False),
    ]
    asked(lab, CHAT, *turns, streaming=False)
    (use,) = lab.kept().tools
    assert json.loads(use.result or "")["content"] == [{"type": "text", "text": "mock"}]


def test_an_encoded_answer_is_refused_where_tools_are_in_it(lab: GateLab) -> None:
    """It cannot be woven, and was not asked for."""
    give(lab, Box())
    play = answer(b"\x1f\x8b", fields=[("content-encoding", "gzip")])
    got = asked(lab, CHAT, play, streaming=False)
    assert (got.status, got.error["code"]) == (502, "upstream_broken")


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_an_encoded_request_gets_tools_and_is_sent_as_it_is(lab: GateLab, compress: Callable[[bytes], bytes]) -> None:
    """What is edited has to be decoded; nothing but the encoding is lost on the way."""
    give(lab, Box())
    lab.reset()
    lab.provider.push(RESPONSES.turn("t1", [RESPONSES.say("ok")], (1, 2), streaming=False))
    plain = json.dumps(RESPONSES.request).encode()
    encoding = "gzip" if compress is gzip.compress else "zstd"
    lab.ask(RESPONSES.path, compress(plain), fields=[("content-encoding", encoding), ("x-mine", "1")])
    (request,) = lab.provider.requests
    assert sent(lab, 0).keys() == {*RESPONSES.request, "tools", "parallel_tool_calls"}
    assert request.body.endswith(plain[1:])
    assert (request.values("content-encoding"), request.values("x-mine")) == ([], ["1"])
    assert request.values("content-length") == [str(len(request.body))]
    assert lab.worker.budget.used == 0


def test_a_provider_that_fails_at_once_is_relayed(lab: GateLab) -> None:
    """An error in the first turn is the provider's own."""
    give(lab, Box())
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'
    got = asked(lab, MESSAGES, answer(body, status="529 Overloaded"), streaming=True)
    assert (got.status, got.body) == (529, body)
    assert lab.kept().outcome == ("failed", 529, "overloaded")


def test_a_bug_in_a_tool_does_not_end_the_conversation(lab: GateLab) -> None:
    """Whatever a session raises, the model is told that the gateway failed."""

    class Broken(Box):
        async def call(self, *_arguments: Any) -> Any:
            raise RuntimeError("secret")

    give(lab, Broken())
    turns = [
        CHAT.turn("t1", [CHAT.call("c1", LIST, "{}")], (1, 2), streaming=False),
        CHAT.turn("t2", [CHAT.say("ok")], (1, 2), streaming=False),
    ]
    asked(lab, CHAT, *turns, streaming=False)
    assert conversation(lab, 1)[-1]["content"] == "Error: the gateway failed: RuntimeError"


def test_gw_l10_a_call_has_a_span(lab: GateLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """gw-L10: with what was asked of which tool, and with what went wrong."""
    for box, failures in ((Box(), {}), (Box(coder_list_workspaces="no"), {CALL_SPAN: "no"})):
        spans = Spans.install(monkeypatch)
        give(lab, box)
        turns = [
            CHAT.turn("t1", [CHAT.call("c1", LIST, '{"owner":"admin"}')], (1, 2), streaming=False),
            CHAT.turn("t2", [CHAT.say("ok")], (1, 2), streaming=False),
        ]
        asked(lab, CHAT, *turns, streaming=False)
        assert spans.attributes()[CALL_SPAN] == {
            "mcp_input": '{"owner":"admin"}',
            "mcp_tool_name": "coder_list_workspaces",
            "mcp_server_name": "coder",
            "mcp_server_url": URL,
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "coder_list_workspaces",
            "gen_ai.tool.call.id": "c1",
            "gen_ai.tool.type": "function",
        }
        assert spans.failures == failures
