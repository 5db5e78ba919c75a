"""Tools without their servers, and a provider's answers with calls of them, in each protocol."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bridgeserver.bridge import RequestBridge
from bridgeserver.config import ToolsConfig
from bridgeserver.errors import ToolError
from bridgeserver.generation import Generation
from bridgeserver.identity import Caller
from bridgeserver.tools.tool import Catalog, Tool, ToolResult
from gatelab import GateLab, Play, answer, stream

Json = dict[str, Any]

NAMES = (
    "coder_list_workspaces",
    "coder_list_templates",
    "coder_template_version_parameters",
    "coder_get_authenticated_user",
    "coder_create_workspace_build",
    "coder_delete_template",
)
"""The tools of the acceptance tables, which a server named `coder` offers."""

URL = "http://coder.example/mcp"
SCHEMA = {"type": "object", "properties": {"owner": {"type": "string"}}, "required": ["owner"]}


def tool(name: str, server: str = "coder") -> Tool:
    """Return a tool of that name."""
    return Tool(f"bmcp_{server}_{name}", name, server, URL, f"What {name} does.", SCHEMA)


TOOLS = [tool(name) for name in NAMES]


def text(said: str) -> ToolResult:
    """Return a result that is text."""
    return ToolResult(({"type": "text", "text": said},))


class Box:
    """The tools of one caller: says `mock`, unless *answers* has something else, and remembers who asked what."""

    sessions = 1
    is_degraded = False

    def __init__(self, tools: Sequence[Tool] = TOOLS, **answers: ToolResult | str) -> None:
        self.catalog = Catalog(tools)
        self.answers = answers
        self.calls: list[tuple[str, Json]] = []
        self.running = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def call(self, tool: Tool, arguments: Mapping[str, Any], /) -> ToolResult:
        """Answer as soon as the gate is open; text is the reason of a failure."""
        self.calls.append((tool.name, dict(arguments)))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        found = self.answers.get(tool.name, text("mock"))
        if isinstance(found, str):
            raise ToolError(found)
        return found

    async def close(self) -> None:
        """End."""


def give(lab: GateLab, box: Box, **options: Any) -> Box:
    """Let every caller of *lab* have the tools in *box*, with these *options*, as if a new generation brought them."""

    async def connect(_caller: Caller, _generation: Generation) -> Box:
        return box

    async def publish() -> None:
        lab.worker.generation.tools = ToolsConfig(**options)
        lab.worker.pool.publish(lab.worker.generation)

    lab.worker.pool._connect = connect  # pyright: ignore[reportPrivateUsage]
    lab.run(publish())
    return box


def bridge_of(lab: GateLab, user: str = "ann") -> RequestBridge:
    """Return a caller's bridge."""
    caller = lab.run(lab.worker.keyring.authenticate(lab.tokens[user], ""))
    pool, generation = lab.worker.pool, lab.worker.generation
    with pool.find(caller, generation) or lab.run(pool.acquire(caller, generation)) as bridge:
        return bridge  # type: ignore[no-any-return]


def event(data: Json, name: str | None = None) -> bytes:
    """Return one event."""
    line = b"" if name is None else b"event: %b\n" % name.encode()
    return line + b"data: %b\n\n" % json.dumps(data).encode()


