"""The first schema: users, keys, audit, interceptions and what belongs to them."""

import sqlalchemy as sa
from alembic import op

from bridgeserver.store.schema import Timestamp

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    _create_accounts()
    _create_interceptions()
    _create_children()
    op.create_table(
        "provider_objects",
        sa.Column("provider_name", sa.Text, primary_key=True),
        sa.Column("object_id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
    )


def _create_accounts() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("email", sa.Text),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("revoked_at", Timestamp),
        sa.Column("revision", sa.BigInteger, nullable=False, index=True),
    )
    revisions = op.create_table(
        "revisions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(revisions, [{"name": name, "value": 0} for name in ("keys_rev", "config_rev", "end_batch")])
    op.create_table(
        "audit",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", Timestamp, nullable=False, index=True),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )


def _create_interceptions() -> None:
    op.create_table(
        "interceptions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("provider_name", sa.Text, nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("streaming", sa.Boolean, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("user_agent", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text),
        sa.Column("correlating_tool_call_id", sa.Text),
        sa.Column("credential_kind", sa.Text, nullable=False),
        sa.Column("credential_hint", sa.Text, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("started_at", Timestamp, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="open"),
        sa.Column("http_status", sa.Integer),
        sa.Column("error_type", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("attempts", sa.Integer),
        sa.Column("ended_at", Timestamp),
        sa.Column("end_batch", sa.BigInteger),
    )
    _index("started", "started_at", "id")
    _index("user", "user_id", "started_at", "id")
    _index("session", "session_id", where="session_id IS NOT NULL")
    _index("correlating_tool_call", "correlating_tool_call_id", where="correlating_tool_call_id IS NOT NULL")
    _index("open", "worker", where="ended_at IS NULL")
    _index("ended", "end_batch", "ended_at", "id", where="end_batch IS NOT NULL")


def _index(name: str, *columns: str, where: str | None = None) -> None:
    condition = sa.text(where) if where else None
    op.create_index(
        f"ix_interceptions_{name}",
        "interceptions",
        list(columns),
        sqlite_where=condition,
        postgresql_where=condition,
    )


def _create_children() -> None:
    _create_child(
        "user_prompts",
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("truncated", sa.Boolean, nullable=False),
    )
    _create_child(
        "token_usages",
        sa.Column("response_id", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("extra", sa.Text, nullable=False),
        sa.Column("partial", sa.Boolean, nullable=False),
    )
    _create_child(
        "tool_usages",
        sa.Column("response_id", sa.Text, nullable=False),
        sa.Column("tool_call_id", sa.Text, nullable=False, index=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("server", sa.Text),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("truncated", sa.Boolean, nullable=False),
        sa.Column("injected", sa.Boolean, nullable=False),
        sa.Column("error", sa.Text),
    )
    _create_child(
        "model_thoughts",
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("truncated", sa.Boolean, nullable=False),
    )


def _create_child(name: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        name,
        sa.Column("interception_id", sa.Text, primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        *columns,
        sa.Column("created_at", Timestamp, nullable=False),
    )
