"""The record types' helpers: ids that sort by time, and text that fits."""

import os
import uuid

from hypothesis import given
from hypothesis import strategies as st

from bridgecore import uuid7
from bridgeserver.records import clip


def test_ids_are_uuids_that_sort_by_time() -> None:
    """An id is a UUID of version 7 whose first 48 bits are the millisecond."""
    ids = [uuid.UUID(uuid7()) for _ in range(100)]
    assert {(item.version, item.variant) for item in ids} == {(7, uuid.RFC_4122)}
    milliseconds = [item.int >> 80 for item in ids]
    assert milliseconds == sorted(milliseconds)
    assert len(set(ids)) == 100


def test_ids_are_not_repeated() -> None:
    """Ids are drawn many at a time, and each is handed out once."""
    assert len({uuid7() for _ in range(1000)}) == 1000


def test_a_forked_process_makes_ids_of_its_own() -> None:
    """What was drawn before a fork is used by one of the two processes."""
    uuid7()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "\n".join(uuid7() for _ in range(50)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="ascii") as lines:
        theirs = {line.strip()[14:] for line in lines}
    os.waitpid(child, 0)
    assert len(theirs) == 50
    assert theirs.isdisjoint({uuid7()[14:] for _ in range(200)})


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=50), st.integers(0, 60))
def test_clipped_text_fits_and_is_the_beginning(text: str, limit: int) -> None:
    """What is kept is valid UTF-8 within the limit, and says whether anything was cut."""
    kept, is_cut = clip(text, limit)
    whole = text.encode("utf-8", "replace").decode()
    assert len(kept.encode()) <= limit
    assert whole.startswith(kept)
    assert is_cut == (kept != whole)
