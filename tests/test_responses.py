import json
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgeserver.protocols import Failure, Finding, Protocol, Tap, Thought, Tool, Usage
from bridgeserver.protocols.responses import Responses
from jsontext import Members, as_last, as_objects, render, scalars, storable, texts, values

RESPONSES: Protocol = Responses()


def encoded(**members: Any) -> bytes:
    return json.dumps(members).encode()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(value: Any, kind: str = "input_text") -> dict[str, Any]:
    return {"type": kind, "text": value}


@pytest.mark.parametrize(
    ("given_input", "prompt"),
    [
        pytest.param(None, None, id="gw-null"),
        pytest.param([], None, id="gw-empty-array"),
        pytest.param("tell me a joke", "tell me a joke", id="gw-RS1"),
        pytest.param("", "", id="gw-empty-string"),
        pytest.param([user("")], "", id="gw-empty-content"),
        pytest.param([user([text("")])], "", id="gw-empty-text"),
        pytest.param([user([text("a"), text("b")])], "a\nb", id="gw-two-parts"),
        pytest.param(7, None, id="gw-integer"),
        pytest.param([{"role": "assistant", "content": "a"}], None, id="gw-assistant"),
        pytest.param([{"role": "user"}], None, id="gw-content-missing"),
        pytest.param([user(None)], None, id="gw-content-null"),
        pytest.param([user([])], None, id="gw-content-empty"),
        pytest.param([user(7)], None, id="gw-content-integer"),
        pytest.param([user([{"type": "input_image", "image_url": "x"}])], None, id="gw-image-only"),
        pytest.param([user("a"), {"type": "function_call"}], None, id="gw-user-not-last"),
        pytest.param([user([text(7)])], None, id="gw-text-integer"),
        pytest.param([user("x"), user("y"), user("hello")], "hello", id="gw-RS8"),
        pytest.param("\ud800", "\ud800", id="lone-surrogate"),
    ],
)
def test_prompt(given_input: Any, prompt: str | None) -> None:
    """The prompt is the input, or what the user says in its last item."""
    assert RESPONSES.facts(encoded(input=given_input)).prompt == prompt


def test_input_missing() -> None:
    """A request without input has no prompt and no correlating id."""
    facts = RESPONSES.facts(b"{}")
    assert (facts.model, facts.prompt, facts.correlating_tool_call_id) == ("", None, None)


@pytest.mark.parametrize(
    ("items", "call_id"),
    [
        ([{"type": "function_call_output", "call_id": "call_1"}], "call_1"),
        ([{"type": "custom_tool_call_output", "call_id": "call_1"}], "call_1"),
        ([{"type": "function_call_output", "call_id": ""}], None),
        ([{"type": "function_call_output", "call_id": "call_1"}, user("a")], None),
        ([{"type": ["function_call_output"], "call_id": "call_1"}], None),
        ("text", None),
        (None, None),
    ],
)
def test_correlating_id(items: Any, call_id: str | None) -> None:
    """The correlating id is that of a tool's output at the end."""
    assert RESPONSES.facts(encoded(input=items)).correlating_tool_call_id == call_id


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        (b'{"model":"gpt-5","stream":true}', "gpt-5", True),
        (b'{"model":123,"stream":"yes"}', "123", False),
        (b'{"model":1.5}', "1.5", False),
        (b'{"model":true,"stream":false}', "", False),
        (b'{"model":null}', "", False),
    ],
)
def test_model_and_stream(body: bytes, model: str, stream: bool) -> None:
    """A model that is a number is its text; only true asks for a stream."""
    facts = RESPONSES.facts(body)
    assert (facts.model, facts.stream) == (model, stream)


@pytest.mark.parametrize(
    ("members", "ids"),
    [
        ({"previous_response_id": "resp_1"}, ("resp_1",)),
        ({"conversation": "conv_1"}, ("conv_1",)),
        ({"conversation": {"id": "conv_1"}, "previous_response_id": "resp_1"}, ("resp_1", "conv_1")),
        ({"conversation": {"id": 1}, "previous_response_id": None}, ()),
        ({}, ()),
    ],
)
def test_object_ids(members: dict[str, Any], ids: tuple[str, ...]) -> None:
    """The provider-side objects that a request builds on are named."""
    assert RESPONSES.facts(encoded(**members)).object_ids == ids


