"""Bodies through a whole gateway in memory: whatever is in them, both sides get the bytes that the other one sent."""

import gzip
import json
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridgeserver.protocols import lenient
from bridgeserver.records import InterceptionEnd
from gatelab import GateLab, Play
from gateway import BODIES
from jsontext import AnyValue, Members, as_object, render, scalars, spellings, texts

MESSAGES, CHAT, RESPONSES = BODIES

EXAMPLES = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

NAMES = ["model", "stream", "stream_options", "messages", "input", "usage", "choices", "id", "type", "content", "x-new"]
WORDS = ["user", "text", "data: ", "[DONE]", "event: x\n\n", "\r\n", "m" * 99, "é🙂", "\ud800", "\u2028", "\0"]
ANY = spellings.map(AnyValue(NAMES, WORDS))
HUGE = st.one_of(
    st.integers(10**300, 10**301),
    st.sampled_from([1e308, -0.0, 5e-324]),
    st.integers(0, 2000).map(lambda count: list(range(count))),
)

STREAMING: tuple[str, Any] = ("stream", True)

# Whatever names a stored object is looked at before it is sent, and these objects are nobody's.
UNOWNED = {"previous_response_id", "conversation"}


def requests(*members: st.SearchStrategy[tuple[str, Any]]) -> st.SearchStrategy[Members]:
    """Return requests with these members, in any order, among others that nobody knows."""
    unknown = st.tuples(st.one_of(st.sampled_from(NAMES), texts).filter(lambda name: name not in UNOWNED), ANY)
    large = st.tuples(texts.filter(lambda name: name not in UNOWNED), HUGE)
    # Of one name the last counts.
    ends = st.sampled_from([Members(), Members(), Members([STREAMING]), Members([("stream_options", None), STREAMING])])
    return st.tuples(st.lists(st.one_of(*members, unknown, large), max_size=8), ends).map(
        lambda drawn: Members(drawn[0] + drawn[1])
    )


STREAM = st.tuples(st.just("stream"), st.one_of(st.booleans(), scalars))
MODEL = st.tuples(st.just("model"), st.one_of(texts, scalars))
TURN = st.lists(
    st.one_of(
        st.tuples(st.just("role"), st.sampled_from(["user", "assistant", "tool"])),
        st.tuples(st.just("content"), ANY),
        st.tuples(texts, ANY),
    ),
    max_size=4,
).map(Members)
TURNS = st.one_of(st.lists(TURN, max_size=4), ANY)
OPTIONS = st.one_of(
    scalars,
    st.lists(st.tuples(st.one_of(st.just("include_usage"), texts), st.one_of(st.booleans(), ANY)), max_size=3).map(
        Members
    ),
)


def not_referring(request: Members) -> Members:
    """Say of every item with an id what it is: one of which nothing is said is somebody's stored object."""

    def said(item: Any) -> Any:
        is_named = isinstance(item, Members) and any(name == "id" for name, _value in item)
        return Members([*item, ("type", "message")]) if is_named else item

    def inputs(value: Any) -> Any:
        if not isinstance(value, list) or isinstance(value, Members):
            return value
        return [said(item) for item in lenient.array(value)]

    return Members((name, inputs(value) if name == "input" else value) for name, value in request)


REQUESTS = {
    MESSAGES: requests(MODEL, STREAM, st.tuples(st.just("messages"), TURNS)),
    CHAT: requests(
        MODEL, STREAM, STREAM, st.tuples(st.just("messages"), TURNS), st.tuples(st.just("stream_options"), OPTIONS)
    ),
    RESPONSES: requests(MODEL, STREAM, st.tuples(st.just("input"), TURNS)).map(not_referring),
}

EVENT_NAMES = ["message_start", "content_block_delta", "message_stop", "response.completed", "error", "ping", "new"]
NEWLINES = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])


class Part(NamedTuple):
    """Bytes of a stream; those of a chunk that holds nothing but usage are told apart."""

    data: bytes
    is_extra_usage: bool = False


