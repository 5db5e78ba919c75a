"""The credentials of a provider: loaded once for all who wait, fetched anew in time, and not asked for all the time."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from bridgeserver.bedrock import session as sessions
from bridgeserver.bedrock.session import AwsSession
from bridgeserver.bedrock.signing import CredentialSource
from bridgeserver.errors import CredentialsMissing


class Held:
    """Credentials whose freshness the test decides."""

    def __init__(self) -> None:
        self.fresh = True
        self.usable = True
        self.refreshed = 0

    def is_fresh(self) -> bool:
        return self.fresh

    def is_usable(self) -> bool:
        return self.usable

    def refresh(self) -> None:
        self.refreshed += 1
        self.fresh = True


def unsigned(_region: str, _service: str, _credentials: Held) -> None:
    """Sign nothing."""


class Lab:
    """A session whose credentials come from the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, load: Callable[[], Held]) -> None:
        self.loads = 0

        def counted(_source: CredentialSource, _region: str) -> Held:
            self.loads += 1
            return load()

        monkeypatch.setattr(sessions, "load_credentials", counted)
        monkeypatch.setattr(sessions, "Signer", unsigned)
        monkeypatch.setattr(sessions, "PAUSE_S", 3600.0)
        self.session = AwsSession(CredentialSource(), "eu-west-1", "bedrock")
        self.session._fetched_at = -7200.0  # pyright: ignore[reportPrivateUsage]

    async def fetched(self) -> None:
        """Wait for what is being fetched."""
        fetching = self.session._fetching  # pyright: ignore[reportPrivateUsage]
        assert fetching is not None
        await fetching


def test_all_who_wait_share_one_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is done once, in a thread, and nobody is asked again while the credentials are fresh."""
    gate = threading.Event()
    held = Held()

    def load() -> Held:
        assert gate.wait(10)
        return held

    async def run() -> None:
        lab = Lab(monkeypatch, load)
        waiting = [asyncio.create_task(lab.session.ready()) for _ in range(5)]
        await asyncio.sleep(0)
        assert not lab.session.is_ready
        gate.set()
        await asyncio.gather(*waiting)
        assert (lab.session.is_ready, lab.loads) == (True, 1)

    asyncio.run(run())


def test_nobody_waits_for_a_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the old ones can still sign, the new ones are fetched beside the request."""

    async def run() -> None:
        held = Held()
        lab = Lab(monkeypatch, lambda: held)
        await lab.session.ready()
        await lab.fetched()
        held.fresh = False
        monkeypatch.setattr(sessions, "PAUSE_S", 0.0)
        await lab.session.ready()
        await lab.fetched()
        assert (held.refreshed, lab.session.is_ready, lab.loads) == (1, True, 1)

    asyncio.run(run())


def test_what_cannot_be_had_is_not_asked_for_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is told to everybody for a while without another attempt; then there is one."""

    def fail() -> Held:
        raise CredentialsMissing("no AWS credentials found: none")

    async def run() -> None:
        lab = Lab(monkeypatch, fail)
        for _ in range(3):
            with pytest.raises(CredentialsMissing):
                await lab.session.ready()
        assert lab.loads == 1
        monkeypatch.setattr(sessions, "PAUSE_S", 0.0)
        with pytest.raises(CredentialsMissing):
            await lab.session.ready()
        assert lab.loads == 2
        with pytest.raises(CredentialsMissing, match="not loaded yet"):
            lab.session.sign("POST", "http://h/", [], b"")

    asyncio.run(run())


def test_a_load_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request gets an answer; the thread may end when it will."""
    gate = threading.Event()

    def hang() -> Held:
        gate.wait(30)
        return Held()

    async def run() -> None:
        lab = Lab(monkeypatch, hang)
        monkeypatch.setattr(sessions, "LOAD_S", 0.01)
        with pytest.raises(CredentialsMissing, match="none came within"):
            await lab.session.ready()
        gate.set()

    asyncio.run(run())
