"""OpenAI Chat Completions as the real one answers."""

from collections.abc import Iterator
from typing import Any

import msgspec

from bridgeserver.fakeprovider.answer import split
from bridgeserver.fakeprovider.asked import Asked
from bridgeserver.fakeprovider.faults import openai_error
from bridgeserver.fakeprovider.script import Fault, Script
from bridgeserver.fakeprovider.seed import make_id
from bridgeserver.protocols import lenient

NEEDED: tuple[str, ...] = ("model", "messages")

ARGUMENT_PIECES = 3

DONE = b"data: [DONE]\n\n"


def body(asked: Asked, script: Script) -> bytes:
    """Return the blocking answer, indented like the real one."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": script.text or None,
        "refusal": None,
        "annotations": [],
    }
    calls = list(_calls(asked, script))
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(script)}
    envelope = _envelope(asked, "chat.completion")
    completion = {**envelope, "choices": [choice], "usage": _usage(script)}
    return msgspec.json.format(msgspec.json.encode(completion), indent=2)


def events(asked: Asked, script: Script) -> Iterator[bytes]:
    """Return the same answer as the events of a stream."""
    has_usage = _wants_usage(asked)
    envelope = _envelope(asked, "chat.completion.chunk")
    no_usage: dict[str, Any] = {"usage": None} if has_usage else {}
    for delta in _deltas(asked, script):
        yield _chunk({**envelope, "choices": [_choice(delta, None)], **no_usage})
    yield _chunk({**envelope, "choices": [_choice({}, _finish_reason(script))], **no_usage})
    if has_usage:
        yield _chunk({**envelope, "choices": [], "usage": _usage(script)})
    yield DONE


def error_event(fault: Fault, _number: int) -> bytes:
    return _chunk(openai_error(fault))


def _envelope(asked: Asked, kind: str) -> dict[str, Any]:
    return {
        "id": make_id(asked.seed, "chatcmpl-", 29),
        "object": kind,
        "created": asked.created_at,
        "model": asked.model,
        "service_tier": "default",
        "system_fingerprint": "fp_fa4e000001",
    }


def _wants_usage(asked: Asked) -> bool:
    return lenient.mapping(asked.value("stream_options")).get("include_usage") is True


def _finish_reason(script: Script) -> str:
    if script.is_incomplete:
        return "length"
    return "tool_calls" if script.tools else "stop"


def _usage(script: Script) -> dict[str, Any]:
    prompt_tokens = script.input_tokens + script.cache_read_tokens + script.cache_write_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": script.output_tokens,
        "total_tokens": prompt_tokens + script.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": script.cache_read_tokens,
            "cache_write_tokens": script.cache_write_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": script.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _calls(asked: Asked, script: Script) -> Iterator[dict[str, Any]]:
    for number, tool in enumerate(script.tools):
        call_id = make_id(f"{asked.seed}{number}", "call_", 24)
        yield {"id": call_id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}


def _deltas(asked: Asked, script: Script) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": "" if script.text else None, "refusal": None}
    for piece in split(script.text, script.events):
        yield {"content": piece}
    for index, call in enumerate(_calls(asked, script)):
        function = call["function"]
        start = {"index": index, **call, "function": {"name": function["name"], "arguments": ""}}
        yield {"tool_calls": [start]}
        for piece in split(function["arguments"], ARGUMENT_PIECES):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _choice(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _chunk(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(data)
