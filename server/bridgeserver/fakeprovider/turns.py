"""What of an answer depends on the conversation so far: the tools that it calls, and the result that it quotes."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

import msgspec

from bridgeserver.fakeprovider.asked import Asked
from bridgeserver.fakeprovider.script import Script, ToolCall
from bridgeserver.protocols import lenient

_RESULT_TYPES = {"function_call_output", "custom_tool_call_output"}


def with_due_tools(script: Script, asked: Asked) -> Script:
    """Return *script* with the tools that are called now, by the names that the request knows them by."""
    if not script.tools:
        return script
    if script.tool_turns is not None and _result_turns(asked) >= script.tool_turns:
        return msgspec.structs.replace(script, tools=())
    offered = [_tool_name(tool) for tool in asked.objects("tools")]
    named = [_named(tool, offered) for tool in script.tools]
    return msgspec.structs.replace(script, tools=tuple(tool for tool in named if tool))


def with_quote(script: Script, asked: Asked) -> Script:
    """Return *script* with the text that it has once the newest tool result is known."""
    if not script.quotes_result:
        return script
    results = [text for item in _conversation(asked) for text in _results(item)]
    return msgspec.structs.replace(script, text=script.text + "".join(results[-1:]))


def _named(tool: ToolCall, offered: list[str]) -> ToolCall | None:
    if "*" not in tool.name:
        return tool
    name = next((name for name in offered if fnmatchcase(name, tool.name)), None)
    return ToolCall(name, tool.arguments) if name else None


def _tool_name(tool: dict[str, Any]) -> str:
    return str((lenient.mapping(tool.get("function")) or tool).get("name", ""))


def _result_turns(asked: Asked) -> int:
    """Count the runs of tool results: results beside each other answer one turn."""
    return sum(is_result for is_result, _run in groupby(_conversation(asked), _has_result))


def _has_result(item: dict[str, Any]) -> bool:
    return next(_results(item), None) is not None


def _conversation(asked: Asked) -> list[dict[str, Any]]:
    return asked.objects("messages") or asked.objects("input")


def _results(item: dict[str, Any]) -> Iterator[str]:
    """Yield the text of each tool result that an element of the conversation holds."""
    if item.get("role") == "tool":
        yield _text(item.get("content"))
    elif item.get("type") in _RESULT_TYPES:
        yield _text(item.get("output"))
    else:
        blocks = map(lenient.mapping, lenient.array(item.get("content")))
        yield from (_text(block.get("content")) for block in blocks if block.get("type") == "tool_result")


def _text(content: Any) -> str:
    """Return the text of a result, which is a text or a list of blocks."""
    if isinstance(content, str):
        return content
    return "".join(lenient.text(lenient.mapping(block).get("text")) for block in lenient.array(content))
