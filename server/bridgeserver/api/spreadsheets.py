"""Rows as CSV, so that no program that opens them takes a text for a formula."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bridgeserver.store.views import Interception

RISKY = ("=", "+", "-", "@", "\t", "\r", "\n")
"""With one of these a text begins that a spreadsheet would work out; an apostrophe makes it a text again."""

INTERCEPTIONS = (
    "id",
    "started_at",
    "ended_at",
    "user_id",
    "user",
    "provider",
    "provider_name",
    "model",
    "client",
    "session_key",
    "thread_id",
    "status",
    "http_status",
    "error_type",
    "streaming",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cost_micros",
    "unpriced",
    "tools",
    "prompt",
)


def lines(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as lines; nothing stands for None."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def interception(record: Interception | Mapping[str, Any]) -> list[Any]:
    """Return the cells of an interception, or of its members."""
    if isinstance(record, Interception):
        return [
            " ".join(tool.name for tool in record.tools) if name == "tools" else getattr(record, name)
            for name in INTERCEPTIONS
        ]
    return [
        " ".join(tool["name"] for tool in record["tools"]) if name == "tools" else record[name]
        for name in INTERCEPTIONS
    ]


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(RISKY):
        return "'" + value
    if isinstance(value, bool):
        return str(value).lower()
    return value
