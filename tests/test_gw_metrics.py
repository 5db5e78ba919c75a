"""What a gateway counts of its requests: the rows T1 to T6 of the acceptance tables."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gatelab
from bridgeserver import metrics
from bridgeserver.counting import Sums
from bridgeserver.errors import NotRecordable
from bridgeserver.journal import Journal
from bridgeserver.status import ReloadStatus
from gatelab import GateLab, MakeLab, Play, answer, stream
from gateway import BODIES

MESSAGES, CHAT, RESPONSES = BODIES
ROUTES = {
    MESSAGES: ("anthropic", "/v1/messages"),
    CHAT: ("openai", "/chat/completions"),
    RESPONSES: ("openai", "/responses"),
}
CLAUDE = [("User-Agent", "claude-cli/2.0.67 (external, cli)")]
AGENTS = {"Claude Code": CLAUDE, "Codex": [("User-Agent", "codex_cli_rs/0.87.0")], "Unknown": []}
STATUS = ReloadStatus(1, None, None, None, None, (), None, (), ())
Json = dict[str, Any]
Samples = dict[str, dict[frozenset[tuple[str, str]], float]]

USAGES: dict[str, Json] = {
    MESSAGES: {
        "input_tokens": 2,
        "output_tokens": 66,
        "cache_read_input_tokens": 13993,
        "cache_creation_input_tokens": 22,
    },
    CHAT: {"prompt_tokens": 19, "completion_tokens": 200, "total_tokens": 219},
    RESPONSES: {
        "input_tokens": 12033,
        "input_tokens_details": {"cached_tokens": 11904},
        "output_tokens": 44,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12077,
    },
}


class Gate(NamedTuple):
    """A gateway in memory, and what its parent has heard."""

    lab: GateLab
    sums: Sums

    def scrape(self) -> Samples:
        """Return the samples of every metric by their labels."""
        self.lab.settle()
        report = self.lab.worker._report()  # pyright: ignore[reportPrivateUsage]
        self.sums.add(report.counters, report.gauges)
        text = metrics.render(STATUS, self.sums.with_gauges([report.gauges], [report.states])).decode()
        found: Samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        assert not found.get("bridgecore_other"), "a counter without a family"
        return found

    def of(self, name: str) -> list[tuple[Json, float]]:
        """Return the labels and values of one metric."""
        samples = self.scrape().get(f"bridgecore_{name}", {})
        return [(dict(labels), value) for labels, value in samples.items()]


Make = Callable[[str], Gate]


@pytest.fixture
def make(make_lab: MakeLab) -> Make:
    """Make a gateway that has counted nothing, of a configuration beside the providers."""
    return lambda more: Gate(make_lab(gatelab.PROVIDERS + more), Sums())


@pytest.fixture
def gate(make: Make) -> Gate:
    """A gateway that has counted nothing."""
    return make("")


def good(path: str, *, streaming: bool) -> Play:
    """Return an answer that is whole, with the counts of row T5."""
    usage = USAGES[path]
    whole: Json
    if path == MESSAGES:
        whole = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "stop_reason": "end_turn"}
        whole |= {"usage": usage}
        events: list[Json] = [
            {"type": "message_start", "message": whole | {"usage": usage | {"output_tokens": 1}}},
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": usage["output_tokens"]}},
            {"type": "message_stop"},
        ]
    elif path == CHAT:
        choice: Json = {"index": 0, "finish_reason": "stop"}
        whole = {"id": "c_1", "choices": [choice | {"message": {"role": "assistant", "content": "Hi"}}], "usage": usage}
        events = [{"id": "c_1", "choices": [choice | {"delta": {"content": "Hi"}}]}]
        events.append({"id": "c_1", "choices": [], "usage": usage})
    else:
        whole = {"id": "resp_1", "object": "response", "status": "completed", "output": [], "usage": usage}
        events = [{"type": "response.completed", "response": whole}]
    if not streaming:
        return answer(json.dumps(whole).encode())
    named = [
        (f"event: {event['type']}\n" if "type" in event else "") + f"data: {json.dumps(event)}\n\n" for event in events
    ]
    return stream(*[text.encode() for text in named], *([b"data: [DONE]\n\n"] if path == CHAT else []))


def refused() -> Play:
    """Return a provider's refusal."""
    return answer(b'{"error":{"type":"invalid_request_error","message":"no"}}', status="400 Bad Request")


