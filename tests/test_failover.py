"""Several central keys, and circuit breakers, through a running gateway."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import gateway as gateways
from bridgeserver import fakeprovider
from bridgeserver.fakeprovider import FakeProvider, Fault, Script
from bridgeserver.protocols.chat import Chat
from gateway import BODIES, Answer, Gateway

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
MODES = pytest.mark.parametrize("stream", [False, True], ids=["blocking", "streaming"])
LIMITED = Script(fail=Fault(429, retry_after="30"))
REFUSED = Script(fail=Fault(401))


def provider(name: str, kind: str, url: str, more: str = "") -> str:
    base = url if kind == "anthropic" else f"{url}/v1"
    keys = '["first-central-key-0001", "second-central-key-02"]'
    return f'[[providers]]\nname = "{name}"\ntype = "{kind}"\nbase_url = "{base}"\nkeys = {keys}\n{more}\n'


NAMES = [f"{kind}-{number}" for kind in PATHS for number in range(12)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, FakeProvider]]:
    """A gateway with many providers, each for one test, since a key rests longer than a test may take."""
    folder: Path = tmp_path_factory.mktemp("failover")
    with fakeprovider.running() as fake:
        tables = [provider(name, name.partition("-")[0], fake.url) for name in NAMES]
        circuit = "breaker_failures = 2\nbreaker_timeout_s = 86400\nbreaker_probes = 1"
        tables += [provider(f"circuit-{kind}", kind, fake.url, circuit) for kind in PATHS]
        gateways.write_config(folder, fake.url, more="\n".join(tables))
        with gateways.running(folder) as gateway:
            yield gateway, fake


@pytest.fixture
def gateway(lab: tuple[Gateway, FakeProvider], fake: FakeProvider) -> Gateway:
    del fake
    return lab[0]


@pytest.fixture
def fake(lab: tuple[Gateway, FakeProvider]) -> FakeProvider:
    lab[1].reset()
    return lab[1]


@pytest.fixture
def messages() -> str:
    """The path of a provider whose keys no test has used."""
    return _path("anthropic")


@pytest.fixture
def chat() -> str:
    """The same for Chat Completions."""
    return _path("openai")


def _path(kind: str) -> str:
    name = next(name for name in NAMES if name.startswith(kind))
    NAMES.remove(name)
    return f"/{name}{PATHS[kind]}"


def body(path: str, *, stream: bool = False) -> dict[str, Any]:
    found = next(members for route, members in BODIES.items() if route.endswith(path.partition("/v1")[2]))
    return found | {"stream": stream}


def keys_of(fake: FakeProvider) -> list[str]:
    """Return the keys that the provider was shown, in order."""
    found = [received.header("x-api-key") or received.header("authorization") or "" for received in fake.requests]
    return [key.removeprefix("Bearer ").partition("-")[0] for key in found]


def hint_of(gateway: Gateway, answer: Answer) -> str:
    """Return the hint of the key in the record of an answer."""
    record = gateway.record(answer.headers["x-bridge-interception-id"])
    rows = gateways.tables(gateway.folder, ["interceptions"])["interceptions"]
    (row,) = [row for row in rows if row["id"] == record["id"]]
    return str(row["credential_hint"])


@MODES
def test_cp_k2_k17_a_limited_key_is_replaced_within_the_request(
    gateway: Gateway, fake: FakeProvider, messages: str, chat: str, stream: bool
) -> None:
    """A 429 before the first byte: the next key serves the same request, which is recorded once, with both attempts."""
    for path in (messages, chat):
        fake.reset()
        fake.push(LIMITED)
        answer = gateway.ask(path, body(path, stream=stream))
        assert answer.status == 200
        assert answer.body == fake.requests[-1].response or "openai" in path
        assert keys_of(fake) == ["first", "second"]
        assert fake.requests[0].body == fake.requests[1].body
        record = gateway.record(answer.headers["x-bridge-interception-id"])
        assert (record["status"], record["http_status"], record["error_type"]) == ("completed", 200, None)
        again = gateway.ask(path, body(path, stream=stream))
        assert (again.status, keys_of(fake)) == (200, ["first", "second", "second"]), "the first key rests"


def test_cp_k14_the_record_names_the_key_that_served(gateway: Gateway, fake: FakeProvider, messages: str) -> None:
    """The hint is that of the second key once it has served; a caller's own key is never replaced."""
    fake.push(LIMITED)
    assert hint_of(gateway, gateway.ask(messages, body(messages))) == "seco...y-02"
    own = {"x-bridge-token": gateway.key, "authorization": "", "x-api-key": "the-users-own-key-42"}
    fake.push(LIMITED)
    answer = gateway.ask(messages, body(messages), headers=own)
    assert answer.status == 429
    assert hint_of(gateway, answer) == "the-...y-42"


