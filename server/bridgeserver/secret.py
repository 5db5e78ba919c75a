"""Secrets: values that must not show up where people look, and the part of one that may."""


class Secret:
    """A text that hides itself: `str` and `repr` show its hint, and msgspec refuses to encode it.

    Pickling keeps the text, because the parent process hands the configuration to its workers.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({hint(self._text)!r})"

    def __str__(self) -> str:
        return hint(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def hint(secret: str) -> str:
    """Return what may be shown of *secret*: a few characters of both ends, fewer the shorter it is."""
    shown = _shown_at_each_end(len(secret))
    if not secret:
        return ""
    if not shown:
        return "..."
    return f"{secret[:shown]}...{secret[-shown:]}"


def _shown_at_each_end(length: int) -> int:
    # Each number is less than half of the length that it needs, so something is always hidden.
    return 4 if length >= 20 else 2 if length >= 10 else 1 if length >= 5 else 0
