"""The different values of a column, in as many steps as there are values."""

from sqlalchemy import ColumnElement, Connection, exists, func, select

from bridgeserver.store.queries.filters import Filters, is_of_any_client, owners, steps
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
    value = steps(column).c.value
    query = select(value).where(value.is_not(None), _begins(value, prefix))
    if whose := owners(connection, filters):
        theirs = [interceptions.c.user_id == user for user in whose]
        if column is interceptions.c.model:
            theirs.append(is_of_any_client(connection))
        query = query.where(exists().where(column == value, *theirs))
    return list(connection.execute(query.order_by(value).limit(limit)).scalars())


def _begins(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    return func.substr(column, 1, len(prefix)) == prefix
