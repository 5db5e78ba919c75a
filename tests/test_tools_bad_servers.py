"""MCP servers that misbehave, behind a real gateway: the conversation ends well, and the record says what happened."""

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from http.client import IncompleteRead
from typing import Any

import pytest

import gateway as gateways
from bridgeserver.config import ToolsConfig
from bridgeserver.fakeprovider import FakeProvider, Script, ToolCall
from bridgeserver.tools.names import id_of
from gateway import Answer, Gateway, eventually
from mcplab import McpServer, recorded, serving

MESSAGES = "/anthropic/v1/messages"
ASKED: dict[str, Any] = {"model": "claude-x", "max_tokens": 99, "messages": [{"role": "user", "content": "hello"}]}
LAST = Script(text="It said: ", quotes_result=True)
TOO_LONG = "longer than|byte limit"
SUM = ToolCall("bmcp_lab_add", '{"a": 20, "b": 22}')


@pytest.fixture(scope="module", params=["new", "old"])
def server(request: pytest.FixtureRequest) -> Generator[McpServer]:
    """A server of either generation of the protocol."""
    with McpServer(*(["--old"] if request.param == "old" else [])) as found:
        yield found


@pytest.fixture(scope="module")
def strict(
    shared_fake: FakeProvider, server: McpServer, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Gateway]:
    """A gateway that waits for no tool."""
    limits = "[tools]\ncall_timeout_s = 0.5\nconnect_timeout_s = 1\nmax_turns = 3"
    with serving(tmp_path_factory.mktemp("strict"), shared_fake.url, server, limits) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def patient(
    shared_fake: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[Gateway, McpServer]]:
    """A gateway with the limits that it has by itself, and one worker, and its server."""
    with (
        McpServer() as server,
        serving(tmp_path_factory.mktemp("patient"), shared_fake.url, server) as gateway,
    ):
        yield gateway, server


def asked(gateway: Gateway, *, stream: bool = False) -> tuple[Answer, str, list[dict[str, Any]]]:
    """Return the answer, what the model was told by the tool, and what was recorded of calls."""
    with gateway.open(MESSAGES, ASKED | {"stream": stream}) as opened:
        try:
            body = opened.read()
        except IncompleteRead as error:  # it was broken off on purpose
            body = error.partial
    answer = Answer(opened.status, opened.headers, body)
    record = gateway.record(answer.headers["x-bridge-interception-id"])
    text = "" if stream or answer.status != 200 else answer.json["content"][0]["text"]
    return answer, text.removeprefix("It said: "), recorded(gateway, "tool_usages", record)


def healthy(gateway: Gateway, fake: FakeProvider) -> None:
    """Make sure that conversations have their tool again; a session that was lost is opened again before long."""

    def works() -> bool | None:
        fake.push(Script(tools=(SUM,)), LAST)
        _answer, told, (call,) = asked(gateway)
        return (told, call["error"]) == ("42", None) or None

    eventually(works)


