"""What the journal asks of the disk: room beforehand, that what was written stays, and who holds a folder's lock."""

import fcntl
import os
from pathlib import Path

import structlog

log = structlog.get_logger("bridgecore")


def allocate(path: Path, size: int) -> int:
    """Create the file *path* with *size* bytes of disk behind it and return its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:  # macOS
            os.pwrite(descriptor, bytes(size), 0)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def sync_folder(folder: Path) -> None:
    """Have the disk know which files a folder holds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_and_close(descriptor: int) -> None:
    """Sync a descriptor and close it."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_quietly(descriptor: int) -> None:
    """Do the same, and log a failure."""
    try:
        sync_and_close(descriptor)
    except OSError as exc:
        log.warning("journal_sync_failed", reason=exc.strerror)


def is_abandoned(folder: Path) -> bool:
    """Whether the worker of a folder is gone; a shared lock is asked for, which gets in nobody's way."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