def test_cp_k6_k7_exhaustion_in_the_shape_of_the_protocol(
    gateway: Gateway, fake: FakeProvider, messages: str, chat: str
) -> None:
    """All keys limited: 429, the smallest remaining time, the protocol's own error; the next request asks nobody."""
    for path in (messages, chat):
        fake.reset()
        fake.push(Script(fail=Fault(429, retry_after="1000")), Script(fail=Fault(429, retry_after="3000")))
        answer = gateway.ask(path, body(path))
        assert (answer.status, answer.json["error"]["type"]) == (429, "rate_limit_error")
        assert 990 < int(answer.headers["retry-after"]) <= 1000
        assert "all configured keys are rate-limited" in answer.json["error"]["message"]
        record = gateway.record(answer.headers["x-bridge-interception-id"])
        assert (record["status"], record["error_type"], record["http_status"]) == ("failed", "rate_limited", 429)
        assert gateway.ask(path, body(path)).status == 429
        assert len(fake.requests) == 2


def test_cp_k8_refused_keys(gateway: Gateway, fake: FakeProvider, messages: str, chat: str) -> None:
    """All keys refused: 502 without Retry-After; nobody is told that his own key is wrong."""
    for path in (messages, chat):
        fake.reset()
        fake.push(REFUSED, REFUSED)
        answer = gateway.ask(path, body(path))
        assert (answer.status, answer.headers.get("retry-after")) == (502, None)
        assert answer.headers["x-should-retry"] == "false"
        assert "all configured keys failed authentication" in answer.json["error"]["message"]
        record = gateway.record(answer.headers["x-bridge-interception-id"])
        assert (record["status"], record["error_type"]) == ("failed", "unauthorized")


@pytest.mark.parametrize("status", [403, 500, 529, 503], ids=["cp-K9", "cp-K11-500", "cp-K11-529", "cp-K11-503"])
def test_other_errors_are_the_clients_to_see(gateway: Gateway, fake: FakeProvider, status: int) -> None:
    """They are relayed byte for byte, with one attempt, and the first key serves the next request."""
    path = f"/{NAMES[0]}{PATHS['anthropic']}"
    fake.push(Script(fail=Fault(status)))
    answer = gateway.ask(path, body(path))
    assert (answer.status, answer.body) == (status, fake.requests[0].response)
    assert gateway.ask(path, body(path)).status == 200
    assert keys_of(fake) == ["first", "first"]


def test_cp_k12_a_broken_connection_says_nothing_of_a_key(gateway: Gateway, fake: FakeProvider, messages: str) -> None:
    """The client gets 502, and the first key serves the next request."""
    fake.push(Script(cut_after=0), Script(cut_after=0))
    assert gateway.ask(messages, body(messages)).status == 502
    fake.reset()
    assert gateway.ask(messages, body(messages)).status == 200
    assert keys_of(fake) == ["first"]


def test_cp_k16_passthrough_routes_fall_back_too(gateway: Gateway, fake: FakeProvider, messages: str) -> None:
    """With a GET, and with a POST whose body is sent again."""
    path = messages.replace("/v1/messages", "/v1/models")
    fake.push(LIMITED)
    assert gateway.ask(path).status == 200
    assert keys_of(fake) == ["first", "second"]
    count = f"{messages}/count_tokens"
    other = count.replace(messages.split("/")[1], _path("anthropic").split("/")[1])
    fake.reset()
    fake.push(REFUSED)
    assert gateway.ask(other, body("/v1/messages")).status == 200
    assert keys_of(fake) == ["first", "second"]
    assert fake.requests[0].body == fake.requests[1].body


def test_cp_k17_an_error_after_the_first_byte_is_the_streams(
    gateway: Gateway, fake: FakeProvider, messages: str
) -> None:
    """Once the client has seen a byte no other key is tried."""
    fake.push(Script(stream_error_after=2, fail=Fault(429)))
    answer = gateway.ask(messages, body(messages, stream=True))
    assert (answer.status, answer.body) == (200, fake.requests[0].response)
    assert b"event: error" in answer.body
    assert keys_of(fake) == ["first"]


def test_a_large_refusal_does_not_delay_the_next_key(gateway: Gateway, fake: FakeProvider, messages: str) -> None:
    """What is too long to be read for nothing costs a connection and nothing else."""
    fake.push(Script(fail=Fault(429, message="x" * 300_000)))
    answer = gateway.ask(messages, body(messages))
    assert (answer.status, keys_of(fake)) == (200, ["first", "second"])


