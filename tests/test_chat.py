import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgeserver.errors import BadRequest
from bridgeserver.protocols import Failure, Finding, Protocol, Tap, Tool, Usage
from bridgeserver.protocols.chat import Chat
from bridgeserver.records import CONTENT_LIMIT, ErrorType
from jsontext import Members, as_last, as_objects, render, scalars, storable, texts, values

CHAT: Protocol = Chat()
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


def encoded(**members: Any) -> bytes:
    return json.dumps(members).encode()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(value: Any) -> dict[str, Any]:
    return {"type": "text", "text": value}


def test_gw_cc7_no_body() -> None:
    """A missing body is refused."""
    with pytest.raises(BadRequest, match="found an empty body"):
        CHAT.facts(b"")


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        pytest.param([user("hello")], "hello", id="gw-CC7-string"),
        pytest.param(None, None, id="gw-CC7-no-messages"),
        pytest.param([], None, id="gw-CC7-empty"),
        pytest.param([user("a"), {"role": "assistant", "content": "b"}], None, id="gw-CC7-assistant-last"),
        pytest.param([user("")], None, id="gw-CC7-empty-string"),
        pytest.param([user([IMAGE])], None, id="gw-CC7-images-only"),
        pytest.param([user([])], None, id="gw-CC7-empty-array"),
        pytest.param([user([IMAGE, text("a"), IMAGE, text("b")])], "b", id="gw-CC7-last-text"),
        pytest.param([user([text("a"), text(1), IMAGE])], "a", id="text-of-another-type"),
        pytest.param([user([text("a"), text("")])], None, id="empty-text"),
        pytest.param("hello", None, id="messages-of-another-type"),
    ],
)
def test_prompt(messages: Any, prompt: str | None) -> None:
    """The prompt is what the user said in the last message."""
    assert CHAT.facts(encoded(messages=messages)).prompt == prompt


@pytest.mark.parametrize(
    ("messages", "call_id"),
    [
        pytest.param([user("a"), {"role": "tool", "tool_call_id": "call_1"}], "call_1", id="gw-CC8-last"),
        pytest.param([{"role": "tool", "tool_call_id": "call_1"}, user("a")], None, id="gw-CC8-earlier"),
        pytest.param([user("a")], None, id="gw-CC8-none"),
        pytest.param([{"role": "user", "tool_call_id": "call_1"}], None, id="another-role"),
        pytest.param([{"role": "tool", "tool_call_id": 1}], None, id="id-of-another-type"),
    ],
)
def test_correlating_id(messages: Any, call_id: str | None) -> None:
    """The correlating id is that of a tool message at the end."""
    assert CHAT.facts(encoded(messages=messages)).correlating_tool_call_id == call_id


NAMES = ["role", "content", "type", "text", "tool_call_id"]
WORDS = ["user", "tool", "text"]
ANY = values(NAMES, WORDS)
PARTS = st.lists(
    st.tuples(st.sampled_from(["type", "text"]), st.one_of(st.just("text"), texts, scalars)), max_size=3
).map(Members)
MESSAGE = st.lists(
    st.one_of(
        st.tuples(st.just("role"), st.one_of(st.sampled_from(WORDS), ANY)),
        st.tuples(st.just("content"), st.one_of(texts, st.lists(PARTS, max_size=3), ANY)),
        st.tuples(st.just("tool_call_id"), ANY),
        st.tuples(texts, ANY),
    ),
    max_size=4,
).map(Members)
REQUESTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["model", "stream"]), st.one_of(scalars, ANY)),
        st.tuples(st.just("messages"), st.one_of(st.lists(MESSAGE, max_size=3), ANY)),
        st.tuples(texts, ANY),
    ),
    max_size=6,
).map(Members)


def plainly_read(value: dict[str, Any]) -> tuple[Any, ...]:
    """Read the facts from a parsed body, in the most obvious way."""
    message = as_last(value.get("messages"))
    content = message.get("content")
    parts = as_objects(content)
    said = [p["text"] for p in parts if p.get("type") == "text" and isinstance(p.get("text"), str)]
    prompt = content if isinstance(content, str) else said[-1] if said else None
    call_id = storable(message.get("tool_call_id"))
    return (
        storable(value.get("model")),
        value.get("stream") is True,
        prompt if prompt and message.get("role") == "user" else None,
        call_id if call_id and message.get("role") == "tool" else None,
    )


