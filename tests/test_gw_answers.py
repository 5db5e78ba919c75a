"""Answers as the client sees them and as they are recorded; the rows M15, MR, CC and RS of the acceptance tables."""

import json
from typing import Any

import msgspec
import pytest

from gatelab import GateLab, Got, Kept, MakeLab, Play, answer, stream
from gateway import BODIES

MESSAGES, CHAT, RESPONSES = BODIES
MODES = pytest.mark.parametrize("streaming", [False, True], ids=["blocking", "streaming"])
CLAUDE = [("User-Agent", "claude-cli/2.0.67 (external, cli)")]
CODEX = [("User-Agent", "codex_cli_rs/0.87.0 (Mac OS)")]

Json = dict[str, Any]


class Row(msgspec.Struct, frozen=True):
    """What a provider answers, and what has to be in the records afterwards."""

    play: Play
    tokens: list[tuple[int, int, int, int]]
    response_id: str
    tools: list[tuple[str, str, str]] = []
    thoughts: list[tuple[str, str]] = []
    extra: dict[str, int] = {}
    outcome: tuple[str, int, str | None] = ("completed", 200, None)
    request: Json = {}
    prompt: str = "hello"


def body_of(play: Play) -> bytes:
    """Return the body that an answer carries."""
    head, *pieces = play.pieces
    if b"transfer-encoding" not in head:
        return b"".join(pieces)
    return b"".join(piece.partition(b"\r\n")[2].removesuffix(b"\r\n") for piece in pieces).removesuffix(b"\r\n")


def asked(lab: GateLab, path: str, row: Row, fields: list[tuple[str, str]]) -> tuple[Got, Kept]:
    """Ask for the answer of *row*, and compare what came and what was kept with it."""
    lab.provider.push(row.play)
    body = json.dumps(BODIES[path] | row.request).encode()
    got = lab.ask(path, body, fields=fields)
    kept = lab.kept()
    assert (got.status, got.body, got.is_whole) == (200, body_of(row.play), True)
    assert got.value("x-bridge-interception-id") == kept.start.id
    assert lab.provider.requests[-1].body == body
    assert kept.outcome == row.outcome
    assert [prompt.text for prompt in kept.prompts] == [row.prompt]
    assert kept.counts == row.tokens
    assert [use.extra for use in kept.tokens] == [row.extra] * len(row.tokens)
    assert {use.response_id for use in kept.tokens} <= {row.response_id}
    assert [(tool.tool_call_id, tool.name, tool.arguments) for tool in kept.tools] == row.tools
    assert [(thought.source, thought.text) for thought in kept.thoughts] == row.thoughts
    assert not any(tool.injected for tool in kept.tools)
    return got, kept


# --- Messages -----------------------------------------------------------------------------------------------------

MESSAGE_ID = "msg_01Aa"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def event(name: str, **members: Any) -> bytes:
    """Return one event whose data has the type that its name is."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **members})}\n\n".encode()


def usage(asked: int, answered: int, read: int = 0, written: int = 0) -> Json:
    """Return Anthropic's counts."""
    return {
        "input_tokens": asked,
        "output_tokens": answered,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
    }


def thinking(text: str) -> Json:
    return {"type": "thinking", "thinking": text, "signature": "c2ln"}


def said(text: str) -> Json:
    return {"type": "text", "text": text}


def read_call(call_id: str, path: str) -> Json:
    return {"type": "tool_use", "id": call_id, "name": "Read", "input": {"file_path": path}}


def message(content: list[Json], counts: Json, model: str = "claude-sonnet-4-5") -> Play:
    """Return a whole message."""
    members = {"id": MESSAGE_ID, "type": "message", "role": "assistant", "model": model, "content": content}
    return answer(json.dumps({**members, "stop_reason": "end_turn", "usage": counts}, separators=(",", ":")).encode())