@pytest.mark.parametrize(
    ("item", "ids"),
    [
        ('{"type":"item_reference","id":"msg_1"}', ("msg_1",)),
        ('{"id":"msg_1"}', ("msg_1",)),
        ('{"type":null,"id":"msg_1"}', ("msg_1",)),
        ('{"\\u0069d":"msg_1","type":"item_re\\u0066erence"}', ("msg_1",)),
        ('{"type":"message","type":"item_reference","id":"a","id":"b"}', ("a", "b")),
        ('{"type":"item_reference","type":"message","id":"a"}', ("a",)),
        ('{"type":"message","role":"assistant","id":"msg_1","content":[]}', ()),
        ('{"role":"user","id":"msg_1","content":"x"}', ()),
        ('{"type":"function_call_output","id":"fc_1","call_id":"c","output":"x"}', ()),
        ('{"type":"item_reference","id":1}', ()),
        ('{"type":"item_reference"}', ()),
        ('"id"', ()),
        ('{"type":"reasoning","content":[{"id":"x","type":"item_reference"}]}', ()),
        ('{"type":"item_reference","id":"msg_1","x":"\\ud800"}', ("msg_1",)),
        ('{"type":"item_reference","id":"msg_1","id":"msg_2","x":"\\ud800"}', ("msg_1", "msg_2")),
        ('{"type":"item_reference","type":"message","id":"msg_1","x":"\\ud800"}', ("msg_1",)),
    ],
)
def test_references_to_stored_items(item: str, ids: tuple[str, ...]) -> None:
    """Whatever a provider might take for a reference is one, wherever it stands in the input."""
    for body in (f'{{"input":[{item}]}}', f'{{"input":["x", {item} ,{{"role":"user","content":"id"}}]}}'):
        assert RESPONSES.facts(body.encode()).object_ids == ids
    twice = f'{{"input":[{item}],"input":"hello"}}'
    assert RESPONSES.facts(twice.encode()).object_ids == ids


NAMES = ["role", "content", "type", "text", "call_id", "id"]
WORDS = ["item_reference", "user", "input_text", "function_call_output", "message"]
ANY = values(NAMES, WORDS)
PARTS = st.lists(
    st.tuples(st.sampled_from(["type", "text"]), st.one_of(st.just("input_text"), texts, scalars)), max_size=3
).map(Members)
ITEM = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["role", "type"]), st.one_of(st.sampled_from(WORDS), ANY)),
        st.tuples(st.just("content"), st.one_of(texts, st.lists(PARTS, max_size=3), ANY)),
        st.tuples(st.just("call_id"), ANY),
        st.tuples(st.just("id"), ANY),
        st.tuples(texts, ANY),
    ),
    max_size=4,
).map(Members)
TOP = ["model", "stream", "previous_response_id", "conversation"]
REQUESTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(TOP), st.one_of(scalars, ANY)),
        st.tuples(st.just("input"), st.one_of(texts, st.lists(ITEM, max_size=3), ANY)),
        st.tuples(texts, ANY),
    ),
    max_size=6,
).map(Members)


def plainly_read(value: dict[str, Any]) -> tuple[Any, ...]:
    """Read the facts from a parsed body, in the most obvious way."""
    asked, model = value.get("input"), value.get("model")
    item = as_last(asked)
    content = item.get("content")
    parts = [part.get("text") for part in as_objects(content) if part.get("type") == "input_text"]
    said = [part for part in parts if isinstance(part, str)]
    prompt = content if isinstance(content, str) else "\n".join(said) if said else None
    prompt = prompt if item.get("role") == "user" else None
    is_output = item.get("type") in ("function_call_output", "custom_tool_call_output")
    is_number = isinstance(model, int | float) and not isinstance(model, bool)
    return (
        str(model) if is_number else storable(model),
        value.get("stream") is True,
        asked if isinstance(asked, str) else prompt,
        (storable(item.get("call_id")) or None) if is_output else None,
    )


def plainly_named(body: bytes) -> tuple[str, ...]:
    """Read every id of a stored object that any member of the body names, repeated members included."""
    members = pairs(json.loads(body, object_pairs_hook=tuple))  # objects become tuples of pairs, arrays stay lists
    ids = [value for name, value in members if name == "previous_response_id"]
    for conversation in (value for name, value in members if name == "conversation"):
        ids.append(conversation)
        ids += [value for name, value in pairs(conversation) if name == "id"]
    for asked in (value for name, value in members if name == "input"):
        for item in map(pairs, elements(asked)):
            kinds = [value for name, value in item if name == "type"]
            if "item_reference" in kinds or not (any(kinds) or any(name == "role" for name, _value in item)):
                ids += [value for name, value in item if name == "id"]
    return tuple(storable(found) for found in ids if storable(found))


