"""The fake provider: what the official SDKs read from it, and how it misbehaves when told to."""

import asyncio
import gzip
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import anthropic
import httpx
import msgspec
import openai
import pytest
import trustme

from bridgeserver.errors import ConfigError
from bridgeserver.fakeprovider import SCRIPTS, FakeProvider, Fault, Script, ToolCall, load_scripts, running

TURN: list[Any] = [{"role": "user", "content": "Hello?"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": "m", "max_tokens": 64, "messages": TURN},
    "/v1/chat/completions": {"model": "m", "messages": TURN},
    "/v1/responses": {"model": "m", "input": "Hello?"},
}
PATHS = list(BODIES)
KEY = {"authorization": "Bearer k"}
END = b"\r\n0\r\n\r\n"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with running() as provider:
        yield provider


@pytest.fixture
def claude(provider: FakeProvider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=provider.url, api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
def gpt(provider: FakeProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="k", max_retries=0) as client:
        yield client


class Wire:
    """A client socket whose every byte is seen."""

    def __init__(self, provider: FakeProvider) -> None:
        self.socket = socket.create_connection(("127.0.0.1", provider.port), timeout=10)
        self.seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, path: str = PATHS[0], **members: Any) -> None:
        body = msgspec.json.encode(BODIES[path] | members)  # spelled as httpx spells it
        head = f"POST {path} HTTP/1.1\r\nhost: h\r\nx-api-key: k\r\ncontent-length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def until(self, marker: bytes) -> bytes:
        """Return everything up to and with *marker*."""
        while marker not in self.seen:
            data = self.socket.recv(65536)
            assert data, f"closed before {marker!r}; seen: {self.seen!r}"
            self.seen += data
        before, _, self.seen = self.seen.partition(marker)
        return before + marker

    def rest(self) -> bytes:
        """Return everything up to the end of the connection."""
        while data := self.socket.recv(65536):
            self.seen += data
        return self.seen


def post(provider: FakeProvider, path: str, **members: Any) -> httpx.Response:
    return httpx.post(provider.url + path, json=BODIES[path] | members, headers=KEY)


def dechunked(data: bytes) -> bytes:
    """Return the body of a whole response in chunks."""
    chunks = data.partition(b"\r\n\r\n")[2]
    body = b""
    while True:
        size, _, chunks = chunks.partition(b"\r\n")
        if size == b"0":
            return body
        body, chunks = body + chunks[: int(size, 16)], chunks[int(size, 16) + 2 :]


def events(text: str) -> list[dict[str, Any]]:
    """Return the data of each event that is JSON."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


ANSWERS = {
    "default": Script(),
    "thinking": SCRIPTS["fake-thinking"],
    "tools": Script(tools=(ToolCall("one", '{"a": [1, "é"]}'), ToolCall("two"))),
    "tool alone": Script(text="", tools=(ToolCall("one"),)),
    "cached": SCRIPTS["fake-cached"],
    "incomplete": SCRIPTS["fake-incomplete"],
    "unicode": Script(text='¿Où? 你好 🎈 "\\\n', events=100),
    "empty": Script(text=""),
}
scripted = pytest.mark.parametrize("script", ANSWERS.values(), ids=ANSWERS.keys())


@scripted
def test_messages_are_the_same_streamed(provider: FakeProvider, claude: anthropic.Anthropic, script: Script) -> None:
    """Anthropic's SDK builds the same message from the stream as from the blocking answer, tokens included."""
    provider.script = script
    whole = claude.messages.create(model="m", max_tokens=64, messages=TURN)
    with claude.messages.stream(model="m", max_tokens=64, messages=TURN) as stream:
        built = stream.get_final_message()
    assert built.model_dump(exclude={"content"}) == whole.model_dump(exclude={"content"})
    assert [block.to_dict() for block in built.content] == [block.to_dict() for block in whole.content]
    assert whole.usage.output_tokens == script.output_tokens
    assert whole.usage.cache_read_input_tokens == script.cache_read_tokens
    assert whole.usage.cache_creation_input_tokens == script.cache_write_tokens
    text = "".join(block.text for block in whole.content if block.type == "text")
    assert text == script.text


@scripted
def test_completions_are_the_same_streamed(provider: FakeProvider, gpt: openai.OpenAI, script: Script) -> None:
    """OpenAI's SDK builds the same completion from the stream as from the blocking answer."""
    provider.script = script
    whole = gpt.chat.completions.create(model="m", messages=TURN)
    with gpt.chat.completions.stream(model="m", messages=TURN, stream_options={"include_usage": True}) as stream:
        for _event in stream:
            pass
        built = stream.current_completion_snapshot  # the final one is refused when it is incomplete
    assert built.id == whole.id
    assert built.usage == whole.usage
    assert built.choices[0].finish_reason == whole.choices[0].finish_reason
    message, expected = built.choices[0].message, whole.choices[0].message
    assert message.content == expected.content == (script.text or None)
    calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []]
    assert calls == [
        (call.id, call.function.name, call.function.arguments)
        for call in expected.tool_calls or []
        if call.type == "function"
    ]
    assert [call[1:] for call in calls] == [(tool.name, tool.arguments) for tool in script.tools]
    assert whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + script.output_tokens