def message_stream(content: list[Json], start: Json, output: int, model: str = "claude-sonnet-4-5") -> Play:
    """Return a message as the events of a stream, a ping among them."""
    members: Json = {"id": MESSAGE_ID, "type": "message", "role": "assistant", "model": model, "content": []}
    events = [event("message_start", message={**members, "usage": start}), PING]
    for index, block in enumerate(content):
        events += block_events(index, block)
    events.append(event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": output}))
    return stream(*events, event("message_stop"))


def block_events(index: int, block: Json) -> list[bytes]:
    """Return the events of one content block, its text in two pieces."""
    kinds: dict[str, tuple[str, str, Json]] = {
        "thinking": (block.get("thinking", ""), "thinking_delta", {"type": "thinking", "thinking": ""}),
        "text": (block.get("text", ""), "text_delta", {"type": "text", "text": ""}),
        "tool_use": (json.dumps(block.get("input")), "input_json_delta", {**block, "input": {}}),
    }
    whole, kind, bare = kinds[block["type"]]
    member = {"thinking_delta": "thinking", "text_delta": "text", "input_json_delta": "partial_json"}[kind]
    deltas = [{"type": kind, member: piece} for piece in (whole[:3], whole[3:])]
    return [
        event("content_block_start", index=index, content_block=bare),
        *[event("content_block_delta", index=index, delta=delta) for delta in deltas],
        event("content_block_stop", index=index),
    ]


HAIKU = "claude-haiku-4-5"
SIMPLE = [thinking("They greet me."), said("Hello there.")]
HM = [("thinking", "hm"), ("thinking", "and hm")]
READ = ("toolu_1", "Read", '{"file_path": "/foo"}')
READ_FOO: Json = {"messages": [{"role": "user", "content": "read the foo file"}]}
CALLING = [thinking("hm"), said("I will."), read_call("toolu_1", "/foo")]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            Row(
                message_stream(SIMPLE, usage(18, 1), 240),
                [(18, 240, 0, 0)],
                MESSAGE_ID,
                thoughts=[("thinking", "They greet me.")],
                request={"stream": True},
            ),
            id="gw-MR1",
        ),
        pytest.param(
            Row(
                message(SIMPLE, usage(18, 254)),
                [(18, 254, 0, 0)],
                MESSAGE_ID,
                thoughts=[("thinking", "They greet me.")],
            ),
            id="gw-MR2",
        ),
        pytest.param(
            Row(
                message_stream([said("Hi.")], usage(18, 1), 240, HAIKU),
                [(18, 240, 0, 0)],
                MESSAGE_ID,
                request={"stream": True, "model": HAIKU},
            ),
            id="gw-MR3-streaming",
        ),
        pytest.param(
            Row(message([said("Hi.")], usage(18, 254), HAIKU), [(18, 254, 0, 0)], MESSAGE_ID, request={"model": HAIKU}),
            id="gw-MR3-blocking",
        ),
        pytest.param(
            Row(
                message_stream(CALLING, usage(2, 5, 13993, 22), 61),
                [(2, 61, 13993, 22)],
                MESSAGE_ID,
                tools=[READ],
                thoughts=[("thinking", "hm")],
                request={"stream": True, **READ_FOO},
                prompt="read the foo file",
            ),
            id="gw-MR4",
        ),
        pytest.param(
            Row(
                message(CALLING, usage(5, 84, 23490)),
                [(5, 84, 23490, 0)],
                MESSAGE_ID,
                tools=[("toolu_1", "Read", '{"file_path":"/foo"}')],
                thoughts=[("thinking", "hm")],
                request=READ_FOO,
                prompt="read the foo file",
            ),
            id="gw-MR5",
        ),
        pytest.param(
            Row(
                message_stream([thinking("hm"), thinking("and hm"), CALLING[2]], usage(2, 5), 61),
                [(2, 61, 0, 0)],
                MESSAGE_ID,
                tools=[READ],
                thoughts=HM,
                request={"stream": True},
            ),
            id="gw-MR6",
        ),
        pytest.param(
            Row(
                message_stream([thinking("hm"), CALLING[2], read_call("toolu_2", "/bar")], usage(2, 5), 61),
                [(2, 61, 0, 0)],
                MESSAGE_ID,
                tools=[READ, ("toolu_2", "Read", '{"file_path": "/bar"}')],
                thoughts=HM[:1],
                request={"stream": True},
            ),
            id="gw-MR7",
        ),
        pytest.param(
            Row(
                message_stream([said("No thought.")], usage(18, 1), 7),
                [(18, 7, 0, 0)],
                MESSAGE_ID,
                request={"stream": True},
            ),
            id="gw-MR8-streaming",
        ),
        pytest.param(
            Row(message([said("No thought.")], usage(18, 7)), [(18, 7, 0, 0)], MESSAGE_ID),
            id="gw-MR8-blocking",
        ),
    ],
)
def test_messages(lab: GateLab, row: Row) -> None:
    """The answer is the provider's, its id too, which the reference replaces by its own; that one is in a header here.

    A stream has one count, of the last number that the provider told: those of a message_delta are sums, which the
    reference adds to those of the start. It leaves out pings, which here reach the client with all else.
    """
    got, kept = asked(lab, MESSAGES, row, CLAUDE)
    assert MESSAGE_ID.encode() in got.body
    assert kept.start.client == "Claude Code"
    assert kept.start.user_agent == CLAUDE[0][1]
    assert (kept.start.provider, kept.start.streaming) == ("anthropic", "stream" in row.request)


