"""Stores that hold what a test wants to ask for: requests with their sessions, threads and costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, text, update

import samples
from bridgeserver.records import AnyRecord
from bridgeserver.store import Store
from bridgeserver.store.schema import interceptions, token_usages

SECOND, DAY = 1_000_000, 86_400_000_000
NOW = 1_790_000_000_000_000
"""2026-09-21T14:13:20Z"""


def request(number: int, *, at: int | None = None, tokens: int = 1, **members: Any) -> list[AnyRecord]:
    """Return a whole request: a prompt, a tool, a thought, tokens and an end one second after its beginning."""
    at = NOW + number * SECOND if at is None else at
    members = {"session_id": None, "user_id": "u1", "started_at": at} | members
    return [
        replace(samples.interception(number), **members),
        replace(samples.prompt(number, text=f"prompt {number}"), created_at=at),
        samples.tool(number),
        samples.thought(number),
        samples.usage(number, tokens=(tokens, 2 * tokens, 3 * tokens, 4 * tokens)),
        samples.end(number, ended_at=at + SECOND),
    ]


def fill(
    store: Store,
    *requests: Sequence[AnyRecord],
    roots: Mapping[int, int] | None = None,
    costs: Mapping[int, int] | None = None,
) -> None:
    """Store requests; *roots* says which request began the thread of which, *costs* what some of them cost."""
    store.apply([record for found in requests for record in found])

    def settle(connection: Connection) -> None:
        for number, root in (roots or {}).items():
            lineage = {"thread_parent_id": f"i{root:04d}", "thread_root_id": f"i{root:04d}"}
            connection.execute(update(interceptions).where(interceptions.c.id == f"i{number:04d}").values(lineage))
        for number, cost in (costs or {}).items():
            usage = token_usages.c.interception_id == f"i{number:04d}"
            connection.execute(update(token_usages).where(usage).values(cost_micros=cost))
        connection.execute(text("DELETE FROM sessions"))
        connection.execute(
            text(
                "INSERT INTO sessions (user_id, id, started_at, prompted_at, active_at)"
                " SELECT user_id, session_key, min(started_at), max(user_prompts.created_at),"
                " coalesce(max(user_prompts.created_at), min(started_at))"
                " FROM interceptions LEFT JOIN user_prompts ON user_prompts.interception_id = interceptions.id"
                " GROUP BY user_id, session_key"
            )
        )

    store._write(settle)  # pyright: ignore[reportPrivateUsage]