@given(REQUESTS, st.randoms(use_true_random=False))
def test_facts_are_what_a_plain_reading_finds(request: Members, random: Random) -> None:
    """The facts of any request in any spelling are those that `json.loads` would show."""
    body = render(request, random).encode()
    facts = CHAT.facts(body)
    found = (facts.model, facts.stream, facts.prompt, facts.correlating_tool_call_id)
    assert found == plainly_read(json.loads(body))


def spliced(body: bytes) -> bytes:
    splice = CHAT.usage_splice(body)
    return body if splice is None else body[: splice.start] + splice.data + body[splice.end :]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"n":1}', None, id="no-stream"),
        pytest.param(b'{"stream":false}', None, id="not-streaming"),
        pytest.param(b'{"stream":"true"}', None, id="stream-of-another-type"),
        pytest.param(b' {"stream": true}', b' {"stream_options":{"include_usage":true},"stream": true}', id="absent"),
        pytest.param(
            b'{"stream":true,"stream_options":null}',
            b'{"stream":true,"stream_options":{"include_usage":true}}',
            id="null",
        ),
        pytest.param(
            b'{"stream":true,"stream_options":{ }}',
            b'{"stream":true,"stream_options":{"include_usage":true }}',
            id="empty",
        ),
        pytest.param(
            b'{"stream_options":{"include_obfuscation":false},"stream":true}',
            b'{"stream_options":{"include_usage":true,"include_obfuscation":false},"stream":true}',
            id="other-options",
        ),
        pytest.param(
            b'{"stream":true,"stream_options":{"include_usage": false }}',
            b'{"stream":true,"stream_options":{"include_usage": true }}',
            id="false",
        ),
        pytest.param(
            b'{"stream":true,"stream_options":{"include_usage":null}}',
            b'{"stream":true,"stream_options":{"include_usage":true}}',
            id="null-inside",
        ),
        pytest.param(b'{"stream":true,"stream_options":{"include_usage":true}}', None, id="true"),
        pytest.param(b'{"stream":true,"stream_options":"yes"}', None, id="another-type"),
        pytest.param(
            b'{"stream":false,"stream":true,"stream_options":{"include_usage":true},"stream_options":null}',
            b'{"stream":false,"stream":true,"stream_options":{"include_usage":true},'
            b'"stream_options":{"include_usage":true}}',
            id="last-occurrence",
        ),
        pytest.param(
            b'{"messages":[{"stream_options":null}],"stream":true}',
            b'{"stream_options":{"include_usage":true},"messages":[{"stream_options":null}],"stream":true}',
            id="nested-name",
        ),
    ],
)
def test_usage_splice(body: bytes, expected: bytes | None) -> None:
    """A stream is made to tell its usage by the smallest edit, and where it does so already, by none."""
    assert spliced(body) == (body if expected is None else expected)
    assert CHAT.usage_splice(spliced(body)) is None


OPTIONS = st.one_of(
    scalars,
    st.lists(st.tuples(st.one_of(st.just("include_usage"), texts), scalars), max_size=4).map(Members),
)
STREAMS = st.lists(
    st.one_of(
        st.tuples(st.just("stream"), st.booleans()),
        st.tuples(st.just("stream_options"), OPTIONS),
        st.tuples(texts, values(["stream", "stream_options", "include_usage"], ["true"])),
    ),
    max_size=6,
).map(Members)


@given(STREAMS, st.randoms(use_true_random=False))
def test_splice_changes_nothing_else(request: Members, random: Random) -> None:
    """After the splice a stream asks for usage, and every other member reads as before."""
    body = render(request, random).encode()
    before, after = json.loads(body), json.loads(spliced(body))
    options = before.pop("stream_options", None)
    asked = after.pop("stream_options", None)
    assert after == before
    if before.get("stream") is True and (options is None or isinstance(options, dict)):
        assert asked == {**(options or {}), "include_usage": True}
    else:
        assert asked == options


def chunk(*choices: dict[str, Any], **members: Any) -> bytes:
    whole = {"id": "chatcmpl-1", "choices": choices, **members}
    return json.dumps(whole, separators=(",", ":")).encode()


