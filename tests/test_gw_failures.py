"""What goes wrong, on either side of a running request; the rows E of the acceptance tables."""

import json
from typing import Any

import pytest
import structlog

from bridgeserver.counting import total
from gatelab import GateLab, Play, answer, stream
from gateway import BODIES

MESSAGES, CHAT, RESPONSES = BODIES
ROUTES = pytest.mark.parametrize("path", BODIES)
MODES = pytest.mark.parametrize("streaming", [False, True], ids=["blocking", "streaming"])

START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","usage":'
    b'{"input_tokens":18,"output_tokens":1}}}\n\n'
)
BLOCK = (
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text"}}\n\n'
)
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
OVERLOADED = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
CHUNK = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}\n\n'


def error(status: int, body: dict[str, Any], **fields: str) -> Play:
    """Return an error as a provider answers it."""
    names = [(name.replace("_", "-"), value) for name, value in fields.items()]
    return answer(json.dumps(body).encode(), status=f"{status} Error", fields=names)


TOO_LONG = {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 205429 tokens"}}
CONTEXT = {
    "error": {
        "message": "This model's maximum context length is 4097 tokens.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
}


@MODES
@pytest.mark.parametrize(
    ("path", "told"), [pytest.param(MESSAGES, TOO_LONG, id="gw-E1"), pytest.param(CHAT, CONTEXT, id="gw-E2")]
)
def test_a_request_that_the_provider_refuses(lab: GateLab, path: str, told: dict[str, Any], streaming: bool) -> None:
    """The client gets the provider's words, and the record has the prompt, which was kept before it was sent."""
    lab.provider.push(error(400, told))
    got = lab.ask(path, BODIES[path] | {"stream": streaming})
    assert (got.status, got.json) == (400, told)
    kept = lab.kept()
    assert kept.outcome == ("failed", 400, "bad_request")
    assert kept.end.error_message == told["error"]["message"]
    assert (len(kept.prompts), kept.counts) == (1, [])


def test_gw_e3_an_error_in_a_messages_stream(lab: GateLab) -> None:
    """The provider's error event passes as it was sent, pings before it too; the reference writes one of its own."""
    lab.provider.push(stream(START, BLOCK, PING, OVERLOADED))
    got = lab.ask(MESSAGES, BODIES[MESSAGES] | {"stream": True})
    assert (got.status, got.body, got.is_whole) == (200, START + BLOCK + PING + OVERLOADED, True)
    kept = lab.kept()
    assert kept.outcome == ("failed", 200, "overloaded")
    assert (len(kept.prompts), kept.counts, kept.tokens[0].partial) == (1, [(18, 1, 0, 0)], True)


def test_gw_e4_an_error_in_a_chat_stream(lab: GateLab) -> None:
    """The provider's error chunk is the last, if it is the provider's: no [DONE] is made up, as in the reference."""
    failed = b'data: {"error":{"message":"The server had an error","type":"server_error","code":null}}\n\n'
    lab.provider.push(stream(CHUNK, failed))
    got = lab.ask(CHAT, BODIES[CHAT] | {"stream": True})
    assert (got.status, got.body, got.is_whole) == (200, CHUNK + failed, True)
    kept = lab.kept()
    assert kept.outcome == ("failed", 200, "server_error")
    assert (len(kept.prompts), kept.counts) == (1, [])


@pytest.mark.parametrize(("status", "error_type"), [(400, "bad_request"), (429, "rate_limited"), (500, "server_error")])
def test_gw_e5_an_error_before_a_chat_stream(lab: GateLab, status: int, error_type: str) -> None:
    """Status, body and the word on retries are the provider's."""
    told = {"error": {"message": "no", "type": "a_type", "param": None, "code": "a_code"}}
    lab.provider.push(error(status, told, x_should_retry="false"))
    got = lab.ask(CHAT, BODIES[CHAT] | {"stream": True})
    assert (got.status, got.json, got.value("x-should-retry")) == (status, told, "false")
    assert lab.kept().outcome == ("failed", status, error_type)


def test_gw_e6_a_rate_limit(lab: GateLab) -> None:
    """It reaches the client at once with the time to wait, and its SDK tries again, where the reference does."""
    told = {"error": {"message": "Rate limit reached", "type": "tokens", "param": None, "code": "rate_limit_exceeded"}}
    lab.provider.push(error(429, told, retry_after="1"))
    got = lab.ask(RESPONSES, BODIES[RESPONSES] | {"stream": True})
    assert (got.status, got.json, got.value("retry-after")) == (429, told, "1")
    kept = lab.kept()
    assert (kept.outcome, kept.end.attempts, kept.counts) == (("failed", 429, "rate_limited"), 1, [])


INCORRECT = {"error": {"message": "Incorrect API key", "type": "invalid_request_error", "code": "invalid_api_key"}}


def test_gw_e7_a_key_of_the_callers_own_that_is_refused(lab: GateLab) -> None:
    """The provider's answer passes: it is about what the caller sent."""
    lab.provider.push(error(401, INCORRECT))
    fields = [("Authorization", "Bearer user-token")]
    got = lab.ask(RESPONSES, BODIES[RESPONSES], byok=True, fields=fields)
    assert (got.status, got.json) == (401, INCORRECT)
    assert lab.kept().outcome == ("failed", 401, "unauthorized")


def test_gw_e7_the_central_key_is_refused(lab: GateLab) -> None:
    """502 in place of the 401, which the caller would take for one about its gateway key."""
    lab.provider.push(error(401, INCORRECT))
    got = lab.ask(RESPONSES, BODIES[RESPONSES])
    assert (got.status, got.value("x-should-retry")) == (502, "false")
    assert got.error["message"] == "all configured keys failed authentication. Contact your Administrator"
    kept = lab.kept()
    assert (kept.outcome, len(kept.prompts), kept.counts) == (("failed", 502, "unauthorized"), 1, [])


@ROUTES
@MODES
def test_gw_e8_no_second_try(lab: GateLab, path: str, streaming: bool) -> None:
    """What the provider does not want tried again is sent once, and the client is told so."""
    lab.provider.push(error(429, {"error": {"message": "m"}}, x_should_retry="false"))
    got = lab.ask(path, BODIES[path] | {"stream": streaming})
    assert (got.status, got.value("x-should-retry")) == (429, "false")
    assert len(lab.provider.requests) == 1
    assert lab.kept().end.attempts == 1


@ROUTES
def test_gw_e9_no_try_behind_the_clients_back(lab: GateLab, path: str) -> None:
    """A 503 that asks for another try reaches the client, which decides on it; the reference tries by itself."""
    lab.provider.push(*[error(503, {"error": {"message": "m"}}, retry_after="0")] * 2, answer(b'{"id":"x"}'))
    assert [lab.ask(path, BODIES[path]).status for _ in range(3)] == [503, 503, 200]
    assert len(lab.provider.requests) == 3


def test_gw_e10_a_client_that_leaves(lab: GateLab) -> None:
    """The provider's connection is closed, what was seen is kept, and the record says cancelled: it was not whole."""
    lab.provider.push(stream(START, BLOCK, end="silence"))
    visit = lab.begin(MESSAGES, BODIES[MESSAGES] | {"stream": True})
    lab.settle()
    assert visit.got.body == START + BLOCK
    assert not lab.provider.lines[-1].is_over
    visit.leave()
    assert lab.provider.lines[-1].is_over
    kept = lab.kept()
    assert kept.outcome == ("cancelled", 200, "client_closed")
    assert (len(kept.prompts), kept.counts, kept.tokens[0].partial) == (1, [(18, 1, 0, 0)], True)


@pytest.mark.parametrize("end", ["reset", "close"])
def test_gw_e11_a_stream_that_is_cut(lab: GateLab, end: Any) -> None:
    """The client is told by an error event, and by an end that is none; a stream that just ends would look whole."""
    lab.provider.push(stream(START, BLOCK, end=end))
    got = lab.ask(MESSAGES, BODIES[MESSAGES] | {"stream": True})
    assert (got.status, got.is_whole) == (200, False)
    assert got.body.startswith(START + BLOCK + b"event: error\ndata: ")
    assert got.body.count(b"event: error") == 1
    kept = lab.kept()
    assert kept.outcome == ("failed", 200, "upstream_broken")
    assert (kept.counts, kept.tokens[0].partial) == ([(18, 1, 0, 0)], True)


def test_gw_e12_a_slow_client(lab: GateLab) -> None:
    """A slow client is waited for and named in the log, once; one that reads nothing for `client_stall_s` is given up.

    Ours differs: the line has the time that was waited, and not the size of what was written.
    """
    limit_s = lab.worker.config.server.client_stall_s
    lab.provider.push(stream(START, BLOCK, end="silence"))
    with structlog.testing.capture_logs() as logs:
        visit = lab.begin(MESSAGES, BODIES[MESSAGES] | {"stream": True})
        lab.settle()
        for _ in range(2):
            visit.client.connection.pause_writing()
            lab.provider.lines[-1].play(PING)
            lab.settle()
            lab.pass_time(limit_s * 0.8)
            assert not visit.over.done()
            visit.client.connection.resume_writing()
            lab.settle()
        assert visit.got.body == START + BLOCK + PING + PING
        visit.client.connection.pause_writing()
        lab.provider.lines[-1].play(PING)
        lab.settle()
        lab.pass_time(limit_s * 1.2)
        assert visit.over.done()
    assert not visit.finish().is_whole
    assert lab.kept().outcome == ("cancelled", 200, "client_closed")
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("slow_client", "warning")
    assert line["waited_s"] == pytest.approx(limit_s * 0.8, rel=0.01)
    assert {"client", "user_agent"} <= line.keys()


@ROUTES
@pytest.mark.parametrize("content_type", [None, "application/json"])
def test_gw_e13_an_empty_answer(lab: GateLab, path: str, content_type: str | None) -> None:
    """A provider's own empty 200 is relayed as it is, where the reference makes it a 500; and it counts as failed."""
    lab.provider.push(answer(b"", content_type))
    got = lab.ask(path, BODIES[path])
    assert (got.status, got.body, got.value("content-type")) == (200, b"", content_type)
    assert lab.kept().outcome == ("failed", 200, "upstream_broken")
    assert lab.worker.admission.running == 0


@pytest.mark.parametrize(
    ("path", "body"), [("/openai/v1/models", None), ("/anthropic/v1/messages/count_tokens", b"{}")]
)
def test_gw_e14_a_provider_that_is_not_there(lab: GateLab, path: str, body: bytes | None) -> None:
    """A passthrough request is a 502 in the shape of the protocol, and is counted."""
    before = total(lab.worker.counters, "passthrough")
    lab.provider.break_off()
    lab.provider.is_reachable = False
    got = lab.ask(path, body)
    assert got.status == 502
    assert got.error["message"] == "cannot connect to http://provider.example:80: nobody listens"
    assert total(lab.worker.counters, "passthrough") == before + 1
    assert not lab.records()
