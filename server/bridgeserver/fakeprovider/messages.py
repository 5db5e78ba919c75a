"""Anthropic Messages as the real one answers."""

from collections.abc import Iterator
from typing import Any

import msgspec

from bridgeserver.fakeprovider.answer import event, split
from bridgeserver.fakeprovider.asked import Asked
from bridgeserver.fakeprovider.faults import messages_error
from bridgeserver.fakeprovider.script import Fault, Script
from bridgeserver.fakeprovider.seed import make_id

NEEDED: tuple[str, ...] = ("model", "messages", "max_tokens")

ARGUMENT_PIECES = 3


def body(asked: Asked, script: Script) -> bytes:
    """Return the blocking answer."""
    return msgspec.json.encode(_message(asked, script))


def events(asked: Asked, script: Script) -> Iterator[bytes]:
    """Return the same answer as the events of a stream."""
    message = _message(asked, script)
    blocks, stop_reason, usage = message["content"], message["stop_reason"], message["usage"]
    start: dict[str, Any] = message | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    yield event("message_start", {"type": "message_start", "message": start})
    for index, block in enumerate(blocks):
        yield _start(index, block)
        if index == 0:
            yield event("ping", {"type": "ping"})
        for delta in _deltas(block, script.events):
            data = {"type": "content_block_delta", "index": index, "delta": delta}
            yield event("content_block_delta", data)
        yield event("content_block_stop", {"type": "content_block_stop", "index": index})
    stop = {"stop_reason": stop_reason, "stop_sequence": None}
    usage = {name: usage[name] for name in usage if name not in {"cache_creation", "service_tier"}}
    yield event("message_delta", {"type": "message_delta", "delta": stop, "usage": usage})
    yield event("message_stop", {"type": "message_stop"})


def error_event(fault: Fault, _number: int) -> bytes:
    return event("error", messages_error(fault))


def _message(asked: Asked, script: Script) -> dict[str, Any]:
    return {
        "model": asked.model,
        "id": make_id(asked.seed, "msg_01", 22),
        "type": "message",
        "role": "assistant",
        "content": list(_blocks(asked, script)),
        "stop_reason": _stop_reason(script),
        "stop_sequence": None,
        "usage": _usage(script),
    }


def _stop_reason(script: Script) -> str:
    if script.is_incomplete:
        return "max_tokens"
    return "tool_use" if script.tools else "end_turn"


def _usage(script: Script) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "input_tokens": script.input_tokens,
        "cache_creation_input_tokens": script.cache_write_tokens,
        "cache_read_input_tokens": script.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": script.cache_write_tokens,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": script.output_tokens,
        "service_tier": "standard",
    }
    if script.reasoning_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": script.reasoning_tokens}
    if script.web_searches:
        usage["server_tool_use"] = {"web_search_requests": script.web_searches, "web_fetch_requests": 0}
    return usage


def _blocks(asked: Asked, script: Script) -> Iterator[dict[str, Any]]:
    if script.thinking:
        signature = make_id(asked.seed, "EqQB", 60)
        yield {"type": "thinking", "thinking": script.thinking, "signature": signature}
    if script.text:
        yield {"type": "text", "text": script.text}
    for number, tool in enumerate(script.tools):
        call_id = make_id(f"{asked.seed}{number}", "toolu_01", 22)
        arguments = msgspec.Raw(tool.arguments.encode())
        yield {"type": "tool_use", "id": call_id, "name": tool.name, "input": arguments}


def _start(index: int, block: dict[str, Any]) -> bytes:
    empty: dict[str, Any] = {"thinking": "", "signature": "", "text": "", "input": {}}
    bare = {name: empty.get(name, value) for name, value in block.items()}
    return event("content_block_start", {"type": "content_block_start", "index": index, "content_block": bare})


def _deltas(block: dict[str, Any], count: int) -> Iterator[dict[str, str]]:
    kind = block["type"]
    if kind == "tool_use":
        yield {"type": "input_json_delta", "partial_json": ""}
        for piece in split(bytes(block["input"]).decode(), ARGUMENT_PIECES):
            yield {"type": "input_json_delta", "partial_json": piece}
        return
    for piece in split(block[kind], count):
        yield {"type": f"{kind}_delta", kind: piece}
    if kind == "thinking":
        yield {"type": "signature_delta", "signature": block["signature"]}
