"""OpenAI Responses as the real one answers."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec

from bridgeserver.fakeprovider.answer import event, split
from bridgeserver.fakeprovider.asked import Asked
from bridgeserver.fakeprovider.faults import openai_error
from bridgeserver.fakeprovider.script import Fault, Script
from bridgeserver.fakeprovider.seed import make_id

NEEDED: tuple[str, ...] = ("model", "input")

ARGUMENT_PIECES = 3

_ECHOED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Members of a request that its response repeats, and what they are without it."""


def body(asked: Asked, script: Script) -> bytes:
    """Return the blocking answer, indented like the real one."""
    return msgspec.json.format(msgspec.json.encode(response(asked, script)), indent=2)


def events(asked: Asked, script: Script) -> Iterator[bytes]:
    """Return the same answer as the events of a stream."""
    numbers = count()
    for name, data in _events(asked, script):
        yield event(name, {"type": name, "sequence_number": next(numbers), **data})


def error_event(fault: Fault, number: int) -> bytes:
    error = openai_error(fault)["error"]
    code = error["code"] or error["type"]
    data = {"type": "error", "sequence_number": number, "code": code, "message": error["message"], "param": None}
    return event("error", data)


def response(asked: Asked, script: Script) -> dict[str, Any]:
    """Return the response object as it is in the end."""
    conversation = asked.value("conversation")
    return {
        "id": make_id(asked.seed, "resp_", 48),
        "object": "response",
        "created_at": asked.created_at,
        "status": "incomplete" if script.is_incomplete else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if script.is_incomplete else None,
        "model": asked.model,
        "output": list(_items(asked, script)),
        "service_tier": "default",
        "conversation": {"id": conversation} if isinstance(conversation, str) else conversation,
        **{name: _echo(asked, name, default) for name, default in _ECHOED.items()},
        "usage": _usage(script),
    }


def _echo(asked: Asked, name: str, default: Any) -> Any:
    """Repeat a member on one line: an event's data has no line breaks."""
    raw = asked.members.get(name)
    return default if raw is None else msgspec.Raw(msgspec.json.format(bytes(raw), indent=-1))


def _usage(script: Script) -> dict[str, Any]:
    input_tokens = script.input_tokens + script.cache_read_tokens + script.cache_write_tokens
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {
            "cached_tokens": script.cache_read_tokens,
            "cache_write_tokens": script.cache_write_tokens,
        },
        "output_tokens": script.output_tokens,
        "output_tokens_details": {"reasoning_tokens": script.reasoning_tokens},
        "total_tokens": input_tokens + script.output_tokens,
    }


def _items(asked: Asked, script: Script) -> Iterator[dict[str, Any]]:
    seed = asked.seed
    if script.thinking:
        yield {
            "id": make_id(seed, "rs_", 48),
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": script.thinking}],
        }
    if script.text:
        yield {
            "id": make_id(seed, "msg_", 48),
            "type": "message",
            "status": "incomplete" if script.is_incomplete else "completed",
            "role": "assistant",
            "content": [_text_part(script.text)],
        }
    for number, tool in enumerate(script.tools):
        yield {
            "id": make_id(f"{seed}{number}", "fc_", 48),
            "type": "function_call",
            "status": "completed",
            "call_id": make_id(f"{seed}{number}", "call_", 24),
            "name": tool.name,
            "arguments": tool.arguments,
        }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _events(asked: Asked, script: Script) -> Iterator[tuple[str, dict[str, Any]]]:
    final = response(asked, script)
    begun: dict[str, Any] = {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield "response.created", {"response": final | begun}
    yield "response.in_progress", {"response": final | begun}
    for index, item in enumerate(final["output"]):
        yield "response.output_item.added", {"output_index": index, "item": _bare(item)}
        for name, data in _inside(item, script.events):
            yield name, {"item_id": item["id"], "output_index": index, **data}
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield f"response.{final['status']}", {"response": final}


def _bare(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item as it is when it has only begun."""
    begun: dict[str, Any] = {"status": "in_progress", "summary": [], "content": [], "arguments": ""}
    return {name: begun.get(name, value) for name, value in item.items()}


def _inside(item: dict[str, Any], pieces: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if item["type"] == "reasoning":
        return _reasoning(item["summary"][0], pieces)
    if item["type"] == "message":
        return _message(item["content"][0], pieces)
    return _function_call(item["arguments"])


def _reasoning(part: dict[str, Any], pieces: int) -> Iterator[tuple[str, dict[str, Any]]]:
    at = {"summary_index": 0}
    yield "response.reasoning_summary_part.added", {**at, "part": part | {"text": ""}}
    for piece in split(part["text"], pieces):
        yield "response.reasoning_summary_text.delta", {**at, "delta": piece}
    yield "response.reasoning_summary_text.done", {**at, "text": part["text"]}
    yield "response.reasoning_summary_part.done", {**at, "part": part}


def _message(part: dict[str, Any], pieces: int) -> Iterator[tuple[str, dict[str, Any]]]:
    at = {"content_index": 0}
    yield "response.content_part.added", {**at, "part": part | {"text": ""}}
    for piece in split(part["text"], pieces):
        yield "response.output_text.delta", {**at, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**at, "text": part["text"], "logprobs": []}
    yield "response.content_part.done", {**at, "part": part}


def _function_call(arguments: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for piece in split(arguments, ARGUMENT_PIECES):
        yield "response.function_call_arguments.delta", {"delta": piece}
    yield "response.function_call_arguments.done", {"arguments": arguments}
