"""Bedrock through a running gateway: what it is sent, how its answers reach Messages clients, what is recorded."""

import gzip
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

import fakebedrock
import gateway as gateways
from fakebedrock import EVENTS, Answer, Asked, FakeBedrock, chunk, exception, stream
from gateway import Gateway

MESSAGE: dict[str, Any] = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "hello"}],
}
BETAS = (
    "interleaved-thinking-2025-05-14,effort-2025-11-24,context-management-2025-06-27,prompt-caching-scope-2026-01-05"
)
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
PAIR = f"AKIDEXAMPLE:{SECRET}"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, FakeBedrock]]:
    """A gateway in front of a Bedrock, by InvokeModel and by Mantle, with a pair of keys and with an API key."""
    folder = tmp_path_factory.mktemp("bedrock")
    with fakebedrock.running() as fake:
        common = f'type = "bedrock"\nbase_url = "{fake.url}"\nregion = "eu-central-1"\n'
        models = 'model = "danthropic"\nsmall_fast_model = "danthropic-haiku:1"'
        tables = [
            f'name = "bedrock"\n{common}keys = ["{PAIR}"]\n{models}',
            f'name = "mantle"\n{common}keys = ["{PAIR}:a-token"]\nbedrock_api = "mantle"',
            f'name = "api-key"\n{common}keys = ["ABSK-bedrock-api-key"]\nauth = "bearer"\nmodel = "m"',
            f'name = "none"\n{common}aws_profile = "not-there"',
        ]
        gateways.write_config(folder, fake.url, more="\n".join(f"[[providers]]\n{table}\n" for table in tables))
        with gateways.running(folder) as gateway:
            yield gateway, fake


@pytest.fixture
def gateway(lab: tuple[Gateway, FakeBedrock], fake: FakeBedrock) -> Gateway:
    del fake
    return lab[0]


@pytest.fixture
def fake(lab: tuple[Gateway, FakeBedrock]) -> FakeBedrock:
    lab[1].asked.clear()
    lab[1].answers.clear()
    return lab[1]


def is_signed(asked: Asked, service: str, path: str) -> bool:
    """Whether the signature of a request is the one that AWS's published algorithm gives."""
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/(\d{8})/eu-central-1/([a-z-]+)/aws4_request, "
        r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
        asked.headers["authorization"],
    )
    assert found is not None, asked.headers["authorization"]
    day, named, signed, signature = found.groups()
    assert (named, "host" in signed.split(";")) == (service, True)
    fields = "".join(f"{name}:{asked.headers[name].strip()}\n" for name in signed.split(";"))
    canonical = "\n".join(["POST", path, "", fields, signed, hashlib.sha256(asked.body).hexdigest()])
    scope = f"{day}/eu-central-1/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", asked.headers["x-amz-date"], scope, digest])
    key = f"AWS4{SECRET}".encode()
    for part in (day, "eu-central-1", service, "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(key.hex(), signature)


@pytest.mark.parametrize("is_stream", [False, True], ids=["gw-B3-blocking", "gw-B3-streaming"])
def test_a_signed_request_for_the_configured_model(gateway: Gateway, fake: FakeBedrock, *, is_stream: bool) -> None:
    """One call, to the model's own path; the body names neither model nor stream, and the record names the model.

    Ours differs: no key in `X-Api-Key` goes along with the signature.
    """
    answer = gateway.ask("/bedrock/v1/messages?beta=true", MESSAGE | {"stream": is_stream})
    assert answer.status == 200
    (asked,) = fake.asked
    path = "/model/danthropic/invoke" + ("-with-response-stream" if is_stream else "")
    assert asked.path == path
    assert asked.json == {
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "hello"}],
        "anthropic_version": "bedrock-2023-05-31",
    }
    assert not {"x-api-key", "anthropic-beta", "anthropic-version"} & asked.headers.keys()
    record = gateway.record(answer.headers["x-bridge-interception-id"])
    assert (record["provider"], record["provider_name"], record["model"]) == ("bedrock", "bedrock", "danthropic")


def test_the_signature_is_right(gateway: Gateway, fake: FakeBedrock) -> None:
    """Over path, host and body, by AWS's algorithm; a model's colon is escaped once in the path and twice in it."""
    gateway.ask("/bedrock/v1/messages", MESSAGE | {"model": "claude-haiku-4-5"})
    (asked,) = fake.asked
    assert asked.path == "/model/danthropic-haiku%3A1/invoke"
    assert is_signed(asked, "bedrock", "/model/danthropic-haiku%253A1/invoke")