def elements(value: Any) -> list[Any]:
    """Return what an array holds, and nothing of anything else."""
    return list(cast("Any", value)) if isinstance(value, list) else []


def pairs(value: Any) -> list[tuple[str, Any]]:
    """Return the members of what was an object, repeated ones included, and none of anything else."""
    return list(cast("Any", value)) if isinstance(value, tuple) else []


@given(REQUESTS, st.randoms(use_true_random=False))
def test_facts_are_what_a_plain_reading_finds(request: Members, random: Random) -> None:
    """The facts of any request in any spelling are those that `json.loads` would show."""
    body = render(request, random).encode()
    facts = RESPONSES.facts(body)
    found = (facts.model, facts.stream, facts.prompt, facts.correlating_tool_call_id, facts.object_ids)
    assert found == (*plainly_read(json.loads(body)), plainly_named(body))


def fed(*events: tuple[str, dict[str, Any]], named: bool = True) -> tuple[Tap, list[Finding]]:
    tap, found = RESPONSES.tap(), list[Finding]()
    for name, members in events:
        found += tap.event(name.encode() if named else b"", encoded(type=name, **members))
    return tap, found


def done(index: int, item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return ("response.output_item.done", {"output_index": index, "item": item})


def ended(status: str = "completed", **members: Any) -> tuple[str, dict[str, Any]]:
    return (f"response.{status}", {"response": {"id": "resp_1", "status": status, **members}})


CREATED = (
    "response.created",
    {"response": {"id": "resp_1", "status": "in_progress", "usage": None, "store": True}},
)
ADD = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "add",
    "arguments": '{"a":3,"b":5}',
}
EXEC = {"type": "custom_tool_call", "call_id": "call_2", "name": "code_exec", "input": 'print("hello world")'}
REASONING = {"type": "reasoning", "summary": [text("first", "summary_text"), text("", "summary_text")]}
COMMENTARY = {
    "type": "message",
    "role": "assistant",
    "phase": "commentary",
    "content": [text("looking", "output_text"), text("x", "refusal")],
}
ANSWER = {
    "type": "message",
    "role": "assistant",
    "phase": "final_answer",
    "content": [text("42", "output_text")],
}
ITEMS: list[dict[str, Any]] = [
    REASONING,
    COMMENTARY,
    ADD,
    EXEC,
    ANSWER,
    {"type": "web_search_call", "id": "ws_1"},
]
FOUND = [
    Thought("reasoning_summary", "first"),
    Thought("commentary", "looking"),
    Tool("call_1", "add", '{"a":3,"b":5}'),
    Tool("call_2", "code_exec", 'print("hello world")'),
]
USAGE = {
    "input_tokens": 12033,
    "input_tokens_details": {"cached_tokens": 11904},
    "output_tokens": 44,
    "output_tokens_details": {"reasoning_tokens": 8},
    "total_tokens": 12077,
}


@pytest.mark.parametrize("named", [True, False])
def test_gw_rs9_rs22_stream(named: bool) -> None:
    """Items are found when they are done, and not once more when the response is."""
    dones = [done(index, item) for index, item in enumerate(ITEMS)]
    delta = ("response.output_text.delta", {"delta": "4"})
    tap, found = fed(CREATED, delta, *dones, ended(output=ITEMS, usage=USAGE), named=named)
    assert found == FOUND
    assert tap.usage == Usage(129, 44, 11904, 0, {"output_reasoning": 8, "web_search_requests": 1})
    assert (tap.response_id, tap.complete, tap.failure) == ("resp_1", True, None)
    assert tap.object_ids == ("resp_1", "fc_1", "ws_1"), "stored items can be referred to"


def test_gw_rs2_rs3_rs4_rs22_body() -> None:
    """A whole body shows the same as a stream."""
    tap = RESPONSES.tap()
    assert tap.body(encoded(id="resp_1", status="completed", output=ITEMS, usage=USAGE, error=None)) == FOUND
    assert tap.usage == Usage(129, 44, 11904, 0, {"output_reasoning": 8, "web_search_requests": 1})
    assert (tap.response_id, tap.complete, tap.failure) == ("resp_1", True, None)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"status": "completed"}, "completed"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "max_output_tokens"),
        ({"status": "incomplete", "incomplete_details": None}, "incomplete"),
        ({"status": 1, "incomplete_details": []}, ""),
    ],
)
def test_stop_reason_and_tier(members: dict[str, Any], reason: str) -> None:
    """Why it stopped is said by the details, else by the status; the last tier counts, which is the one that served."""
    tap = RESPONSES.tap()
    tap.body(encoded(id="resp_1", service_tier="default", **members))
    assert (tap.stop_reason, tap.service_tier) == (reason, "default")
    created = ("response.created", {"response": {"id": "resp_1", "service_tier": "auto"}})
    tap, _ = fed(created, ("response.completed", {"response": {"service_tier": "flex", **members}}))
    assert (tap.stop_reason, tap.service_tier) == (reason, "flex")


