import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgeserver.errors import BadRequest
from bridgeserver.protocols import Failure, Finding, Protocol, Tap, Thought, Tool, Usage
from bridgeserver.protocols.failure import classify
from bridgeserver.protocols.messages import Messages
from bridgeserver.records import CONTENT_LIMIT, ErrorType, clip
from jsontext import Members, as_last, as_objects, render, scalars, storable, texts, values

MESSAGES: Protocol = Messages()


def encoded(**members: Any) -> bytes:
    return json.dumps(members).encode()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(value: Any) -> dict[str, Any]:
    return {"type": "text", "text": value}


def result(call_id: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id}


def system(content: Any = "reminder") -> dict[str, Any]:
    return {"role": "system", "content": content}


IMAGE = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        pytest.param(b"", "found an empty body", id="gw-M1-empty"),
        pytest.param(b" \r\n", "found an empty body", id="gw-M1-blank"),
        pytest.param(b'{"model":', "not JSON at byte 9", id="gw-M1-cut"),
        pytest.param('{"é":x}'.encode(), "not JSON at byte 6", id="bytes-are-counted"),
        pytest.param(b"[]", "found an array", id="array"),
        pytest.param(b'"text"', "found a string", id="string"),
        pytest.param(b"true", "found a boolean", id="boolean"),
        pytest.param(b"1", "found a number", id="number"),
        pytest.param(b"null", "found null", id="null"),
        pytest.param(b'{"a":NaN}', "NaN is not a JSON number", id="not-a-number"),
        pytest.param(b"\xef\xbb\xbf{}", "a byte order mark", id="byte-order-mark"),
        pytest.param(b'{"a":"\xff"}', "not UTF-8 at byte 6", id="not-utf-8"),
        pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply", id="too-deep"),
        pytest.param(b'{"a":"\\ud800","b":' + b"[" * 100_000, "nested too deeply", id="too-deep-slowly"),
    ],
)
def test_refuses_bodies(body: bytes, found: str) -> None:
    """A body that is not one JSON object is refused with a word on what it is."""
    with pytest.raises(BadRequest, match=found):
        MESSAGES.facts(body)


@pytest.mark.parametrize(
    ("body", "stream"),
    [
        pytest.param(b'{"stream":true}', True, id="gw-M2-true"),
        pytest.param(b'{"stream":false}', False, id="gw-M2-false"),
        pytest.param(b"{}", False, id="gw-M2-missing"),
        pytest.param(b'{"stream":"true"}', False, id="gw-M2-string"),
        pytest.param(b'{"stream":1}', False, id="number"),
        pytest.param(b'{"stream":false,"stream":true}', True, id="last-wins"),
        pytest.param(b' \n{"str\\u0065am" : true}\n', True, id="escaped-name"),
    ],
)
def test_stream(body: bytes, stream: bool) -> None:
    """Only JSON's own true asks for a stream."""
    assert MESSAGES.facts(body).stream is stream