@scripted
def test_responses_are_the_same_streamed(provider: FakeProvider, gpt: openai.OpenAI, script: Script) -> None:
    """The final event of a Responses stream is the blocking answer, and the events before it add up to it."""
    provider.script = script
    whole = gpt.responses.create(model="m", input="Hello?")
    text, arguments = "", ""
    final = None
    for event in gpt.responses.create(model="m", input="Hello?", stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type == "response.function_call_arguments.delta":
            arguments += event.delta
        elif event.type in {"response.completed", "response.incomplete"}:
            final = event
    assert final is not None
    assert final.to_dict()["response"] == whole.to_dict()
    assert text == whole.output_text == script.text
    assert arguments == "".join(tool.arguments for tool in script.tools)
    assert whole.usage
    assert whole.usage.input_tokens_details.cached_tokens == script.cache_read_tokens
    assert whole.usage.output_tokens_details.reasoning_tokens == script.reasoning_tokens


def test_the_responses_helper_reads_a_stream(provider: FakeProvider, gpt: openai.OpenAI) -> None:
    """The SDK's own accumulator, which checks the order of events, accepts thoughts, text and tools."""
    provider.script = Script(thinking="Hm.", tools=(ToolCall("one"),))
    with gpt.responses.stream(model="m", input="Hello?") as stream:
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]


