"""From a token to its owner: look-ups, what is remembered, and what happens while the store cannot be read."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bridgeserver.errors import StoreError, TooManyRequests, Unauthorized
from bridgeserver.identity import POLL_S, Caller, Keyring
from bridgeserver.limits import FAILURES_PER_S
from bridgeserver.store import Store
from bridgeserver.store.reader import KeyRow, Reader


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountingReader(Reader):
    """A reader that counts its look-ups, and fails when it is told to."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.lookups = 0
        self.fails = False
        self.forgotten: list[Caller] = []

    def find_key(self, key_id: str) -> KeyRow | None:
        self.lookups += 1
        if self.fails:
            raise StoreError("no")
        return super().find_key(key_id)

    def revision(self) -> int:
        if self.fails:
            raise StoreError("no")
        return super().revision()


@pytest.fixture
def store(empty_store: Store) -> Store:
    """An empty store of either engine."""
    return empty_store


Scenario = Callable[[Keyring, CountingReader, Clock], Coroutine[Any, Any, None]]


def run(store: Store, scenario: Scenario, *, grace_s: float = 60) -> None:
    """Run *scenario* with a keyring on *store*."""

    async def body() -> None:
        clock, reader = Clock(), CountingReader(store.url)
        with ThreadPoolExecutor(1) as executor:
            keyring = Keyring(reader, executor, grace_s, clock, on_forget=reader.forgotten.append)
            await scenario(keyring, reader, clock)
        reader.close()

    asyncio.run(body())


def test_simultaneous_look_ups_are_one_and_are_remembered(store: Store) -> None:
    """A hundred requests with a new key ask the store once, and later ones not at all."""
    token = store.create_key("ann", "", is_admin=True, actor="test")

    async def scenario(keyring: Keyring, reader: CountingReader, _clock: Clock) -> None:
        callers = await asyncio.gather(*(keyring.authenticate(token, "a") for _ in range(100)))
        assert {(caller.user_name, caller.is_admin) for caller in callers} == {("ann", True)}
        assert reader.lookups == 1
        await keyring.authenticate(token, "a")
        assert reader.lookups == 1

    run(store, scenario)


def test_a_cancelled_look_up_serves_the_others(store: Store) -> None:
    """The request that asked first may leave; those that wait with it get their answer."""
    token = store.create_key("ann", "", is_admin=False, actor="test")

    async def scenario(keyring: Keyring, reader: CountingReader, _clock: Clock) -> None:
        first, second = (asyncio.create_task(keyring.authenticate(token, "a")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).user_name == "ann"
        assert reader.lookups == 1

    run(store, scenario)


def test_a_hint_is_followed_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says that keys have changed need not wait for the next look."""
    monkeypatch.setattr("bridgeserver.identity.POLL_S", 3600.0)
    token = store.create_key("ann", "", is_admin=False, actor="test")

    async def scenario(keyring: Keyring, reader: CountingReader, _clock: Clock) -> None:
        follower = asyncio.create_task(keyring.follow())
        await keyring.authenticate(token, "a")
        while not reader.forgotten:
            await asyncio.sleep(0.01)
        await keyring.authenticate(token, "a")
        store.revoke_key(token.split("_")[1], actor="test")
        keyring.look()
        with pytest.raises(Unauthorized):
            while True:
                await keyring.authenticate(token, "a")
                await asyncio.sleep(0.01)
        follower.cancel()

    run(store, scenario)


@pytest.mark.parametrize("change", ["revoke", "disable"])
def test_a_change_is_followed(store: Store, change: str) -> None:
    """A key that was revoked, or whose user was disabled, is refused although it was remembered."""
    token = store.create_key("ann", "", is_admin=False, actor="test")
    other = store.create_key("bob", "", is_admin=False, actor="test")

    async def scenario(keyring: Keyring, reader: CountingReader, _clock: Clock) -> None:
        follower = asyncio.create_task(keyring.follow())
        await asyncio.sleep(POLL_S)
        await keyring.authenticate(token, "a")
        await keyring.authenticate(other, "a")
        reader.forgotten.clear()
        if change == "revoke":
            store.revoke_key(token.split("_")[1], actor="test")
        else:
            store.disable_user("ann", actor="test")
        with pytest.raises(Unauthorized):
            while True:
                await keyring.authenticate(token, "a")
                await asyncio.sleep(0.01)
        lookups = reader.lookups
        await keyring.authenticate(other, "a")
        assert reader.lookups == lookups
        assert [caller.user_name for caller in reader.forgotten] == ["ann"]
        follower.cancel()

    run(store, scenario)


def test_known_keys_are_served_for_a_while_without_the_store(store: Store) -> None:
    """While the store cannot be read known keys are served for the grace time, unknown ones not at all."""
    token = store.create_key("ann", "", is_admin=False, actor="test")
    other = store.create_key("bob", "", is_admin=False, actor="test")

    async def scenario(keyring: Keyring, reader: CountingReader, clock: Clock) -> None:
        await keyring.authenticate(token, "a")
        reader.fails = True
        follower = asyncio.create_task(keyring.follow())
        while keyring.is_readable:
            await asyncio.sleep(0.01)
        assert (await keyring.authenticate(token, "a")).user_name == "ann"
        with pytest.raises(StoreError, match="the gateway's log says why"):
            await keyring.authenticate(other, "a")
        clock.now += 61
        with pytest.raises(StoreError):
            await keyring.authenticate(token, "a")
        reader.fails = False
        while not keyring.is_readable:
            await asyncio.sleep(0.01)
        assert (await keyring.authenticate(other, "a")).user_name == "bob"
        follower.cancel()

    run(store, scenario)


def test_refusals_are_counted_by_address_and_second(store: Store) -> None:
    """After too many refusals an address waits for the next second; another address does not."""
    token = store.create_key("ann", "", is_admin=False, actor="test")

    async def scenario(keyring: Keyring, _reader: CountingReader, clock: Clock) -> None:
        await keyring.authenticate(token, "a")
        for _ in range(FAILURES_PER_S):
            with pytest.raises(Unauthorized):
                await keyring.authenticate("bc_wrong", "a")
        with pytest.raises(TooManyRequests):
            await keyring.authenticate("bc_wrong", "a")
        with pytest.raises(Unauthorized):
            await keyring.authenticate("bc_wrong", "b")
        assert (await keyring.authenticate(token, "a")).user_name == "ann"
        clock.now += 1
        with pytest.raises(Unauthorized):
            await keyring.authenticate("bc_wrong", "a")

    run(store, scenario)


def test_gw_u4_who_is_calling(store: Store) -> None:
    """A remembered token has its owner at once, and one that nobody has owns nothing."""
    token = store.create_key("ann", "", is_admin=False, actor="test")

    async def scenario(keyring: Keyring, _reader: CountingReader, _clock: Clock) -> None:
        assert keyring.find(token) is None
        caller = await keyring.authenticate(token, "a")
        assert keyring.find(token) == caller
        assert (caller.user_name, caller.key_id) == ("ann", token.split("_")[1])
        assert keyring.find(token[:-1]) is None

    run(store, scenario)