@pytest.mark.parametrize(
    ("body", "model"),
    [
        pytest.param(b'{"model":"claude-opus-4-6"}', "claude-opus-4-6", id="gw-M3-string"),
        pytest.param(b"{}", "", id="gw-M3-missing"),
        pytest.param(b'{"model":123}', "", id="gw-M3-number"),
        pytest.param(b'{"model":"a","model":"b"}', "b", id="last-wins"),
        pytest.param(b'{"model":"a\\ud800","x":"\\ud800"}', "a?", id="lone-surrogate"),
        pytest.param(b'{"model":' + b"1" * 5000 + b"}", "", id="huge-number"),
    ],
)
def test_model(body: bytes, model: str) -> None:
    """The model is the string that the body has, or empty."""
    assert MESSAGES.facts(body).model == model


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        pytest.param([user("hello")], "hello", id="gw-M4-string"),
        pytest.param([user("")], "", id="gw-M4-empty-string"),
        pytest.param([user([IMAGE, text("first"), text("last")])], "last", id="gw-M4-last-text"),
        pytest.param([user([text("first"), text(1)])], "first", id="text-of-another-type"),
        pytest.param([user("a"), {"role": "assistant", "content": "b"}], None, id="gw-M4-assistant-last"),
        pytest.param(None, None, id="gw-M4-no-messages"),
        pytest.param([], None, id="gw-M4-empty"),
        pytest.param([user([])], None, id="gw-M4-empty-content"),
        pytest.param([user([IMAGE])], None, id="gw-M4-only-images"),
        pytest.param(
            [user("first"), {"role": "assistant", "content": "x"}, user("second")], "second", id="gw-M4-three"
        ),
        pytest.param({}, None, id="gw-M4-object"),
        pytest.param([1], None, id="message-of-another-type"),
        pytest.param([user([1, "a"])], None, id="blocks-of-another-type"),
        pytest.param([user("\ud800")], "\ud800", id="lone-surrogate"),
        pytest.param([user("a"), system()], "a", id="system-last"),
        pytest.param([user("a"), system(), system([text("b")])], "a", id="two-of-the-system"),
        pytest.param([user("a"), {"role": "assistant", "content": "b"}, system()], None, id="assistant-before-system"),
        pytest.param([user("a"), 1, system()], None, id="another-type-before-system"),
        pytest.param([user("a\ud800"), system()], "a\ud800", id="lone-surrogate-before-system"),
        pytest.param([system()], None, id="only-the-system"),
    ],
)
def test_prompt(messages: Any, prompt: str | None) -> None:
    """The prompt is what the user said in the last message, but for what the system says after it."""
    assert MESSAGES.facts(encoded(messages=messages)).prompt == prompt


@pytest.mark.parametrize(
    ("messages", "call_id"),
    [
        pytest.param([user("hello")], None, id="gw-M5-none"),
        pytest.param([user([result("a"), text("t"), result("b")])], "b", id="gw-M5-second"),
        pytest.param([user([result("a"), result("")])], "a", id="gw-M5-empty-id"),
        pytest.param([user([result("a")]), user("hello")], None, id="gw-M5-earlier"),
        pytest.param([{"role": "tool", "content": [result("a")]}], "a", id="gw-M5-any-role"),
        pytest.param([user([result("a")]), system()], "a", id="system-last"),
        pytest.param("text", None, id="gw-M5-string"),
        pytest.param(None, None, id="gw-M5-missing"),
        pytest.param([], None, id="gw-M5-empty"),
        pytest.param([user([{"type": ["tool_result"], "tool_use_id": "a"}])], None, id="type-of-another-type"),
    ],
)
def test_correlating_id(messages: Any, call_id: str | None) -> None:
    """The correlating id is that of the last tool result in the last message that is not the system's."""
    assert MESSAGES.facts(encoded(messages=messages)).correlating_tool_call_id == call_id


def test_session_hint() -> None:
    """The session hint is `metadata.user_id` where that is a string."""
    assert MESSAGES.facts(b'{"metadata":{"user_id":"u_session_1"}}').session_hint == "u_session_1"
    assert MESSAGES.facts(b'{"metadata":{"user_id":1}}').session_hint is None
    assert MESSAGES.facts(b'{"metadata":"u"}').session_hint is None


NAMES = ["role", "content", "type", "text", "tool_use_id", "user_id"]
WORDS = ["user", "assistant", "system", "text", "tool_result", "image"]
ANY = values(NAMES, WORDS)
BLOCKS = st.lists(
    st.tuples(st.sampled_from(["type", "text", "tool_use_id"]), st.one_of(st.sampled_from(WORDS), texts)),
    max_size=4,
).map(Members)
MESSAGE = st.lists(
    st.one_of(
        st.tuples(st.just("role"), st.one_of(st.sampled_from(["user", "system"]), ANY)),
        st.tuples(st.just("content"), st.one_of(texts, st.lists(BLOCKS, max_size=3), ANY)),
        st.tuples(texts, ANY),
    ),
    max_size=4,
).map(Members)
REQUESTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["model", "stream", "metadata"]), st.one_of(scalars, ANY)),
        st.tuples(st.just("messages"), st.one_of(st.lists(MESSAGE, max_size=3), ANY)),
        st.tuples(texts, ANY),
    ),
    max_size=6,
).map(Members)


