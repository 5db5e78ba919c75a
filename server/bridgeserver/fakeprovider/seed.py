"""Where ids and times come from: a hash of the request and a fixed clock, so that answers can be repeated."""

from hashlib import blake2b

CREATED_AT = 1_767_225_600
"""The fixed clock: 2026-01-01 00:00:00 UTC, in seconds since the epoch."""


def make_seed(salt: int, *parts: bytes) -> str:
    """Return what the ids of an answer are made from; a *salt* tells equal requests apart."""
    digest = blake2b(digest_size=16, salt=salt.to_bytes(16))
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def make_id(seed: str, prefix: str, length: int) -> str:
    """Return an id of *length* hexadecimal digits (at most 64) after its prefix."""
    return prefix + blake2b(f"{prefix}:{seed}".encode(), digest_size=32).hexdigest()[:length]
