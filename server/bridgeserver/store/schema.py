"""The tables, defined once for every engine; `migrations` builds them, and a test compares the two.

The columns of a record's table begin with the fields of its type, in the same order: `shipping` relies on it.
Children of an interception have no foreign key, so they may be stored before it or after its end.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeEngine

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Timestamp(TypeDecorator[int]):
    """An instant, in Python as whole microseconds since the Unix epoch; SQLite stores just that."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[int] | TypeEngine[datetime]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | datetime | None:
        if value is None or dialect.name != "postgresql":
            return value
        return EPOCH + value * MICROSECOND

    def process_result_value(self, value: int | datetime | None, dialect: Dialect) -> int | None:
        del dialect
        return (value - EPOCH) // MICROSECOND if isinstance(value, datetime) else value


@compiles(Computed, "postgresql")
def _store_computed(computed: Computed, _compiler: object, **_options: object) -> str:
    """Have PostgreSQL keep what it computes: of what it computes on reading it makes no index."""
    return f"GENERATED ALWAYS AS ({computed.sqltext}) STORED"


metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("email", Text),
    Column("active", Boolean, nullable=False),
    Column("created_at", Timestamp, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False, index=True),
    Column("label", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("revoked_at", Timestamp),
    Column("revision", BigInteger, nullable=False, index=True),
)

revisions = Table(
    "revisions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Timestamp, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("detail", Text, nullable=False),  # a JSON object
)

