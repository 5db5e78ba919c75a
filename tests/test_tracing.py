"""Which requests are traced, with which spans, and what their clients and providers have to do with it."""

import json
from contextvars import ContextVar
from random import Random
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.trace import SpanKind, StatusCode

from bridgeserver import spans
from bridgeserver.tracing import parent_of
from gatelab import PROVIDERS, GateLab, MakeLab, Play, answer, stream
from gateway import BODIES
from toollab import CHAT, Box, give
from tracelab import REFERENCE, Spans

MESSAGES = "/anthropic/v1/messages"
INTERCEPTED = [
    "BridgePool.acquire",
    "Intercept",
    "Intercept.CreateInterceptor",
    "Intercept.ProcessRequest",
    "Intercept.ProcessRequest.Upstream",
    "Intercept.RecordInterception",
    "Intercept.RecordInterceptionEnded",
    "Intercept.RecordPromptUsage",
]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
USAGE = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 0}
BLOCKS: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
    {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "/foo"}},
]


def event(kind: str, **members: Any) -> bytes:
    """Return one event of Messages."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def message(*, streaming: bool) -> Play:
    """Return an answer that thinks and calls a tool of the client's."""
    envelope = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "usage": USAGE}
    if not streaming:
        return answer(json.dumps({**envelope, "content": BLOCKS, "stop_reason": "tool_use"}).encode())
    events = [event("message_start", message={**envelope, "content": [], "usage": {**USAGE, "output_tokens": 1}})]
    bare: list[dict[str, Any]] = [{**BLOCKS[0], "thinking": ""}, {**BLOCKS[1], "input": {}}]
    deltas = [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "input_json_delta", "partial_json": '{"file_path": "/foo"}'},
    ]
    for index, (block, delta) in enumerate(zip(bare, deltas, strict=True)):
        events.append(event("content_block_start", index=index, content_block=block))
        events.append(event("content_block_delta", index=index, delta=delta))
        events.append(event("content_block_stop", index=index))
    end = event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 5})
    return stream(*events, end, event("message_stop"))


def ask(lab: GateLab, *, streaming: bool = False, **options: Any) -> None:
    """Have a message answered."""
    lab.provider.push(message(streaming=streaming))
    assert lab.ask(MESSAGES, BODIES[MESSAGES] | {"stream": streaming}, **options).status == 200


@pytest.fixture
def lab(make_lab: MakeLab) -> GateLab:
    """A gateway of the test's own, which may be given what traces."""
    return make_lab(PROVIDERS)


@pytest.mark.parametrize("streaming", [False, True], ids=["blocking", "streaming"])
def test_gw_t7_the_spans_of_a_message(lab: GateLab, streaming: bool) -> None:
    """gw-T7: one a step and one a record, which all say whose request it is and what it asks for.

    A stream has one record of tokens, as an answer in one piece has.
    """
    kept = Spans.of(lab)
    ask(lab, streaming=streaming)
    record = lab.kept()
    more = ["Intercept.RecordModelThought", "Intercept.RecordTokenUsage", "Intercept.RecordToolUsage"]
    assert kept.names == sorted(INTERCEPTED + more)
    for span in kept:
        if span.name.startswith("Intercept"):
            attributes = dict(span.attributes or {})
            assert {name: attributes[name] for name in (*REFERENCE, "aws_bedrock")} == {
                "request_path": MESSAGES,
                "interception_id": record.start.id,
                "user_id": record.start.user_id,
                "provider": "anthropic",
                "model": "m",
                "streaming": streaming,
                "aws_bedrock": False,
            }
    assert not kept.failures


