"""Sums of whole numbers that cannot overflow, whatever a provider has claimed, and stay exact."""

from typing import Any

from sqlalchemy import ColumnElement, Row, func

from bridgeserver.store.schema import token_usages
from bridgeserver.store.views import TOKENS, Tokens

HALF = 1 << 31
"""A number is summed in two parts, of which each engine can add up four billion without leaving 64 bits."""


def parts(column: ColumnElement[int], name: str) -> list[ColumnElement[Any]]:
    """Return what to select so that `whole` can tell the sum of *column*."""
    return [func.sum(column // HALF).label(f"{name}_high"), func.sum(column % HALF).label(f"{name}_low")]


def whole(row: Row[Any], name: str) -> int:
    """Return the sum, 0 of nothing."""
    return int(getattr(row, f"{name}_high") or 0) * HALF + int(getattr(row, f"{name}_low") or 0)


def token_parts() -> list[ColumnElement[Any]]:
    """Return the same for the four counts of tokens."""
    return [part for name in TOKENS for part in parts(token_usages.c[name], name)]


def tokens_of(row: Row[Any]) -> Tokens:
    """Return the four sums."""
    return Tokens(**{name: whole(row, name) for name in TOKENS})


def cost_parts() -> list[ColumnElement[Any]]:
    """Return the same for the costs, and how many responses have none as `unpriced`."""
    cost = token_usages.c.cost_micros
    unpriced = func.count() - func.count(cost)
    return [*parts(cost, "cost_micros"), unpriced.label("unpriced")]