def plainly_read(value: dict[str, Any]) -> tuple[Any, ...]:
    """Read the facts from a parsed body, in the most obvious way."""
    messages: Any = value.get("messages")
    while (message := as_last(messages)).get("role") == "system":
        messages = messages[:-1]
    content = message.get("content")
    blocks = as_objects(content)
    said = [b["text"] for b in blocks if b.get("type") == "text" and isinstance(b.get("text"), str)]
    ids = [storable(b.get("tool_use_id")) for b in blocks if b.get("type") == "tool_result"]
    prompt = content if isinstance(content, str) else said[-1] if said else None
    return (
        storable(value.get("model")),
        value.get("stream") is True,
        prompt if message.get("role") == "user" else None,
        next((found for found in reversed(ids) if found), None),
    )


@given(REQUESTS, st.randoms(use_true_random=False))
def test_facts_are_what_a_plain_reading_finds(request: Members, random: Random) -> None:
    """The facts of any request in any spelling are those that `json.loads` would show."""
    body = render(request, random).encode()
    facts = MESSAGES.facts(body)
    found = (facts.model, facts.stream, facts.prompt, facts.correlating_tool_call_id)
    assert found == plainly_read(json.loads(body))


def fed(events: list[tuple[str, dict[str, Any]]], *, named: bool = True) -> tuple[Tap, list[Finding]]:
    tap, found = MESSAGES.tap(), list[Finding]()
    for name, members in events:
        data = json.dumps({"type": name, **members}, separators=(",", ":")).encode()
        found += tap.event(name.encode() if named else b"", data)
    return tap, found


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("content_block_start", {"index": index, "content_block": start}),
        *[("content_block_delta", {"index": index, "delta": delta}) for delta in deltas],
        ("content_block_stop", {"index": index}),
    ]


