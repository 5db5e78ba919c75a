"""What clients ask and what the fake provider answers; always the same bytes."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

CHAT_MODEL = "gpt-4o-mini"
CLAUDE_MODEL = "claude-sonnet-4-5"
TEXT = "Hello! How can I help you today?"

_CHAT_ID = "chatcmpl-Bq1xYxU2x4dN1zE6cT0hR8aWk5mPq"
_CREATED = 1_741_569_952
_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}

_MESSAGE: dict[str, Any] = {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []}

_CODE = '''\
    async def handle(self, request: Request) -> Response:
        """Answer one request; raises ClientError where the client is to blame."""
        if (session := self._sessions.get(request.headers["x-session"])) is None:
            raise ClientError(f"no session \\"{request.headers['x-session']}\\": begin one with POST /sessions")
        async with session.lock, asyncio.timeout(self._limits.request_s):
            found = [row for row in await session.rows(request.query) if row.path.endswith((".py", ".pyx"))]
        return Response(200, {"content-type": "application/json"}, encode({"rows": found, "total": len(found)}))

'''


def compact(value: Any) -> bytes:
    """Return JSON as SDKs write it: no spaces, and characters as they are."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def chat_request(model: str = CHAT_MODEL, *, stream: bool = False) -> bytes:
    """Return a short chat; a streamed one asks for usage, so that nobody has to take it out again."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello!"},
        ],
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return compact(body)


def claude_request(size: int) -> bytes:
    """Return a Messages request of at least *size* bytes, as Claude Code makes them in a long session."""
    messages: list[dict[str, Any]] = []
    body = {
        "model": CLAUDE_MODEL,
        "messages": messages,
        "system": [
            {"type": "text", "text": "You are Claude Code, Anthropic's official CLI for Claude."},
            {"type": "text", "text": _prose(min(12_000, size // 8)), "cache_control": {"type": "ephemeral"}},
        ],
        "tools": [_tool(number, min(1_500, size // 100)) for number in range(16)],
        "metadata": {"user_id": f"user_{'0a1b2c3d' * 8}_account__session_0f6b1d1e-6f0a-4c53-9d0a-3a4f3f0c1b2d"},
        "max_tokens": 32_000,
        "temperature": 1,
        "stream": False,
    }
    turns = _turns()
    length = len(compact(body))
    while length < size:
        turn = next(turns)
        messages += turn
        length += len(compact(turn)) - 1  # its brackets go, a comma comes
    messages[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
    return compact(body)


def _turns() -> Iterator[list[dict[str, Any]]]:
    """Yield what a user says, the tool that the model calls, what it finds, and what the model makes of it."""
    for number in count(1):
        tool_id = f"toolu_01{number:022d}"
        lines = "".join(f"{line:6}\u2192{text}\n" for line, text in enumerate((_CODE * 6).splitlines(), number))
        yield [
            {"role": "user", "content": [{"type": "text", "text": f"Step {number}: {_prose(200)}"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": f"I'll read the \u201chandler\u201d first.\n\n{_prose(150)}"},
                    {
                        "type": "tool_use",
                        "id": tool_id,
                        "name": f"tool_{number % 16}",
                        "input": {"file_path": f"/home/ann/project/src/part_{number}.py", "limit": 60},
                    },
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": tool_id, "content": lines}]},
            {"role": "assistant", "content": [{"type": "text", "text": f"{_prose(300)}\n\n```python\n{_CODE}```\n"}]},
            {"role": "user", "content": [{"type": "text", "text": "Go on, and run the tests afterwards."}]},
        ]


def _tool(number: int, length: int) -> dict[str, Any]:
    return {
        "name": f"tool_{number}",
        "description": _prose(length),
        "input_schema": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {
                "file_path": {"type": "string", "description": "The absolute path to the file"},
                "limit": {"type": "number", "description": "The number of lines to read"},
                "mode": {"type": "string", "enum": ["content", "files", "count"], "default": "files"},
            },
            "required": ["file_path"],
            "additionalProperties": False,
        },
    }


def _prose(length: int) -> str:
    text = 'Use it when the path is known; quote names with spaces ("My Files"), and never guess a path.\n - '
    return (text * (length // len(text) + 1))[:length]


CHAT_ANSWER = compact(
    {
        "id": _CHAT_ID,
        "object": "chat.completion",
        "created": _CREATED,
        "model": CHAT_MODEL,
        "choices": [{"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}],
        "usage": _USAGE,
        "service_tier": "default",
    }
)

CLAUDE_ANSWER = compact(
    {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": CLAUDE_MODEL,
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "cache_creation_input_tokens": 512,
            "cache_read_input_tokens": 21_400,
            "output_tokens": 12,
        },
    }
)


def _chunk(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
    chunk = {"id": _CHAT_ID, "object": "chat.completion.chunk", "created": _CREATED, "model": CHAT_MODEL}
    data = compact({**chunk, "choices": choices, "usage": usage})
    return b"data: " + data + b"\n\n"


def _delta(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return _chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])


FIRST_EVENT = _delta({"role": "assistant", "content": "", "refusal": None})
LAST_EVENTS = (_delta({}, "stop"), _chunk([], _USAGE), b"data: [DONE]\n\n")


def text_event(number: int) -> bytes:
    """Return the event with one word of the answer."""
    return _delta({"content": f" word{number:04d}"})


def stream_events(total: int) -> list[bytes]:
    """Return the events of a streamed answer, beginning and end included."""
    words = [text_event(number) for number in range(total - 1 - len(LAST_EVENTS))]
    return [FIRST_EVENT, *words, *LAST_EVENTS]


def stream_text(total: int) -> str:
    """Return the text that the words of that stream make."""
    return "".join(f" word{number:04d}" for number in range(total - 1 - len(LAST_EVENTS)))