@st.composite
def parts(draw: st.DrawFn) -> Part:
    """Return one event, comment or broken line, with any line ends; now and then a chunk with nothing but usage."""
    end, random = draw(NEWLINES), draw(spellings)
    kind = draw(st.sampled_from(["event", "event", "event", "usage", "usage", "comment", "junk", "done"]))
    if kind == "comment":
        return Part(b": " + draw(st.binary(max_size=20)).translate(None, b"\r\n") + end + end)
    if kind == "junk":
        return Part(b"data: {" + draw(st.binary(max_size=20)).translate(None, b"\r\n") + end + end)
    if kind == "done":
        return Part(b"data: [DONE]" + end + end)
    value = draw(ANY)
    if kind == "usage":
        counts = Members([("prompt_tokens", 5), ("completion_tokens", 7), ("x", value)])
        value = Members([("id", "c"), ("choices", []), ("usage", counts)])
    # An event's data is one line, or several that each begin with its name.
    lines = one_line(render(value, random)).encode("utf-8", "surrogatepass").split(b"\n")
    name = draw(st.sampled_from([None, *EVENT_NAMES]))
    named = b"" if name is None else b"event: " + name.encode() + end
    return Part(named + b"".join(b"data: " + line + end for line in lines) + end, kind == "usage" or is_usage(lines))


def one_line(text: str) -> str:
    """Return JSON text whose white space may stand in a line."""
    return text.replace("\r", " ").replace("\n", " ")


def is_usage(lines: list[bytes]) -> bool:
    """Whether data is an object with no choices and with usage, by the plainest reading."""
    value = as_object(json.loads(b"\n".join(lines).decode("utf-8", "replace")))
    return value.get("choices") == [] and isinstance(value.get("usage"), dict)


class Answered(NamedTuple):
    """What a provider answers: its head, and its body in parts."""

    head: bytes
    parts: list[Part]
    is_stream: bool
    is_encoded: bool

    @property
    def body(self) -> bytes:
        return b"".join(part.data for part in self.parts)

    @property
    def without_usage(self) -> bytes:
        return b"".join(part.data for part in self.parts if not part.is_extra_usage)


TEXTS = st.tuples(ANY, spellings).map(lambda drawn: [Part(render(*drawn).encode())])
ODD = st.one_of(TEXTS, st.binary(max_size=300).map(lambda data: [Part(data)]), st.lists(parts(), max_size=4))
CONTENTS = {
    b"text/event-stream": st.one_of(st.lists(parts(), min_size=1, max_size=8), st.lists(parts(), max_size=3), ODD),
    b"text/event-stream; charset=utf-8": st.lists(parts(), max_size=8),
    b"application/json": ODD,
    b"text/html": ODD,
    b"": ODD,
}


STATUSES = [200, 201, 307, 400, 429, 500, 529]


@st.composite
def answers(draw: st.DrawFn) -> Answered:
    """Return an answer of any status that has a body, type and content."""
    status = draw(st.one_of(st.just(200), st.sampled_from(STATUSES)))
    kind = draw(st.one_of(st.just(b"text/event-stream"), st.sampled_from(list(CONTENTS))))
    body = draw(CONTENTS[kind])
    is_encoded = draw(st.integers(0, 9)) == 9
    if is_encoded:
        body = [Part(gzip.compress(b"".join(part.data for part in body), mtime=0))]
    lines = b"content-type: %b\r\n" % kind if kind else b""
    lines += b"content-encoding: gzip\r\n" if is_encoded else b""
    head = b"HTTP/1.1 %d Whatever\r\nx-request-id: r\r\n%b" % (status, lines)
    return Answered(head, body, kind.startswith(b"text/event-stream") and status < 300, is_encoded)


@st.composite
def plays(draw: st.DrawFn, answered: Answered) -> Play:
    """Return how an answer arrives: framed in one of the ways there are, and cut anywhere."""
    body = answered.body
    framing = draw(st.sampled_from(["length", "chunks", "close"]))
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=6)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True) if end > start]
    if framing == "chunks":
        framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        return Play((answered.head + b"transfer-encoding: chunked\r\n\r\n", *framed, b"0\r\n\r\n"))
    if framing == "close":
        return Play((answered.head + b"connection: close\r\n\r\n", *pieces), "close")
    return Play((answered.head + b"content-length: %d\r\n\r\n" % len(body), *pieces))


def exchanged(lab: GateLab, path: str, request: bytes, data: st.DataObject) -> tuple[bytes, Answered, bytes]:
    """Send a request; return the body that the provider got, its answer, and the body that the client got."""
    answered = data.draw(answers())
    lab.reset()
    lab.provider.push(data.draw(plays(answered)))
    got = lab.ask(path, request)
    (sent,) = lab.provider.requests
    assert got.status == int(answered.head[9:12])
    assert got.is_whole
    (end,) = [record for record in lab.records() if isinstance(record, InterceptionEnd)]
    assert end.interception_id == got.value("x-bridge-interception-id")
    return sent.body, answered, got.body