def partial(piece: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": piece}


def thinking(piece: str) -> dict[str, Any]:
    return {"type": "thinking_delta", "thinking": piece}


def tool(call_id: str, name: str = "Read", kind: str = "tool_use") -> dict[str, Any]:
    return {"type": kind, "id": call_id, "name": name, "input": {}}


START = (
    "message_start",
    {
        "message": {
            "id": "msg_1",
            "usage": {
                "input_tokens": 2,
                "output_tokens": 5,
                "cache_read_input_tokens": 13993,
                "cache_creation_input_tokens": 22,
                "cache_creation": {"ephemeral_5m_input_tokens": 22, "ephemeral_1h_input_tokens": 0},
            },
        }
    },
)
DELTA = ("message_delta", {"delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 61}})
STOP = ("message_stop", dict[str, Any]())
CACHE_EXTRA = {"cache_ephemeral_5m_input": 22, "cache_ephemeral_1h_input": 0}
THINKING = block(0, {"type": "thinking", "thinking": ""}, thinking("The user "), thinking("wants"))
READ = block(2, tool("toolu_1"), partial(""), partial('{"file_path":'), partial(' "/foo"}'))


@pytest.mark.parametrize("named", [True, False])
def test_gw_mr4_stream_with_thinking_and_tool(named: bool) -> None:
    """A stream costs what its last count says, and shows its thought and its tool call once."""
    say = block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "I will read it."})
    tap, found = fed([START, *THINKING, *say, ("ping", {}), *READ, DELTA, STOP], named=named)
    assert found == [
        Thought("thinking", "The user wants"),
        Tool("toolu_1", "Read", '{"file_path": "/foo"}'),
    ]
    assert tap.usage == Usage(2, 61, 13993, 22, CACHE_EXTRA)
    assert (tap.response_id, tap.complete, tap.failure, tap.object_ids) == ("msg_1", True, None, ())


def test_gw_mr7_parallel_tools() -> None:
    """Each of two parallel calls is found, also where their blocks overlap."""
    first, second = block(0, tool("a"), partial('{"n":1}')), block(1, tool("b"), partial('{"n":2}'))
    _, found = fed([START, first[0], second[0], first[1], second[1], second[2], first[2], STOP])
    assert found == [Tool("b", "Read", '{"n":2}'), Tool("a", "Read", '{"n":1}')]


def test_gw_mr6_two_thoughts() -> None:
    """Each thinking block is a thought of its own."""
    again = block(1, {"type": "thinking", "thinking": "more"}, {"type": "signature_delta", "signature": "x"})
    assert fed([*THINKING, *again])[1] == [Thought("thinking", "The user wants"), Thought("thinking", "more")]


@pytest.mark.parametrize(
    "start",
    [
        {"type": "text", "text": "hello"},
        {"type": "thinking", "thinking": ""},
        {"type": "redacted_thinking", "data": "x"},
        tool("a", "web_search", "server_tool_use"),
        {"type": ["tool_use"]},
    ],
)
def test_other_blocks_are_ignored(start: dict[str, Any]) -> None:
    """Text, empty and redacted thoughts, and tools that the provider runs are not recorded."""
    assert fed([START, *block(0, start), STOP])[1] == []
    assert MESSAGES.tap().body(encoded(content=[start])) == []


def test_tool_without_fragments() -> None:
    """A call without fragments has the input that its block began with, as it was spelled."""
    tap = MESSAGES.tap()
    tap.event(
        b"content_block_start",
        b'{"index":0,"content_block":{"type":"tool_use","id":"a","name":"t","input": {"x" : 1.0} }}',
    )
    assert tap.event(b"content_block_stop", b'{"index":0}') == [Tool("a", "t", '{"x" : 1.0}')]
    assert fed([START, *block(0, tool("b")), STOP])[1] == [Tool("b", "Read", "{}")]


def test_last_block_needs_no_stop() -> None:
    """The end of the message ends the blocks that are still open."""
    assert fed([START, *THINKING[:-1], STOP])[1] == [Thought("thinking", "The user wants")]


def test_cut_stream_has_what_was_seen() -> None:
    """A stream that breaks off has the counts of its start, and is not complete."""
    tap, found = fed([START, *READ[:-1]])
    assert tap.usage == Usage(2, 5, 13993, 22, CACHE_EXTRA)
    assert not tap.complete
    assert found == []


def test_gw_u2_later_counts_replace_earlier_ones() -> None:
    """Every count in a message_delta is a total, so none is added to an earlier one; those that it lacks stay."""
    later = {
        "input_tokens": 7,
        "cache_read_input_tokens": None,
        "output_tokens": 9,
        "server_tool_use": {"web_search_requests": 3},
    }
    tap, _ = fed([START, DELTA, ("message_delta", {"usage": later})])
    assert tap.usage == Usage(7, 9, 13993, 22, {**CACHE_EXTRA, "web_search_requests": 3})


def test_stop_reason_and_tier() -> None:
    """The reason comes with the last delta, the tier with any usage; a whole body has both."""
    tier = {"usage": {"service_tier": "priority"}, "delta": {"stop_reason": None}}
    tap, _ = fed([START, DELTA, ("message_delta", tier), STOP])
    assert (tap.stop_reason, tap.service_tier) == ("tool_use", "priority")
    tap = MESSAGES.tap()
    tap.body(json.dumps({"id": "m", "content": [], "stop_reason": "refusal", **tier}).encode())
    assert (tap.stop_reason, tap.service_tier) == ("refusal", "priority")


def test_counts_of_another_type_are_absent() -> None:
    """A count that is no storable whole number is passed over."""
    strange = {"input_tokens": "9", "output_tokens": True, "cache_read_input_tokens": -1}
    tap, _ = fed([START, ("message_delta", {"usage": {**strange, "cache_creation_input_tokens": 2**63}})])
    assert tap.usage == Usage(2, 5, 13993, 22, CACHE_EXTRA)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, Failure("overloaded", "Overloaded")),
        ({"type": "api_error", "message": "x" * 2000}, Failure("server_error", "x" * 1024)),
        ({"type": "new_error", "message": "no"}, Failure("unknown", "no")),
        ("broken", Failure("unknown", "broken")),
        (None, Failure("unknown", "the provider gave no message")),
    ],
)
def test_error_event(error: Any, failure: Failure) -> None:
    """An error in the stream is a failure, and no end."""
    tap, _ = fed([START, ("error", {"error": error})])
    assert tap.failure == failure
    assert not tap.complete