def test_items_without_an_event_of_their_own() -> None:
    """Items that only the last event has are found there."""
    changed = {**ADD, "id": "fc_other"}
    assert fed(CREATED, done(0, ADD), ended(output=[changed, EXEC]))[1] == [FOUND[2], FOUND[3]]


def test_items_without_an_index() -> None:
    """Items that do not say where they stand are counted."""
    events = [("response.output_item.done", {"item": item}) for item in (ADD, EXEC)]
    assert fed(CREATED, *events, ended(output=[ADD, EXEC]))[1] == [FOUND[2], FOUND[3]]


@pytest.mark.parametrize("status", ["completed", "incomplete", "cancelled", "failed"])
def test_every_end_is_complete_and_counted(status: str) -> None:
    """Each of the protocol's ends is one, with the tokens that it tells."""
    tap, _ = fed(CREATED, ended(status, usage=USAGE))
    assert tap.complete
    assert tap.usage == Usage(129, 44, 11904, 0, {"output_reasoning": 8})


def test_gw_rs15_failed() -> None:
    """A failed response is a failure, for the reason that it tells."""
    error = {"code": "rate_limit_exceeded", "message": "slow down"}
    tap, _ = fed(CREATED, ended("failed", error=error))
    assert (tap.failure, tap.complete, tap.usage) == (Failure("rate_limited", "slow down"), True, None)


def test_failed_without_a_reason() -> None:
    """A failed response that tells no reason is a failure all the same."""
    tap, _ = fed(CREATED, ended("failed", error=None))
    assert tap.failure is not None
    assert tap.failure.error_type == "server_error"


@pytest.mark.parametrize("named", [True, False])
def test_gw_rs12_error_object(named: bool) -> None:
    """An error event with an error object is a failure, and no end."""
    tap, _ = fed(CREATED, ("error", {"error": {"type": "invalid_request_error", "message": "m"}}), named=named)
    assert (tap.failure, tap.complete, tap.usage) == (Failure("bad_request", "m"), False, None)


def test_error_object_alone() -> None:
    """Data that has nothing but an error is a failure too."""
    tap = RESPONSES.tap()
    assert tap.event(b"", b'{"error":{"code":"server_error","message":"m"}}') == []
    assert tap.failure == Failure("server_error", "m")


def test_gw_rs14_error_members() -> None:
    """An error event that holds code and message itself is a failure."""
    tap, _ = fed(CREATED, ("error", {"code": "server_error", "message": "m", "param": None}))
    assert tap.failure == Failure("server_error", "m")


def test_gw_rs16_malformed_body() -> None:
    """A body that is no object is passed over, and not taken for a whole answer."""
    for body in (b"", b"{", b"[]", b"\xff"):
        tap = RESPONSES.tap()
        assert tap.body(body) == []
        assert (tap.complete, tap.usage, tap.failure) == (False, None, None)


def test_body_with_only_an_error() -> None:
    """A body that is an error is a failure and no response."""
    tap = RESPONSES.tap()
    assert tap.body(b'{"error":{"code":"invalid_prompt","message":"m"}}') == []
    assert (tap.failure, tap.complete) == (Failure("bad_request", "m"), False)


def test_gw_rs17_broken_frame() -> None:
    """A broken event in the middle does not hide the usage at the end."""
    tap, _ = fed(CREATED)
    assert tap.event(b"response.output_item.done", b'{"output_index":') == []
    tap.event(b"response.completed", encoded(response={"usage": USAGE}))
    assert tap.usage is not None
    assert tap.complete


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_background(status: str) -> None:
    """A response that goes on in the background is whole as far as this request goes, and has no usage."""
    tap = RESPONSES.tap()
    tap.body(encoded(id="resp_1", status=status, usage=None, background=True, error=None))
    assert (tap.complete, tap.usage, tap.failure, tap.object_ids) == (True, None, None, ("resp_1",))


