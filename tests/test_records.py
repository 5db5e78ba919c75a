"""The record types' helpers: ids that sort by time, and text that fits."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from bridgeserver.records import clip, new_id


def test_ids_are_uuids_that_sort_by_time() -> None:
    """An id is a UUID of version 7 whose first 48 bits are the millisecond."""
    ids = [uuid.UUID(new_id()) for _ in range(100)]
    assert {(item.version, item.variant) for item in ids} == {(7, uuid.RFC_4122)}
    milliseconds = [item.int >> 80 for item in ids]
    assert milliseconds == sorted(milliseconds)
    assert len(set(ids)) == 100


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=50), st.integers(0, 60))
def test_clipped_text_fits_and_is_the_beginning(text: str, limit: int) -> None:
    """What is kept is valid UTF-8 within the limit, and says whether anything was cut."""
    kept, is_cut = clip(text, limit)
    whole = text.encode("utf-8", "replace").decode()
    assert len(kept.encode()) <= limit
    assert whole.startswith(kept)
    assert is_cut == (kept != whole)