def test_messages_events_come_in_the_order_of_the_real_ones(provider: FakeProvider) -> None:
    """Every event has its name, its type says the same, and a ping follows the first block's start."""
    provider.script = Script(text="ab", events=2, thinking="t", tools=(ToolCall("x", ""),))
    text = post(provider, PATHS[0], stream=True).text
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert names == [data["type"] for data in events(text)]
    kinds = [
        data["delta"]["type"] if name == "content_block_delta" else name
        for name, data in zip(names, events(text), strict=True)
    ]
    assert kinds == [
        "message_start",
        *("content_block_start", "ping", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "text_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "content_block_stop"),
        "message_delta",
        "message_stop",
    ]


def test_responses_events_come_in_the_order_of_the_real_ones(provider: FakeProvider) -> None:
    """Events are numbered without gaps and open and close their items and parts."""
    provider.script = Script(text="a", thinking="t", tools=(ToolCall("x"),))
    found = events(post(provider, PATHS[2], stream=True).text)
    assert [data["sequence_number"] for data in found] == list(range(len(found)))
    assert [data["type"].removeprefix("response.") for data in found] == [
        *("created", "in_progress"),
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def test_chat_tells_usage_only_when_asked(provider: FakeProvider) -> None:
    """Usage is a chunk of its own without choices, null in all others, and absent when it was not asked for."""
    plain = post(provider, PATHS[1], stream=True)
    assert plain.text.endswith("data: [DONE]\n\n")
    assert all("usage" not in chunk and chunk["choices"] for chunk in events(plain.text))
    *chunks, last = events(post(provider, PATHS[1], stream=True, stream_options={"include_usage": True}).text)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


@pytest.mark.parametrize("path", PATHS)
def test_the_same_request_gets_the_same_bytes(path: str) -> None:
    """Two servers answer alike, head included, below any base path; unique ones never answer the same."""
    with running() as one, running() as two:
        first, second = post(one, path), httpx.post(f"{two.url}/base{path}", json=BODIES[path], headers=KEY)
    assert first.content == second.content
    assert first.headers.raw == second.headers.raw
    with running(is_unique=True) as unique:
        assert len({post(unique, path).json()["id"] for _ in range(3)}) == 3


@pytest.mark.parametrize("base", ["", "/v1", "/anthropic", "/any/base/v1"])
def test_routes_go_by_the_end_of_the_path(provider: FakeProvider, base: str) -> None:
    """What stands before the known part of a path does not matter."""
    for known in ("/messages", "/chat/completions", "/responses"):
        answer = httpx.post(provider.url + base + known, json=BODIES["/v1" + known], headers=KEY)
        assert answer.status_code == 200, known


def test_heads_look_like_the_real_ones(provider: FakeProvider) -> None:
    """A request id, rate limits and a cookie come with every answer, errors included."""
    for answer in (post(provider, PATHS[0]), post(provider, PATHS[0], model="fake-error-500")):
        assert answer.headers["request-id"].startswith("req_")
        assert answer.headers["anthropic-ratelimit-requests-limit"]
        assert "__cf_bm" in answer.headers["set-cookie"]
    for answer in (post(provider, PATHS[1]), post(provider, PATHS[2], model="fake-error-500")):
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["x-ratelimit-limit-requests"]
        assert "__cf_bm" in answer.headers["set-cookie"]


STATUSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    413: "RequestTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
    504: "DeadlineExceededError",
    529: "OverloadedError",
}


@pytest.mark.parametrize("status", STATUSES)
def test_models_named_for_errors_raise_in_the_sdks(
    claude: anthropic.Anthropic, gpt: openai.OpenAI, status: int
) -> None:
    """`fake-error-STATUS` becomes the SDK's own exception, with the body in the provider's shape."""
    name = f"fake-error-{status}"
    with pytest.raises(anthropic.APIStatusError) as theirs:
        claude.messages.create(model=name, max_tokens=1, messages=TURN)
    assert theirs.value.status_code == status
    assert theirs.value.type == json.loads(theirs.value.response.content)["error"]["type"]
    for call in (
        lambda: gpt.chat.completions.create(model=name, messages=TURN, stream=True),
        lambda: gpt.responses.create(model=name, input="x"),
    ):
        with pytest.raises(openai.APIStatusError) as others:
            call()
        assert others.value.status_code == status
        assert set(json.loads(others.value.response.content)["error"]) == {"message", "type", "param", "code"}
        assert others.value.response.headers.get("retry-after") == ("1" if status == 429 else None)


def test_a_fault_says_what_its_script_says(provider: FakeProvider, gpt: openai.OpenAI) -> None:
    """Type, code, message and `Retry-After` can be given, on routes without a model too."""
    provider.push(Script(fail=Fault(429, "insufficient_quota", "No money.", "insufficient_quota", "7.5")))
    with pytest.raises(openai.RateLimitError, match=r"No money\.") as raised:
        gpt.models.list()
    assert (raised.value.type, raised.value.code) == ("insufficient_quota", "insufficient_quota")
    assert raised.value.response.headers["retry-after"] == "7.5"


@pytest.mark.parametrize(
    ("path", "member"),
    [
        *[(PATHS[0], name) for name in ("model", "messages", "max_tokens")],
        *[(PATHS[1], name) for name in ("model", "messages")],
        *[(PATHS[2], name) for name in ("model", "input")],
    ],
)
def test_refuses_a_request_without_a_needed_member(provider: FakeProvider, path: str, member: str) -> None:
    """What the real ones require is required, and named in the error."""
    answer = post(provider, path, **{member: None})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert member in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
def test_refuses_what_it_cannot_accept(provider: FakeProvider, path: str) -> None:
    """No credentials, no JSON, the wrong method, a broken encoding: errors in the protocol's shape."""
    url = provider.url + path
    answers = {
        401: httpx.post(url, json=BODIES[path]),
        405: httpx.put(url, headers=KEY),
        400: httpx.post(url, content=b"[1]", headers=KEY),
        415: httpx.post(url, content=b"{}", headers=KEY | {"content-encoding": "br"}),
    }
    assert [answer.status_code for answer in answers.values()] == list(answers)
    for answer in answers.values():
        assert ("type" in answer.json()) == (path == PATHS[0])
        assert answer.json()["error"]["message"]


def test_unknown_paths_are_not_found_in_either_shape(provider: FakeProvider) -> None:
    """Headers tell whose 404 it is where the path does not."""
    theirs = httpx.get(f"{provider.url}/v1/nothing", headers={"x-api-key": "k"})
    others = httpx.get(f"{provider.url}/v1/nothing", headers=KEY)
    assert (theirs.status_code, others.status_code) == (404, 404)
    assert theirs.json()["type"] == "error"
    assert set(others.json()) == {"error"}


def test_reads_compressed_requests(provider: FakeProvider) -> None:
    """A gzip body is read like a plain one."""
    body = gzip.compress(json.dumps(BODIES[PATHS[2]]).encode())
    answer = httpx.post(provider.url + PATHS[2], content=body, headers=KEY | {"content-encoding": "gzip"})
    assert answer.content == post(provider, PATHS[2]).content


def test_lists_models_for_both(claude: anthropic.Anthropic, gpt: openai.OpenAI) -> None:
    """Both SDKs list the catalogue, and every name is a model."""
    assert "fake-tools" in {model.id for model in claude.models.list()}
    assert "fake-tools" in {model.id for model in gpt.models.list()}
    assert claude.models.retrieve("any").id == gpt.models.retrieve("any").id == "any"
    assert claude.messages.count_tokens(model="m", messages=TURN).input_tokens == 32


def test_takes_telemetry_without_credentials(provider: FakeProvider) -> None:
    """Event logging of clients is accepted and ignored."""
    assert httpx.post(f"{provider.url}/api/event_logging/batch", json={"events": []}).json() == {}


def test_keeps_responses_until_they_are_deleted(gpt: openai.OpenAI) -> None:
    """A response can be read, cancelled and deleted, its input listed; unless `store` was false."""
    made = gpt.responses.create(model="m", input="Hello?", metadata={"a": "b"})
    assert gpt.responses.retrieve(made.id) == made
    assert gpt.responses.cancel(made.id).status == "cancelled"
    items = gpt.responses.input_items.list(made.id).data
    assert [item.to_dict()["content"] for item in items] == [[{"type": "input_text", "text": "Hello?"}]]
    gpt.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        gpt.responses.retrieve(made.id)
    unkept = gpt.responses.create(model="m", input="Hello?", store=False)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(unkept.id)


def test_keeps_conversations(gpt: openai.OpenAI) -> None:
    """A conversation can be made, changed, named by a response, and deleted."""
    made = gpt.conversations.create(metadata={"a": "b"})
    assert gpt.conversations.retrieve(made.id) == made
    assert gpt.conversations.update(made.id, metadata={"c": "d"}).metadata == {"c": "d"}
    answer = gpt.responses.create(model="m", input="Hello?", conversation=made.id)
    assert answer.conversation
    assert answer.conversation.id == made.id
    assert gpt.conversations.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        gpt.conversations.retrieve(made.id)


def test_scripts_are_chosen_by_push_then_default_then_model(tmp_path: Path) -> None:
    """A pushed script serves one request; a file's script stands before the catalogue's of the same name."""
    file = tmp_path / "scripts.toml"
    file.write_text('[models."fake-tools"]\ntext = "from the file"\n[models.other.fail]\nstatus = 403\n')

    def answered(provider: FakeProvider, model: str) -> Any:
        answer = post(provider, PATHS[1], model=model).json()
        return answer["choices"][0]["message"]["content"] if "choices" in answer else answer["error"]["code"]

    with running(scripts=load_scripts(file)) as provider:
        assert answered(provider, "fake-tools") == "from the file"
        assert answered(provider, "other") == "permission_denied"
        provider.script = Script(text="from the server")
        provider.push(Script(text="first"), Script(text="second"))
        assert [answered(provider, "other") for _ in range(3)] == ["first", "second", "from the server"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[models.a]\ntxt = 1", "unknown field `txt`"),
        ("models = 1", "Expected `object`"),
        ('[models.a]\nencoding = "br"', "expected 'gzip' or '', found 'br'"),
        ("[", r"expected \[models"),
    ],
)
def test_script_files_are_checked(tmp_path: Path, text: str, complaint: str) -> None:
    """A mistake in a script file is named, with the file."""
    file = tmp_path / "scripts.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as raised:
        load_scripts(file)
    assert str(file) in str(raised.value)
    with pytest.raises(ConfigError, match="No such file"):
        load_scripts(tmp_path / "absent.toml")


