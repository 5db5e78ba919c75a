"""One statement for many rows, run the way that each engine likes best.

SQLAlchemy writes the statements, once. They are then run by the driver on plain values, because SQLAlchemy's own
handling of parameters costs 5 µs a row, as much as SQLite needs to insert it. SQLite runs a statement for each row;
PostgreSQL, to which each would be a round trip, is given all rows at once, an array for each column.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    Table,
    bindparam,
    column,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert, UpdateBase
from sqlalchemy.types import Text, TypeEngine
from sqlalchemy.util import await_only

from bridgeserver.store.schema import Timestamp
from bridgeserver.store.texts import storable

if TYPE_CHECKING:
    import asyncpg

Row = tuple[Any, ...]
Values = Mapping[str, ColumnElement[Any]]
Write = Callable[[Values], UpdateBase]

SQLITE, POSTGRESQL = (URL.create(name).get_dialect()() for name in ("sqlite", "postgresql+asyncpg"))

PIECE_ROWS = 32
BREATH_S = 50e-6
"""How many rows SQLite writes at a time, and for how long the thread sleeps after them.

A worker that has to answer on the same core would wait for the scheduler's next tick, 4 ms on many systems, if this
went on in one piece.
"""

ARRAY_ROWS = 500
"""How many rows PostgreSQL is given at a time: with prompts of 1 MiB each, half of what it takes as one array."""


class Statement:
    """A statement for rows with the columns *kinds*, in that order, written with the values of one of them.

    *key* names the columns by which PostgreSQL gets the rows in order: whoever writes the same rows from elsewhere
    locks them in the same order.
    """

    def __init__(
        self, kinds: Mapping[str, TypeEngine[Any]], on_sqlite: Write, on_postgresql: Write, key: Sequence[str] = ()
    ) -> None:
        names = list(kinds)
        self._sqlite = _compiled(SQLITE, on_sqlite(_parameters(kinds)), names)
        self._postgresql = _compiled(POSTGRESQL, on_postgresql(_arrays(kinds)), names)
        self._is_text = [isinstance(kind, Text) for kind in kinds.values()]
        self._key = itemgetter(*map(names.index, key)) if key else None

    def run(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Run it for *rows* and return how many were inserted or changed."""
        if not rows:
            return 0
        if connection.dialect.name == "sqlite":
            return _run_on_sqlite(connection, self._sqlite, rows)
        ordered = rows if self._key is None else sorted(rows, key=self._key)
        return _run_on_postgresql(connection, self._postgresql, ordered, self._is_text)


def insert(table: Table, names: Sequence[str]) -> Statement:
    """Return the statement that inserts rows with those columns, unless their keys are there already."""
    return Statement(
        {name: table.c[name].type for name in names},
        lambda values: sqlite.insert(table).values(values).on_conflict_do_nothing(),
        lambda values: (
            postgresql.insert(table).from_select(list(names), select(*values.values())).on_conflict_do_nothing()
        ),
        [found.name for found in table.primary_key],
    )


def merge(
    table: Table, names: Sequence[str], merging: Callable[[sqlite.Insert | postgresql.Insert], Insert]
) -> Statement:
    """Return the statement that inserts rows with those columns; *merging* says what becomes of one that is there."""
    return Statement(
        {name: table.c[name].type for name in names},
        lambda values: merging(sqlite.insert(table).values(values)),
        lambda values: merging(postgresql.insert(table).from_select(list(names), select(*values.values()))),
        [found.name for found in table.primary_key],
    )


def update(kinds: Mapping[str, TypeEngine[Any]], write: Write) -> Statement:
    """Return a statement that changes rows; *write* makes it of the values of one."""
    return Statement(kinds, write, write)


def _parameters(kinds: Mapping[str, TypeEngine[Any]]) -> Values:
    return {name: bindparam(f"given_{name}", type_=kind) for name, kind in kinds.items()}


def _arrays(kinds: Mapping[str, TypeEngine[Any]]) -> Values:
    """Return the columns of a table that is made of an array for each; instants come as whole microseconds."""
    plain = {name: BigInteger() if isinstance(kind, Timestamp) else kind for name, kind in kinds.items()}
    arrays = [bindparam(f"given_{name}", type_=postgresql.ARRAY(kind)) for name, kind in plain.items()]
    columns = [column(name, kind) for name, kind in plain.items()]
    given = func.unnest(*arrays).table_valued(*columns, name="given").render_derived()
    return {name: _instant(given.c[name]) if isinstance(kinds[name], Timestamp) else given.c[name] for name in kinds}


def _instant(microseconds: ColumnElement[Any]) -> ColumnElement[Any]:
    # Exact: the product of a whole number below 2^53 and a microsecond is a whole number of them.
    epoch: ColumnElement[Any] = literal_column("'epoch'::timestamptz")
    return epoch + microseconds * literal_column("interval '1 microsecond'")


def _compiled(dialect: Any, statement: UpdateBase, names: Sequence[str]) -> str:
    compiled: Any = statement.compile(dialect=dialect)
    order = [name.removeprefix("given_") for name in compiled.positiontup]
    if order != list(names):
        raise ValueError(f"rows have the columns {', '.join(names)}, and the statement takes {', '.join(order)}")
    return str(compiled)


def _run_on_sqlite(connection: Connection, sql: str, rows: Sequence[Row]) -> int:
    count = 0
    for at in range(0, len(rows), PIECE_ROWS):
        piece = list(rows[at : at + PIECE_ROWS])
        count += connection.exec_driver_sql(sql, piece, execution_options={"preserve_rowcount": True}).rowcount
        time.sleep(BREATH_S)
    return count


def _run_on_postgresql(connection: Connection, sql: str, rows: Sequence[Row], is_text: Sequence[bool]) -> int:
    driver = cast("asyncpg.Connection[Any]", connection.connection.driver_connection)
    if not driver.is_in_transaction():  # SQLAlchemy begins one with the first statement that it runs itself
        connection.exec_driver_sql("SELECT 1")
    count = 0
    for at in range(0, len(rows), ARRAY_ROWS):
        columns = [
            [storable(value) for value in values] if has_text else values
            for values, has_text in zip(zip(*rows[at : at + ARRAY_ROWS], strict=True), is_text, strict=True)
        ]
        tag = await_only(driver.execute(sql, *columns))  # such as `INSERT 0 7`
        count += int(tag.rpartition(" ")[2])
    return count
