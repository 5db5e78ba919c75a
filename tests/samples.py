"""Records to store, and a look at what the store's tables hold."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bridgeserver.counting import Counters
from bridgeserver.records import (
    AnyRecord,
    ContinuedResponse,
    Interception,
    InterceptionEnd,
    ModelThought,
    ProviderObject,
    TokenUsage,
    ToolUse,
    UserPrompt,
)
from bridgeserver.traffic import Series, Traffic


def interception(
    number: int = 1, *, worker: str = "w", user_id: str = "u", started_at: int | None = None
) -> Interception:
    """Return an interception with an id of its own."""
    return Interception(
        id=f"i{number:04d}",
        user_id=user_id,
        key_id="k",
        provider="openai",
        provider_name="main",
        protocol="chat",
        model="m",
        streaming=True,
        client="Codex",
        user_agent="codex/1",
        session_id="s",
        correlating_tool_call_id=None,
        credential_kind="centralized",
        credential_hint="sk-a...wxyz",
        worker=worker,
        started_at=1_000_000 + number if started_at is None else started_at,
    )


def prompt(number: int = 1, seq: int = 1, text: str = "hello") -> UserPrompt:
    """Return the prompt of interception *number*."""
    return UserPrompt(f"i{number:04d}", seq, text, truncated=False, created_at=1_000_000)


def usage(number: int = 1, seq: int = 2, *, tokens: tuple[int, int, int, int] = (1, 2, 3, 4)) -> TokenUsage:
    """Return what one response cost: input, output, cache reads, cache writes."""
    return TokenUsage(f"i{number:04d}", seq, "r", *tokens, extra={"reasoning": 7}, partial=False, created_at=1_000_000)


def tool(number: int = 1, seq: int = 3, name: str = "look_up") -> ToolUse:
    """Return a tool call."""
    return ToolUse(
        f"i{number:04d}",
        seq,
        "r",
        tool_call_id="c",
        name=name,
        server="wiki",
        arguments="{}",
        truncated=False,
        injected=True,
        error="no such page",
        created_at=1_000_000,
        duration_us=1500,
        result="there is none",
    )


def thought(number: int = 1, seq: int = 4) -> ModelThought:
    """Return a block of reasoning."""
    return ModelThought(f"i{number:04d}", seq, "thinking", "hm", truncated=False, created_at=1_000_000)


def end(number: int = 1, *, ended_at: int = 2_000_000, http_status: int = 200) -> InterceptionEnd:
    """Return a good end of interception *number*."""
    return InterceptionEnd(f"i{number:04d}", "completed", http_status, None, None, 1, ended_at)


def provider_object(object_id: str = "resp_1", user_id: str = "u") -> ProviderObject:
    """Return an object that provider `main` keeps."""
    return ProviderObject("main", object_id, user_id, 1_000_000)


def continued_response(first_id: str = "resp_1", last_id: str = "resp_2") -> ContinuedResponse:
    """Return a response of several turns."""
    return ContinuedResponse("main", first_id, last_id, 1_000_000)


def whole(number: int = 1) -> list[AnyRecord]:
    """Return everything that one request leaves, in the order of a journal."""
    return [interception(number), prompt(number), tool(number), thought(number), usage(number), end(number)]


TABLES = (
    "interceptions",
    "user_prompts",
    "token_usages",
    "tool_usages",
    "model_thoughts",
    "provider_objects",
    "continued_responses",
    "sessions",
)


def series() -> Series:
    """Return what counts requests of one kind."""
    return Traffic(Counters()).series("main", "/v1/chat/completions", "m", "Codex", "u")


def tables(path: Path, names: Sequence[str] = TABLES) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of tables, in an order of their own, without the numbers of batches."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        found = {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2")] for name in names
        }
    for row in found.get("interceptions", []):
        del row["end_batch"]
    return found


def query(path: Path, sql: str, *values: str) -> list[tuple[Any, ...]]:
    """Run one statement beside the store."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(sql, values).fetchall()


def empty(path: Path) -> None:
    """Remove all records."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for name in TABLES:
            connection.execute(f"DELETE FROM {name}")