RESULTS: dict[str, dict[str, Any]] = {
    PATHS[0]: {
        "messages": [
            *TURN,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "x", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r"}]},
        ]
    },
    PATHS[1]: {"messages": [*TURN, {"role": "tool", "tool_call_id": "t", "content": "r"}]},
    PATHS[2]: {"input": [*TURN, {"type": "function_call_output", "call_id": "t", "output": "r"}]},
}


@pytest.mark.parametrize("path", PATHS)
def test_tools_are_called_until_there_are_results(provider: FakeProvider, path: str) -> None:
    """A client that runs tools comes to an end; `tool_turns` says after how many turns."""
    assert "get_weather" in post(provider, path, model="fake-tools").text
    assert "get_weather" not in post(provider, path, model="fake-tools", **RESULTS[path]).text
    provider.script = Script(tools=(ToolCall("again"),), tool_turns=2)
    assert "again" in post(provider, path, **RESULTS[path]).text


@pytest.mark.parametrize("path", PATHS)
def test_quotes_the_newest_result(provider: FakeProvider, path: str) -> None:
    """What the tools answered last can end the text, and nothing stands there before they did."""
    provider.script = Script(text="It says: ", quotes_result=True)
    assert 'says: "' in post(provider, path).text
    [name] = RESULTS[path]
    *earlier, result = RESULTS[path][name]
    newest = json.loads(json.dumps(result).replace('"r"', json.dumps([{"type": "text", "text": "new"}, {}])))
    assert 'says: new"' in post(provider, path, **{name: [*earlier, result, newest]}).text


