"""What PostgreSQL cannot hold in a text."""

from typing import TypeVar

T = TypeVar("T")


def storable(value: T) -> T | str:
    """Return a value as PostgreSQL takes it: in a text, U+FFFD stands for U+0000, which it has no room for."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value
