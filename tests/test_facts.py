"""The facts of large requests, as coding agents send them, against a parser that builds everything."""

import json
from random import Random
from typing import Any

import pytest

from bridgeserver.protocols import Facts
from bridgeserver.protocols.chat import Chat
from bridgeserver.protocols.messages import Messages
from bridgeserver.protocols.responses import Responses

WORDS = ["def", "return", '"quoted"', "a\\b", "naïve", "→", "🙂", "{}", "\t", "src/main.py", "\n    ", "\x7f", "\u2028"]


def text(random: Random, words: int) -> str:
    return " ".join(random.choice(WORDS) for _ in range(words))


def agent_body(size: int, seed: int) -> dict[str, Any]:
    """Return a request of Claude Code's form with about *size* bytes of history."""
    random = Random(seed)
    schema = {"type": "object", "properties": {"path": {"type": "string", "description": text(random, 20)}}}
    messages: list[dict[str, Any]] = []
    written = 0
    while written < size:
        call_id = f"toolu_{random.randrange(10**12)}"
        arguments = {"path": text(random, 3), "n": random.random()}
        messages += [
            {"role": "user", "content": [{"type": "text", "text": text(random, 40)}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": text(random, 60), "signature": "c2ln" * 20},
                    {"type": "tool_use", "id": call_id, "name": "Read", "input": arguments},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": call_id, "content": text(random, 400)},
                    {"type": "text", "text": text(random, 10), "cache_control": {"type": "ephemeral"}},
                ],
            },
        ]
        written += 4000
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 32_000,
        "system": [{"type": "text", "text": text(random, 500), "cache_control": {"type": "ephemeral"}}],
        "tools": [
            {"name": f"tool_{n}", "description": text(random, 80), "input_schema": schema, "model": "not this one"}
            for n in range(20)
        ],
        "messages": messages,
        "metadata": {"user_id": "user_1_account__session_5"},
        "stream": True,
    }


@pytest.mark.parametrize("size", [100_000, 1_000_000, 5_000_000])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_large_bodies_say_what_a_full_parse_says(size: int, is_ascii: bool) -> None:
    """Whatever stands in a history, the facts are those of the request itself and of its last message."""
    body = agent_body(size, seed=size)
    data = json.dumps(body, ensure_ascii=is_ascii, indent=1 if is_ascii else None).encode()
    *_before, answered, asked = body["messages"][-1]["content"]
    assert Messages().facts(data) == Facts(
        model="claude-sonnet-4-5",
        stream=True,
        prompt=asked["text"],
        correlating_tool_call_id=answered["tool_use_id"],
        session_hint="user_1_account__session_5",
    )


def test_other_protocols_read_large_bodies_too() -> None:
    """The last message of a chat, the last item of an input, and the objects that the input builds on."""
    random = Random(5)
    history = [{"role": "user", "content": text(random, 300), "tool_call_id": "no"} for _ in range(300)]
    chat = {"messages": [*history, {"role": "tool", "tool_call_id": "call_1", "content": "x"}], "model": "gpt"}
    assert Chat().facts(json.dumps(chat).encode()) == Facts("gpt", stream=False, correlating_tool_call_id="call_1")
    responses = {
        "input": [*history, {"role": "user", "content": "last", "previous_response_id": "no"}],
        "conversation": {"id": "conv_1"},
        "previous_response_id": "resp_1",
        "model": "gpt",
        "stream": True,
    }
    facts = Responses().facts(json.dumps(responses).encode())
    assert facts == Facts("gpt", stream=True, prompt="last", object_ids=("resp_1", "conv_1"))