def test_text_that_looks_like_a_delta() -> None:
    """A tool's arguments that quote a text delta are not mistaken for one."""
    quoted = '{"a":"\\"type\\":\\"text_delta\\""}'
    assert fed(block(0, tool("a"), partial(quoted)))[1] == [Tool("a", "Read", quoted)]


def test_long_thoughts_are_held_in_bounded_memory() -> None:
    """What is kept of a thought is just enough for the recorder to see that it was cut."""
    (thought,) = fed(block(0, {"type": "thinking"}, *[thinking("é" * 1000)] * 400))[1]
    assert isinstance(thought, Thought)
    assert len(thought.text) == CONTENT_LIMIT + 1
    assert clip(thought.text, CONTENT_LIMIT)[1]


def test_open_blocks_are_bounded() -> None:
    """A response that never ends its blocks cannot fill the memory."""
    tap, found = fed([block(index, tool("a"))[0] for index in range(10_000)] + [STOP])
    assert len(found) == 128
    assert tap.complete


def test_gw_mr5_body() -> None:
    """A whole body shows the same as a stream."""
    tap = MESSAGES.tap()
    found = tap.body(
        b'{"id":"msg_2","type":"message","content":[{"type":"thinking","thinking":"hm"},'
        b'{"type":"tool_use","id":"a","name":"Read","input":{ "file_path":"x" }}],"usage":{"input_tokens":5,'
        b'"output_tokens":84,"cache_read_input_tokens":23490,"cache_creation_input_tokens":0}}'
    )
    assert found == [Thought("thinking", "hm"), Tool("a", "Read", '{ "file_path":"x" }')]
    assert tap.usage == Usage(5, 84, 23490, 0)
    assert (tap.response_id, tap.complete, tap.failure) == ("msg_2", True, None)


def test_body_with_lone_surrogates() -> None:
    """A body that only a general parser reads has the same findings, its arguments respelled."""
    body = b'{"id":"m","content":[{"type":"tool_use","id":"a","name":"t","input":{"x":"\\ud800"}}]}'
    assert MESSAGES.tap().body(body) == [Tool("a", "t", '{"x": "\\ud800"}')]


def test_body_with_an_error() -> None:
    """A body that is an error is a failure."""
    tap = MESSAGES.tap()
    assert tap.body(b'{"type":"error","error":{"type":"api_error","message":"m"}}') == []
    assert (tap.failure, tap.complete) == (Failure("server_error", "m"), False)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null"])
def test_unreadable_body(body: bytes) -> None:
    """A body that is no object is passed over, and not taken for a whole answer."""
    tap = MESSAGES.tap()
    assert tap.body(body) == []
    assert not tap.complete


CONTENT = st.lists(
    st.one_of(
        st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=9)}),
        st.fixed_dictionaries({"type": st.just("thinking"), "thinking": st.text(max_size=9)}),
        st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": st.text(max_size=9)}),
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(["tool_use", "server_tool_use"]),
                "id": st.text(max_size=5),
                "name": st.text(max_size=5),
                "input": st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
            }
        ),
    ),
    max_size=5,
)


