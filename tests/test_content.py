"""`records.content = false`: what was used is recorded, and nothing of what was said."""

import json
from typing import Any

import pytest

import samples
from bridgeserver.journal import Journal
from bridgeserver.recorder import UsageRecorder
from bridgeserver.records import AnyRecord, ToolUse
from bridgeserver.tools.tool import Tool
from bridgeserver.weaving import Call
from gatelab import PROVIDERS, GateLab, MakeLab, answer, stream
from toollab import CHAT, Box, give
from tracelab import Spans

SECRET = "xyzzy"
USAGE = {"input_tokens": 12, "output_tokens": 9, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 4}
CONTENT: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": SECRET, "signature": SECRET},
    {"type": "text", "text": SECRET},
    {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": SECRET}},
]
REQUEST = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 100,
    "system": SECRET,
    "messages": [{"role": "user", "content": SECRET}],
}


@pytest.fixture
def lab(make_lab: MakeLab) -> GateLab:
    """A gateway that keeps no content."""
    return make_lab(PROVIDERS + "\n[records]\ncontent = false\n")


def event(kind: str, **members: Any) -> bytes:
    """Return one event of a stream."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def blocks() -> list[bytes]:
    """Return the content as events."""
    deltas = (
        {"type": "thinking_delta", "thinking": SECRET},
        {"type": "text_delta", "text": SECRET},
        {"type": "input_json_delta", "partial_json": json.dumps({"path": SECRET})},
    )
    events: list[bytes] = []
    for index, (block, delta) in enumerate(zip(CONTENT, deltas, strict=True)):
        empty = block | {key: "" for key in ("thinking", "text", "signature") if key in block}
        events += [
            event(
                "content_block_start", index=index, content_block=empty | ({"input": {}} if "input" in block else {})
            ),
            event("content_block_delta", index=index, delta=delta),
            event("content_block_stop", index=index),
        ]
    return events


@pytest.mark.parametrize("is_stream", [False, True])
def test_nothing_that_was_said_reaches_the_journal(lab: GateLab, *, is_stream: bool) -> None:
    """The client has its answer whole; counts, names, ids and times are recorded as always."""
    members = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
    if is_stream:
        lab.provider.push(
            stream(
                event("message_start", message={**members, "content": [], "usage": USAGE}),
                *blocks(),
                event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 9}),
                event("message_stop"),
            )
        )
    else:
        lab.provider.push(
            answer(json.dumps({**members, "content": CONTENT, "stop_reason": "tool_use", "usage": USAGE}).encode())
        )
    got = lab.ask("/anthropic/v1/messages", {**REQUEST, "stream": is_stream})
    assert got.body.count(SECRET.encode()) >= 3
    kept = lab.kept()
    assert kept.counts == [(12, 9, 3, 4)]
    assert [(prompt.text, prompt.truncated) for prompt in kept.prompts] == [("", True)]
    assert kept.prompts[0].created_at == kept.start.started_at
    (tool,) = kept.tools
    assert (tool.name, tool.tool_call_id, tool.arguments, tool.truncated) == ("Read", "toolu_1", "", True)
    assert kept.thoughts == []
    assert kept.outcome == ("completed", 200, None)
    journal = lab.database.parent / "journal"
    segments = [path.read_bytes() for path in journal.rglob("*.seg")]
    assert segments
    assert not any(SECRET.encode() in segment for segment in segments)


def test_what_a_provider_says_of_a_failure_is_left_out(lab: GateLab) -> None:
    """It quotes what it was sent; status and type say enough, in the journal as in spans."""
    spans = Spans.of(lab)
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": f"messages.0: found {SECRET}"}}
    lab.provider.push(answer(json.dumps(error).encode(), status="400 Bad Request"))
    got = lab.ask("/anthropic/v1/messages", REQUEST)
    assert SECRET.encode() in got.body
    kept = lab.kept()
    assert kept.outcome == ("failed", 400, "bad_request")
    assert kept.end.error_message is None
    assert spans.failures["Intercept"] == "interception failed: failed"
    assert not any(SECRET in reason for reason in spans.failures.values())


@pytest.mark.parametrize("has_failed", [False, True])
def test_spans_of_calls_hold_no_arguments(lab: GateLab, monkeypatch: pytest.MonkeyPatch, *, has_failed: bool) -> None:
    """Neither what the model wrote nor what the server said of it; which tool it was, they say."""
    spans = Spans.install(monkeypatch)
    give(lab, Box(coder_list_workspaces=f"no {SECRET}") if has_failed else Box())
    call = CHAT.call("c1", "bmcp_coder_coder_list_workspaces", json.dumps({"owner": SECRET}))
    turns = CHAT.turn("t1", [call], (1, 2), streaming=False), CHAT.turn("t2", [CHAT.say("ok")], (1, 2), streaming=False)
    lab.provider.push(*turns)
    assert lab.ask(CHAT.path, CHAT.request).status == 200
    name = "Intercept.ProcessRequest.ToolCall"
    attributes = spans.attributes()[name]
    assert (attributes["mcp_tool_name"], attributes["mcp_input"]) == ("coder_list_workspaces", "")
    assert spans.failures == ({name: "ToolError"} if has_failed else {})


def test_calls_of_the_gateways_tools_keep_their_names() -> None:
    """Server, name, duration and whether it failed stay; arguments, results and what the server said do not."""
    kept: list[AnyRecord] = []

    class Kept(Journal):
        def __init__(self) -> None:
            pass

        def append(self, record: AnyRecord) -> None:
            kept.append(record)

    tool = Tool("bmcp_wiki_ask", "ask", "wiki", "http://wiki", "", {})
    recorder = UsageRecorder(Kept(), samples.interception(), samples.series())
    call = Call("c", tool, f'{{"q": "{SECRET}"}}')
    recorder.injected_tool(call, "r", f"calling tool: no page {SECRET}", 1500, SECRET)
    recorder.injected_tool(call, "r", "not called: the answer ended before", None, None)
    use, not_called = kept
    assert isinstance(use, ToolUse)
    assert isinstance(not_called, ToolUse)
    assert not_called.error == "not called: the answer ended before"
    assert (use.tool_call_id, use.name, use.server, use.injected) == ("c", "ask", "http://wiki", True)
    assert (use.error, use.duration_us, use.user_id) == ("failed", 1500, "u")
    assert (use.arguments, use.truncated, use.result) == ("", True, None)
