"""Secrets at rest: AES-256-GCM, with a key of the configuration or of a file beside the database.

A sealed value is `KEY-ID.BASE64`: eight hexadecimal digits that name the key, then nonce, ciphertext and tag. Its
associated data is the id of its row, so a value that was moved to another row does not open there.
"""

import base64
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bridgeserver.config import StoreConfig
from bridgeserver.config.checks import SEALING_KEY_BYTES, is_sealing_key
from bridgeserver.errors import SealError
from bridgeserver.secret import Secret

log = structlog.get_logger("bridgecore")

NONCE_BYTES = 12
"""NIST SP 800-38D section 8.2: 96 random bits are good for 2^32 values of one key."""


class Vault:
    """Seals with the first of its keys and opens with all.

    Without *keys*, `make_key` is called when something is to be sealed and `find_key` when something is to be
    opened: only the first may bring a new key into being.
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        make_key: Callable[[], bytes] | None = None,
        find_key: Callable[[], bytes] | None = None,
    ) -> None:
        self._keys = {key_id(key): AESGCM(key) for key in keys}
        self._make_key = make_key
        self._find_key = find_key

    def seal(self, text: str, row_id: str) -> str:
        """Return *text* as it may be stored in the row with that id."""
        if not self._keys and self._make_key is not None:
            self._add(self._make_key())
        if not self._keys:
            raise SealError("nothing to seal with: found no key, expected one as store.encryption_key")
        name, cipher = next(iter(self._keys.items()))
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + cipher.encrypt(nonce, text.encode(), row_id.encode())
        return f"{name}.{base64.b64encode(sealed).decode()}"

    def open(self, sealed: str, row_id: str) -> str:
        """Return what was sealed for the row with that id; raises SealError, which never shows any of it."""
        name, _, rest = sealed.partition(".")
        if not self._keys and self._find_key is not None:
            self._add(self._find_key())
        cipher = self._keys.get(name)
        if cipher is None:
            shown = name if name.isalnum() and len(name) == 8 else "an unreadable id"
            raise SealError(
                f"sealed with a key that is not here: found the key id {shown}, expected one of "
                f"{', '.join(self._keys) or 'none'}: add that key to store.encryption_key, or set the secret again",
            )
        try:
            data = base64.b64decode(rest, validate=True)
            return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], row_id.encode()).decode()
        except (InvalidTag, ValueError) as exc:
            raise SealError(
                f"a sealed value is broken or belongs to another row (key id {name}): "
                "restore the database from a backup, or set the secret again",
            ) from exc

    def _add(self, key: bytes) -> None:
        self._keys[key_id(key)] = AESGCM(key)


def open_vault(config: StoreConfig, database_path: Path | None) -> Vault:
    """Return the vault of a store; nothing is read or made before it is used.

    Without `encryption_key` its key is in a file beside the SQLite database at *database_path*. A database on a
    server (None) has no such place: the vault then neither seals nor opens, and says what is missing.
    """
    if config.encryption_key:
        return Vault([decode_key(secret) for secret in config.encryption_key])
    if database_path is None:
        return Vault([], refuse_without_key, refuse_without_key)
    path = Path(f"{database_path}.key")
    return Vault([], lambda: make_key_file(path), lambda: read_key_file(path))


def refuse_without_key() -> NoReturn:
    """Raise SealError: there is no key, and no file that could hold one."""
    raise SealError(
        "store.encryption_key: found nothing, expected a key of 32 bytes in base64: "
        "a database that replicas share has no key file; `openssl rand -base64 32` makes a key",
    )


def key_id(key: bytes) -> str:
    """Return the name of a key, which tells nothing of it."""
    return sha256(b"bridgecore sealing key\0" + key).hexdigest()[:8]


def decode_key(secret: Secret) -> bytes:
    """Return the bytes of a key; raises SealError if it is none."""
    if not is_sealing_key(secret.reveal()):
        raise SealError("a sealing key: found something else, expected 32 bytes in base64 (`openssl rand -base64 32`)")
    return base64.b64decode(secret.reveal())


def read_key_file(path: Path) -> bytes:
    """Return the key in a file. It is refused if others may read it: a mended mode would hide that they could."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            text = file.read(1024).decode("latin-1")
    except OSError as exc:
        raise SealError(
            f"the key file {path} cannot be read ({exc.strerror}): restore it from a backup, "
            "or name its key in store.encryption_key; without it stored secrets have to be set again",
        ) from exc
    if mode & 0o077:
        raise SealError(f"the key file {path}: found mode {mode:04o}, expected 0600: run `chmod 600 {path}`")
    if not is_sealing_key(text.strip()):
        raise SealError(f"the key file {path}: found something else, expected 32 bytes in base64: restore it")
    return base64.b64decode(text.strip())


def make_key_file(path: Path) -> bytes:
    """Return the key in a file, which is made if there is none; one that is there is never written to."""
    if path.exists():
        return read_key_file(path)
    # A link comes into being whole or not at all, and fails where another process was first.
    draft = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(os.urandom(SEALING_KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
            log.warning("key_file_made", path=str(path), hint="back it up apart from the database")
        finally:
            draft.unlink()
    except FileExistsError:
        pass
    except OSError as exc:
        raise SealError(
            f"the key file {path} cannot be made ({exc.strerror}): make its folder writable, "
            "or set store.encryption_key",
        ) from exc
    return read_key_file(path)