def choice(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def call(index: int, call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    """Return a fragment of a tool call; those after the first have neither id nor name."""
    head = {} if call_id is None else {"id": call_id, "type": "function"}
    named = {} if name is None else {"name": name}
    return {"index": index, **head, "function": {**named, "arguments": arguments}}


def fed(*events: bytes) -> tuple[Tap, list[Finding]]:
    tap, found = CHAT.tap(), list[Finding]()
    for data in events:
        found += tap.event(b"", data)
    return tap, found


def test_stop_reason_and_tier() -> None:
    """The first choice that says why it stopped counts; a whole body has the same members."""
    first = chunk(choice({"role": "assistant"}), choice({}, None, 1), service_tier="auto")
    tap, _ = fed(first, chunk(choice({}, "length", 1)), chunk(choice({}, "stop")), chunk(service_tier="default"))
    assert (tap.stop_reason, tap.service_tier) == ("length", "default")
    choices: list[dict[str, Any]] = [
        {"index": 0, "message": {}, "finish_reason": "stop"},
        {"index": 1, "finish_reason": "length"},
    ]
    for body in (
        encoded(id="c", choices=choices, service_tier="flex"),
        encoded(id=1, choices=choices, usage=[], service_tier="flex"),
    ):
        tap = CHAT.tap()
        tap.body(body)
        assert (tap.stop_reason, tap.service_tier) == ("stop", "flex")


HELLO = chunk(choice({"role": "assistant", "content": "hello"}))
DONE = b"[DONE]"


def test_gw_cc1_usage_only_chunk() -> None:
    """A stream's tokens are those of the chunk that has only usage."""
    usage = {"prompt_tokens": 19, "completion_tokens": 238, "total_tokens": 257}
    tap, found = fed(HELLO, HELLO, chunk(choice({}, "stop"), usage=None), chunk(usage=usage), DONE)
    assert tap.usage == Usage(19, 238)
    assert (found, tap.response_id, tap.complete, tap.failure) == ([], "chatcmpl-1", True, None)


def test_last_usage_wins() -> None:
    """The last usage that is not null counts, also beside text and where other chunks follow it."""
    running = [chunk(choice({"content": "a"}), usage={"prompt_tokens": count}) for count in (1, 2)]
    tap, _ = fed(HELLO, *running, HELLO, chunk(usage=None))
    assert tap.usage == Usage(2, 0)


def test_usage_details() -> None:
    """Cached tokens are taken out of the input, and the other details are kept by name."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 8,
            "audio_tokens": None,
            "accepted_prediction_tokens": 3,
            "rejected_prediction_tokens": 4,
        },
    }
    extra = {
        "prompt_audio": 0,
        "completion_reasoning": 8,
        "completion_accepted_prediction": 3,
        "completion_rejected_prediction": 4,
    }
    assert fed(chunk(usage=usage))[0].usage == Usage(30, 50, 60, 10, extra)


def test_more_cached_than_asked() -> None:
    """A provider that counts cached tokens apart does not make the input negative."""
    usage = {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 5}}
    assert fed(chunk(usage=usage))[0].usage == Usage(0, 0, 5)


def test_gw_cc3_tool() -> None:
    """A streamed tool call is put together from its fragments, and complete at the finish."""
    fragments = [
        call(0, "call_1", "read_file", ""),
        call(0, None, None, '{"path":'),
        call(0, None, None, '"R"}'),
    ]
    chunks = [chunk(choice({"tool_calls": [fragment]})) for fragment in fragments]
    tap, found = fed(*chunks)
    assert found == []
    assert tap.event(b"", chunk(choice({}, "tool_calls"))) == [Tool("call_1", "read_file", '{"path":"R"}')]
    assert tap.complete


def test_all_calls_of_all_choices() -> None:
    """Calls are told apart by choice and index, and come when their choice is finished."""
    tap, found = fed(
        chunk(choice({"tool_calls": [call(0, "a", "f", "1"), call(1, "b", "f", "2")]})),
        chunk(choice({"tool_calls": [call(0, "c", "f", "3")]}, index=1)),
        chunk(choice({"tool_calls": [call(0, None, None, "0")]})),
        chunk(choice({}, "tool_calls")),
    )
    assert found == [Tool("a", "f", "10"), Tool("b", "f", "2")]
    assert not tap.complete
    assert tap.event(b"", chunk(choice({"tool_calls": [call(0, None, None, "0")]}, "tool_calls", 1))) == [
        Tool("c", "f", "30")
    ]
    assert tap.complete


def test_content_beside_a_call() -> None:
    """Content in the same delta does not hide a tool call."""
    delta = {"content": "", "tool_calls": [call(0, "a", "f", "{}")]}
    assert fed(HELLO, chunk(choice(delta)), chunk(choice({}, "stop")))[1] == [Tool("a", "f", "{}")]


def test_calls_that_share_an_index() -> None:
    """Calls with ids of their own are told apart even where the provider gives all the index 0, or none."""
    first, second = call(0, "a", "f", "1"), call(0, "b", "g", "2")
    del second["index"]
    assert fed(chunk(choice({"tool_calls": [first, second]}, "stop")))[1] == [
        Tool("a", "f", "1"),
        Tool("b", "g", "2"),
    ]


def test_id_that_changes() -> None:
    """A fragment with a new id but no name goes on with its call."""
    fragments = [call(0, "a", "f", "1"), call(0, "b", None, "2")]
    assert fed(chunk(choice({"tool_calls": fragments}, "stop")))[1] == [Tool("a", "f", "12")]


def test_custom_tool() -> None:
    """A custom tool's input is plain text."""
    custom = {"id": "a", "type": "custom", "custom": {"name": "run", "input": "ls"}}
    assert CHAT.tap().body(encoded(choices=[{"message": {"tool_calls": [custom]}}])) == [Tool("a", "run", "ls")]


def test_done_flushes() -> None:
    """The end of the stream completes the calls of choices that named no reason to finish."""
    tap, found = fed(chunk(choice({"tool_calls": [call(0, "a", "f", "1")]})), DONE)
    assert found == [Tool("a", "f", "1")]
    assert tap.complete


def test_cut_stream() -> None:
    """A stream that breaks off is not complete, and its unfinished call is not recorded."""
    tap, found = fed(chunk(choice({"tool_calls": [call(0, "a", "f", "1")]})))
    assert (found, tap.complete, tap.usage) == ([], False, None)


def test_every_choice_has_to_finish() -> None:
    """A choice that appears only in text is waited for."""
    tap, _ = fed(HELLO, chunk(choice({"content": "b"}, index=1)), chunk(choice({}, "stop")))
    assert not tap.complete
    tap.event(b"", chunk(choice({}, "length", 1)))
    assert tap.complete
    tap.event(b"", chunk(choice({"content": "c"}, index=2)))
    assert not tap.complete
    tap.event(b"", DONE)
    assert tap.complete


def test_spaces_hide_nothing() -> None:
    """White space in a chunk does not make it pass for text."""
    spaced = b' { "choices" : [ { "index" : 0 , "finish_reason" : "stop" } ] , "usage" : { "prompt_tokens" : 3 } }'
    tap, _ = fed(HELLO, spaced)
    assert tap.usage == Usage(3)
    assert tap.complete


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ({"message": "m", "type": "server_error", "code": None}, Failure("server_error", "m")),
        ({"message": "m", "type": "tokens", "code": "rate_limit_exceeded"}, Failure("rate_limited", "m")),
        ({"message": "m", "code": 502}, Failure("server_error", "m")),
        ({"message": "m", "code": 429}, Failure("rate_limited", "m")),
        ("m", Failure("unknown", "m")),
    ],
)
def test_error_chunk(error: Any, failure: Failure) -> None:
    """An error in the stream is a failure, and no end."""
    tap, _ = fed(HELLO, json.dumps({"error": error}).encode())
    assert tap.failure == failure
    assert not tap.complete