def labels_of(path: str, client: str, status: str = "completed") -> Json:
    """Return the labels of an interception."""
    provider, route = ROUTES[path]
    return {"provider": provider, "model": "m", "status": status, "route": route, "method": "POST", "client": client}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("streaming", [False, True], ids=["blocking", "streaming"])
@pytest.mark.parametrize("client", AGENTS)
@pytest.mark.parametrize("is_good", [True, False], ids=["ok", "error"])
def test_gw_t1_interceptions(gate: Gate, path: str, streaming: bool, client: str, is_good: bool) -> None:
    """One count with exact labels, and one series of durations. Ours differs: no user, unless it is asked for."""
    gate.lab.provider.push(good(path, streaming=streaming) if is_good else refused())
    gate.lab.ask(path, BODIES[path] | {"stream": streaming}, fields=AGENTS[client])
    expected = labels_of(path, client, "completed" if is_good else "failed")
    assert gate.of("interceptions_total") == [(expected, 1)]
    provider = {"provider": ROUTES[path][0], "model": "m"}
    assert gate.of("interceptions_duration_seconds_count") == [(provider, 1)]
    assert gate.of("upstream_first_byte_seconds_count") == [(provider, 1)]
    bounds = [labels["le"] for labels, _value in gate.of("interceptions_duration_seconds_bucket")]
    assert bounds == ["0.5", "2.0", "5.0", "15.0", "30.0", "60.0", "120.0", "+Inf"]


def test_gw_t1_users_if_they_are_asked_for(make: Make) -> None:
    """Interceptions, prompts and tokens then have the user's name, and nothing else has."""
    gate = make("[metrics]\nuser_label = true\n")
    for user in ("ann", "bob", "bob"):
        gate.lab.provider.push(good(CHAT, streaming=False))
        gate.lab.ask(CHAT, BODIES[CHAT], user=user)
    expected = labels_of(CHAT, "Unknown")
    assert gate.of("interceptions_total") == [(expected | {"user": "ann"}, 1), (expected | {"user": "bob"}, 2)]
    found = gate.scrape()
    with_users = {name for name, samples in found.items() if any("user" in dict(labels) for labels in samples)}
    assert with_users == {"bridgecore_interceptions_total", "bridgecore_prompts_total", "bridgecore_tokens_total"}


def test_gw_t2_requests_in_flight(gate: Gate) -> None:
    """One while it runs, none after, whichever way it ends; and none of it is an end before it ends."""
    expected = {"provider": "anthropic", "model": "m", "route": "/v1/messages"}
    gate.lab.provider.push(stream(b": here\n\n", end="silence"))
    visit = gate.lab.begin(MESSAGES, BODIES[MESSAGES] | {"stream": True})
    assert gate.of("interceptions_inflight") == [(expected, 1)]
    assert gate.of("open_streams") == [({}, 1)]
    assert gate.of("interceptions_total") == []
    visit.leave()
    assert gate.of("interceptions_inflight") == [(expected, 0)]
    assert gate.of("open_streams") == [({}, 0)]


def test_a_request_that_no_report_has_met_in_flight(gate: Gate) -> None:
    """Its gauge is there all the same."""
    gate.lab.provider.push(good(CHAT, streaming=False))
    gate.lab.ask(CHAT, BODIES[CHAT])
    expected = {"provider": "openai", "model": "m", "route": "/chat/completions"}
    assert gate.of("interceptions_inflight") == gate.of("interceptions_inflight") == [(expected, 0)]


