"""The form of a gateway key as its owner holds it: `bc_<id>_<secret>`.

The id finds the key's row, the secret proves the key. Only SHA-256 of the secret is kept. A slow hash would
protect a secret that can be guessed; this one carries 256 random bits, and is checked while a request waits.
"""

import hashlib
import re
import secrets
import string
from typing import NamedTuple

ALPHABET = string.ascii_letters + string.digits
ID_LENGTH = 12
SECRET_LENGTH = 43  # 43 * log2(62) = 256 bits

LENGTH = len("bc_") + ID_LENGTH + len("_") + SECRET_LENGTH

TOKEN_PATTERN = re.compile(rf"bc_([A-Za-z0-9]{{{ID_LENGTH}}})_([A-Za-z0-9]{{{SECRET_LENGTH}}})")
"""Finds a token anywhere in a text, even where it touches other letters."""


class Token(NamedTuple):
    """A gateway key, in clear; its `repr` hides the secret."""

    id: str
    secret: str

    @property
    def text(self) -> str:
        """The token as its owner sends it."""
        return f"bc_{self.id}_{self.secret}"

    def __repr__(self) -> str:
        return f"Token(id={self.id!r})"


def make() -> Token:
    """Return a new random token."""
    return Token(_random(ID_LENGTH), _random(SECRET_LENGTH))


def parse(text: str) -> Token | None:
    """Return the token that *text* is, or None when it is anything else."""
    match = TOKEN_PATTERN.fullmatch(text)
    return Token(match[1], match[2]) if match else None


def secret_hash(secret: str) -> bytes:
    """Return what is stored in place of *secret*: 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()


def redact(text: str) -> str:
    """Return *text* with the secret of every token in it left out."""
    return TOKEN_PATTERN.sub(r"bc_\1_…", text)


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
