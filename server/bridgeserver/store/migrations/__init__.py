"""The history of the schema, one file a step below `versions`; Alembic runs them."""

HEAD = "0007"
"""The newest revision."""
