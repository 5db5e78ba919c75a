"""The central keys of one provider, in their order: which one to show, and which ones rest.

Primary with fall-back: every request begins with the first key that does not rest, so that a provider's prompt caches,
which belong to a key's account, stay warm. A key rests for a while and never for good: who mends it at the provider
need not restart anything here.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Literal

from bridgeserver.counting import Histogram
from bridgeserver.credential import Credential
from bridgeserver.errors import KeysRateLimited, KeysRefused
from bridgeserver.headers import Headers

COOLDOWN_S = 60.0
"""How long a key rests where the provider does not say."""

MAX_COOLDOWN_S = 3600.0
"""How long a key rests at most, whatever the provider says: a quota that was raised should not wait for a day."""

Reason = Literal["rate_limited", "unauthorized"]

REASONS: dict[int, Reason] = {401: "unauthorized", 429: "rate_limited"}
"""What an answer says of the key that was shown. 403 and all others say nothing of it: the next key would not help."""


class KeyPool:
    """The keys of one provider in one worker; shared by its requests, and never empty."""

    def __init__(
        self,
        provider: str,
        keys: Sequence[Credential],
        counters: Counter[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._keys = list(keys)
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._clock = clock
        self._resting: dict[Credential, tuple[float, Reason]] = {}
        # Where there is one key there is nothing to choose from, and so nothing to count.
        self._tries = Histogram(self._counters, f"key_pool_tries.{provider}") if len(self._keys) > 1 else None

    def first(self) -> Credential:
        """Return the key to begin with. Raises KeysRateLimited or KeysRefused if all rest."""
        return self._keys[0] if not self._resting else self._next(0)

    def fall_back(self, key: Credential, status: int, retry_after_s: float | None) -> Credential | None:
        """Let *key*, with which an answer of that *status* came, rest, and return the one to try after it.

        None means that the answer is the client's to see: it says nothing of the key, or the only key there is has
        reached its limit. Raises KeysRateLimited or KeysRefused after the last key.
        """
        reason = REASONS.get(status)
        if reason is None:
            return None
        if len(self._keys) > 1:
            self._rest(key, reason, retry_after_s)
            return self._next(self._keys.index(key) + 1)
        if reason == "unauthorized":
            raise self._refused()
        return None

    def tried(self, count: int) -> None:
        """Count how many keys a request was sent with until there was an answer for its client, or no key left."""
        if self._tries is not None:
            self._tries.observe(count)

    def states(self) -> dict[str, int]:
        """Return how many keys there are in each state."""
        resting = self._still_resting()
        return {"valid": len(self._keys) - resting, "temporary": resting}

    def _rest(self, key: Credential, reason: Reason, retry_after_s: float | None) -> None:
        """Note until when a key rests; of two times the later one holds."""
        self._still_resting()
        seconds = retry_after_s if retry_after_s is not None and retry_after_s > 0 else COOLDOWN_S
        until = self._clock() + min(seconds, MAX_COOLDOWN_S)
        before = self._resting.get(key)
        if before is None:
            self._counters[f"key_pool_transitions.{self._provider}.{reason}"] += 1
        if before is None or until > before[0]:
            self._resting[key] = until, reason

    def _next(self, start: int) -> Credential:
        self._still_resting()
        for key in self._keys[start:]:
            if key not in self._resting:
                return key
        raise self._exhausted()

    def _still_resting(self) -> int:
        """Forget the keys whose rest is over, and return how many still rest."""
        now = self._clock()
        for key in [key for key, (until, _reason) in self._resting.items() if until <= now]:
            del self._resting[key]
        return len(self._resting)

    def _exhausted(self) -> KeysRateLimited | KeysRefused:
        if len(self._resting) == len(self._keys) and all(
            reason == "unauthorized" for _until, reason in self._resting.values()
        ):
            return self._refused()
        self._counters[f"key_pool_exhaustions.{self._provider}.rate_limited"] += 1
        if len(self._resting) < len(self._keys):  # one has rested enough while the others were tried
            return KeysRateLimited("all configured keys are rate-limited (retry after 0s)", 0)
        wait_s = math.ceil(min(until for until, _reason in self._resting.values()) - self._clock())
        return KeysRateLimited(f"all configured keys are rate-limited (retry after {wait_s}s)", wait_s)

    def _refused(self) -> KeysRefused:
        self._counters[f"key_pool_exhaustions.{self._provider}.auth_failed"] += 1
        return KeysRefused("all configured keys failed authentication. Contact your Administrator")


def retry_after(headers: Headers, now_s: Callable[[], float] = time.time) -> float | None:
    """Return for how many seconds an answer asks to wait: `retry-after-ms`, or `retry-after` as a number or a date."""
    milliseconds = _number(headers.get(b"retry-after-ms", b""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get(b"retry-after", b"")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp() - now_s()
    except (ValueError, TypeError, OverflowError):
        return None


def _number(text: bytes) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
