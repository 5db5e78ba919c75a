"""The rows CB1 to CB9 of the acceptance table for circuit breakers, on a clock that the test moves."""

from collections import Counter

import pytest

from bridgeserver.breaker import CIRCUITS_KEPT, FAILURES, Breaker, Circuit, Rules
from bridgeserver.errors import CircuitOpen

RULES = Rules(failures=2, interval_s=60, timeout_s=30, probes=1)


class Lab:
    """The breaker of a provider `p`, and what became of each request."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.now = 1000.0
        self.counters: Counter[str] = Counter()
        self.breaker = Breaker("p", rules, self.counters, lambda: self.now)

    def circuit(self, endpoint: str = "/v1/messages", model: str = "m") -> Circuit:
        return self.breaker.circuit(endpoint, model)

    def answer(self, *statuses: int | None, endpoint: str = "/v1/messages", model: str = "m") -> None:
        """Send a request for each status, one after another."""
        for status in statuses:
            circuit = self.circuit(endpoint, model)
            circuit.leave(circuit.enter(), status)

    def is_refused(self, endpoint: str = "/v1/messages", model: str = "m") -> bool:
        circuit = self.circuit(endpoint, model)
        try:
            turn = circuit.enter()
        except CircuitOpen:
            return True
        circuit.leave(turn, None)
        return False

    def count(self, what: str) -> int:
        return self.counters[f"circuit_breaker_{what}.p./v1/messages.m"]

    @property
    def state(self) -> float:
        return self.breaker.states().get("p./v1/messages.m", 0)


def test_gw_cb1_a_circuit_opens_and_closes() -> None:
    """Two failures open it, a refusal reaches nobody, and a good answer after the timeout closes it.

    Ours differs: the failures are 503, since a 429 is about a key and stops nobody else.
    """
    lab = Lab()
    lab.answer(503, 503)
    assert (lab.state, lab.count("trips"), lab.count("rejects")) == (1, 1, 0)
    with pytest.raises(CircuitOpen, match=r"^circuit breaker is open$") as caught:
        lab.circuit().enter()
    assert (caught.value.status, caught.value.retry_after_s) == (503, 30)
    assert (lab.state, lab.count("trips"), lab.count("rejects")) == (1, 1, 1)
    lab.now += 29.5
    with pytest.raises(CircuitOpen) as caught:
        lab.circuit().enter()
    assert caught.value.retry_after_s == 1, "what is left of the timeout, rounded up"
    lab.now += 0.5
    lab.answer(200)
    assert lab.state == 0
    lab.answer(200, 200, 200)
    assert lab.count("rejects") == 2


def test_gw_cb2_a_failed_probe_opens_it_again() -> None:
    """A half-open circuit opens at the first failure, for the whole timeout."""
    lab = Lab()
    lab.answer(503, 503)
    lab.now += 30
    lab.answer(503)
    assert (lab.state, lab.count("trips")) == (1, 2)
    lab.now += 29.9
    assert lab.is_refused()
    lab.now += 0.1
    assert not lab.is_refused()


def test_gw_cb3_a_half_open_circuit_lets_few_through() -> None:
    """Of five at once two are let through; when both have succeeded the circuit is closed."""
    lab = Lab(RULES._replace(probes=2))
    lab.answer(503, 503)
    assert lab.is_refused()
    lab.now += 30
    circuit = lab.circuit()
    turns = [circuit.enter(), circuit.enter()]
    for _ in range(3):
        assert lab.is_refused()
    assert (lab.state, lab.count("rejects")) == (0.5, 4)
    circuit.leave(turns[0], 200)
    assert lab.state == 0.5
    circuit.leave(turns[1], 200)
    assert (lab.state, lab.is_refused()) == (0, False)


def test_gw_cb4_models_do_not_share_a_circuit() -> None:
    """One model's failures leave another model of the same endpoint alone."""
    lab = Lab()
    lab.answer(503, 503, model="m")
    lab.answer(200, 200, model="other")
    assert lab.is_refused(model="m")
    assert not lab.is_refused(model="other")
    assert lab.breaker.states() == {"p./v1/messages.m": 1}


