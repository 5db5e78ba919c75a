"""The rows K1 to K15 of the acceptance table for central keys, on a clock that the test moves."""

from collections import Counter

import pytest

from bridgeserver.config import ProviderConfig
from bridgeserver.credential import Credential
from bridgeserver.errors import KeysRateLimited, KeysRefused
from bridgeserver.keypool import COOLDOWN_S, MAX_COOLDOWN_S, KeyPool, retry_after
from bridgeserver.providers import build
from bridgeserver.secret import Secret


class Lab:
    """A pool of keys that are named by single letters."""

    def __init__(self, names: str = "AB") -> None:
        self.now = 1000.0
        self.counters: Counter[str] = Counter()
        self.keys = {name: Credential(b"x-api-key", name.encode(), "centralized", name) for name in names}
        self.pool = KeyPool("p", list(self.keys.values()), self.counters, lambda: self.now)

    def first(self) -> str:
        return self.pool.first().hint

    def refuse(self, name: str, status: int = 429, retry_after_s: float | None = None) -> str | None:
        """Answer a request with the key *name* so, and return which key is tried next."""
        key = self.pool.fall_back(self.keys[name], status, retry_after_s)
        return None if key is None else key.hint


def test_cp_k1_the_first_key_is_used() -> None:
    """While all keys are valid the first one serves."""
    lab = Lab()
    assert [lab.first(), lab.first()] == ["A", "A"]
    assert lab.pool.states() == {"valid": 2, "temporary": 0}
    assert not lab.counters


def test_cp_k2_a_limited_key_falls_back_and_comes_again() -> None:
    """429 with Retry-After: the next key serves, and the first one again once that time is over."""
    lab = Lab()
    assert lab.refuse("A", 429, 30) == "B"
    assert (lab.first(), lab.pool.states()) == ("B", {"valid": 1, "temporary": 1})
    lab.now += 29.9
    assert lab.first() == "B"
    lab.now += 0.1
    assert (lab.first(), lab.pool.states()) == ("A", {"valid": 2, "temporary": 0})


@pytest.mark.parametrize("retry_after_s", [None, 0, -5], ids=["cp-K3-absent", "cp-K3-zero", "cp-K3-negative"])
def test_a_limited_key_rests_a_minute_unless_told(retry_after_s: float | None) -> None:
    """Without a time of its own the cooldown is 60 s."""
    lab = Lab()
    lab.refuse("A", 429, retry_after_s)
    lab.now += COOLDOWN_S - 0.1
    assert lab.first() == "B"
    lab.now += 0.1
    assert lab.first() == "A"


@pytest.mark.parametrize(
    ("after_s", "left_s"),
    [pytest.param(0, 60, id="cp-K4"), pytest.param(15, 45, id="cp-K5")],
)
def test_the_later_deadline_holds(after_s: float, left_s: float) -> None:
    """A resting key that is marked again with a shorter time keeps the longer one, and counts once."""
    lab = Lab("A" + "B")
    lab.refuse("A", 429, 60)
    lab.now += after_s
    lab.refuse("A", 429, 10)
    lab.now += left_s - 0.1
    assert lab.first() == "B"
    lab.now += 0.1
    assert lab.first() == "A"
    assert lab.counters == {"key_pool_transitions.p.rate_limited": 1}


def test_cp_k6_exhaustion_says_when_the_first_key_is_back() -> None:
    """All keys limited: 429 with the smallest remaining time."""
    lab = Lab("ABC")
    lab.refuse("A", 429, 60)
    lab.refuse("B", 429, 10)
    message = r"^all configured keys are rate-limited \(retry after 10s\)$"
    for ask in (lambda: lab.refuse("C", 429, 30), lab.pool.first):
        with pytest.raises(KeysRateLimited, match=message) as caught:
            ask()
        assert (caught.value.status, caught.value.retry_after_s) == (429, 10)
    lab.now += 0.5
    with pytest.raises(KeysRateLimited) as caught:
        lab.pool.first()
    assert caught.value.retry_after_s == 10, "rounded up"
    assert lab.counters["key_pool_exhaustions.p.rate_limited"] == 3