def test_what_the_conventions_say(lab: GateLab) -> None:
    """The model, its tokens with those from the cache, and why it stopped; and what HTTP says on both sides."""
    kept = Spans.of(lab)
    ask(lab, fields=[("user-agent", "claude-cli/2"), ("x-claude-code-session-id", "s-1")])
    found = kept.attributes()
    generated = {name: value for name, value in found["Intercept.ProcessRequest"].items() if name.startswith("gen_ai.")}
    assert generated == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": False,
        "gen_ai.conversation.id": "s-1",
        "gen_ai.response.id": "msg_1",
        "gen_ai.response.finish_reasons": ("tool_use",),
        "gen_ai.usage.input_tokens": 13,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 3,
    }
    root, upstream = found["Intercept"], found["Intercept.ProcessRequest.Upstream"]
    assert (root["http.request.method"], root["url.path"], root["http.response.status_code"]) == ("POST", MESSAGES, 200)
    assert (upstream["server.address"], upstream["server.port"]) == ("provider.example", 80)
    assert upstream["http.response.status_code"] == 200
    kinds = {span.name: span.kind for span in kept if span.kind is not SpanKind.INTERNAL}
    assert kinds == {"Intercept": SpanKind.SERVER, "Intercept.ProcessRequest.Upstream": SpanKind.CLIENT}


def test_spans_stand_inside_each_other(lab: GateLab) -> None:
    """All belong to one trace, and the provider is told of the innermost."""
    kept = Spans.of(lab)
    ask(lab)
    ids = {span.context.span_id: span.name for span in kept if span.context}
    inside = {span.name: ids[span.parent.span_id] if span.parent else None for span in kept}
    process = "Intercept.ProcessRequest"
    assert inside == {
        "Intercept": None,
        "Intercept.CreateInterceptor": "Intercept",
        "BridgePool.acquire": "Intercept",
        "Intercept.ProcessRequest": "Intercept",
        "Intercept.RecordInterception": "Intercept",
        "Intercept.RecordInterceptionEnded": "Intercept",
        "Intercept.RecordPromptUsage": process,
        "Intercept.RecordModelThought": process,
        "Intercept.RecordToolUsage": process,
        "Intercept.RecordTokenUsage": process,
        "Intercept.ProcessRequest.Upstream": process,
    }
    upstream = kept.one("Intercept.ProcessRequest.Upstream").context
    assert upstream is not None
    line = f"00-{upstream.trace_id:032x}-{upstream.span_id:016x}-01"
    assert lab.provider.requests[-1].values("traceparent") == [line]


def test_gw_t8_a_refused_message(lab: GateLab) -> None:
    """gw-T8: the request, its processing and the call have failed; there are no tokens.

    The prompt has a span: it is recorded before anything is sent.
    """
    kept = Spans.of(lab)
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    lab.provider.push(answer(json.dumps(error).encode(), status="400 Bad Request"))
    assert lab.ask(MESSAGES, BODIES[MESSAGES]).status == 400
    assert kept.names == sorted(INTERCEPTED)
    assert kept.failures == {
        "Intercept": "interception failed: no",
        "Intercept.ProcessRequest": "interception failed: no",
        "Intercept.ProcessRequest.Upstream": "no",
    }
    assert kept.attributes()["Intercept"]["error.type"] == "bad_request"


def test_gw_t9_a_stream_that_fails(lab: GateLab) -> None:
    """gw-T9: the request and its processing have failed, and not the call, whose head was good."""
    kept = Spans.of(lab)
    envelope: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "usage": USAGE,
    }
    overloaded = {"type": "overloaded_error", "message": "busy"}
    lab.provider.push(stream(event("message_start", message=envelope), event("error", error=overloaded)))
    lab.ask(MESSAGES, BODIES[MESSAGES] | {"stream": True})
    assert kept.names == sorted([*INTERCEPTED, "Intercept.RecordTokenUsage"])
    assert kept.failures == dict.fromkeys(("Intercept", "Intercept.ProcessRequest"), "interception failed: busy")
    assert kept.one("Intercept.ProcessRequest.Upstream").status.status_code is StatusCode.UNSET


def test_gw_t10_a_passthrough(lab: GateLab) -> None:
    """gw-T10: one span, with where it went; a query, which may hold secrets, is not in it."""
    kept = Spans.of(lab)
    lab.provider.push(answer(b"{}"))
    assert lab.ask("/openai/v1/models?key=hidden").status == 200
    (span,) = kept
    attributes = dict(span.attributes or {})
    assert span.name == "Passthrough"
    assert {name: attributes[name] for name in attributes if name.startswith("passthrough_")} == {
        "passthrough_url": "/models",
        "passthrough_method": "GET",
        "passthrough_upstream_url": "http://provider.example/v1/models",
    }
    assert "hidden" not in str(attributes)
    assert span.context is not None
    assert lab.provider.requests[-1].values("traceparent") == [
        f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
    ]


