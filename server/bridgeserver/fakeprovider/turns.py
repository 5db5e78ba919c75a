"""Which of a script's tools an answer calls: that depends on the conversation so far and on what is offered."""

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


def _named(tool: ToolCall, offered: list[str]) -> ToolCall | None:
    if "*" not in tool.name:
        return tool
    name = next((name for name in offered if fnmatchcase(name, tool.name)), None)
    return ToolCall(name, tool.arguments) if name else None


def _tool_name(tool: dict[str, Any]) -> str:
    return str((lenient.mapping(tool.get("function")) or tool).get("name", ""))


def _result_turns(asked: Asked) -> int:
    """Count the runs of tool results: results beside each other answer one turn."""
    conversation = asked.objects("messages") or asked.objects("input")
    return sum(is_result for is_result, _run in groupby(conversation, _is_result))


def _is_result(item: dict[str, Any]) -> bool:
    if item.get("role") == "tool" or item.get("type") in _RESULT_TYPES:
        return True
    blocks = map(lenient.mapping, lenient.array(item.get("content")))
    return any(block.get("type") == "tool_result" for block in blocks)
