"""Why a response stopped, and which tier served it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the two columns; of earlier responses nothing is known."""
    for name in ("stop_reason", "service_tier"):
        op.add_column("token_usages", sa.Column(name, sa.Text, nullable=False, server_default=""))
