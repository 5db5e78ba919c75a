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


def test_calls_of_the_gateways_tools_keep_their_names() -> None:
    """Server, name, error and duration stay; arguments and results do not."""
    kept: list[AnyRecord] = []

    class Kept(Journal):
        def __init__(self) -> None:
            pass

        def append(self, record: AnyRecord) -> None:
            kept.append(record)

    tool = Tool("bmcp_wiki_ask", "ask", "wiki", "http://wiki", "", {})
    recorder = UsageRecorder(Kept(), samples.interception(), samples.series())
    recorder.injected_tool(Call("c", tool, f'{{"q": "{SECRET}"}}'), "r", "no such page", 1500, SECRET)
    (use,) = kept
    assert isinstance(use, ToolUse)
    assert (use.tool_call_id, use.name, use.server, use.injected) == ("c", "ask", "http://wiki", True)
    assert (use.error, use.duration_us, use.user_id) == ("no such page", 1500, "u")
    assert (use.arguments, use.truncated, use.result) == ("", True, None)
