"""Users' sealed tokens for MCP servers, and what a tool call took and gave."""

import sqlalchemy as sa
from alembic import op

from bridgeserver.store.schema import Timestamp

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table and add the two columns; of earlier calls nothing is known."""
    op.create_table(
        "mcp_tokens",
        sa.Column("user_id", sa.Text, sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("server", sa.Text, primary_key=True),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("updated_at", Timestamp, nullable=False),
    )
    op.add_column("tool_usages", sa.Column("duration_us", sa.BigInteger))
    op.add_column("tool_usages", sa.Column("result", sa.Text))