def test_gw_mr9_pings(lab: GateLab) -> None:
    """A provider's ping is relayed, as it keeps the client's connection awake; the reference sends its own in place."""
    lab.provider.push(stream(PING, PING, event("message_stop")))
    assert lab.ask(MESSAGES, BODIES[MESSAGES] | {"stream": True}).body.count(PING) == 2


def test_gw_mr10_silence(lab: GateLab) -> None:
    """Nothing is put into a stream while its provider is silent, where the reference sends pings of its own."""
    start = event("message_start", message={"id": MESSAGE_ID, "usage": usage(1, 1)})
    lab.provider.push(stream(start, end="silence"))
    visit = lab.begin(MESSAGES, BODIES[MESSAGES] | {"stream": True})
    assert visit.got.body == start
    lab.pass_time(120)
    assert visit.got.body == start
    assert not visit.over.done()
    visit.leave()


@MODES
def test_gw_m15_adaptive_thinking(lab: GateLab, streaming: bool) -> None:
    """What a request asks of the model is the provider's business."""
    lab.provider.push(message([said("Hi.")], usage(1, 1)))
    body = json.dumps(BODIES[MESSAGES] | {"stream": streaming, "thinking": {"type": "adaptive"}}).encode()
    lab.ask(MESSAGES, body)
    assert lab.provider.requests[0].body == body


# --- Chat Completions ---------------------------------------------------------------------------------------------

CHAT_ID = "chatcmpl-1"
DONE = b"data: [DONE]\n\n"
USAGE_ASKED: Json = {"stream": True, "stream_options": {"include_usage": True}}