@pytest.mark.parametrize(
    ("method", "path", "provider", "route"),
    [
        pytest.param("GET", "/openai/v1/models", "openai", "/models", id="gw-T3"),
        pytest.param("GET", "/openai/v1/models/gpt-9-secret", "openai", "/models/*", id="an-id"),
        pytest.param(
            "POST", "/anthropic/v1/messages/count_tokens", "anthropic", "/v1/messages/count_tokens", id="post"
        ),
    ],
)
def test_passthrough(gate: Gate, method: str, path: str, provider: str, route: str) -> None:
    """What is not recorded is counted, by the route that it took and not by what was asked for there."""
    gate.lab.provider.push(answer(b"{}"), answer(b"{}"))
    for _ in range(2):
        gate.lab.ask(path, b"" if method == "POST" else None, method=method)
    assert gate.of("passthrough_total") == [({"provider": provider, "route": route, "method": method}, 2)]
    assert gate.of("upstream_received_bytes_total") == [({"provider": provider}, 4)]
    assert gate.of("interceptions_total") == []


def test_gw_t4_prompts(gate: Gate) -> None:
    """A prompt counts, and a request without one, or with an empty one, has none."""
    bodies: list[Json] = [
        BODIES[CHAT],
        {"model": "m", "messages": []},
        {"model": "m", "messages": [{"role": "user", "content": ""}]},
    ]
    for body in bodies:
        gate.lab.provider.push(good(CHAT, streaming=False))
        gate.lab.ask(CHAT, body, fields=CLAUDE)
    assert gate.of("prompts_total") == [({"provider": "openai", "model": "m", "client": "Claude Code"}, 1)]
    assert [value for _labels, value in gate.of("interceptions_total")] == [3]


TYPES = ("input", "output", "cache_read_input_tokens", "cache_write_input_tokens")


@pytest.mark.parametrize(
    ("path", "streaming", "expected", "extra"),
    [
        pytest.param(RESPONSES, False, (129, 44, 11904, 0), {"output_reasoning": 0}, id="gw-T5-responses"),
        pytest.param(MESSAGES, True, (2, 66, 13993, 22), {}, id="gw-T5-messages"),
        pytest.param(CHAT, False, (19, 200, 0, 0), {}, id="gw-T5-chat"),
    ],
)
def test_tokens(gate: Gate, path: str, streaming: bool, expected: tuple[int, ...], extra: dict[str, int]) -> None:
    """Each type is a series, those that are zero too.

    Ours differs: the first four are all there is, so that they can be added up, and what a provider says in other words
    of the same (`input_cached`, `total_tokens`) is not counted again; further types are parts of those four.
    """
    gate.lab.provider.push(good(path, streaming=streaming))
    gate.lab.ask(path, BODIES[path] | {"stream": streaming})
    wanted = dict(zip(TYPES, expected, strict=True)) | extra
    labels = {"provider": ROUTES[path][0], "model": "m", "client": "Unknown"}
    assert {labels["type"]: value for labels, value in gate.of("tokens_total")} == wanted
    assert all(found | labels == found for found, _value in gate.of("tokens_total"))


