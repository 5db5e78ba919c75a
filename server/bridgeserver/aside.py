"""What cannot be shipped is kept aside in files beside the workers' folders, for a person to look at.

Keeping the same again changes nothing: after a crash it is met once more.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def keep_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Append *lines* to a file, but for those that it holds already."""
    known = set[bytes]()
    with suppress(FileNotFoundError):
        known.update(path.read_bytes().split(b"\n"))
    _append(path, b"".join(line + b"\n" for line in lines if line not in known))


def keep_bytes(path: Path, data: bytes) -> None:
    """Write *data* to a file of its own."""
    path.unlink(missing_ok=True)
    _append(path, data)


def _append(path: Path, data: bytes) -> None:
    """Write and sync: what is kept here is removed from the journal next."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "ab") as kept:
        kept.write(data)
        kept.flush()
        os.fsync(descriptor)