def test_a_body_that_cannot_be_read_fails_its_creation(lab: GateLab) -> None:
    """Nothing comes after it."""
    kept = Spans.of(lab)
    assert lab.ask(MESSAGES, b"{").status == 400
    assert kept.names == ["Intercept", "Intercept.CreateInterceptor"]
    assert set(kept.failures) == {"Intercept", "Intercept.CreateInterceptor"}


def test_a_provider_that_is_away_fails_the_call(lab: GateLab) -> None:
    """Blocking: the call, too."""
    kept = Spans.of(lab)
    lab.provider.is_reachable = False
    assert lab.ask(MESSAGES, BODIES[MESSAGES]).status == 502
    assert set(kept.failures) == {"Intercept", "Intercept.ProcessRequest", "Intercept.ProcessRequest.Upstream"}


def test_turns_with_tools_are_calls_of_their_own(lab: GateLab) -> None:
    """Each asks the provider anew, which is told of another span; the tokens of both are those of the request."""
    kept = Spans.of(lab)
    give(lab, Box())
    lab.provider.push(
        CHAT.turn("t1", [CHAT.call("c1", "bmcp_coder_coder_list_workspaces", "{}")], (1, 2), streaming=False),
        CHAT.turn("t2", [CHAT.say("ok")], (3, 4), streaming=False),
    )
    assert lab.ask("/openai/v1/chat/completions", BODIES["/openai/v1/chat/completions"]).status == 200
    assert kept.names.count("Intercept.ProcessRequest.Upstream") == 2
    told = [request.values("traceparent")[0].split("-")[2] for request in lab.provider.requests]
    calls = [span.context for span in kept if span.name == "Intercept.ProcessRequest.Upstream"]
    assert told == [f"{call.span_id:016x}" for call in calls if call]
    process = kept.one("Intercept.ProcessRequest")
    assert (process.attributes or {})["gen_ai.usage.input_tokens"] == 4
    assert (process.attributes or {})["gen_ai.usage.output_tokens"] == 6
    call = kept.one("Intercept.ProcessRequest.ToolCall")
    assert call.parent is not None
    assert process.context is not None
    assert call.parent.span_id == process.context.span_id
    assert (call.attributes or {}).keys() >= REFERENCE


def test_without_tracing_nothing_is_added(lab: GateLab) -> None:
    """What a client says of its trace goes on as it is."""
    fields = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1"), ("baggage", "b=2")]
    ask(lab, fields=fields)
    sent = lab.provider.requests[-1]
    assert [sent.values(name) for name, _value in fields] == [[value] for _name, value in fields]
    lab.provider.push(message(streaming=False))
    lab.ask(MESSAGES, BODIES[MESSAGES])
    assert not lab.provider.requests[-1].values("traceparent")