@pytest.mark.parametrize("path", PATHS)
def test_calls_an_offered_tool_by_pattern(provider: FakeProvider, path: str) -> None:
    """The first offered tool that the pattern fits is called, and none when there is none."""
    provider.script = Script(tools=(ToolCall("b*", '{"n":1}'),))
    tools: list[dict[str, Any]] = [
        {"name": name, "input_schema": {}, "type": "function"} for name in ("abc", "bcd", "bde")
    ]
    if path == PATHS[1]:
        tools = [{"type": "function", "function": tool} for tool in tools]
    offered = post(provider, path, tools=tools, stream=True).text
    assert '"name":"bcd"' in offered
    nothing_offered = post(provider, path, stream=True).text
    assert "function_call" not in nothing_offered
    assert '"name"' not in nothing_offered


def test_a_stream_can_report_an_error(provider: FakeProvider, claude: anthropic.Anthropic, gpt: openai.OpenAI) -> None:
    """After so many events comes the protocol's own error event, which the SDKs raise or hand on."""
    provider.script = Script(stream_error_after=2)
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        list(claude.messages.create(model="m", max_tokens=1, messages=TURN, stream=True))
    with pytest.raises(openai.APIError, match="overloaded"):
        list(gpt.chat.completions.create(model="m", messages=TURN, stream=True))
    found = events(post(provider, PATHS[2], stream=True).text)
    assert [data["type"] for data in found] == ["response.created", "response.in_progress", "error"]
    assert found[-1]["sequence_number"] == 2
    assert found[-1]["code"] == "server_is_overloaded"
    provider.script = Script(stream_error_after=1, fail=Fault(500, message="Odd."))
    assert [data["type"] for data in events(post(provider, PATHS[0], stream=True).text)] == ["message_start", "error"]
    blocking = post(provider, PATHS[0])
    assert (blocking.status_code, blocking.json()["error"]["message"]) == (500, "Odd.")


@pytest.mark.parametrize("count", [1, 3])
def test_cuts_a_stream_after_so_many_events(provider: FakeProvider, count: int) -> None:
    """The connection ends without the end of the body, and the log holds what was sent."""
    provider.push(Script(cut_after=count))
    with Wire(provider) as wire:
        wire.send(stream=True)
        data = wire.rest()
    assert data.count(b"event: ") == count
    assert not data.endswith(END)
    (request,) = provider.requests
    assert request.response == dechunked(data + b"0\r\n\r\n")
    assert request.ended.wait(10)
    assert not request.closed.is_set()


def test_cuts_a_whole_stream_before_its_end(provider: FakeProvider) -> None:
    """A cut after the last event leaves out only what tells the client that it was the last."""
    count = post(provider, PATHS[0], stream=True).text.count("event: ")
    provider.push(Script(cut_after=count))
    with Wire(provider) as wire:
        wire.send(stream=True)
        data = wire.rest()
    assert b"message_stop" in data
    assert not data.endswith(END)


