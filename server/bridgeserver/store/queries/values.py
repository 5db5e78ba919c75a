"""The different values of a column, in as many steps as there are values.

`SELECT DISTINCT` would read the whole index, two million entries for twenty models. Here each step asks the index for
the next value after the one before.
"""

from sqlalchemy import ColumnElement, Connection, exists, func, select

from bridgeserver.store.queries.filters import Filters, owners
from bridgeserver.store.schema import interceptions, users
from bridgeserver.store.views import Initiator


def models(connection: Connection, filters: Filters, prefix: str, limit: int) -> list[str]:
    """Return models that were asked for."""
    return _distinct(connection, interceptions.c.model, filters, prefix, limit)


def clients(connection: Connection, filters: Filters, prefix: str, limit: int) -> list[str]:
    """Return clients that asked."""
    return _distinct(connection, interceptions.c.client, filters, prefix, limit)


def initiators(connection: Connection, filters: Filters, prefix: str, limit: int) -> list[Initiator]:
    """Return users by name, whether they have asked anything or not."""
    query = select(users.c.id, users.c.name).where(_begins(users.c.name, prefix))
    query = query.where(*(users.c.id == user for user in owners(connection, filters)))
    rows = connection.execute(query.order_by(users.c.name).limit(limit))
    return [Initiator(id=row.id, username=row.name) for row in rows]


def _distinct(
    connection: Connection, column: ColumnElement[str], filters: Filters, prefix: str, limit: int
) -> list[str]:
    steps = select(func.min(column).label("value")).cte("steps", recursive=True)
    following = select(func.min(column)).where(column > steps.c.value).scalar_subquery()
    steps = steps.union_all(select(following).where(steps.c.value.is_not(None)))
    query = select(steps.c.value).where(steps.c.value.is_not(None), _begins(steps.c.value, prefix))
    if whose := owners(connection, filters):
        theirs = [interceptions.c.user_id == user for user in whose]
        query = query.where(exists().where(column == steps.c.value, *theirs))
    return list(connection.execute(query.order_by(steps.c.value).limit(limit)).scalars())


def _begins(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    return func.substr(column, 1, len(prefix)) == prefix