FAULTS = {
    "call:silence": "did not answer within 0.5 s",
    "call:503": "status 503",
    "call:garbage": "text/html",
    "call:broken-json": "Failed to parse JSON",
    "call:redirect": "not followed",
    "call:gzip": "encodes its answers",
    "call:error": "the arguments are no good",
    "call:no-result": "Input should be a valid string",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_that_gets_no_result(strict: Gateway, fake: FakeProvider, server: McpServer, fault: str) -> None:
    """The model is told why and goes on, the record has it, and the next call is answered."""
    fake.push(Script(tools=(SUM,)), LAST)
    with server.mode(fault):
        answer, told, (call,) = asked(strict)
    assert answer.status == 200
    assert FAULTS[fault] in told
    assert FAULTS[fault] in call["error"]
    assert "private" not in call["error"]
    assert call["duration_us"] < 5_000_000
    healthy(strict, fake)


@pytest.mark.parametrize(
    ("call", "said", "error"),
    [
        (ToolCall("bmcp_lab_add", '{"a": "many"}'), "validation", "the tool said that it failed"),
        (ToolCall("bmcp_lab_fail"), "fail", "the tool said that it failed"),
        (ToolCall("bmcp_lab_large", '{"megabytes": 1}'), "more than 1048576 are not taken", "more than 1048576"),
        (ToolCall("bmcp_lab_large", '{"megabytes": 100}'), TOO_LONG, TOO_LONG),
        (ToolCall(id_of("lab", "odd.name/with spaces")), "odd", None),
    ],
    ids=["invalid-arguments", "failure", "1-MB", "100-MB", "illegal-name"],
)
def test_a_call_that_gets_an_odd_result(
    patient: tuple[Gateway, McpServer], fake: FakeProvider, call: ToolCall, said: str, error: str | None
) -> None:
    """What the tool says is told; what is too long is not read to its end."""
    gateway, _server = patient
    fake.push(Script(tools=(call,)), LAST)
    answer, told, (use,) = asked(gateway)
    assert answer.status == 200
    assert re.search(said, told)
    assert len(told) < 2000
    assert use["error"] is None if error is None else re.search(error, use["error"])
    healthy(gateway, fake)


def test_a_server_that_is_down_and_comes_back(strict: Gateway, fake: FakeProvider, server: McpServer) -> None:
    """Its tools are still offered, calls of them fail with the reason, and it is used again when it is there."""
    healthy(strict, fake)
    server.stop()
    try:
        fake.push(Script(tools=(SUM,)), LAST)
        answer, told, (call,) = asked(strict)
        assert answer.status == 200
        assert told.startswith("Error: calling tool: ")
        assert call["error"].startswith("calling tool: ")
    finally:
        server.start()
    healthy(strict, fake)


def test_a_server_that_was_down_from_the_start(strict: Gateway, fake: FakeProvider, server: McpServer) -> None:
    """A new caller is served without its tools, and has them when it is there."""
    server.stop()
    try:
        with caller(strict, f"late-{server.url}"):
            fake.push(Script(text="alone"))
            answer, _told, calls = asked(strict)
            assert (answer.status, answer.json["content"][0]["text"], calls) == (200, "alone", [])
            assert "tools" not in json.loads(fake.requests[-1].body)
            server.start()

            def offered() -> bool | None:
                fake.push(Script())
                asked(strict)
                return "tools" in json.loads(fake.requests[-1].body) or None

            eventually(offered)
            healthy(strict, fake)
    finally:
        if not server.is_running:
            server.start()
    healthy(strict, fake)


@contextmanager
def caller(gateway: Gateway, user: str) -> Generator[None]:
    """Ask as another user, who has no session yet."""
    before, gateway.key = gateway.key, gateways.make_key(gateway.folder, user)
    try:
        yield
    finally:
        gateway.key = before


@pytest.mark.parametrize(("mode", "count"), [("list:many", ToolsConfig().max_tools), ("list:heavy", 1)])
def test_a_list_that_is_too_long(strict: Gateway, fake: FakeProvider, server: McpServer, mode: str, count: int) -> None:
    """Of 2,000 tools the first are offered, and of two all but the one with a megabyte of schema."""
    with server.mode(mode), caller(strict, f"{mode}-{server.url}"):
        fake.push(Script())
        assert asked(strict)[0].status == 200
    names = [tool["name"] for tool in json.loads(fake.requests[-1].body)["tools"]]
    assert len(names) == count
    assert names == sorted(names)
    assert "bmcp_lab_heavy" not in names


def test_schemas_that_providers_refuse(strict: Gateway, fake: FakeProvider, server: McpServer) -> None:
    """What would end every request is said in another way, or not at all."""
    with server.mode("list:loose"), caller(strict, f"loose-{server.url}"):
        fake.push(Script())
        assert asked(strict)[0].status == 200
    schemas = [tool["input_schema"] for tool in json.loads(fake.requests[-1].body)["tools"]]
    assert schemas == [
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": {"type": "array", "items": {}}}},
    ]


@pytest.mark.parametrize("stream", [False, True], ids=["blocking", "streaming"])
def test_an_endless_loop_of_calls(strict: Gateway, fake: FakeProvider, stream: bool) -> None:
    """It ends after max_turns with an error for the client, and each call that was not made is recorded as such."""
    fake.push(*[Script(text="again", tools=(SUM,))] * 5)
    answer, _told, calls = asked(strict, stream=stream)
    assert len(fake.requests) == 5
    errors = [call["error"] for call in calls]
    assert errors[:3] == [None] * 3
    assert all("the limit of 3 turns with tools is reached" in error for error in errors[3:])
    if stream:
        assert answer.body.count(b"event: message_start") == 1
        assert b"event: error" in answer.body
        assert b"event: message_stop" not in answer.body
    else:
        assert answer.status == 502
    assert b"the model went on calling tools after 3 turns" in answer.body


def test_a_tool_that_takes_its_time(patient: tuple[Gateway, McpServer], fake: FakeProvider) -> None:
    """What the model said before is there at once, pings come, and another stream of the same worker is not held up."""
    gateway, server = patient
    wait = ToolCall("bmcp_lab_wait", '{"seconds": 60, "label": "slow"}')
    fake.push(Script(text="Just a moment. ", events=1, tools=(wait,)))
    with gateway.open(MESSAGES, ASKED | {"stream": True}) as answer:
        seen = b""
        while b"Just a moment. " not in seen:
            seen += answer.read1()
        fake.push(Script(text="quick"))
        assert b"message_stop" in gateway.ask(MESSAGES, ASKED | {"stream": True}).body
        while seen.count(b"event: ping") < 2:  # the provider's own, and one of the gateway's while the tool runs
            seen += answer.read1()
        assert ["ended", "slow"] not in server.ask("/calls")
        fake.push(LAST)
        server.ask("/open", "slow")
        while chunk := answer.read1():
            seen += chunk
    assert seen.count(b"event: message_start") == seen.count(b"event: message_stop") == 1
    text = "".join(
        event["delta"].get("text", "")
        for event in (json.loads(line[6:]) for line in seen.split(b"\n") if line.startswith(b"data: "))
        if event["type"] == "content_block_delta"
    )
    assert text == "Just a moment. It said: done"


def test_a_client_that_leaves_cancels_the_call(patient: tuple[Gateway, McpServer], fake: FakeProvider) -> None:
    """Also at the server; the record says so."""
    gateway, server = patient
    wait = ToolCall("bmcp_lab_wait", '{"seconds": 60, "label": "left"}')
    fake.push(Script(tools=(wait,)))
    with gateway.open(MESSAGES, ASKED | {"stream": True}) as answer:
        interception_id = answer.headers["x-bridge-interception-id"]
        eventually(lambda: ["begun", "left"] in server.ask("/calls") or None)
    eventually(lambda: ["cancelled", "left"] in server.ask("/calls") or None)
    record = gateway.record(interception_id)
    (call,) = recorded(gateway, "tool_usages", record)
    assert (record["status"], call["error"]) == ("cancelled", "cancelled: the request ended")