def test_cp_k7_one_limited_key_makes_it_a_matter_of_time() -> None:
    """A refused and B limited: 429."""
    lab = Lab()
    lab.refuse("A", 401)
    with pytest.raises(KeysRateLimited):
        lab.refuse("B", 429, 20)


def test_cp_k8_refused_keys_are_the_operators_matter() -> None:
    """All keys refused: 502 without Retry-After, and no invitation to retry."""
    lab = Lab()
    assert lab.refuse("A", 401) == "B"
    with pytest.raises(KeysRefused, match="Contact your Administrator") as caught:
        lab.refuse("B", 401)
    assert (caught.value.status, caught.value.retry_after_s, caught.value.should_retry) == (502, None, False)
    assert lab.counters["key_pool_exhaustions.p.auth_failed"] == 1


@pytest.mark.parametrize(
    "status",
    [pytest.param(403, id="cp-K9"), *(pytest.param(status, id=f"cp-K11-{status}") for status in (500, 503, 529, 400))],
)
def test_other_statuses_say_nothing_of_a_key(status: int) -> None:
    """They are the client's to see, and the key stays valid."""
    lab = Lab()
    assert lab.refuse("A", status) is None
    assert (lab.first(), lab.pool.states()["valid"]) == ("A", 2)


def test_cp_k10_a_refused_key_is_tried_again() -> None:
    """After 60 s the refused key is the first again: a key is never lost for good."""
    lab = Lab()
    lab.refuse("A", 401)
    assert lab.first() == "B"
    lab.now += 60
    assert lab.first() == "A"


def test_a_key_that_is_back_while_others_were_tried_may_be_used_at_once() -> None:
    """The walk is over, and a key is valid again by now: retry after 0 s."""
    lab = Lab()
    lab.refuse("A", 429, 1)
    lab.now += 2
    with pytest.raises(KeysRateLimited) as caught:
        lab.refuse("B", 429, 30)
    assert caught.value.retry_after_s == 0
    assert lab.first() == "A"


def test_no_key_rests_longer_than_an_hour() -> None:
    """A provider that speaks of days is asked again after an hour."""
    lab = Lab()
    lab.refuse("A", 429, 86_400)
    lab.now += MAX_COOLDOWN_S
    assert lab.first() == "A"


def test_a_single_key_never_rests() -> None:
    """There is none to fall back to: its limit is the client's to see, and stops nobody else's request."""
    lab = Lab("A")
    assert lab.refuse("A", 429, 30) is None
    assert lab.first() == "A"
    with pytest.raises(KeysRefused):
        lab.refuse("A", 401)
    assert lab.first() == "A"


def config(name: str, *keys: str) -> ProviderConfig:
    return ProviderConfig(
        name=name,
        type="anthropic",
        base_url="http://127.0.0.1:1",
        auth="x-api-key",
        keys=tuple(map(Secret, keys)),
    )


def test_cp_k13_a_reload_forgets_only_what_it_changed() -> None:
    """A provider whose keys were changed begins anew.

    Ours differs: one that is as it was keeps its resting keys, since nothing says that they have recovered.
    """
    before = build((config("same", "A", "B"), config("changed", "A", "B")))
    for provider in before.values():
        assert provider.keys is not None
        provider.keys.fall_back(provider.keys.first(), 429, 30)
    after = build((config("same", "A", "B"), config("changed", "A", "C")), before)
    states = {name: provider.keys.states() for name, provider in after.items() if provider.keys is not None}
    assert states == {"same": {"valid": 1, "temporary": 1}, "changed": {"valid": 2, "temporary": 0}}


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({b"retry-after": b"30"}, 30),
        ({b"retry-after": b" 1.5 "}, 1.5),
        ({b"retry-after": b"Thu, 01 Jan 1970 00:01:00 GMT"}, 50),
        ({b"retry-after-ms": b"250", b"retry-after": b"30"}, 0.25),
        ({b"retry-after-ms": b"soon", b"retry-after": b"30"}, 30),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": b"inf"}, None),
        ({b"retry-after": b""}, None),
        ({b"retry-after": b"\xff"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_every_spelling(fields: dict[bytes, bytes], seconds: float | None) -> None:
    """A number, a date, or milliseconds under a name of their own; anything else is as good as nothing."""
    assert retry_after(fields, lambda: 10.0) == seconds