def test_gw_b4_what_bedrock_refuses_does_not_reach_it(gateway: Gateway, fake: FakeBedrock) -> None:
    """Adaptive thinking becomes a budget, unsupported members go, flags that it knows move into the body."""
    extra: dict[str, Any] = {
        "max_tokens": 32000,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "medium"},
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "container": "c",
        "inference_geo": "eu",
        "context_management": {"edits": []},
    }
    assert gateway.ask("/bedrock/v1/messages", MESSAGE | extra, headers={"anthropic-beta": BETAS}).status == 200
    body = fake.asked[0].json
    assert body.pop("thinking") == {"type": "enabled", "budget_tokens": 16000}
    assert body.pop("anthropic_beta") == ["interleaved-thinking-2025-05-14"]
    assert sorted(body) == ["anthropic_version", "max_tokens", "messages"]


def test_gw_b12_a_stream_arrives_as_events(gateway: Gateway, fake: FakeBedrock) -> None:
    """Each event as it stands in its frame, however the frames are cut; recorded as a direct stream would be."""
    data = b"".join(map(chunk, EVENTS))
    fake.answers.append(stream(*(data[at : at + 7] for at in range(0, len(data), 7))))
    answer = gateway.ask("/bedrock/v1/messages", MESSAGE | {"stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-amzn-requestid"] == "r-1"
    expected = [(event["type"], json.dumps(event, separators=(",", ":"))) for event in EVENTS]
    assert answer.body.decode() == "".join(f"event: {name}\ndata: {text}\n\n" for name, text in expected)
    record = gateway.record(answer.headers["x-bridge-interception-id"])
    found = (record["status"], record["input_tokens"], record["output_tokens"], record["cache_read_tokens"])
    assert found == ("completed", 2, 61, 13993)
    assert record["tools"] == [{"name": "Read", "server": None, "injected": False, "error": None}]


def test_gw_b12_a_whole_answer_is_relayed_as_it_is(gateway: Gateway) -> None:
    """It has the protocol's own shape."""
    answer = gateway.ask("/bedrock/v1/messages", MESSAGE)
    assert answer.json == fakebedrock.MESSAGE
    record = gateway.record(answer.headers["x-bridge-interception-id"])
    assert (record["input_tokens"], record["output_tokens"], record["cache_read_tokens"]) == (3, 84, 23490)


def test_gw_b12_the_sdk_sees_messages(gateway: Gateway) -> None:
    """Anthropic's own SDK reads stream and message as if they came from Anthropic."""
    with anthropic.Anthropic(base_url=f"{gateway.url}/bedrock", api_key=gateway.key, max_retries=0) as client:
        with client.messages.stream(**MESSAGE) as events:
            final = events.get_final_message()
        assert (final.id, final.stop_reason, final.usage.output_tokens) == ("msg_bdrk_1", "tool_use", 61)
        messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": "hello"}]
        whole = client.messages.create(model="claude-sonnet-4-6", max_tokens=64, messages=messages)
        assert [block.type for block in whole.content] == ["text", "tool_use"]


def test_an_exception_in_mid_stream_is_an_error_event(gateway: Gateway, fake: FakeBedrock) -> None:
    """In the protocol's own shape, and recorded as what it says."""
    frames = [chunk(EVENTS[0]), exception("throttlingException", "Too many tokens")]
    fake.answers.append(stream(*frames))
    answer = gateway.ask("/bedrock/v1/messages", MESSAGE | {"stream": True})
    assert b'event: error\ndata: {"type":"error","error":{"type":"rate_limit_error"' in answer.body
    assert b"Too many tokens" in answer.body
    record = gateway.record(answer.headers["x-bridge-interception-id"])
    assert (record["status"], record["error_type"], record["input_tokens"]) == ("failed", "rate_limited", 2)


@pytest.mark.parametrize("tail", [b"\0" * 40, chunk(EVENTS[1])[:-3]], ids=["garbage", "cut"])
def test_a_broken_stream_is_never_ended_as_if_it_were_whole(gateway: Gateway, fake: FakeBedrock, tail: bytes) -> None:
    """What was whole arrives, an error event follows, and the record says that the provider broke off."""
    fake.answers.append(stream(chunk(EVENTS[0]), tail))
    with gateway.open("/bedrock/v1/messages", MESSAGE | {"stream": True}) as answer:
        received = b""
        with pytest.raises(Exception, match="IncompleteRead"):
            while True:
                received += answer.read1() or answer.read()
        interception_id = answer.headers["x-bridge-interception-id"]
    record = gateway.record(interception_id)
    assert (record["status"], record["error_type"], record["input_tokens"]) == ("failed", "upstream_broken", 2)


@pytest.mark.parametrize(
    ("status", "name", "body", "kind"),
    [
        (429, "ThrottlingException:http://internal.amazon.com/", {"message": "slow down"}, "rate_limit_error"),
        (400, "ValidationException", {"message": "slow down"}, "invalid_request_error"),
        (403, "", {"Message": "slow down"}, "permission_error"),
        (503, "", {"message": "slow down"}, "overloaded_error"),
    ],
)
def test_an_error_has_the_protocols_shape(
    gateway: Gateway, fake: FakeBedrock, status: int, name: str, body: dict[str, str], kind: str
) -> None:
    """With AWS's status and message; the SDK has its own exception for it."""
    headers = (("x-amzn-errortype", name),) if name else ()
    fake.answers.append(Answer(status, "application/json", (json.dumps(body).encode(),), headers))
    answer = gateway.ask("/bedrock/v1/messages", MESSAGE)
    assert (answer.status, answer.json) == (status, {"type": "error", "error": {"type": kind, "message": "slow down"}})
    assert gateway.record(answer.headers["x-bridge-interception-id"])["http_status"] == status


def test_mantle_gets_the_request_as_it_is(gateway: Gateway, fake: FakeBedrock) -> None:
    """Signed for its own service, token included; body and beta flags untouched, and token counting goes there too."""
    fake.answers.append(Answer(200, "application/json", (json.dumps(fakebedrock.MESSAGE).encode(),)))
    body = json.dumps(MESSAGE | {"thinking": {"type": "adaptive"}}, indent=1).encode()
    assert gateway.ask("/mantle/v1/messages", body, headers={"anthropic-beta": BETAS}).status == 200
    assert gateway.ask("/mantle/v1/messages/count_tokens", body).status == 200
    for asked, path in zip(fake.asked, ("/v1/messages", "/v1/messages/count_tokens"), strict=True):
        assert (asked.path, asked.body) == (path, body)
        assert asked.headers["x-amz-security-token"] == "a-token"
        assert is_signed(asked, "bedrock-mantle", path)
    assert fake.asked[0].headers["anthropic-beta"] == BETAS


def test_an_api_key_of_bedrock_is_shown_and_nothing_signed(gateway: Gateway, fake: FakeBedrock) -> None:
    """The provider's, or the caller's own beside the gateway key."""
    assert gateway.ask("/api-key/v1/messages", MESSAGE).status == 200
    own = {"x-bridge-token": gateway.key, "authorization": "Bearer ABSK-own"}
    assert gateway.ask("/bedrock/v1/messages", MESSAGE, headers=own).status == 200
    shown = [asked.headers["authorization"] for asked in fake.asked]
    assert shown == ["Bearer ABSK-bedrock-api-key", "Bearer ABSK-own"]
    assert not any("x-amz-date" in asked.headers for asked in fake.asked)


def test_gw_b2_missing_credentials_are_said(gateway: Gateway, fake: FakeBedrock) -> None:
    """A profile that is not there: 500 with the reason, nothing is sent, and other providers serve."""
    answer = gateway.ask("/none/v1/messages", MESSAGE)
    assert (answer.status, fake.asked) == (500, [])
    assert "no AWS credentials found" in answer.json["error"]["message"]


def test_a_clients_own_signature_fields_do_not_travel(gateway: Gateway, fake: FakeBedrock) -> None:
    """They would be signed, or be taken for the gateway's."""
    forged = {"x-amz-date": "20200101T000000Z", "x-amz-security-token": "forged"}
    assert gateway.ask("/bedrock/v1/messages", MESSAGE, headers=forged).status == 200
    assert is_signed(fake.asked[0], "bedrock", "/model/danthropic/invoke")
    assert "forged" not in str(fake.asked[0].headers)


def test_an_encoded_body_is_translated_without_its_encoding(gateway: Gateway, fake: FakeBedrock) -> None:
    """What is inside is what AWS gets, signed; an encoding that the gateway does not know is 415, and nothing sent."""
    packed = gzip.compress(json.dumps(MESSAGE).encode())
    assert gateway.ask("/bedrock/v1/messages", MESSAGE).status == 200
    assert gateway.ask("/bedrock/v1/messages", packed, headers={"content-encoding": "gzip"}).status == 200
    plain, unpacked = fake.asked
    assert json.loads(unpacked.body) == json.loads(plain.body)
    assert "content-encoding" not in unpacked.headers
    assert is_signed(unpacked, "bedrock", "/model/danthropic/invoke")
    fake.asked.clear()
    answer = gateway.ask("/bedrock/v1/messages", packed, headers={"content-encoding": "compress"})
    assert (answer.status, fake.asked) == (415, [])


@pytest.mark.parametrize("path", ["/v1/models", "/v1/messages/count_tokens", "/v1/complete", "/model/x/invoke"])
def test_what_invokemodel_does_not_serve(gateway: Gateway, path: str) -> None:
    """Nothing but Messages: no path of AWS's own can be reached with the gateway's signature."""
    assert gateway.ask(f"/bedrock{path}", MESSAGE).status == 404