def chat_usage(asked: int, answered: int) -> Json:
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def chunk(delta: Json | None, finish: str | None = None, **members: Any) -> bytes:
    """Return one chunk, without a choice where there is no delta."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    whole = {"id": CHAT_ID, "object": "chat.completion.chunk", "choices": choices, **members}
    return f"data: {json.dumps(whole)}\n\n".encode()


def completion(answered: Json, finish: str, counts: Json) -> Play:
    """Return a whole completion."""
    choice = {"index": 0, "message": {"role": "assistant", **answered}, "finish_reason": finish}
    return answer(json.dumps({"id": CHAT_ID, "choices": [choice], "usage": counts}).encode())


def fragment(**members: Any) -> bytes:
    return chunk({"tool_calls": [{"index": 0, **members}]}, usage=None)


CALL: Json = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "read_file", "arguments": '{"path":"README.md"}'},
}
CALLED = [("call_1", "read_file", '{"path":"README.md"}')]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            Row(
                stream(
                    chunk({"role": "assistant", "content": "Hi"}, usage=None),
                    chunk({}, "stop", usage=None),
                    chunk(None, usage=chat_usage(19, 238)),
                    DONE,
                ),
                [(19, 238, 0, 0)],
                CHAT_ID,
                request=USAGE_ASKED,
            ),
            id="gw-CC1",
        ),
        pytest.param(
            Row(completion({"content": "Hi"}, "stop", chat_usage(19, 200)), [(19, 200, 0, 0)], CHAT_ID), id="gw-CC2"
        ),
        pytest.param(
            Row(
                stream(
                    fragment(id="call_1", type="function", function={"name": "read_file", "arguments": ""}),
                    fragment(function={"arguments": '{"path":'}),
                    fragment(function={"arguments": '"README.md"}'}),
                    chunk({}, "tool_calls", usage=None),
                    chunk(None, usage=chat_usage(60, 15)),
                    DONE,
                ),
                [(60, 15, 0, 0)],
                CHAT_ID,
                tools=CALLED,
                request=USAGE_ASKED,
            ),
            id="gw-CC3",
        ),
        pytest.param(
            Row(
                completion({"content": None, "tool_calls": [CALL]}, "tool_calls", chat_usage(60, 15)),
                [(60, 15, 0, 0)],
                CHAT_ID,
                tools=CALLED,
            ),
            id="gw-CC4",
        ),
    ],
)
def test_chat(lab: GateLab, row: Row) -> None:
    """The answer is the provider's, its id too, which the reference replaces by its own; that one is in a header here.

    Arguments are kept as the text that the provider sent.
    """
    got, kept = asked(lab, CHAT, row, CODEX)
    assert CHAT_ID.encode() in got.body
    assert got.body.endswith(DONE) == ("stream" in row.request)
    assert (kept.start.client, kept.start.provider) == ("Codex", "openai")


PARALLEL: list[Json] = [{"parallel_tool_calls": True}, {"parallel_tool_calls": False}, {}]
TOOL: Json = {"type": "function", "name": "f", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize("members", PARALLEL, ids=["true", "false", "unset"])
@pytest.mark.parametrize("tools", [{}, {"tools": [TOOL]}], ids=["no-tools", "tools"])
@pytest.mark.parametrize(
    ("path", "mode"),
    [
        pytest.param(CHAT, {}, id="gw-CC6-blocking"),
        pytest.param(CHAT, USAGE_ASKED, id="gw-CC6-streaming"),
        pytest.param(RESPONSES, {}, id="gw-RS19-blocking"),
        pytest.param(RESPONSES, {"stream": True}, id="gw-RS19-streaming"),
    ],
)
def test_parallel_tool_calls(lab: GateLab, path: str, mode: Json, tools: Json, members: Json) -> None:
    """Where the gateway adds no tools, whether calls may be parallel is what the client says, or does not."""
    lab.provider.push(answer(b'{"id":"x"}'))
    body = json.dumps({**BODIES[path], **tools, **members, **mode}).encode()
    lab.ask(path, body)
    assert lab.provider.requests[0].body == body


def test_gw_cc9_many_choices(lab: GateLab) -> None:
    """Usage is asked for among the options that are there, which with the number of choices stay the client's.

    The reference makes it one choice and these options alone; nothing here needs that.
    """
    play = stream(chunk({}, "stop", usage=None), chunk(None, usage=chat_usage(19, 238)), DONE)
    lab.provider.push(play)
    body = b'{"model":"m","messages":[],"n":3,"stream":true,"stream_options":{"include_obfuscation":true}}'
    got = lab.ask(CHAT, body)
    asked = b'{"include_usage":true,"include_obfuscation":true}'
    assert lab.provider.requests[0].body == body.replace(b'{"include_obfuscation":true}', asked)
    assert got.body == chunk({}, "stop", usage=None) + DONE
    assert lab.kept().counts == [(19, 238, 0, 0)]


@pytest.mark.parametrize("asks", [False, True])
def test_gw_cc10_usage_null(lab: GateLab, asks: bool) -> None:
    """A chunk whose usage is null stays as it is, whoever asked for usage."""
    chunks = [chunk({"content": "a"}, usage=None), chunk(None, usage=None), chunk({}, "stop", usage=None), DONE]
    lab.provider.push(stream(*chunks))
    request = BODIES[CHAT] | {"stream": True} | (USAGE_ASKED if asks else {})
    assert lab.ask(CHAT, request).body == b"".join(chunks)


# --- Responses ----------------------------------------------------------------------------------------------------

RESPONSE_ID = "resp_67c"


def response_usage(asked: int, answered: int, cached: int = 0, reasoning: int = 0) -> Json:
    """Return OpenAI's counts, in which cached tokens are among those asked."""
    return {
        "input_tokens": asked + cached,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": asked + cached + answered,
    }


def whole(output: list[Json], counts: Json | None, **members: Any) -> Json:
    return {"id": RESPONSE_ID, "status": "completed", "error": None, "output": output, "usage": counts, **members}


def response(output: list[Json], counts: Json, **members: Any) -> Play:
    """Return a whole response, indented like the real one's."""
    return answer(json.dumps(whole(output, counts, **members), indent=2).encode())


CREATED = event("response.created", response=whole([], None, status="in_progress"))