def test_a_single_key_lets_the_clients_see_its_limit(gateway: Gateway, fake: FakeProvider) -> None:
    """A provider with one key: the 429 is relayed with its headers, and the next request is sent all the same."""
    path = "/anthropic/v1/messages"
    fake.push(LIMITED)
    answer = gateway.ask(path, body(path))
    assert (answer.status, answer.headers["retry-after"], answer.body) == (429, "30", fake.requests[0].response)
    assert "request-id" in answer.headers
    assert "anthropic-ratelimit-requests-remaining" in answer.headers
    assert gateway.ask(path, body(path)).status == 200


@pytest.mark.parametrize("kind", PATHS, ids=[f"gw-CB9-{kind}" for kind in PATHS])
def test_an_open_circuit_answers_for_the_provider(gateway: Gateway, fake: FakeProvider, kind: str) -> None:
    """503 in the provider's shape with Retry-After, recorded as failed, and nothing is sent; another model is."""
    path = f"/circuit-{kind}{PATHS[kind]}"
    fake.push(Script(fail=Fault(503)), Script(fail=Fault(529)))
    assert [gateway.ask(path, body(path)).status for _ in range(2)] == [503, 529]
    answer = gateway.ask(path, body(path))
    assert (answer.status, answer.json["error"]["message"]) == (503, "circuit breaker is open")
    assert answer.json["error"]["type"] == "overloaded_error"
    assert 86_000 < int(answer.headers["retry-after"]) <= 86_400
    assert len(fake.requests) == 2
    record = gateway.record(answer.headers["x-bridge-interception-id"])
    assert (record["status"], record["error_type"], record["prompt"]) == ("failed", "overloaded", "hello")
    assert gateway.ask(path, body(path) | {"model": "another"}).status == 200


def test_cp_k15_a_key_that_is_added_serves_at_once(gateway: Gateway, fake: FakeProvider) -> None:
    """Without a restart: once the change is answered every worker has it, and the next request falls back to it."""
    admin = {"authorization": f"Bearer {gateways.make_key(gateway.folder, 'operator', is_admin=True)}"}
    made = {"type": "anthropic", "name": "growing", "base_url": fake.url, "api_keys": ["first-key-of-the-store"]}
    view = gateway.ask("/-/api/v1/providers", made, headers=admin)
    assert view.status == 201
    fake.push(LIMITED)
    assert gateway.ask("/growing/v1/messages", body("/v1/messages")).status == 429
    keys = [{"id": view.json["api_keys"][0]["id"]}, {"api_key": "second-key-of-the-store"}]
    patched = gateway.ask("/-/api/v1/providers/growing", {"api_keys": keys}, method="PATCH", headers=admin)
    assert patched.status == 200
    fake.push(LIMITED)
    assert gateway.ask("/growing/v1/messages", body("/v1/messages")).status == 200
    assert keys_of(fake) == ["first", "first", "second"]


def test_metrics_of_keys_and_circuits(gateway: Gateway) -> None:
    """What the tests above did to keys and circuits can be scraped, with the documented labels."""
    admin = gateways.make_key(gateway.folder, "root", is_admin=True)

    def scraped() -> dict[str, float] | None:
        text = gateway.ask("/-/metrics", headers={"authorization": f"Bearer {admin}"}).body.decode()
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        found = {name: float(value) for name, value in lines}
        return found if any("circuit_breaker_rejects_total" in name for name in found) else None

    found = gateways.eventually(scraped)
    labels = '{endpoint="/v1/messages",model="m",provider="circuit-anthropic"}'
    assert found[f"bridgecore_circuit_breaker_state{labels}"] == 1
    assert found[f"bridgecore_circuit_breaker_trips_total{labels}"] == 1
    assert found[f"bridgecore_circuit_breaker_rejects_total{labels}"] == 1
    assert sum(value for name, value in found.items() if "key_pool_state{" in name and "temporary" in name) > 0
    transitions = {name: value for name, value in found.items() if "key_pool_state_transitions_total" in name}
    assert all('reason="rate_limited"' in name or 'reason="unauthorized"' in name for name in transitions)
    assert transitions
    assert any('outcome="auth_failed"' in name for name in found)
    assert not any(name.startswith("bridgecore_other") for name in found)


def test_openai_shape_of_an_open_circuit() -> None:
    """The names that the reference gives it stay inside what the SDKs read: message and type."""
    error = msgspec.json.decode(Chat().error_body(503, "circuit breaker is open", "overloaded"))["error"]
    assert error == {
        "message": "circuit breaker is open",
        "type": "overloaded_error",
        "param": None,
        "code": "overloaded",
    }
