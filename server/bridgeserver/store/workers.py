"""Which gateway ships whose journal, and the end of what nobody ships any more."""

from sqlalchemy import Connection, delete, insert, select, update

from bridgeserver.store import schema, shipping
from bridgeserver.store.schema import journals, workers

RECORDS = (
    schema.interceptions,
    schema.user_prompts,
    schema.token_usages,
    schema.tool_usages,
    schema.model_thoughts,
    schema.provider_objects,
    schema.continued_responses,
)


def renew_journal(connection: Connection, journal: str, seen_at: int) -> bool:
    """Note that a journal is there, and return whether it was unknown."""
    renewed = connection.execute(update(journals).where(journals.c.id == journal).values(seen_at=seen_at))
    if not renewed.rowcount:
        connection.execute(insert(journals).values(id=journal, seen_at=seen_at))
    return not renewed.rowcount


def other_journals(connection: Connection, journal: str) -> list[tuple[str, int]]:
    """Return the other journals, and when each was last heard of."""
    found = connection.execute(select(journals.c.id, journals.c.seen_at).where(journals.c.id != journal))
    return [(row.id, row.seen_at) for row in found]


def register_worker(connection: Connection, worker: str, journal: str) -> None:
    """Note to which journal a worker belongs."""
    known = connection.execute(update(workers).where(workers.c.id == worker).values(journal_id=journal))
    if not known.rowcount:
        connection.execute(insert(workers).values(id=worker, journal_id=journal))


def orphans(connection: Connection, journal: str) -> list[str]:
    """Return the workers of a journal, and those with open interceptions that belong to none.

    A worker has its row before anything of it is stored, so one without is of a version that knew no rows. It is
    looked for after what is open: one that has been registered meanwhile must not seem to have none.
    """
    are_open = set(shipping.open_workers(connection))
    owners = {row.id: row.journal_id for row in connection.execute(select(workers.c.id, workers.c.journal_id))}
    return sorted(are_open - owners.keys() | {worker for worker, owner in owners.items() if owner == journal})


def end_worker(connection: Connection, worker: str, ended_at: int) -> int:
    """End all that a worker has left open, and forget it; return how many interceptions that were."""
    interrupted = shipping.interrupt(connection, worker, ended_at)
    connection.execute(delete(workers).where(workers.c.id == worker))
    return interrupted


def end_journal(connection: Connection, journal: str, seen_at: int, ended_at: int) -> int | None:
    """End all that a journal has left open, and forget it; return how many interceptions that were.

    None if it has been heard of since *seen_at*, or is gone. Of several that try at once the first one does it: the
    row is locked, and gone for the others.
    """
    lost = select(journals.c.id).where(journals.c.id == journal, journals.c.seen_at == seen_at).with_for_update()
    if connection.execute(lost).first() is None:
        return None
    left = connection.execute(select(workers.c.id).where(workers.c.journal_id == journal)).scalars().all()
    interrupted = sum(end_worker(connection, worker, ended_at) for worker in left)
    connection.execute(delete(journals).where(journals.c.id == journal))
    return interrupted


def probe(connection: Connection) -> None:
    """Look into every table of records; raises where the database cannot be read."""
    for table in RECORDS:
        connection.execute(select(table).limit(1)).first()