def response_stream(output: list[Json], *last: bytes, **members: Any) -> Play:
    """Return a stream of output items, and how it ends."""
    created = event("response.created", response=whole([], None, status="in_progress", **members))
    items = [event("response.output_item.done", output_index=at, item=item) for at, item in enumerate(output)]
    return stream(created, *items, *last)


def completed(output: list[Json], counts: Json) -> bytes:
    return event("response.completed", response=whole(output, counts))


TEXT: Json = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A joke."}]}
ADD: Json = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": '{"a":3,"b":5}'}
EXEC: Json = {"type": "custom_tool_call", "call_id": "call_2", "name": "code_exec", "input": 'print("hello world")'}
HMM: Json = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
JOKE: Json = {"input": "tell me a joke"}
ASKED: Json = {**JOKE, "stream": True}
CODEX_INPUT: Json = {"input": [{"role": "user", "content": text} for text in ("a", "b", "hello")], "stream": True}
ADDED = [("call_1", "add", '{"a":3,"b":5}')]
EXECUTED = [("call_2", "code_exec", 'print("hello world")')]
FAILED = ("failed", 200, "server_error")


def row(
    play: Play,
    tokens: list[tuple[int, int, int, int]],
    request: Json,
    *,
    reasoning: int = 0,
    outcome: tuple[str, int, str | None] = ("completed", 200, None),
    **members: Any,
) -> Row:
    """Return what has to be recorded of a response."""
    prompt = "hello" if request is CODEX_INPUT else "tell me a joke"
    extra = {"output_reasoning": reasoning}
    return Row(play, tokens, RESPONSE_ID, request=request, prompt=prompt, extra=extra, outcome=outcome, **members)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row(response([TEXT], response_usage(11, 18)), [(11, 18, 0, 0)], JOKE), id="gw-RS1"),
        pytest.param(row(response([ADD], response_usage(58, 18)), [(58, 18, 0, 0)], JOKE, tools=ADDED), id="gw-RS2"),
        pytest.param(
            row(response([TEXT], response_usage(129, 44, 11904)), [(129, 44, 11904, 0)], JOKE),
            id="gw-RS3",
        ),
        pytest.param(
            row(
                response([EXEC], response_usage(64, 148, reasoning=128)),
                [(64, 148, 0, 0)],
                JOKE,
                reasoning=128,
                tools=EXECUTED,
            ),
            id="gw-RS4",
        ),
        pytest.param(
            row(
                response([TEXT], response_usage(48, 116), conversation={"id": "conv_1"}),
                [(48, 116, 0, 0)],
                {**JOKE, "conversation": "conv_1"},
            ),
            id="gw-RS5",
        ),
        pytest.param(
            row(
                response([TEXT], response_usage(43, 129)),
                [(43, 129, 0, 0)],
                {**JOKE, "previous_response_id": "resp_before"},
            ),
            id="gw-RS6",
        ),
        pytest.param(
            row(response_stream([TEXT], completed([TEXT], response_usage(11, 18))), [(11, 18, 0, 0)], ASKED),
            id="gw-RS7",
        ),
        pytest.param(
            row(
                response_stream([HMM, TEXT], completed([HMM, TEXT], response_usage(4006, 13))),
                [(4006, 13, 0, 0)],
                CODEX_INPUT,
                thoughts=[("reasoning_summary", "hm")],
            ),
            id="gw-RS8",
        ),
        pytest.param(
            row(response_stream([ADD], completed([ADD], response_usage(58, 18))), [(58, 18, 0, 0)], ASKED, tools=ADDED),
            id="gw-RS9",
        ),
        pytest.param(
            row(
                response_stream([TEXT], completed([TEXT], response_usage(1165, 54, 15744))),
                [(1165, 54, 15744, 0)],
                ASKED,
            ),
            id="gw-RS10",
        ),
        pytest.param(
            row(
                response_stream([EXEC], completed([EXEC], response_usage(64, 340, reasoning=320))),
                [(64, 340, 0, 0)],
                ASKED,
                reasoning=320,
                tools=EXECUTED,
            ),
            id="gw-RS11",
        ),
        pytest.param(
            row(
                response_stream(
                    [], event("error", error={"type": "server_error", "message": "m"}), conversation={"id": "conv_1"}
                ),
                [],
                {**ASKED, "conversation": {"id": "conv_1"}},
                outcome=FAILED,
            ),
            id="gw-RS12",
        ),
        pytest.param(
            row(
                response_stream([TEXT], completed([TEXT], response_usage(43, 182))),
                [(43, 182, 0, 0)],
                {**ASKED, "previous_response_id": "resp_before"},
            ),
            id="gw-RS13",
        ),
        pytest.param(
            row(
                response_stream([], event("error", code="server_error", message="m", param=None)),
                [],
                ASKED,
                outcome=FAILED,
            ),
            id="gw-RS14",
        ),
        pytest.param(
            row(
                response_stream(
                    [],
                    event(
                        "response.failed",
                        response=whole([], None, status="failed", error={"code": "server_error", "message": "m"}),
                    ),
                ),
                [],
                ASKED,
                outcome=FAILED,
            ),
            id="gw-RS15",
        ),
        pytest.param(
            row(answer(b'{"id": "resp_67c", "output": ['), [], JOKE, outcome=("failed", 200, "upstream_broken")),
            id="gw-RS16",
        ),
        pytest.param(
            row(
                response_stream(
                    [],
                    b'event: response.output_item.done\ndata: {"output_index":\n\n',
                    completed([TEXT], response_usage(11, 18)),
                ),
                [(11, 18, 0, 0)],
                ASKED,
            ),
            id="gw-RS17",
        ),
    ],
)
def test_responses(lab: GateLab, row: Row) -> None:
    """The answer is the provider's; what is recorded of it does not depend on what is wrong elsewhere in it.

    So a broken frame hides nothing of those that follow, where the reference stops reading; a prompt is recorded before
    anything is answered; and an error is a failure, in whichever of its forms it comes. Of the counts those that are
    sums of others are not kept.
    """
    for object_id in ("conv_1", "resp_before"):
        lab.worker.ownership.claim("openai", [object_id], lab.user_ids["ann"])
    _got, kept = asked(lab, RESPONSES, row, CODEX)
    start = kept.start
    assert (start.provider, start.model, start.client, start.user_agent) == ("openai", "m", "Codex", CODEX[0][1])