interceptions = Table(
    "interceptions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("provider_name", Text, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("streaming", Boolean, nullable=False),
    Column("client", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("session_id", Text),
    Column("correlating_tool_call_id", Text),
    Column("credential_kind", Text, nullable=False),
    Column("credential_hint", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("started_at", Timestamp, nullable=False),
    # The fields of an InterceptionEnd:
    Column("status", Text, nullable=False, server_default="open"),
    Column("http_status", Integer),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("attempts", Integer),
    Column("ended_at", Timestamp),
    # The number of the transaction that stored the end. An end is stored some time after `ended_at`, so
    # whoever follows the ends cannot go by the clock; this number grows in the order of commits.
    Column("end_batch", BigInteger),
    # The interception whose tool call this one answers, and the first of that chain; none where it begins one.
    Column("thread_parent_id", Text),
    Column("thread_root_id", Text),
    Column("session_key", Text, Computed("coalesce(session_id, thread_root_id, id)")),
)
Index("ix_interceptions_started", interceptions.c.started_at, interceptions.c.id)
Index("ix_interceptions_user", interceptions.c.user_id, interceptions.c.started_at, interceptions.c.id)
# Its last columns are not looked up: what a session is filtered and shown by is read from the index alone.
Index(
    "ix_interceptions_session_key",
    interceptions.c.user_id,
    interceptions.c.session_key,
    interceptions.c.started_at,
    interceptions.c.id,
    interceptions.c.provider_name,
    interceptions.c.model,
    interceptions.c.client,
)
# For the different values of a column, and for filters that few rows match: a client's models, and whose sessions they
# are, are read from the first index alone.
Index(
    "ix_interceptions_model",
    interceptions.c.model,
    interceptions.c.client,
    interceptions.c.user_id,
    interceptions.c.session_key,
)
Index("ix_interceptions_client", interceptions.c.client, interceptions.c.user_id)


def _index_where(name: str, *columns: str, is_null: str | None = None, is_set: str | None = None) -> None:
    """Index only the rows in which a column has no value, or has one."""
    condition = interceptions.c[is_null].is_(None) if is_null else interceptions.c[is_set or ""].is_not(None)
    Index(
        f"ix_interceptions_{name}",
        *(interceptions.c[column] for column in columns),
        sqlite_where=condition,
        postgresql_where=condition,
    )


_index_where("session", "session_id", is_set="session_id")
_index_where("thread", "thread_root_id", is_set="thread_root_id")
_index_where(
    "correlating_tool_call", "user_id", "correlating_tool_call_id", "started_at", is_set="correlating_tool_call_id"
)
_index_where("open", "worker", is_null="ended_at")
_index_where("ended", "end_batch", "ended_at", "id", is_set="end_batch")


def _child(name: str, *columns: Column[object], later: Sequence[Column[object]] = ()) -> Table:
    """Return the table of what belongs to an interception; *later* are the columns that a migration has added."""
    return Table(
        name,
        metadata,
        Column("interception_id", Text, primary_key=True),
        Column("seq", Integer, primary_key=True, autoincrement=False),
        *columns,
        Column("created_at", Timestamp, nullable=False),
        *later,
    )


user_prompts = _child(
    "user_prompts",
    Column("text", Text, nullable=False),
    Column("truncated", Boolean, nullable=False),
)

token_usages = _child(
    "token_usages",
    Column("response_id", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("extra", Text, nullable=False),  # a JSON object
    Column("partial", Boolean, nullable=False),
    later=(
        Column("stop_reason", Text, nullable=False, server_default=""),
        Column("service_tier", Text, nullable=False, server_default=""),
        # In micro-dollars for a million tokens as they were when the row was stored, and what that makes; none of them
        # for a model without a price.
        Column("input_price", BigInteger),
        Column("output_price", BigInteger),
        Column("cache_read_price", BigInteger),
        Column("cache_write_price", BigInteger),
        Column("cost_micros", BigInteger),
    ),
)

tool_usages = _child(
    "tool_usages",
    Column("response_id", Text, nullable=False),
    Column("tool_call_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("server", Text),
    Column("arguments", Text, nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("injected", Boolean, nullable=False),
    Column("error", Text),
    # The user again, so that whose call it was is found in one index: some providers give the same few ids to all.
    later=(Column("duration_us", BigInteger), Column("result", Text), Column("user_id", Text)),
)
Index("ix_tool_usages_call", tool_usages.c.user_id, tool_usages.c.tool_call_id, tool_usages.c.created_at)

model_thoughts = _child(
    "model_thoughts",
    Column("source", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("truncated", Boolean, nullable=False),
)

# One row a session, so that a page of them is found without looking at all interceptions. Another user's session of the
# same id is another one: clients choose these ids. The key begins with the id, by which a session is looked up.
sessions = Table(
    "sessions",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("id", Text, nullable=False),  # interceptions.session_key
    Column("started_at", Timestamp, nullable=False),
    Column("prompted_at", Timestamp),  # when its last prompt came
    Column("active_at", Timestamp, nullable=False),  # that, or else started_at
    PrimaryKeyConstraint("id", "user_id"),
)
Index("ix_sessions_active", sessions.c.active_at, sessions.c.user_id, sessions.c.id)
Index("ix_sessions_user_active", sessions.c.user_id, sessions.c.active_at, sessions.c.id)

# Which gateway ships the journal of a worker, and when that gateway was last heard of: several may share a database.
journals = Table(
    "journals",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seen_at", Timestamp, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("journal_id", Text, ForeignKey("journals.id"), nullable=False, index=True),
)

provider_objects = Table(
    "provider_objects",
    metadata,
    Column("provider_name", Text, primary_key=True),
    Column("object_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
)

continued_responses = Table(
    "continued_responses",
    metadata,
    Column("provider_name", Text, primary_key=True),
    Column("first_id", Text, primary_key=True),
    Column("last_id", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
)


def _index_living_names(table: Table) -> None:
    """Let a name be that of one row at most, besides deleted ones."""
    is_there = table.c.deleted_at.is_(None)
    Index(f"ix_{table.name}_name", table.c.name, unique=True, sqlite_where=is_there, postgresql_where=is_there)


def _overrides(name: str) -> Table:
    """Return a table of what was switched of the configuration's."""
    return Table(
        name,
        metadata,
        Column("name", Text, primary_key=True),
        Column("enabled", Boolean, nullable=False),
        Column("created_at", Timestamp, nullable=False),
    )


providers = Table(
    "providers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("icon", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("base_url", Text, nullable=False),
    # A JSON object: auth, shared_state and allow_link_local in clear; extra_headers and query, whose values may be
    # secrets, each as {"masked": {name: hint}, "sealed": text}, so that a list needs no key to be shown.
    Column("settings", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("deleted_at", Timestamp),
)
_index_living_names(providers)

provider_keys = Table(
    "provider_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("provider_id", Text, ForeignKey("providers.id"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("masked", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
)

provider_overrides = _overrides("provider_overrides")

mcp_servers = Table(
    "mcp_servers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),  # without its query
    # Each {"masked": {name: hint}, "sealed": text}, as the tables in a provider's settings; a query is one text, named
    # like its column.
    Column("query", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("user_token", Boolean, nullable=False),
    Column("allow", Text, nullable=False),
    Column("deny", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("allow_link_local", Boolean, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("deleted_at", Timestamp),
)
_index_living_names(mcp_servers)

mcp_server_overrides = _overrides("mcp_server_overrides")

mcp_tokens = Table(
    "mcp_tokens",
    metadata,
    Column("user_id", Text, ForeignKey("users.id"), primary_key=True),
    Column("server", Text, primary_key=True),
    Column("sealed", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
)