def streamed(index: int, whole: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the events that a whole content block becomes in a stream."""
    if "text" in whole:
        return block(index, {**whole, "text": ""}, {"type": "text_delta", "text": whole["text"]})
    if "thinking" in whole:
        return block(index, {**whole, "thinking": ""}, *map(thinking, whole["thinking"]))
    if "input" in whole:
        pieces = json.dumps(whole["input"]) if whole["input"] else ""
        return block(index, {**whole, "input": {}}, *map(partial, ["", *pieces]))
    return block(index, whole)


@given(CONTENT, st.integers(0, 99), st.integers(0, 99))
def test_stream_and_body_agree(content: list[dict[str, Any]], asked: int, answered: int) -> None:
    """A message shows the same findings and usage whether it was streamed or not."""
    usage = {"input_tokens": asked, "output_tokens": answered}
    whole = MESSAGES.tap()
    found = whole.body(encoded(id="m", content=content, usage=usage))
    start = ("message_start", {"message": {"id": "m", "usage": {"input_tokens": asked, "output_tokens": 1}}})
    end = ("message_delta", {"usage": {"output_tokens": answered}})
    middle = [event for index, item in enumerate(content) for event in streamed(index, item)]
    tap, seen = fed([start, *middle, end, STOP])
    assert (seen, tap.usage, tap.response_id, tap.complete) == (found, whole.usage, "m", True)


EVENT_NAMES = [
    START[0],
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    DELTA[0],
    STOP[0],
    "error",
]
VOCABULARY = [
    "type",
    "message",
    "content",
    "content_block",
    "index",
    "delta",
    "usage",
    "id",
    "name",
    "input",
    "error",
]
NOISE = values(VOCABULARY, ["tool_use", "thinking", *EVENT_NAMES])


@given(st.lists(st.tuples(st.sampled_from([*EVENT_NAMES, ""]), NOISE)), st.randoms(use_true_random=False))
def test_tap_never_raises(events: list[tuple[str, Any]], random: Random) -> None:
    """No JSON of any shape makes the tap raise, and ids stay text that can be stored."""
    tap = MESSAGES.tap()
    for name, value in events:
        data = render(value, random).encode()
        tap.event(name.encode(), data)
        MESSAGES.tap().body(data)
    tap.response_id.encode()


@given(st.sampled_from([*EVENT_NAMES, ""]), st.binary())
def test_tap_never_raises_on_bytes(name: str, data: bytes) -> None:
    """No bytes make the tap raise or find something."""
    assert MESSAGES.tap().event(name.encode(), data) == []
    assert MESSAGES.tap().body(data) == []
    assert not MESSAGES.tap().is_extra_usage(data)


def test_no_splice() -> None:
    """A Messages request is never edited for its usage."""
    assert MESSAGES.usage_splice(b'{"stream":true}') is None


@pytest.mark.parametrize(
    ("status", "error_type", "name"),
    [
        (400, "bad_request", "invalid_request_error"),
        (401, "unauthorized", "authentication_error"),
        (403, "unauthorized", "permission_error"),
        (404, "bad_request", "not_found_error"),
        (413, "bad_request", "request_too_large"),
        (415, "bad_request", "invalid_request_error"),
        (429, "rate_limited", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (502, "upstream_broken", "api_error"),
        (503, "overloaded", "overloaded_error"),
        (504, "timeout", "timeout_error"),
    ],
)
def test_error_body(status: int, error_type: ErrorType, name: str) -> None:
    """The gateway's own failures have the provider's shape and type."""
    body = MESSAGES.error_body(status, 'a "b" \ud800', error_type)
    assert json.loads(body) == {"type": "error", "error": {"type": name, "message": 'a "b" ?'}}


def test_error_event_of_the_gateway() -> None:
    """A failure in mid-stream is one whole event."""
    event = MESSAGES.error_event("cut", "upstream_broken")
    assert event == b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"cut"}}\n\n'


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (400, b'{"error":{"message":"bad"}}', Failure("bad_request", "bad")),
        (401, b'{"error":"no key"}', Failure("unauthorized", "no key")),
        (403, b'{"message":"denied"}', Failure("unauthorized", "denied")),
        (404, b"", Failure("bad_request", "Not Found")),
        (408, b"<html>", Failure("timeout", "Request Timeout")),
        (418, b"[]", Failure("unknown", "I'm a Teapot")),
        (429, b'{"error":{"message":1}}', Failure("rate_limited", "Too Many Requests")),
        (500, b'{"error":{"message":"\\ud800"}}', Failure("server_error", "?")),
        (503, b"\xff", Failure("overloaded", "Service Unavailable")),
        (504, b"{}", Failure("timeout", "Gateway Timeout")),
        (529, b"", Failure("overloaded", "Overloaded")),
        (599, b"", Failure("server_error", "HTTP status 599")),
        (302, b'{"error":{"message":"' + b"x" * 5000 + b'"}}', Failure("unknown", "x" * 1024)),
    ],
)
def test_classify(status: int, body: bytes, failure: Failure) -> None:
    """An error answer is what its status says, in the provider's words where it has some."""
    assert classify(status, body) == failure
