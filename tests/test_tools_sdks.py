"""A company's tools in the hands of the official SDKs: a real MCP server, a real gateway, and a provider that calls.

One conversation in each protocol, blocking and streaming: the model says something and calls a tool of the gateway's,
says more and calls another, says more and calls a tool of the client's, and after the client's answer it has the last
word. The client sees two clean answers, as if there were no tools but its own.
"""

import json
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import anthropic
import openai
import pytest

from bridgeserver.fakeprovider import FakeProvider, Script, ToolCall
from gateway import Gateway, eventually
from mcplab import McpServer, recorded, serving

SUM, AGAIN, OWN = "bmcp_lab_add", "bmcp_lab_whoami", "look_up"

TURNS = [
    Script(text="First. ", tools=(ToolCall(SUM, '{"a": 20, "b": 22}'),), input_tokens=100, output_tokens=10),
    Script(text="Second: ", quotes_result=True, tools=(ToolCall(AGAIN),), input_tokens=200, output_tokens=20),
    Script(text=" Third: ", quotes_result=True, tools=(ToolCall(OWN),), input_tokens=300, output_tokens=30),
]
LAST = Script(text="It is ", quotes_result=True, input_tokens=400, output_tokens=40, cache_read_tokens=0)
SAID = "First. Second: 42 Third: blue"
"""What the three turns say: the second quotes the sum, the third the header that the MCP server was shown.

A stream brings all of it; an answer that is one document is that of the last turn, with the usage of all three.
"""

QUESTION = "What is it?"
SCHEMA: Any = {"type": "object", "properties": {}}


class Seen(NamedTuple):
    """What a client saw of one answer."""

    text: str
    calls: list[str]
    usage: tuple[int, int]


@pytest.fixture(scope="module")
def mcp_server() -> Generator[McpServer]:
    """The company's server."""
    with McpServer() as server:
        yield server


@pytest.fixture(scope="module")
def tooled(
    shared_fake: FakeProvider, mcp_server: McpServer, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Gateway]:
    """A gateway for all these tests."""
    with serving(tmp_path_factory.mktemp("tools"), shared_fake.url, mcp_server) as gateway:
        yield gateway


def messages(gateway: Gateway, *, streaming: bool) -> Generator[Seen]:
    """Converse by Messages."""
    said: list[Any] = [{"role": "user", "content": QUESTION}]
    with anthropic.Anthropic(base_url=f"{gateway.url}/anthropic", api_key=gateway.key, max_retries=0) as typed:
        client: Any = typed
        while True:
            options: Any = {
                "model": "claude-x",
                "max_tokens": 99,
                "messages": said,
                "tools": [{"name": OWN, "input_schema": SCHEMA}],
            }
            if streaming:
                with client.messages.stream(**options) as stream:
                    told = "".join(stream.text_stream)
                    message = stream.get_final_message()
            else:
                message = client.messages.create(**options)
                told = "".join(block.text for block in message.content if block.type == "text")
            assert told == "".join(block.text for block in message.content if block.type == "text")
            calls = [block for block in message.content if block.type == "tool_use"]
            assert message.stop_reason == ("tool_use" if calls else "end_turn")
            usage = message.usage
            yield Seen(told, [call.name for call in calls], (usage.input_tokens, usage.output_tokens))
            results = [{"type": "tool_result", "tool_use_id": call.id, "content": "here"} for call in calls]
            content = [block.model_dump(exclude_none=True) for block in message.content]
            said += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]