@MODES
@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        pytest.param("400 Bad Request", "application/json", b'{"error":{"message":"no such model"}}', id="gw-RS20-400"),
        pytest.param("502 Bad Gateway", "text/plain", b"bad gateway\n", id="gw-RS20-502"),
    ],
)
def test_an_error_of_the_provider(lab: GateLab, streaming: bool, status: str, content_type: str, body: bytes) -> None:
    """It passes as it is, whatever it is written in, and once."""
    lab.provider.push(answer(body, content_type, status=status))
    got = lab.ask(RESPONSES, BODIES[RESPONSES] | {"stream": streaming})
    code = int(status[:3])
    assert (got.status, got.value("content-type"), got.body) == (code, content_type, body)
    kept = lab.kept()
    assert kept.outcome == ("failed", code, "bad_request" if code == 400 else "server_error")
    assert (kept.counts, kept.end.attempts) == ([], 1)


@MODES
def test_gw_rs21_a_connection_that_breaks(lab: GateLab, streaming: bool) -> None:
    """502, since it is the provider that failed, where the reference has 500; its shape is the provider's own.

    The prompt was recorded before the request was sent.
    """
    lab.provider.break_off()
    lab.provider.push(Play((), "reset"))
    got = lab.ask(RESPONSES, BODIES[RESPONSES] | {"stream": streaming})
    assert got.status == 502
    assert "closed the connection before it answered" in got.error["message"]
    assert sorted(got.error) == ["code", "message", "param", "type"]
    kept = lab.kept()
    assert kept.outcome == ("failed", 502, "upstream_broken")
    assert (kept.counts, len(kept.prompts)) == ([], 1)


def test_gw_rs21_a_base_url_that_is_none(make_lab: MakeLab) -> None:
    """502 for that provider, with where to look for the reason, and not a 500; nothing is recorded of it."""
    lab = make_lab('[[providers]]\nname = "x"\ntype = "openai"\nkeys = ["k"]\nbase_url = "not_url"\n')
    got = lab.ask("/x/v1/responses", BODIES[RESPONSES])
    assert (got.status, got.value("x-should-retry")) == (502, "false")
    assert got.error["message"].startswith('AI provider "x" cannot be used as it is configured')
    assert not lab.records()