@pytest.mark.parametrize(
    ("members", "ids"),
    [
        ({}, ("resp_1",)),
        ({"store": True, "conversation": {"id": "conv_1"}}, ("resp_1", "conv_1")),
        ({"store": False}, ()),
        ({"store": False, "conversation": {"id": "conv_1"}}, ("conv_1",)),
        ({"conversation": None}, ("resp_1",)),
    ],
)
def test_kept_objects(members: dict[str, Any], ids: tuple[str, ...]) -> None:
    """The response is named unless it is not stored; so is its conversation."""
    assert fed(("response.created", {"response": {"id": "resp_1", **members}}))[0].object_ids == ids


def test_an_end_that_is_cut_is_none() -> None:
    """A last event whose JSON breaks off says nothing, and so does not complete the response."""
    tap = RESPONSES.tap()
    data = b'{"type":"response.completed","response":{"id":"resp_1","usage":{"inp'
    assert tap.event(b"response.completed", data) == tap.event(b"", data) == []
    assert not tap.complete


def test_endless_stored_items() -> None:
    """The ids of stored items are bounded, and stay behind those of the response."""
    tap, _ = fed(CREATED, *[done(index, ADD | {"id": f"fc_{index}"}) for index in range(1000)])
    assert (len(tap.object_ids), tap.object_ids[:2]) == (257, ("resp_1", "fc_0"))


def test_endless_items() -> None:
    """A response with more items than are remembered shows each of them once all the same."""
    _, found = fed(*[done(index, ADD) for index in range(5000)], ended(output=[ADD] * 5000))
    assert len(found) == 5000


OUTPUT = st.lists(st.sampled_from([*ITEMS, {"type": "function_call"}, {"type": "reasoning"}]), max_size=6)


@given(OUTPUT, st.integers(0, 99), st.booleans(), st.data())
def test_stream_and_body_agree(output: list[dict[str, Any]], asked: int, store: bool, data: st.DataObject) -> None:
    """A response shows the same findings and usage whether it was streamed or not."""
    usage = {"input_tokens": asked, "output_tokens": 1}
    whole = RESPONSES.tap()
    found = whole.body(encoded(id="resp_1", status="completed", output=output, usage=usage, store=store))
    missed = data.draw(st.integers(0, len(output)))
    dones = [done(index, item) for index, item in enumerate(output)][: len(output) - missed]
    tap, seen = fed(CREATED, *dones, ended(output=output, usage=usage, store=store))
    assert seen == found
    assert (tap.usage, tap.object_ids, tap.complete) == (whole.usage, whole.object_ids, whole.complete)


EVENT_NAMES = [CREATED[0], "response.output_item.done", "response.completed", "response.failed", "error", ""]
VOCABULARY = [
    "type",
    "response",
    "output",
    "output_index",
    "item",
    "usage",
    "id",
    "error",
    "summary",
    "content",
]
KINDS = ["function_call", "reasoning", "message", "assistant", "commentary"]
NOISE = values([*VOCABULARY, "conversation", "role", "phase"], [*KINDS, *EVENT_NAMES])


@given(st.lists(st.tuples(st.sampled_from(EVENT_NAMES), NOISE)), st.randoms(use_true_random=False))
def test_tap_never_raises(events: list[tuple[str, Any]], random: Random) -> None:
    """No JSON of any shape makes the tap raise, and ids stay text that can be stored."""
    tap = RESPONSES.tap()
    for name, value in events:
        data = render(value, random).encode()
        tap.event(name.encode(), data)
        RESPONSES.tap().body(data)
    "".join((tap.response_id, *tap.object_ids)).encode()


@given(st.sampled_from(EVENT_NAMES), st.binary())
def test_tap_never_raises_on_bytes(name: str, data: bytes) -> None:
    """No bytes make the tap raise or find something."""
    assert RESPONSES.tap().event(name.encode(), data) == []
    assert RESPONSES.tap().body(data) == []
    assert not RESPONSES.tap().is_extra_usage(data)


def test_no_splice() -> None:
    """A Responses request is never edited for its usage."""
    assert RESPONSES.usage_splice(b'{"stream":true}') is None


def test_errors_of_the_gateway() -> None:
    """The gateway's own failures have the provider's shape, as a body and as an event."""
    error = {"message": "m", "type": "server_error", "param": None, "code": "upstream_broken"}
    assert json.loads(RESPONSES.error_body(502, "m", "upstream_broken")) == {"error": error}
    head, data, *rest = RESPONSES.error_event("m", "upstream_broken").split(b"\n")
    assert (head, rest) == (b"event: error", [b"", b""])
    expected = {
        "type": "error",
        "code": "upstream_broken",
        "message": "m",
        "param": None,
        "sequence_number": 0,
    }
    assert json.loads(data.removeprefix(b"data: ")) == expected