class MessagesScript:
    """Answers of the Messages protocol."""

    path = "/anthropic/v1/messages"
    request: ClassVar[Json] = {
        "model": "claude-opus-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "what workspaces do i have?"}],
    }

    @staticmethod
    def say(said: str) -> Json:
        """Return text."""
        return {"type": "text", "text": said}

    @staticmethod
    def call(call_id: str, name: str, arguments: str) -> Json:
        """Return a call."""
        return {"type": "tool_use", "id": call_id, "name": name, "input": json.loads(arguments or "{}")}

    def turn(
        self, turn_id: str, blocks: list[Json], tokens: tuple[int, int], *, streaming: bool, stop: str | None = None
    ) -> Play:
        """Return an answer with these blocks, and tokens in and out."""
        asks = any(block["type"] == "tool_use" for block in blocks)
        stop = stop or ("tool_use" if asks else "end_turn")
        head: Json = {"id": turn_id, "type": "message", "role": "assistant", "model": "claude-opus-4-5"}
        usage: Json = {"input_tokens": tokens[0], "output_tokens": tokens[1], "cache_read_input_tokens": 0}
        if not streaming:
            body: Json = {**head, "content": blocks, "stop_reason": stop, "stop_sequence": None, "usage": usage}
            return answer(json.dumps(body).encode())
        start: Json = {**head, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
        events: list[Json] = [{"type": "message_start", "message": start}]
        for index, block in enumerate(blocks):
            events += self._block(index, block)
        events += [
            {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": tokens[1]}},
            {"type": "message_stop"},
        ]
        return stream(*(event(each, str(each["type"])) for each in events))

    @staticmethod
    def _block(index: int, block: Json) -> list[Json]:
        deltas: list[Json]
        if block["type"] == "text":
            start: Json = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in block["text"].split("|")]
        elif block["type"] == "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        else:
            start = {**block, "input": {}}
            written = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", written[:3], written[3:])]
        return [
            {"type": "content_block_start", "index": index, "content_block": start},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]


class ChatScript:
    """Answers of the Chat Completions protocol."""

    path = "/openai/v1/chat/completions"
    request: ClassVar[Json] = {
        "model": "gpt-4.1",
        "messages": [{"role": "user", "content": "what workspaces do i have?"}],
    }

    @staticmethod
    def say(said: str) -> Json:
        """Return text."""
        return {"content": said}

    @staticmethod
    def call(call_id: str, name: str, arguments: str) -> Json:
        """Return a call."""
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

    def turn(
        self, turn_id: str, blocks: list[Json], tokens: tuple[int, int], *, streaming: bool, stop: str | None = None
    ) -> Play:
        """Return an answer with these blocks, and tokens in and out."""
        calls = [block for block in blocks if "function" in block]
        said = "".join(block["content"] for block in blocks if "content" in block)
        stop = stop or ("tool_calls" if calls else "stop")
        usage: Json = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        head: Json = {"id": turn_id, "created": 1, "model": "gpt-4.1"}
        if not streaming:
            message: Json = {"role": "assistant", "content": said or None, "refusal": None}
            if calls:
                message["tool_calls"] = calls
            choice: Json = {"index": 0, "message": message, "finish_reason": stop}
            body: Json = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return answer(json.dumps(body).encode())
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in said.split("|") if piece]
        for index, call in enumerate(calls):
            arguments = call["function"]["arguments"]
            first: Json = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
            deltas.append({"tool_calls": [first]})
            deltas += [
                {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
                for piece in (arguments[:4], arguments[4:])
                if piece
            ]
        head["object"] = "chat.completion.chunk"
        chunks: list[Json] = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
        ]
        chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": stop}]})
        chunks.append({**head, "choices": [], "usage": usage})
        return stream(*map(event, chunks), b"data: [DONE]\n\n")


class ResponsesScript:
    """Answers of the Responses protocol."""

    path = "/openai/v1/responses"
    request: ClassVar[Json] = {"model": "gpt-4.1", "input": "what workspaces do i have?"}

    @staticmethod
    def say(said: str) -> Json:
        """Return text."""
        content: list[Json] = [{"type": "output_text", "text": said, "annotations": []}]
        return {"type": "message", "role": "assistant", "status": "completed", "content": content}

    @staticmethod
    def call(call_id: str, name: str, arguments: str) -> Json:
        """Return a call."""
        call = {"call_id": call_id, "name": name, "arguments": arguments, "status": "completed"}
        return {"type": "function_call", "id": f"fc_{call_id}", **call}

    def turn(
        self, turn_id: str, blocks: list[Json], tokens: tuple[int, int], *, streaming: bool, stop: str | None = None
    ) -> Play:
        """Return an answer with these items, and tokens in and out."""
        items: list[Json] = [{"id": f"item_{turn_id}_{index}", **block} for index, block in enumerate(blocks)]
        usage: Json = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
        response: Json = {"id": turn_id, "object": "response", "created_at": 1, "model": "gpt-4.1", "error": None}
        whole: Json = {**response, "status": stop or "completed", "output": items, "usage": usage}
        if not streaming:
            return answer(json.dumps(whole).encode())
        begun: Json = {**response, "status": "in_progress", "output": [], "usage": None}
        events: list[Json] = [{"type": "response.created", "response": begun}]
        events.append({"type": "response.in_progress", "response": begun})
        for index, item in enumerate(items):
            place: Json = {"output_index": index}
            events.append({"type": "response.output_item.added", **place, "item": item | {"status": "in_progress"}})
            if item["type"] == "message":
                told: Json = {**place, "item_id": item["id"], "content_index": 0}
                pieces = item["content"][0]["text"].split("|")
                events += [{"type": "response.output_text.delta", **told, "delta": piece} for piece in pieces]
            if item["type"] == "function_call":
                told = {**place, "item_id": item["id"]}
                events.append({"type": "response.function_call_arguments.delta", **told, "delta": item["arguments"]})
            if item["type"] == "reasoning":
                told = {**place, "item_id": item["id"], "summary_index": 0}
                events.append({"type": "response.reasoning_summary_text.delta", **told, "delta": "hm"})
            events.append({"type": "response.output_item.done", **place, "item": item})
        events.append({"type": f"response.{stop or 'completed'}", "response": whole})
        numbered: list[Json] = [{**each, "sequence_number": number} for number, each in enumerate(events)]
        return stream(*(event(each, each["type"]) for each in numbered))


Script = MessagesScript | ChatScript | ResponsesScript
MESSAGES, CHAT, RESPONSES = MessagesScript(), ChatScript(), ResponsesScript()
SCRIPTS: list[Script] = [MESSAGES, CHAT, RESPONSES]


def events_of(body: bytes) -> list[Json]:
    """Return what the events of a stream say, but for its last word."""
    data = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ") and line != b"data: [DONE]"]
    return [json.loads(each) for each in data]