def test_gw_cb5_endpoints_do_not_share_a_circuit() -> None:
    """The same model below another path is unaffected."""
    lab = Lab()
    lab.answer(503, 503, endpoint="/v1/messages")
    assert lab.is_refused(endpoint="/v1/messages")
    assert not lab.is_refused(endpoint="/chat/completions")


@pytest.mark.parametrize(
    ("status", "is_failure"),
    [(status, False) for status in (200, 201, 302, 400, 401, 403, 404, 408, 422, 429, 500, 501, 502)]
    + [(status, True) for status in (503, 504, 529)],
    ids=lambda value: f"gw-CB6-CB7-{value}",
)
def test_what_is_a_failure(status: int, is_failure: bool) -> None:
    """Ours differs: 429 is none, and 529 is one for every provider; CB6's predicate of one's own does not exist."""
    lab = Lab()
    lab.answer(status, status)
    assert lab.is_refused() is is_failure
    assert (status in FAILURES) is is_failure


def test_gw_cb8_every_change_of_state_is_counted_once() -> None:
    """A trip counts when it happens, not for every answer that comes late."""
    lab = Lab()
    circuit = lab.circuit()
    turns = [circuit.enter() for _ in range(5)]
    for turn in turns:
        circuit.leave(turn, 503)
    assert (lab.state, lab.count("trips")) == (1, 1)


def test_failures_have_to_be_in_a_row() -> None:
    """A good answer in between begins the count anew."""
    lab = Lab()
    lab.answer(503, 200, 503, 429, 503)
    assert lab.state == 0
    lab.answer(503)
    assert lab.state == 1


def test_a_closed_circuit_forgets_every_interval() -> None:
    """Failures that are further apart than the interval open nothing; without an interval all of them count."""
    lab = Lab()
    lab.answer(503)
    lab.now += 60
    lab.answer(503)
    assert lab.state == 0
    lab.answer(503)
    assert lab.state == 1
    endless = Lab(RULES._replace(interval_s=0))
    endless.answer(503)
    endless.now += 1e9
    endless.answer(503)
    assert endless.state == 1


def test_a_slow_failure_counts_after_the_interval() -> None:
    """An answer may take longer than the interval: a provider that times out is a failing one."""
    lab = Lab()
    circuit = lab.circuit()
    turns = [circuit.enter(), circuit.enter()]
    lab.now += 61
    for turn in turns:
        circuit.leave(turn, 504)
    assert lab.state == 1


def test_an_answer_of_an_earlier_turn_says_nothing() -> None:
    """What began before the circuit opened neither closes the half-open one nor opens it again."""
    lab = Lab()
    circuit = lab.circuit()
    good, bad = circuit.enter(), circuit.enter()
    lab.answer(503, 503)
    lab.now += 30
    probe = circuit.enter()
    circuit.leave(good, 200)
    circuit.leave(bad, 503)
    assert lab.state == 0.5
    circuit.leave(probe, 200)
    assert lab.state == 0


def test_a_probe_without_an_answer_makes_room_for_another() -> None:
    """A client that left, or a connection that could not be made, is no verdict on the provider."""
    lab = Lab()
    lab.answer(503, 503)
    lab.now += 30
    lab.answer(None, None)
    assert lab.state == 0.5
    lab.answer(200)
    assert lab.state == 0


def test_names_from_clients_are_bounded() -> None:
    """Any number of models is asked for, and so many are remembered; an open circuit outlives the closed ones."""
    lab = Lab()
    lab.answer(503, 503)
    first = lab.circuit(model="0")
    for number in range(CIRCUITS_KEPT):
        lab.answer(200, model=str(number))
    assert lab.circuit(model="0") is not first
    assert lab.circuit(model="1").name.endswith(".1")
    assert lab.circuit(model="1000").name.endswith(".other")
    assert len(lab.circuit(model="x" * 1000).name) < 200
    assert lab.is_refused()
