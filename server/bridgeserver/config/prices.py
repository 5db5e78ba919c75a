"""What is wrong with a price as a whole."""

from collections.abc import Iterator

from bridgeserver.config.sources import Table, Values, Wrong

CATEGORIES = ("input", "output", "cache_read", "cache_write")


def mistakes(table: Table, values: Values) -> Iterator[Wrong]:
    """Yield the mistakes of one price: it has to be for something, and to say something."""
    if "model" not in table.members:
        yield "model", "nothing", "the name of a model, in which * stands for any text"
    if "model" in values and not table.members.keys() & set(CATEGORIES):
        yield "input", "nothing", "at least one of input, output, cache_read and cache_write"