def test_gw_t6_calls_of_the_clients_own_tools(gate: Gate) -> None:
    """By provider, model and name."""
    call = {"id": "call_1", "type": "function", "function": {"name": "read_file", "arguments": "{}"}}
    choice = {"index": 0, "message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "tool_calls"}
    whole = {"id": "c_1", "choices": [choice], "usage": USAGES[CHAT]}
    gate.lab.provider.push(answer(json.dumps(whole).encode()))
    gate.lab.ask(CHAT, BODIES[CHAT])
    labels = {"provider": "openai", "model": "m", "name": "read_file"}
    assert gate.of("non_injected_tool_selections_total") == [(labels, 1)]


def test_a_client_that_leaves_is_no_failure(gate: Gate) -> None:
    """It counts as completed, and as cancelled beside that; the record says `cancelled`."""
    gate.lab.provider.push(stream(b": here\n\n", end="silence"))
    gate.lab.begin(MESSAGES, BODIES[MESSAGES] | {"stream": True}).leave()
    assert gate.lab.kept().end.status == "cancelled"
    assert gate.of("interceptions_total") == [(labels_of(MESSAGES, "Unknown"), 1)]
    assert gate.of("interceptions_cancelled_total") == [({"provider": "anthropic", "model": "m"}, 1)]


def test_what_the_gateway_breaks_off_is_a_failure(gate: Gate) -> None:
    """The record says `interrupted`."""
    gate.lab.provider.push(stream(b": here\n\n", end="silence"))
    visit = gate.lab.begin(MESSAGES, BODIES[MESSAGES] | {"stream": True})
    gate.lab.worker.stop()
    visit.finish()
    assert gate.lab.kept().end.status == "interrupted"
    assert gate.of("interceptions_total") == [(labels_of(MESSAGES, "Unknown", "failed"), 1)]
    gate.lab.worker.is_draining = False


def test_bytes_of_both_directions(gate: Gate) -> None:
    """Bodies as they went to the provider and came from it, once the request is over."""
    play = good(MESSAGES, streaming=True)
    gate.lab.provider.push(play)
    got = gate.lab.ask(MESSAGES, BODIES[MESSAGES] | {"stream": True})
    (sent,) = gate.lab.provider.requests
    assert gate.of("upstream_sent_bytes_total") == [({"provider": "anthropic"}, len(sent.body))]
    assert gate.of("upstream_received_bytes_total") == [({"provider": "anthropic"}, len(got.body))]


SEVERAL = gatelab.PROVIDERS.replace('["central-openai-key"]', '["one", "two", "three"]')
LIMITED = answer(b"{}", status="429 Too Many Requests")


def tries(gate: Gate) -> Iterator[tuple[str, float]]:
    """Yield each bound and how many requests were below it and above the one before."""
    before = 0.0
    for labels, value in gate.of("key_pool_failover_attempts_bucket"):
        assert labels["provider"] == "openai"
        if value != before:
            yield labels["le"], value - before
        before = value


@pytest.mark.parametrize(("path", "body"), [(CHAT, BODIES[CHAT]), ("/openai/v1/models", None)])
def test_keys_that_were_tried(make_lab: MakeLab, path: str, body: Json | None) -> None:
    """One where the first key serves, and one more for each that was limited, up to the last; of all requests."""
    gate = Gate(make_lab(SEVERAL), Sums())
    play = good(CHAT, streaming=False)
    gate.lab.provider.push(play, LIMITED, play, LIMITED, LIMITED)
    assert [gate.lab.ask(path, body).status for _ in range(3)] == [200, 200, 429]
    assert list(tries(gate)) == [("1.0", 1), ("2.0", 2)]
    gate = Gate(make_lab(SEVERAL), Sums())
    gate.lab.provider.push(LIMITED, LIMITED, LIMITED)
    assert gate.lab.ask(path, body).status == 429
    assert list(tries(gate)) == [("3.0", 1)]


def test_a_single_key_is_no_choice(gate: Gate) -> None:
    """Nothing is counted for it."""
    gate.lab.provider.push(LIMITED)
    gate.lab.ask(CHAT, BODIES[CHAT])
    assert gate.of("key_pool_failover_attempts_count") == []


def test_a_record_that_cannot_be_kept_leaves_nothing_in_flight(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before it began, it is no interception."""

    def refuse(*_arguments: object) -> None:
        raise NotRecordable("the journal is full")

    monkeypatch.setattr(Journal, "begin", refuse)
    assert gate.lab.ask(CHAT, BODIES[CHAT]).status == 503
    found = gate.scrape()
    assert not [name for name in found if name.startswith(("bridgecore_interceptions", "bridgecore_prompts"))]
    assert not gate.lab.worker.traffic.inflight()