def chat(gateway: Gateway, *, streaming: bool) -> Generator[Seen]:
    """Converse by Chat Completions."""
    said: list[Any] = [{"role": "user", "content": QUESTION}]
    with openai.OpenAI(base_url=f"{gateway.url}/openai/v1", api_key=gateway.key, max_retries=0) as typed:
        client: Any = typed
        while True:
            options: Any = {
                "model": "gpt-x",
                "messages": said,
                "tools": [{"type": "function", "function": {"name": OWN, "parameters": SCHEMA}}],
            }
            if streaming:
                with client.chat.completions.stream(**options, stream_options={"include_usage": True}) as stream:
                    pieces = [event.delta for event in stream if event.type == "content.delta"]
                    completion: Any = stream.get_final_completion()
                assert "".join(pieces) == (completion.choices[0].message.content or "")
            else:
                completion = client.chat.completions.create(**options)
            (choice,) = completion.choices
            calls: list[Any] = choice.message.tool_calls or []
            assert choice.finish_reason == ("tool_calls" if calls else "stop")
            usage = completion.usage
            names = [call.function.name for call in calls]
            yield Seen(choice.message.content or "", names, (usage.prompt_tokens, usage.completion_tokens))
            said.append(choice.message.model_dump(exclude_none=True, exclude={"parsed"}))
            said += [{"role": "tool", "tool_call_id": call.id, "content": "here"} for call in calls]


def responses(gateway: Gateway, *, streaming: bool) -> Generator[Seen]:
    """Converse by Responses."""
    said: list[Any] = [{"role": "user", "content": QUESTION}]
    with openai.OpenAI(base_url=f"{gateway.url}/openai/v1", api_key=gateway.key, max_retries=0) as typed:
        client: Any = typed
        while True:
            options: Any = {
                "model": "gpt-x",
                "input": said,
                "tools": [{"type": "function", "name": OWN, "parameters": SCHEMA, "strict": False}],
            }
            if streaming:
                with client.responses.stream(**options) as stream:
                    pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
                    response: Any = stream.get_final_response()
                assert "".join(pieces) == response.output_text
            else:
                response = client.responses.create(**options)
            assert response.status == "completed"
            calls = [item for item in response.output if item.type == "function_call"]
            usage = response.usage
            names = [call.name for call in calls]
            yield Seen(response.output_text, names, (usage.input_tokens, usage.output_tokens))
            said += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in response.output]
            said += [{"type": "function_call_output", "call_id": call.call_id, "output": "here"} for call in calls]


Converse = Callable[..., Generator[Seen]]


@pytest.mark.parametrize("streaming", [False, True], ids=["blocking", "streaming"])
@pytest.mark.parametrize("converse", [messages, chat, responses])
def test_three_turns_are_one_clean_answer(
    tooled: Gateway, fake: FakeProvider, mcp_server: McpServer, converse: Converse, *, streaming: bool
) -> None:
    """Text, calls, usage and records are right, and every call has the result of its own tool."""
    before = len(tooled.records())
    cached = TURNS[0].cache_read_tokens if converse is not messages else 0
    fake.push(*TURNS)
    conversation = converse(tooled, streaming=streaming)
    first = next(conversation)
    assert first == Seen(SAID if streaming else " Third: blue", [OWN], (600 + 3 * cached, 60))
    assert len(fake.requests) == 3

    fake.push(LAST)  # nothing of it comes from a cache
    assert next(conversation) == Seen("It is here", [], (400, 40))

    earlier, later = eventually(lambda: ended(tooled, before, 2))
    tools = recorded(tooled, "tool_usages", earlier)
    assert [(tool["name"], tool["injected"], tool["server"]) for tool in tools] == [
        ("add", True, mcp_server.url),
        ("whoami", True, mcp_server.url),
        (OWN, False, None),
    ]
    assert json.loads(tools[0]["arguments"]) == {"a": 20, "b": 22}
    assert [tool["error"] for tool in tools] == [None, None, None]
    assert all(tool["duration_us"] > 0 for tool in tools[:2])
    assert [usage["output_tokens"] for usage in recorded(tooled, "token_usages", earlier)] == [10, 20, 30]
    assert recorded(tooled, "tool_usages", later) == []


def ended(gateway: Gateway, before: int, count: int) -> list[dict[str, Any]] | None:
    """Return the records that follow the first ones, once there are so many and they have ended."""
    records = gateway.records()[before:]
    return records if len(records) == count and all(record["status"] != "open" for record in records) else None
