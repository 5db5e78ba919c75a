"""Rows as a company's year with a gateway would leave them, the same for the same seed.

People open sessions with one client; a session has some prompts, each of which an agent follows up with tool calls
until it is done. A few people and models make most of the requests.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table

from bridgeserver.store import Store, bulk
from bridgeserver.store.schema import (
    interceptions,
    model_thoughts,
    sessions,
    token_usages,
    tool_usages,
    user_prompts,
    users,
)

END_US = 1_790_000_000_000_000
"""2026-09-21: when the newest session begins."""

DAY_US = 86_400_000_000
SECOND_US = 1_000_000
DAYS = 90
BATCH_ROWS = 20_000
CACHE_KB = 1 << 20
"""How much of its indexes SQLite keeps in memory while they grow at random places."""

REQUESTS_A_SESSION = 12

CLIENTS = {"Claude Code": 40, "Codex": 25, "OpenCode": 12, "Zed": 8, "Kilo Code": 5, "Unknown": 10}
"""Each with how many of a hundred sessions are its."""

LOYAL = {"Claude Code": ("anthropic", "bedrock"), "Codex": ("openai",)}
"""Clients that speak to these providers alone; the others to any."""

MODELS = (
    ("anthropic", "claude-sonnet-4-5", 3_000_000, 15_000_000),
    ("openai", "gpt-5-codex", 1_250_000, 10_000_000),
    ("anthropic", "claude-opus-4-1", 15_000_000, 75_000_000),
    ("anthropic", "claude-haiku-4-5", 1_000_000, 5_000_000),
    ("openai", "gpt-5-mini", 250_000, 2_000_000),
    ("bedrock", "anthropic.claude-sonnet-4-5-v1:0", 3_000_000, 15_000_000),
    ("openai", "local-llama", None, None),
    ("openai", "o4-mini", 1_100_000, 4_400_000),
)
TOOLS = ("Read", "Bash", "Edit", "Grep", "Write", "bmcp_wiki_ask_question")
WORDS = ("please", "fix", "the", "failing", "test", "explain", "why", "rename", "that", "function", "keep", "short")

Rows = dict[Table, list[dict[str, Any]]]


class Scale(NamedTuple):
    """How much is wanted, and when it begins; stores of the same number of users have the same users."""

    interceptions: int
    users: int = 1000
    seed: int = 1
    begins_us: int = END_US - DAYS * DAY_US
    ends_us: int = END_US


def fill(store: Store, scale: Scale) -> Iterator[int]:
    """Add rows to an upgraded store, and yield how many interceptions there are after each batch."""
    made = 0
    for batch in batches(scale):
        # No operation of the store adds rows that are not records.
        store._write(_insert, batch)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        made += len(batch[interceptions])
        yield made


def batches(scale: Scale) -> Generator[Rows]:
    """Yield rows by table, many sessions at a time."""
    maker = _Maker(scale)
    rows: Rows = maker.people()
    made = 0
    while made < scale.interceptions:
        before = len(rows[interceptions])
        maker.session(rows, made / scale.interceptions, scale.interceptions - made)
        made += len(rows[interceptions]) - before
        if len(rows[interceptions]) >= BATCH_ROWS:
            yield rows
            rows = defaultdict[Table, list[dict[str, Any]]](list)
    yield rows


def _insert(connection: Connection, rows: Rows) -> None:
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        connection.exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KB}")
    for table, group in rows.items():
        names, values = list(group[0]), [tuple(row.values()) for row in group]
        if is_sqlite:  # without the pauses that a shipper makes
            places = ", ".join("?" * len(names))
            connection.exec_driver_sql(f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({places})", values)
        else:
            bulk.insert(table, names).run(connection, values)


def _models(providers: Collection[str] | None) -> tuple[list[Any], list[float]]:
    """Return the models of these providers or of all, and how often each is used."""
    found = {model: (place + 1) ** -1.5 for place, model in enumerate(MODELS) if not providers or model[0] in providers}
    return list(found), list(found.values())


class _Maker:
    def __init__(self, scale: Scale) -> None:
        self._random = random.Random(1)
        self._users = [self._id(END_US - 2 * DAYS * DAY_US) for _ in range(scale.users)]
        self._weights = list(accumulate(1 / (place + 3) for place in range(scale.users)))
        self._random = random.Random(scale.seed)
        self._begins_us, self._lasts_us = scale.begins_us, scale.ends_us - scale.begins_us
        self._models = {client: _models(LOYAL.get(client)) for client in CLIENTS}

    def people(self) -> Rows:
        rows: Rows = defaultdict(list)
        for number, user_id in enumerate(self._users):
            name = f"user{number:04d}"
            rows[users].append({"id": user_id, "name": name, "active": True, "created_at": END_US - 2 * DAYS * DAY_US})
        return rows

    def session(self, rows: Rows, part: float, limit: int) -> None:
        """Add one session, *part* of the way through the time, with at most *limit* interceptions."""
        chance = self._random
        user_id = chance.choices(self._users, cum_weights=self._weights)[0]
        at = self._begins_us + int(self._lasts_us * part) + chance.randrange(SECOND_US)
        client = chance.choices(list(CLIENTS), weights=list(CLIENTS.values()))[0]
        models, weights = self._models[client]
        model = chance.choices(models, weights)[0]
        session_id = self._id(at) if client != "Unknown" else None
        remaining = min(limit, 1 + int(chance.expovariate(1 / REQUESTS_A_SESSION)))
        started_at, prompted_at = at, at
        while remaining > 0:
            length = min(remaining, 1 + int(chance.expovariate(1 / 4)))
            prompted_at = at
            root, at = self._thread(rows, user_id, session_id, client, model, at, length)
            if session_id is None:
                self._note_session(rows, user_id, root, prompted_at, prompted_at)
            remaining -= length
            at += chance.randrange(20 * SECOND_US, 900 * SECOND_US)
        if session_id is not None:
            self._note_session(rows, user_id, session_id, started_at, prompted_at)

    @staticmethod
    def _note_session(rows: Rows, user_id: str, session_id: str, started_at: int, prompted_at: int) -> None:
        rows[sessions].append(
            {
                "user_id": user_id,
                "id": session_id,
                "started_at": started_at,
                "prompted_at": prompted_at,
                "active_at": prompted_at,
            }
        )

    def _thread(
        self, rows: Rows, user_id: str, session_id: str | None, client: str, model: Any, at: int, length: int
    ) -> tuple[str, int]:
        """Add a prompt and what follows from it; return the first interception's id and when the last one ended."""
        root = parent = None
        call_id = None
        for number in range(length):
            id_ = self._id(at)
            ended_at = at + int(self._random.lognormvariate(1.2, 0.8) * SECOND_US)
            is_failed = self._random.random() < 0.02
            rows[interceptions].append(
                {
                    "id": id_,
                    "user_id": user_id,
                    "key_id": user_id[:8],
                    "provider": model[0],
                    "provider_name": model[0],
                    "protocol": "messages" if model[0] == "anthropic" else "responses",
                    "model": model[1],
                    "streaming": True,
                    "client": client,
                    "user_agent": client.lower(),
                    "session_id": session_id,
                    "correlating_tool_call_id": call_id,
                    "credential_kind": "centralized",
                    "credential_hint": "sk-a...wxyz",
                    "worker": "w",
                    "started_at": at,
                    "status": "failed" if is_failed else "completed",
                    "http_status": 529 if is_failed else 200,
                    "error_type": "overloaded" if is_failed else None,
                    "error_message": "Overloaded" if is_failed else None,
                    "attempts": 1,
                    "ended_at": ended_at,
                    "end_batch": at // SECOND_US,
                    "thread_parent_id": parent,
                    "thread_root_id": root,
                }
            )
            if number == 0:
                text = " ".join(self._random.choices(WORDS, k=self._random.randrange(5, 60)))
                rows[user_prompts].append(
                    {"interception_id": id_, "seq": 1, "text": text, "truncated": False, "created_at": at}
                )
            self._use_tokens(rows, id_, model, ended_at)
            call_id = None if number == length - 1 else self._call_tool(rows, id_, user_id, ended_at)
            root, parent = root or id_, id_
            at = ended_at + self._random.randrange(SECOND_US // 10, 5 * SECOND_US)
        assert root is not None
        return root, at

    def _use_tokens(self, rows: Rows, id_: str, model: Any, at: int) -> None:
        counts = [int(self._random.lognormvariate(mean, 1)) for mean in (6, 5.5, 9, 6)]
        _provider, _name, input_price, output_price = model
        cost = None
        if input_price is not None:
            prices = input_price, output_price, input_price // 10, input_price * 5 // 4
            cost = sum(count * price // 1_000_000 for count, price in zip(counts, prices, strict=True))
        rows[token_usages].append(
            {
                "interception_id": id_,
                "seq": 2,
                "response_id": f"msg_{id_[-12:]}",
                "input_tokens": counts[0],
                "output_tokens": counts[1],
                "cache_read_tokens": counts[2],
                "cache_write_tokens": counts[3],
                "extra": "{}",
                "partial": False,
                "created_at": at,
                "input_price": input_price,
                "output_price": output_price,
                "cost_micros": cost,
            }
        )

    def _call_tool(self, rows: Rows, id_: str, user_id: str, at: int) -> str:
        name = self._random.choice(TOOLS)
        call_id = f"toolu_{self._random.getrandbits(96):024x}"
        rows[tool_usages].append(
            {
                "interception_id": id_,
                "seq": 3,
                "response_id": f"msg_{id_[-12:]}",
                "tool_call_id": call_id,
                "name": name,
                "server": "wiki" if name.startswith("bmcp_") else None,
                "arguments": f'{{"path": "src/module_{self._random.randrange(500)}.py"}}',
                "truncated": False,
                "injected": name.startswith("bmcp_"),
                "error": None,
                "created_at": at,
                "user_id": user_id,
            }
        )
        if self._random.random() < 0.3:
            text = " ".join(self._random.choices(WORDS, k=30))
            rows[model_thoughts].append(
                {
                    "interception_id": id_,
                    "seq": 4,
                    "source": "thinking",
                    "text": text,
                    "truncated": False,
                    "created_at": at,
                }
            )
        return call_id

    def _id(self, at: int) -> str:
        """Return an id as the gateway makes them: it begins with its millisecond."""
        text = f"{at // 1000:012x}7{self._random.getrandbits(12):03x}8{self._random.getrandbits(60):015x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
