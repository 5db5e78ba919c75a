"""Who is calling: from the token in a request to the user it belongs to."""

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import structlog

from bridgecore import Cache, FlightGroup, Request, values_with
from bridgeserver import tokens
from bridgeserver.credential import bearer_token
from bridgeserver.errors import StoreError, StoreUnavailable, Unauthorized
from bridgeserver.limits import FailureLimit
from bridgeserver.store.reader import KeyRow, Reader

log = structlog.get_logger("bridgecore")

TOKEN_HEADERS = (b"x-bridge-token", b"x-coder-ai-governance-token")
"""A token in one of these makes the call BYOK: `Authorization` and `X-Api-Key` are then the provider's."""

CALLERS_KEPT = 10_000
POLL_S = 0.25


class Caller(NamedTuple):
    """The owner of a gateway key."""

    user_id: str
    user_name: str
    key_id: str
    is_admin: bool


class Presented(NamedTuple):
    """The one gateway token of a request."""

    text: str
    is_byok: bool


def presented_token(request: Request) -> Presented:
    """Return the gateway token of *request*; raise Unauthorized if there is none, or a second one anywhere."""
    found = _find_token(request)
    # Any header may travel on, so a token that strays into one would leave the house.
    carriers = values_with(request.fields, b"bc_")
    has_room_for_two = len(carriers) > 1 or (carriers and len(carriers[0]) >= 2 * tokens.LENGTH)
    if has_room_for_two and _count_tokens(b" ".join(carriers).decode("latin-1")) > 1:
        raise _second_token()
    target = request.path + "?" + request.query.decode("latin-1") if request.query else request.path
    if "%" in target:
        target = unquote_to_bytes(target).decode("latin-1")
    if "bc_" in target and _count_tokens(target):
        raise _second_token()
    if found is None:
        raise Unauthorized(
            "no gateway key: send it as `Authorization: Bearer bc_…`, as `X-Api-Key`, "
            "or as `X-Bridge-Token` beside your own provider key",
        )
    return found


def _find_token(request: Request) -> Presented | None:
    headers = request.headers
    for name in TOKEN_HEADERS:
        if name in headers and (value := headers[name].strip()):
            return Presented(value.decode("latin-1"), is_byok=True)
    authorization = headers.get(b"authorization")
    if authorization and (token := bearer_token(authorization)):
        return Presented(token, is_byok=False)
    if value := headers.get(b"x-api-key", b"").strip():
        return Presented(value.decode("latin-1"), is_byok=False)
    return None


def _count_tokens(text: str) -> int:
    return len(tokens.TOKEN_PATTERN.findall(text))


def _second_token() -> Unauthorized:
    return Unauthorized("the request holds a second gateway key; send one key, in one header")


class Keyring:
    """Looks tokens up in the store, and remembers the answers until their key changes.

    What is kept is a keyed hash of the token, never the token. Simultaneous look-ups of one token are one.
    While the store cannot be read, remembered keys are served for *grace_s* seconds, others not at all. *on_forget* is
    told the owner of every key that changed, remembered or not.
    """

    def __init__(
        self,
        reader: Reader,
        executor: Executor,
        grace_s: float,
        clock: Callable[[], float] = time.monotonic,
        on_forget: Callable[[Caller], object] | None = None,
    ) -> None:
        self._reader = reader
        self._executor = executor
        self._grace_s = grace_s
        self._clock = clock
        self._on_forget = on_forget
        self._hash_key = os.urandom(32)
        self._callers: Cache[bytes, Caller] = Cache(CALLERS_KEPT)
        self._look_ups = FlightGroup()
        self._failures = FailureLimit(clock)
        self._revision = -1
        self._changes = 0
        self._unreadable_since: float | None = None
        self._woken = asyncio.Event()

    @property
    def is_readable(self) -> bool:
        """Whether the store answered when it was last asked."""
        return self._unreadable_since is None

    def find(self, text: str) -> Caller | None:
        """Return the owner of a token if it is remembered, and may still be believed."""
        caller = self._callers.get(self._digest(text))
        return caller if caller is not None and self._may_serve_known() else None

    async def authenticate(self, text: str, address: str) -> Caller:
        """Return the owner of a token; raise Unauthorized, TooManyRequests, or StoreError."""
        if (known := self.find(text)) is not None:
            return known
        self._failures.check(address)
        digest = self._digest(text)
        # Nobody joins a look-up that began before the last change of a key.
        try:
            caller = await self._look_ups.run(digest, partial(self._look_up, digest, text), self._changes)
        except StoreError as exc:
            # Its text names the database, and nobody knows yet who asks.
            raise StoreUnavailable("keys cannot be looked up at the moment; the gateway's log says why") from exc
        if caller is None:
            self._failures.count(address)
            raise Unauthorized("the gateway key is not valid: it is unknown, malformed or revoked")
        return caller

    async def follow(self) -> None:
        """Drop what was remembered of keys that change; runs until it is cancelled."""
        while True:
            self._woken.clear()
            await self.refresh()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._woken.wait()

    def look(self) -> None:
        """Have `follow` look now and not within a quarter of a second."""
        self._woken.set()

    async def refresh(self) -> None:
        """Look once what has changed."""
        try:
            changed = await asyncio.get_running_loop().run_in_executor(self._executor, self._read_changes)
        except Exception as exc:  # whatever it is, following must go on
            if self._unreadable_since is None:
                self._unreadable_since = self._clock()
                log.warning("keys_unreadable", reason=str(exc), known_keys_served_for_s=self._grace_s)
        else:
            self._unreadable_since = None
            self._forget(changed)

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._hash_key, digest_size=16).digest()

    def _may_serve_known(self) -> bool:
        since = self._unreadable_since
        return since is None or self._clock() - since < self._grace_s

    async def _look_up(self, digest: bytes, text: str) -> Caller | None:
        token = tokens.parse(text)
        if token is None:
            return None
        changes = self._changes
        row = await asyncio.get_running_loop().run_in_executor(self._executor, self._reader.find_key, token.id)
        # The comparison is made for unknown ids as well, so that its time tells nothing about them.
        stored = row.secret_hash if row is not None else bytes(32)
        matches = hmac.compare_digest(stored, tokens.secret_hash(token.secret))
        if row is None or not matches or not row.active:
            return None
        caller = _owner(row)
        if changes == self._changes:  # else a change was seen while the row was read: ask again next time
            self._callers.set(digest, caller)
        return caller

    def _read_changes(self) -> list[KeyRow]:
        revision = self._reader.revision()
        changed: list[KeyRow] = []
        if revision != self._revision:
            changed = self._reader.changed_keys(self._revision)
            self._revision = revision
            self._changes += 1
        return changed

    def _forget(self, changed: list[KeyRow]) -> None:
        key_ids = {row.key_id for row in changed}
        if key_ids:
            for digest, caller in self._callers.items():
                if caller.key_id in key_ids:
                    self._callers.delete(digest)
        if self._on_forget is not None:
            for row in changed:
                self._on_forget(_owner(row))


def _owner(row: KeyRow) -> Caller:
    return Caller(row.user_id, row.user_name, row.key_id, row.is_admin)
