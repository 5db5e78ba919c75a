"""Threads and sessions, what tokens cost, and which gateway ships whose journal."""

import sqlalchemy as sa
from alembic import op

from bridgeserver.store.schema import Timestamp

revision = "0006"
down_revision = "0005"

MAX_TOKENS = 10**12
"""What a count is cut to, from this version on."""


def upgrade() -> None:
    """Make the tables, columns and indexes, and the sessions of what is there; of its threads and costs nothing is."""
    op.add_column("interceptions", sa.Column("thread_parent_id", sa.Text))
    op.add_column("interceptions", sa.Column("thread_root_id", sa.Text))
    op.add_column(
        "interceptions", sa.Column("session_key", sa.Text, sa.Computed("coalesce(session_id, thread_root_id, id)"))
    )
    op.create_index(
        "ix_interceptions_session_key",
        "interceptions",
        ["user_id", "session_key", "started_at", "id", "provider_name", "model", "client"],
    )
    op.create_index("ix_interceptions_model", "interceptions", ["model", "client", "user_id", "session_key"])
    op.create_index("ix_interceptions_client", "interceptions", ["client", "user_id"])
    is_set = sa.text("thread_root_id IS NOT NULL")
    op.create_index(
        "ix_interceptions_thread", "interceptions", ["thread_root_id"], sqlite_where=is_set, postgresql_where=is_set
    )
    op.drop_index("ix_interceptions_correlating_tool_call", "interceptions")
    is_set = sa.text("correlating_tool_call_id IS NOT NULL")
    op.create_index(
        "ix_interceptions_correlating_tool_call",
        "interceptions",
        ["user_id", "correlating_tool_call_id", "started_at"],
        sqlite_where=is_set,
        postgresql_where=is_set,
    )
    op.add_column("tool_usages", sa.Column("user_id", sa.Text))
    op.execute(
        "UPDATE tool_usages SET user_id ="
        " (SELECT user_id FROM interceptions WHERE interceptions.id = tool_usages.interception_id)"
    )
    op.drop_index("ix_tool_usages_tool_call_id", "tool_usages")
    op.create_index("ix_tool_usages_call", "tool_usages", ["user_id", "tool_call_id", "created_at"])
    # Of what a provider claimed: sums over many rows must not overflow.
    for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"):
        op.execute(f"UPDATE token_usages SET {name} = {MAX_TOKENS} WHERE {name} > {MAX_TOKENS}")  # noqa: S608
        op.execute(f"UPDATE token_usages SET {name} = 0 WHERE {name} < 0")  # noqa: S608
    for name in ("input_price", "output_price", "cache_read_price", "cache_write_price", "cost_micros"):
        op.add_column("token_usages", sa.Column(name, sa.BigInteger))
    op.create_table(
        "sessions",
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("started_at", Timestamp, nullable=False),
        sa.Column("prompted_at", Timestamp),
        sa.Column("active_at", Timestamp, nullable=False),
        sa.PrimaryKeyConstraint("id", "user_id"),
    )
    op.execute(
        "INSERT INTO sessions (user_id, id, started_at, prompted_at, active_at)"
        " SELECT user_id, session_key, min(started_at), max(user_prompts.created_at),"
        " coalesce(max(user_prompts.created_at), min(started_at))"
        " FROM interceptions LEFT JOIN user_prompts ON user_prompts.interception_id = interceptions.id"
        " GROUP BY user_id, session_key"
    )
    op.create_index("ix_sessions_active", "sessions", ["active_at", "user_id", "id"])
    op.create_index("ix_sessions_user_active", "sessions", ["user_id", "active_at", "id"])
    op.create_table(
        "journals",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("seen_at", Timestamp, nullable=False),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("journal_id", sa.Text, sa.ForeignKey("journals.id"), nullable=False),
    )
    op.create_index("ix_workers_journal_id", "workers", ["journal_id"])
