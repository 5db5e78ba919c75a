"""Responses that the gateway made of several turns."""

import sqlalchemy as sa
from alembic import op

from bridgeserver.store.schema import Timestamp

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "continued_responses",
        sa.Column("provider_name", sa.Text, primary_key=True),
        sa.Column("first_id", sa.Text, primary_key=True),
        sa.Column("last_id", sa.Text, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
    )
