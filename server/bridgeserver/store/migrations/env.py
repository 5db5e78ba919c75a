"""What Alembic runs to begin: it hands over the connection and the transaction that the caller has opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