@EXAMPLES
@given(REQUESTS[MESSAGES], spellings, st.data())
def test_messages_are_not_edited(shared_lab: GateLab, request_: Members, random: Random, data: st.DataObject) -> None:
    """No byte of a Messages request or of its answer is another one."""
    check_untouched(shared_lab, MESSAGES, render(request_, random).encode(), data)


@EXAMPLES
@given(REQUESTS[RESPONSES], spellings, st.data())
def test_responses_are_not_edited(shared_lab: GateLab, request_: Members, random: Random, data: st.DataObject) -> None:
    """No byte of a Responses request or of its answer is another one."""
    check_untouched(shared_lab, RESPONSES, render(request_, random).encode(), data)


def check_untouched(lab: GateLab, path: str, body: bytes, data: st.DataObject) -> None:
    """Make sure that both sides got the bytes of the other one."""
    sent, answered, received = exchanged(lab, path, body, data)
    assert sent == body
    assert received == answered.body


def needs_usage(body: bytes) -> bool:
    """Whether a request is for a stream that does not tell its usage, by the plainest reading."""
    value = json.loads(body)
    options = value.get("stream_options")
    is_open = options is None or isinstance(options, dict)
    return value.get("stream") is True and is_open and as_object(options).get("include_usage") is not True


PUT_IN = (b'"stream_options":{"include_usage":true},', b'"include_usage":true,', b'"include_usage":true')
PUT_IN_PLACE = ((b'{"include_usage":true}', b"null"), (b"true", None))
"""What may be there in place of something else, and what that was; None: any value that is not the same."""


def places(data: bytes, part: bytes) -> Iterator[int]:
    """Yield every place where *part* begins in *data*."""
    at = data.find(part)
    while at >= 0:
        yield at
        at = data.find(part, at + 1)


def is_undone(before: bytes, after: bytes) -> bool:
    """Whether one edit of a documented form, taken back, leaves the bytes that were there."""
    for form in PUT_IN:
        if any(after[:at] + after[at + len(form) :] == before for at in places(after, form)):
            return True
    for form, value in PUT_IN_PLACE:
        for at in places(after, form):
            rest = after[at + len(form) :]
            taken = before[at : len(before) - len(rest)]
            is_right = taken == value if value is not None else is_other_value(taken)
            if is_right and after[:at] + taken + rest == before:
                return True
    return False


def is_other_value(text: bytes) -> bool:
    """Whether *text* is one JSON value, and not true."""
    try:
        return json.loads(text) is not True
    except ValueError:
        return False


def members_of(body: bytes) -> list[tuple[str, Any]]:
    """Return the members of an object as they stand there, repeated ones too."""
    return list(json.loads(body, object_pairs_hook=Members))


def test_nothing_is_edited_but_for_the_usage(shared_lab: GateLab) -> None:
    """In Chat a stream is asked for its usage, and the chunk that comes for it is taken out again; and nothing else.

    What was put in is found again at its place, and taken out it leaves the bytes of the client.
    """
    seen = {"asked": 0, "taken": 0, "left": 0}

    @EXAMPLES
    @given(REQUESTS[CHAT], spellings, st.data())
    def run(request: Members, random: Random, data: st.DataObject) -> None:
        body = render(request, random).encode()
        sent, answered, received = exchanged(shared_lab, CHAT, body, data)
        is_asked = needs_usage(body)
        assert (sent != body) == is_asked
        if is_asked:
            check_splice(body, sent)
        is_edited = is_asked and answered.is_stream and not answered.is_encoded
        assert received == (answered.without_usage if is_edited else answered.body)
        has_extra = any(part.is_extra_usage for part in answered.parts)
        seen["asked"] += is_asked
        seen["taken"] += is_edited and has_extra
        seen["left"] += has_extra and not is_edited

    run()
    assert min(seen.values()) > 10, seen


def check_splice(before: bytes, after: bytes) -> None:
    """Make sure that usage is asked for, by one edit of a documented form, and that all else reads as it did."""
    assert is_undone(before, after)
    old, new = json.loads(before), json.loads(after)
    options = old.pop("stream_options", None)
    assert new.pop("stream_options") == {**(options or {}), "include_usage": True}
    assert new == old
    assert not needs_usage(after)
    names = [name for name, _value in members_of(before)]
    assert [name for name, _value in members_of(after)] in (names, ["stream_options", *names])
