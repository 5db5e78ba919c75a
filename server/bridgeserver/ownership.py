"""Which user a provider-side object belongs to.

With a central key all users are one account at the provider, which would show any of them the responses and
conversations of all. So each such object answers only to the user whose request made it. And where the gateway made one
response of several turns, the client knows the first by its id, and the provider goes on from the last.
"""

import asyncio
from collections.abc import Iterable
from concurrent.futures import Executor

import msgspec
import structlog

from bridgecore import Cache
from bridgeserver.errors import NotFound, StoreError
from bridgeserver.journal import Journal
from bridgeserver.records import ContinuedResponse, ProviderObject, now_us
from bridgeserver.store.reader import Reader

log = structlog.get_logger("bridgecore")

OBJECTS_KEPT = 50_000
OBJECT_BYTES = 1 << 20

RETRIES = 6
RETRY_S = 0.1
"""An object made through another worker is in the store once it was shipped, within 250 ms as a rule."""


class Ownership:
    """Remembers what was made through this worker, and asks the store about the rest."""

    def __init__(self, journal: Journal, reader: Reader, executor: Executor) -> None:
        self._journal = journal
        self._reader = reader
        self._executor = executor
        self._owners: Cache[tuple[str, str], str] = Cache(OBJECTS_KEPT)
        self._last: Cache[tuple[str, str], str] = Cache(OBJECTS_KEPT)

    def claim(self, provider_name: str, object_ids: Iterable[str], user_id: str) -> None:
        """Record that these objects belong to *user_id*; an object that has an owner keeps it."""
        for object_id in object_ids:
            if self._owners.get2(provider_name, object_id) is None:
                self._owners.set2(provider_name, object_id, user_id)
                self._journal.append(ProviderObject(provider_name, object_id, user_id, now_us()))

    async def check(self, provider_name: str, object_ids: Iterable[str], user_id: str) -> None:
        """Raise NotFound unless every object belongs to *user_id*."""
        for object_id in object_ids:
            if await self._owner(provider_name, object_id) != user_id:
                raise NotFound(f"no object with id '{object_id}' was made with your gateway keys")

    def follow(self, provider_name: str, first: str, last: str) -> None:
        """Record that whoever goes on from the response *first* means the response *last*."""
        if self._last.get2(provider_name, first) != last:
            self._last.set2(provider_name, first, last)
            self._journal.append(ContinuedResponse(provider_name, first, last, now_us()))

    async def continuation(self, provider_name: str, first: str) -> str | None:
        """Return the response that is meant by *first*, if it is another one and the store can be read."""
        last = self._last.get2(provider_name, first)
        if last is not None:
            return last
        loop = asyncio.get_running_loop()
        try:
            last = await loop.run_in_executor(self._executor, self._reader.find_continuation, provider_name, first)
        except StoreError as error:
            log.warning("continuation_unread", reason=str(error))
            return None
        if last is not None:
            self._last.set2(provider_name, first, last)
        return last

    async def _owner(self, provider_name: str, object_id: str) -> str | None:
        owner = self._owners.get2(provider_name, object_id)
        if owner is not None:
            return owner
        loop = asyncio.get_running_loop()
        for attempt in range(RETRIES):
            if attempt:
                await asyncio.sleep(RETRY_S)
            owner = await loop.run_in_executor(self._executor, self._reader.find_object, provider_name, object_id)
            if owner is not None:
                self._owners.set2(provider_name, object_id, owner)
                return owner
        return None


class Claim:
    """Reads along with a body until its JSON is whole, and claims the object that it describes."""

    def __init__(self, ownership: Ownership, provider_name: str, user_id: str) -> None:
        self._ownership = ownership
        self._provider_name = provider_name
        self._user_id = user_id
        self._body = bytearray()

    def __call__(self, chunk: bytes, is_last: bool) -> bytes:
        """Take the next bytes of the body, and return them."""
        if len(self._body) + len(chunk) <= OBJECT_BYTES:
            self._body += chunk
        if is_last:
            self._claim()
        return chunk

    def _claim(self) -> None:
        try:
            made = msgspec.json.decode(self._body, type=_Object)
        except msgspec.DecodeError:
            return  # an error, and no object
        self._ownership.claim(self._provider_name, [made.id], self._user_id)


class _Object(msgspec.Struct):
    id: str
