"""The circuit breakers of one provider: an endpoint and model that fails again and again is left alone for a while.

Closed, until so many answers in a row are failures; then open, and every request is refused at once; after a time
half-open: a few requests are let through, and either all of them succeed, which closes it, or one fails, which opens
it again. Everything happens when a request comes or ends; there are no timers.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import structlog

from bridgeserver.counting import MODELS, OTHER, clean
from bridgeserver.errors import CircuitOpen

log = structlog.get_logger("bridgecore")

FAILURES = frozenset({503, 504, 529})
"""Statuses that say that the provider itself is in trouble. 429 is about a key, and 500 and 502 about a request."""

CIRCUITS_KEPT = 1024
"""Names of models come from clients, so there may be any number of them."""

CLOSED, HALF_OPEN, OPEN = range(3)
NAMES = ("closed", "half-open", "open")


class Rules(NamedTuple):
    """When a circuit opens and closes; times in seconds."""

    failures: int
    """Failures in a row that open a closed circuit."""
    interval_s: float
    """How often a closed circuit forgets what it counted; 0 for never."""
    timeout_s: float
    """How long it stays open."""
    probes: int
    """How many requests a half-open circuit lets through, all of which must succeed."""


class Breaker:
    """The circuits of one provider in one worker."""

    def __init__(
        self,
        provider: str,
        rules: Rules,
        counters: Counter[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._rules = rules
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._clock = clock
        self._circuits: dict[tuple[str, str], Circuit] = {}
        self._shown: set[str] = set()

    def circuit(self, endpoint: str, model: str) -> "Circuit":
        """Return the circuit of one endpoint and model."""
        circuit = self._circuits.get((endpoint, model))
        if circuit is None:
            self._make_room()
            name = f"{self._provider}.{endpoint}.{self._shown_model(model)}"
            circuit = self._circuits[endpoint, model] = Circuit(name, self._rules, self._counters, self._clock)
        return circuit

    def states(self) -> dict[str, float]:
        """Return the states of the circuits that have ever opened, by their names: 0 closed, 0.5 half-open, 1 open."""
        opened = (circuit for circuit in self._circuits.values() if circuit.has_opened)
        return {circuit.name: circuit.state / 2 for circuit in sorted(opened, key=lambda circuit: circuit.state)}

    def _shown_model(self, model: str) -> str:
        shown = clean(model)
        if len(self._shown) < MODELS:
            self._shown.add(shown)
        return shown if shown in self._shown else OTHER

    def _make_room(self) -> None:
        """Forget the oldest circuit that is closed, or the oldest of all."""
        if len(self._circuits) < CIRCUITS_KEPT:
            return
        closed = (key for key, circuit in self._circuits.items() if circuit.state == CLOSED)
        del self._circuits[next(closed, next(iter(self._circuits)))]


class Circuit:
    """One endpoint and model: `enter` before a request, `leave` after it.

    Each change of state begins another turn; the outcome of a request that began in an earlier turn says nothing of
    this one. The clearing of a closed circuit's counts begins none: an answer may take longer than the interval.
    """

    def __init__(self, name: str, rules: Rules, counters: Counter[str], clock: Callable[[], float]) -> None:
        self.name = name
        """`provider.endpoint.model`."""
        self.state = CLOSED
        self.has_opened = False
        self._rules = rules
        self._counters = counters
        self._clock = clock
        self._turn = 0
        self._until = 0.0
        self._begin(CLOSED)

    def enter(self) -> int:
        """Return the turn in which a request begins. Raises CircuitOpen."""
        now = self._clock()
        if now >= self._until:
            if self.state == OPEN:
                self._begin(HALF_OPEN)
            else:
                self._failures = 0
                self._until = now + self._rules.interval_s
        if self.state == OPEN or (self.state == HALF_OPEN and self._entered >= self._rules.probes):
            self._counters[f"circuit_breaker_rejects.{self.name}"] += 1
            left_s = self._until - now if self.state == OPEN else self._rules.timeout_s
            raise CircuitOpen("circuit breaker is open", max(1, math.ceil(left_s)))
        self._entered += 1
        return self._turn

    def leave(self, turn: int, status: int | None) -> None:
        """Take note of the status with which the provider answered; None if it never came to that."""
        if turn != self._turn:
            return
        if status is None:
            self._entered -= 1
        elif status in FAILURES:
            self._fail()
        else:
            self._failures = 0
            self._successes += 1
            if self.state == HALF_OPEN and self._successes >= self._rules.probes:
                self._begin(CLOSED)

    def _fail(self) -> None:
        self._failures += 1
        if self.state == HALF_OPEN or self._failures >= self._rules.failures:
            self._counters[f"circuit_breaker_trips.{self.name}"] += 1
            self.has_opened = True
            self._begin(OPEN)

    def _begin(self, state: int) -> None:
        if state != self.state:
            log.warning("circuit_breaker", circuit=self.name, before=NAMES[self.state], after=NAMES[state])
        self.state = state
        self._turn += 1
        self._entered = self._failures = self._successes = 0
        length_s = self._rules.timeout_s if state == OPEN else self._rules.interval_s if state == CLOSED else 0
        self._until = self._clock() + length_s if length_s else math.inf
