"""Records to store, and a look at what the store's tables hold."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, RowMapping, text

from bridgeserver.counting import Counters
from bridgeserver.prices import PriceList
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
from bridgeserver.store import Store
from bridgeserver.store.schema import EPOCH, MICROSECOND, metadata
from bridgeserver.traffic import Series, Traffic

if TYPE_CHECKING:
    from bridgeserver.store.postgres import Postgres
    from bridgeserver.store.sqlite import Sqlite


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


SWEEP = [
    f"DELETE FROM {table.name}" if table.name != "revisions" else "UPDATE revisions SET value = 0"
    for table in reversed(metadata.sorted_tables)
]
"""What leaves the schema and nothing else."""


def series() -> Series:
    """Return what counts requests of one kind."""
    return Traffic(Counters()).series("main", "/v1/chat/completions", "m", "Codex", "u")


def database(store: Store) -> "Sqlite | Postgres":
    """Return the engine behind a store, for what its operations do not do."""
    return store._database  # pyright: ignore[reportPrivateUsage]


def tables(store: Store, names: Sequence[str] = TABLES) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of tables, in an order of their own, without the numbers of batches."""

    def read(connection: Connection) -> dict[str, list[dict[str, Any]]]:
        found = {name: connection.execute(text(f"SELECT * FROM {name} ORDER BY 1, 2")) for name in names}
        return {name: [_plain(row) for row in result.mappings()] for name, result in found.items()}

    found = database(store).read(read)
    for row in found.get("interceptions", []):
        del row["end_batch"]
    return found


def query(store: Store, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
    """Run one statement beside the operations of the store, and return its rows."""

    def run(connection: Connection) -> list[tuple[Any, ...]]:
        result = connection.execute(text(sql), parameters)
        return [tuple(_plain(row).values()) for row in result.mappings()] if result.returns_rows else []

    return database(store).write(run)


def empty(store: Store) -> None:
    """Remove everything but the schema."""

    def sweep(connection: Connection) -> None:
        for statement in SWEEP:
            connection.execute(text(statement))

    database(store).write(sweep)
    store.prices = PriceList()


def _plain(row: RowMapping) -> dict[str, Any]:
    """Return a row with its instants as the store's own code has them."""
    return {
        name: (value - EPOCH) // MICROSECOND if isinstance(value, datetime) else value for name, value in row.items()
    }
