"""Places in an order of several columns."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Tuple, literal, tuple_


def place(order: Sequence[ColumnElement[Any]], values: Sequence[Any]) -> Tuple:
    """Return a place that can be compared with `tuple_(*order)`: each value has the type of its column."""
    return tuple_(*(literal(value, column.type) for column, value in zip(order, values, strict=True)))