def test_cuts_a_blocking_answer_in_the_middle(provider: FakeProvider) -> None:
    """The first half of the body is sent, and the head promises the whole."""
    whole = post(provider, PATHS[0]).content
    provider.push(Script(cut_after=1))
    with Wire(provider) as wire:
        wire.send()
        head, _, half = wire.rest().partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(whole) in head
    assert half == whole[: len(whole) // 2]


def test_refuses_without_a_byte(provider: FakeProvider) -> None:
    """A cut after no event closes before the head, on a kept connection too."""
    provider.push(Script(), Script(cut_after=0))
    with Wire(provider) as wire:
        wire.send()
        wire.until(b"}}")
        wire.send()
        assert wire.rest() == b""
    assert [(request.connection, request.status) for request in provider.requests] == [(1, 200), (1, 0)]


def test_resets_a_connection(provider: FakeProvider) -> None:
    """With `reset` the cut is RST, and what was written before it arrives."""
    provider.push(Script(gate=True, cut_after=1, reset=True))
    with Wire(provider) as wire:
        wire.send(stream=True)
        wire.until(b"message_start")
        provider.release()
        with pytest.raises(ConnectionResetError):
            wire.rest()


@pytest.mark.parametrize("is_stream", [False, True])
def test_stalls_until_the_client_leaves(provider: FakeProvider, *, is_stream: bool) -> None:
    """After the first event nothing comes; the log tells when the client closed."""
    provider.push(Script(stall_after=1))
    with Wire(provider) as wire:
        wire.send(stream=is_stream)
        wire.until(b"usage" if is_stream else b"\r\n\r\n")
        (request,) = provider.wait_for(1)
        assert not request.closed.is_set()
    assert request.closed.wait(10)
    assert request.status == 200
    assert request.response


def test_can_be_silent_from_the_start(provider: FakeProvider) -> None:
    """With a stall after no event the client gets nothing at all."""
    with Wire(provider) as wire:
        wire.send(model="fake-silent")
        (request,) = provider.wait_for(1)
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.rest() == b""
    assert request.closed.wait(10)
    assert (request.status, request.response) == (0, b"")


def test_a_gate_holds_each_event_until_it_is_released(provider: FakeProvider) -> None:
    """The client has the first event while the second is not yet sent; permits given early are kept."""
    provider.push(Script(text="ab", events=2, gate=True))
    with Wire(provider) as wire:
        wire.send(stream=True)
        first = wire.until(b"\n\n\r\n")
        (request,) = provider.requests
        assert request.response == dechunked(first + b"0\r\n\r\n")
        provider.release()
        assert b"content_block_start" in wire.until(b"\n\n\r\n")
        provider.release(100)
        wire.until(END)
    assert request.ended.wait(10)
    provider.push(Script(gate=True))
    assert post(provider, PATHS[0], stream=True).text.endswith('{"type":"message_stop"}\n\n')


def test_a_gate_holds_the_second_half_of_a_blocking_answer(provider: FakeProvider) -> None:
    """Half of the body can be seen while the rest waits."""
    whole = post(provider, PATHS[1]).content
    half = len(whole) // 2
    provider.push(Script(gate=True))
    with Wire(provider) as wire:
        wire.send(PATHS[1])
        wire.until(whole[:half])
        assert provider.requests[-1].response == whole[:half]
        provider.release()
        wire.until(whole[half:])


def test_a_client_that_leaves_a_gate_takes_no_permit(provider: FakeProvider) -> None:
    """What was released after a client left goes to the next that waits."""
    provider.push(Script(gate=True), Script(gate=True))
    with Wire(provider) as wire:
        wire.send(stream=True)
        wire.until(b"message_start")
    assert provider.requests[0].closed.wait(10)
    provider.release()
    with Wire(provider) as wire:
        wire.send(PATHS[1])
        wire.until(b"\r\n\r\n{")
        wire.until(b"}\n}")


def test_release_needs_a_started_provider() -> None:
    """Releasing before the start says what to do."""
    with pytest.raises(RuntimeError, match="start it first"):
        FakeProvider().release()


def test_events_keep_their_distance_and_all_arrive(provider: FakeProvider) -> None:
    """Delays change when an answer comes and nothing of what it says."""
    expected = {is_stream: post(provider, PATHS[0], stream=is_stream).content for is_stream in (False, True)}
    provider.script = Script(first_delay_s=0.01, gap_s=0.001)
    for is_stream, content in expected.items():
        assert post(provider, PATHS[0], stream=is_stream).content == content


def test_writes_raw_answers_as_they_are(provider: FakeProvider) -> None:
    """Any bytes can be the answer; the connection closes after them unless it is to stay."""
    provider.push(
        Script(raw=(b"HTTP/1.1 204 No Content\r\n", b"\r\n"), close=False),
        Script(raw=(b"NOT HTTP\r\n", b"\0"), gate=True),
    )
    with Wire(provider) as wire:
        wire.send()
        assert wire.until(b"\r\n\r\n") == b"HTTP/1.1 204 No Content\r\n\r\n"
        wire.send()
        wire.until(b"NOT HTTP\r\n")
        provider.release()
        assert wire.rest() == b"\0"
    assert [request.connection for request in provider.requests] == [1, 1]
    assert provider.requests[1].response == b"NOT HTTP\r\n\0"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_compresses_when_told_to(provider: FakeProvider, path: str, *, is_stream: bool) -> None:
    """A gzip answer unpacks to the plain one, and each of its pieces can be read at once."""
    plain = post(provider, path, stream=is_stream).content
    provider.push(Script(encoding="gzip"))
    packed = post(provider, path, stream=is_stream)
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain
    assert gzip.decompress(provider.requests[-1].response) == plain


def test_the_log_holds_what_was_received(provider: FakeProvider) -> None:
    """Method, raw path and query, headers as they were written, the body, and the connection that brought it."""
    head = (
        b"POST /v1/%6Dessages?a=%20b HTTP/1.1\r\nX-One: 1\r\nhost: h\r\nx-one: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with Wire(provider) as wire:
        wire.socket.sendall(head + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
        wire.until(b"}}")
        wire.send()
        wire.until(b"}}")
    with Wire(provider) as wire:
        wire.send()
        wire.until(b"}}")
    first, *others = provider.wait_for(3)
    assert (first.method, first.target, first.body) == ("POST", "/v1/%6Dessages?a=%20b", b"abc")
    assert first.headers[:3] == [("X-One", "1"), ("host", "h"), ("x-one", "2")]
    assert first.header("X-ONE") == "1"
    assert first.header("absent") is None
    assert [request.connection for request in others] == [1, 2]


def test_the_log_keeps_the_last_requests() -> None:
    """Memory stays bounded, and waiting counts all requests."""
    with running(keep_requests=2) as provider:
        for number in range(4):
            httpx.post(f"{provider.url}/{number}")
        assert [request.path for request in provider.wait_for(4)] == ["/2", "/3"]
        with pytest.raises(TimeoutError, match=r"expected 5 requests within 0\.01 s, found 4"):
            provider.wait_for(5, timeout_s=0.01)


def test_closes_when_either_side_wants_it(provider: FakeProvider) -> None:
    """A script, a header of the client or HTTP/1.0 end the connection after a whole answer."""
    provider.push(Script(close=True))
    with Wire(provider) as wire:
        wire.send()
        assert b"connection: close\r\n" in wire.rest()
    body = json.dumps(BODIES[PATHS[0]] | {"stream": True}).encode()
    for version, header in ((b"1.1", b"connection: close\r\n"), (b"1.0", b"")):
        head = b"POST /messages HTTP/%b\r\nx-api-key: k\r\n%bcontent-length: %d\r\n\r\n"
        with Wire(provider) as wire:
            wire.socket.sendall(head % (version, header, len(body)) + body)
            data = wire.rest()
        assert data.endswith(END) == (version == b"1.1")
        assert b"message_stop" in data


@pytest.mark.parametrize("script", [Script(close=True), Script(cut_after=4)], ids=["close", "cut"])
def test_closing_loses_nothing_that_was_written(provider: FakeProvider, script: Script) -> None:
    """What does not fit into the socket's buffers still arrives before the connection ends."""
    provider.push(msgspec.structs.replace(script, text="x" * (16 << 20), events=1))
    with Wire(provider) as wire:
        wire.send(stream=True)
        assert wire.rest().count(b"x") >= 16 << 20


def test_an_event_is_one_line_however_its_request_was_written(provider: FakeProvider) -> None:
    """What a response repeats of its request brings no line breaks into the stream."""
    body = json.dumps(BODIES[PATHS[2]] | {"stream": True, "metadata": {"a": "b"}}, indent=2)
    answer = httpx.post(provider.url + PATHS[2], content=body, headers=KEY)
    assert [data["response"]["metadata"] for data in events(answer.text) if "response" in data] == [{"a": "b"}] * 3
    assert all(line.startswith(("event: ", "data: ")) for line in answer.text.splitlines() if line)


def test_survives_odd_clients(provider: FakeProvider) -> None:
    """Upgrades are declined, `Expect` is met, pipelining is cut, and what is no HTTP is a 400."""
    with Wire(provider) as wire:
        wire.socket.sendall(b"GET /responses HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert wire.rest().startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    with Wire(provider) as wire:
        wire.socket.sendall(b"POST /x HTTP/1.1\r\nExpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
        wire.until(b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.socket.sendall(b"x")
        wire.until(b"HTTP/1.1 404")
    with Wire(provider) as wire:
        wire.socket.sendall(b"nonsense\r\n\r\n")
        assert wire.rest().startswith(b"HTTP/1.1 400 ")
    provider.push(Script(stall_after=0))
    with Wire(provider) as wire:
        wire.send()
        wire.send()
        assert wire.rest() == b""


def test_answers_head_requests_without_a_body(provider: FakeProvider) -> None:
    """The length is that of the body which is not sent."""
    with Wire(provider) as wire:
        wire.socket.sendall(b"HEAD /v1/models HTTP/1.1\r\nx-api-key: k\r\nconnection: close\r\n\r\n")
        head, _, body = wire.rest().partition(b"\r\n\r\n")
    assert b"content-length: 0" not in head
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b""


def test_waits_for_a_client_that_reads_slowly(provider: FakeProvider) -> None:
    """An answer larger than the socket's buffers is not held in memory twice, and arrives whole."""
    provider.push(Script(text="x" * (32 << 20), events=1024))
    with Wire(provider) as wire:
        wire.send(stream=True)
        head = wire.until(b"message_start")
        (request,) = provider.requests
        assert len(request.response) < 32 << 20
        size = len(head)
        while not wire.seen.endswith(END):
            size += len(wire.seen) - len(wire.seen[-len(END) :])
            wire.seen = wire.seen[-len(END) :] + wire.socket.recv(1 << 20)
        size += len(wire.seen)
    assert size > 32 << 20
    assert request.ended.wait(10)
    assert not request.closed.is_set()


def test_further_headers_are_sent(provider: FakeProvider) -> None:
    """A script can add headers, one name more than once."""
    provider.push(Script(headers=(("x-a", "1"), ("x-a", "2"))))
    assert post(provider, PATHS[0]).headers.get_list("x-a") == ["1", "2"]


def test_speaks_tls() -> None:
    """With a certificate the provider is an HTTPS server."""
    authority: Any = trustme.CA()  # its own annotations are incomplete
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    with running(ssl_context=server) as provider:
        assert provider.url.startswith("https://127.0.0.1:")
        answer = httpx.post(provider.url + PATHS[1], json=BODIES[PATHS[1]], headers=KEY, verify=client)
    assert answer.status_code == 200


def test_runs_on_the_loop_of_the_caller() -> None:
    """Started and stopped by hand; the stop drops a stream under way, which is not the client's doing."""

    async def scenario() -> tuple[bytes, FakeProvider]:
        provider = FakeProvider(script=Script(stall_after=1))
        await provider.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        body = json.dumps(BODIES[PATHS[0]] | {"stream": True}).encode()
        writer.write(b"POST /messages HTTP/1.1\r\nx-api-key: k\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        await provider.stop()
        await provider.stop()
        writer.close()
        return head, provider

    head, provider = asyncio.run(scenario())
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    (request,) = provider.requests
    assert request.ended.is_set()
    assert not request.closed.is_set()


def test_running_tells_why_it_cannot_start(provider: FakeProvider) -> None:
    """A port in use is an error of the caller's, not of a thread that nobody watches."""
    with pytest.raises(OSError, match="in use"), running(port=provider.port):
        pass


def test_serves_as_a_process(tmp_path: Path) -> None:
    """The command prints where it listens, logs each request as a line, and ends at SIGTERM."""
    scripts, log = tmp_path / "scripts.toml", tmp_path / "log.jsonl"
    scripts.write_text('[models.mine]\ntext = "by script"\n')
    program = (
        "import sys, uvloop; from pathlib import Path; from bridgeserver import fakeprovider;"
        "uvloop.run(fakeprovider.serve('127.0.0.1', 0, *map(Path, sys.argv[1:])))"
    )
    command: list[str | Path] = [sys.executable, "-c", program, scripts, log]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("fake provider on http://127.0.0.1:")
        url = line.split()[-1]
        answer = httpx.post(url + PATHS[2], json=BODIES[PATHS[2]] | {"model": "mine"}, headers=KEY)
        httpx.post(url + PATHS[2], content=b"{", headers=KEY)
        httpx.get(f"{url}/nothing")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert "by script" in answer.text
    assert [json.loads(entry) for entry in log.read_text().splitlines()] == [
        {
            "method": "POST",
            "path": "/v1/responses",
            "model": "mine",
            "prompt": "Hello?",
            "status": 200,
            "closed_by_client": False,
        },
        *(
            {"method": method, "path": path, "model": None, "prompt": None, "status": status, "closed_by_client": False}
            for method, path, status in (("POST", "/v1/responses", 400), ("GET", "/nothing", 404))
        ),
    ]