@pytest.mark.parametrize(
    ("data", "is_extra"),
    [
        (b'{"choices":[],"usage":{}}', True),
        (b'{ "usage" : {"prompt_tokens":1}, "choices" : [ ] }', True),
        (b'{"x":"\\ud800","choices":[],"usage":{}}', True),
        (b'{"choices":[],"usage":null}', False),
        (b'{"choices":[],"prompt_filter_results":[]}', False),
        (b'{"choices":[{"index":0}],"usage":{}}', False),
        (b'{"usage":{}}', False),
        (DONE, False),
        (b"", False),
    ],
)
def test_is_extra_usage(data: bytes, is_extra: bool) -> None:
    """Only a chunk without choices and with usage is there because usage was asked for."""
    assert CHAT.tap().is_extra_usage(data) is is_extra


def test_memory_is_bounded() -> None:
    """Neither endless arguments nor endless calls or choices can fill the memory."""
    tap = CHAT.tap()
    endless = [chunk(choice({"tool_calls": [call(0, "a", "f", "x" * 1000)]}))] * 400
    many = [chunk(choice({"tool_calls": [call(index, "a", "f", "")]}, index=index)) for index in range(1000)]
    for data in endless + many:
        tap.event(b"", data)
    found = tap.event(b"", DONE)
    assert len(found) == 128
    assert found[0] == Tool("a", "f", "x" * (CONTENT_LIMIT + 1))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff"])