def test_a_client_s_trace_goes_on(lab: GateLab) -> None:
    """Its span is the parent of the first one here, and the provider gets ours in its place, with its state."""
    kept = Spans.of(lab)
    ask(lab, fields=[("traceparent", f"00-{TRACE}-{SPAN}-00"), ("tracestate", "a=1,b=2"), ("baggage", "c=3")])
    root = kept.one("Intercept")
    assert root.parent is not None
    assert (f"{root.parent.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, SPAN)
    sent = lab.provider.requests[-1]
    (line,) = sent.values("traceparent")
    assert line.startswith(f"00-{TRACE}-")
    assert line.endswith("-01")
    assert SPAN not in line
    assert sent.values("tracestate") == ["a=1,b=2"]
    assert sent.values("baggage") == ["c=3"]


def test_an_unsampled_request_has_no_spans(lab: GateLab) -> None:
    """The provider is told that it is not sampled, in the client's trace or in one of its own."""
    kept = Spans.of(lab, sample_ratio=0.0)
    ask(lab, fields=[("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1")])
    ask(lab)
    assert not list(kept)
    first, second = (request.values("traceparent")[0] for request in lab.provider.requests)
    assert first.startswith(f"00-{TRACE}-")
    assert SPAN not in first
    assert first.endswith("-00")
    assert second.endswith("-00")
    assert TRACE not in second
    assert parent_of({b"traceparent": second.encode()}) is not None


def test_a_client_cannot_have_its_requests_sampled(lab: GateLab) -> None:
    """Neither by the flag nor by its trace id, unless it is trusted; then it decides, in both ways."""
    flags = ("00", "01")
    for options, sampled in (
        ({"sample_ratio": 0.0}, []),
        ({"sample_ratio": 0.0, "trust_parent": True}, ["01"]),
        ({"sample_ratio": 1.0, "trust_parent": True}, ["01"]),
        ({"sample_ratio": 1.0}, ["00", "01"]),
    ):
        kept = Spans.of(lab, **options)
        found: list[str] = []
        for flag in flags:
            ask(lab, fields=[("traceparent", f"00-{'0' * 31}1-{SPAN}-{flag}")])
            found += [flag] if "Intercept" in kept.names else []
            kept.clear()
        assert found == sampled, options


def test_the_ratio_is_that_of_the_requests() -> None:
    """So many of them are sampled, with a parent and without."""
    tracing = Spans().tracing(sample_ratio=0.25)
    tracing._random = Random(7)  # pyright: ignore[reportPrivateUsage]
    parent = parent_of({b"traceparent": f"00-{TRACE}-{SPAN}-01".encode()})
    for given in (None, parent):
        assert 2300 < sum(tracing.is_sampled(given) for _ in range(10_000)) < 2700


@pytest.mark.parametrize(
    ("value", "is_good"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"00-{TRACE}-{SPAN}-01-x", False),
        (f"cc-{TRACE}-{SPAN}-01x", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}-1", False),
        ("", False),
        ("\xff" * 60, False),
    ],
)
def test_a_parent_is_read_as_the_recommendation_has_it(lab: GateLab, value: str, is_good: bool) -> None:
    """What cannot be read begins a new trace, and its state does not travel on."""
    assert (parent_of({b"traceparent": value.encode("latin-1")}) is not None) == is_good
    kept = Spans.of(lab)
    ask(lab, fields=[("traceparent", value), ("tracestate", "a=1")])
    assert (kept.one("Intercept").parent is not None) == is_good
    sent = lab.provider.requests[-1]
    assert len(sent.values("traceparent")) == 1
    assert sent.values("tracestate") == (["a=1"] if is_good else [])


def test_what_is_no_text_can_be_sent(lab: GateLab) -> None:
    """JSON can spell lone surrogates, and one that stays would keep the spans of others from being sent."""
    kept = Spans.of(lab)
    give(lab, Box())
    odd = "\\ud800"
    lab.provider.push(
        CHAT.turn("t1", [CHAT.call("c1", "bmcp_coder_coder_list_workspaces", '{"a":"é"}')], (1, 2), streaming=False),
        answer(b'{"error": {"message": "no %b", "type": "x"}}' % odd.encode(), status="400 Bad Request"),
    )
    body = b'{"model": "m%b", "messages": [{"role": "user", "content": "hi"}]}' % odd.encode()
    lab.ask("/openai/v1/chat/completions", body, fields=[("user-agent", "codex/1"), ("session-id", "s\xff")])
    assert "Intercept.ProcessRequest.ToolCall" in kept.names
    assert encode_spans(list(kept)).SerializePartialToString()


def test_what_goes_on_after_a_request_is_not_in_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that a request has opened lives longer than it, and has the request's context."""
    kept = Spans()
    trace = kept.trace()
    monkeypatch.setattr(spans, "CURRENT", ContextVar("test", default=trace))
    with spans.span("during", {}):
        pass
    trace.end(200)
    with spans.span("after", {}):
        pass
    assert kept.names == ["Test", "during"]


def test_an_error_s_text_is_not_in_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its type, unless somebody has chosen the words."""
    kept = Spans.install(monkeypatch)
    with pytest.raises(ValueError, match="secret"), spans.span("one", {}):
        raise ValueError("secret")
    with pytest.raises(ValueError, match="secret"), spans.span("two", {}) as traced:
        traced.fail("said")
        raise ValueError("secret")
    assert kept.failures == {"one": "ValueError", "two": "said"}
    assert not any(span.events for span in kept)