def test_unreadable_body(body: bytes) -> None:
    """A body that is no object is passed over, and not taken for a whole answer."""
    tap = CHAT.tap()
    assert tap.body(body) == []
    assert not tap.complete


def test_body_with_an_error() -> None:
    """A body that is an error is a failure."""
    tap = CHAT.tap()
    assert tap.body(b'{"error":{"message":"m","type":"invalid_request_error"}}') == []
    assert (tap.failure, tap.complete) == (Failure("bad_request", "m"), False)


CALLS = st.lists(st.tuples(st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=5), st.text(max_size=9)))
USAGE = st.fixed_dictionaries({"prompt_tokens": st.integers(0, 99), "completion_tokens": st.integers(0, 99)})


@given(st.lists(CALLS, min_size=1, max_size=3), USAGE, st.text(max_size=9))
def test_stream_and_body_agree(choices: list[list[tuple[str, str, str]]], usage: dict[str, int], said: str) -> None:
    """An answer shows the same findings and usage whether it was streamed or not."""
    whole, events = list[dict[str, Any]](), list[bytes]()
    for index, calls in enumerate(choices):
        complete = [call(at, *parts) for at, parts in enumerate(calls)]
        whole.append({"index": index, "message": {"content": said, "tool_calls": complete}, "finish_reason": "stop"})
        events += [chunk(choice({"content": character}, index=index)) for character in ["", *said]]
        for at, (call_id, name, arguments) in enumerate(calls):
            fragments = [call(at, call_id, name, ""), *[call(at, None, None, piece) for piece in arguments]]
            events += [chunk(choice({"tool_calls": [fragment]}, index=index)) for fragment in fragments]
        events.append(chunk(choice({}, "stop", index)))
    body = CHAT.tap()
    found = body.body(encoded(id="chatcmpl-1", choices=whole, usage=usage))
    tap, seen = fed(*events, chunk(usage=usage), DONE)
    assert (seen, tap.usage, tap.response_id, tap.complete) == (found, body.usage, "chatcmpl-1", True)


VOCABULARY = [
    "id",
    "choices",
    "index",
    "delta",
    "message",
    "tool_calls",
    "function",
    "usage",
    "error",
    "finish_reason",
]
NOISE = values([*VOCABULARY, "name", "arguments", "prompt_tokens_details"], ["stop", "call_1"])


@given(st.lists(NOISE), st.randoms(use_true_random=False))
def test_tap_never_raises(events: list[Any], random: Random) -> None:
    """No JSON of any shape makes the tap raise, and ids stay text that can be stored."""
    tap = CHAT.tap()
    for value in events:
        data = render(value, random).encode()
        tap.event(b"", data)
        tap.is_extra_usage(data)
        CHAT.tap().body(data)
    tap.response_id.encode()


@given(st.binary())
def test_tap_never_raises_on_bytes(data: bytes) -> None:
    """No bytes make the tap raise or find something."""
    assert CHAT.tap().event(b"", data) == []
    assert CHAT.tap().body(data) == []


@pytest.mark.parametrize(
    ("status", "error_type", "name", "code"),
    [
        (400, "bad_request", "invalid_request_error", "bad_request"),
        (401, "unauthorized", "authentication_error", "invalid_api_key"),
        (404, "bad_request", "invalid_request_error", "not_found"),
        (413, "bad_request", "invalid_request_error", "request_too_large"),
        (429, "rate_limited", "rate_limit_error", "rate_limit_exceeded"),
        (502, "upstream_broken", "server_error", "upstream_broken"),
        (503, "overloaded", "overloaded_error", "overloaded"),
    ],
)
def test_error_body(status: int, error_type: ErrorType, name: str, code: str) -> None:
    """The gateway's own failures have the provider's shape."""
    error = json.loads(CHAT.error_body(status, "m\ud800", error_type))
    assert error == {"error": {"message": "m?", "type": name, "param": None, "code": code}}


def test_error_event() -> None:
    """A failure in mid-stream is one whole event."""
    event = CHAT.error_event("cut", "timeout")
    assert event == b'data: {"error":{"message":"cut","type":"timeout_error","param":null,"code":"timeout"}}\n\n'
