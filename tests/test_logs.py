"""What is in the log: records where they are asked for, ids of requests, and never a secret."""

import fcntl
import json
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import gateway as gateways
from bridgeserver.config import LogsConfig
from bridgeserver.logs import identify_request, printable, with_request
from gatelab import PROVIDERS, GateLab, MakeLab, answer
from gateway import BODIES
from tracelab import Spans

CHAT = "/openai/v1/chat/completions"
MESSAGES = "/anthropic/v1/messages"
PROMPT, ARGUMENTS, THOUGHT = "what is the weather", '{"city": "Oslo"}', "they ask for the weather"

Json = dict[str, Any]

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": THOUGHT, "signature": "c2ln"},
        {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"city": "Oslo"}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 1},
}
ASKED = BODIES[MESSAGES] | {"messages": [{"role": "user", "content": PROMPT}]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("m\x1b[2J", "m\\x1b[2J"),
        ("a\x07b\x9bc", "a\\x07b\\x9bc"),
        ("line\x85two\u2028three", "line\\x85two\\u2028three"),
        ("\u202eb", "\\u202eb"),
        ("two\nlines", "two\nlines"),
        ("naïve", "naïve"),
    ],
)
def test_nothing_in_a_line_is_for_the_terminal(text: str, shown: str) -> None:
    """What somebody else has named moves no cursor and begins no line; what has a line's end the renderer quotes."""
    assert printable(None, "info", {"event": "e", "model": text, "count": 1}) == {
        "event": "e",
        "model": shown,
        "count": 1,
    }


@pytest.fixture
def lab(make_lab: MakeLab) -> GateLab:
    """A gateway of the test's own, which is told what to log."""
    return make_lab(PROVIDERS)


def lines(lab: GateLab, config: LogsConfig) -> list[Json]:
    """Return what is logged of one message that thinks and calls a tool."""
    lab.worker.means = lab.worker.means._replace(logs=config)
    lab.provider.push(answer(json.dumps(MESSAGE).encode()))
    with capture_logs() as logs:
        assert lab.ask(MESSAGES, ASKED).status == 200
    return [dict(line) for line in logs if line["event"] == "interception log"]


def test_records_are_logged_where_they_are_asked_for(lab: GateLab) -> None:
    """One line a record, with the ids by which they are told apart and what they cost."""
    assert lines(lab, LogsConfig()) == []
    lab.reset()
    found = lines(lab, LogsConfig(records=True))
    kept = lab.kept()
    by_type = {line["record_type"]: line for line in found}
    assert sorted(by_type) == [
        "interception_end",
        "interception_start",
        "model_thought",
        "prompt_usage",
        "token_usage",
        "tool_usage",
    ]
    assert len(found) == len(by_type)
    assert {line["interception_id"] for line in found} == {kept.start.id}
    start = by_type["interception_start"]
    assert (start["initiator_id"], start["api_key_id"]) == (kept.start.user_id, kept.start.key_id)
    assert (start["provider"], start["provider_name"], start["model"]) == ("anthropic", "anthropic", "m")
    tokens = by_type["token_usage"]
    assert (tokens["msg_id"], tokens["input_tokens"], tokens["output_tokens"]) == ("msg_1", 10, 5)
    assert (tokens["cache_read_input_tokens"], tokens["cache_write_input_tokens"]) == (3, 1)
    assert (by_type["tool_usage"]["tool"], by_type["tool_usage"]["injected"]) == ("look_up", False)
    assert by_type["model_thought"]["metadata"] == {"source": "thinking"}
    assert (by_type["interception_end"]["status"], by_type["interception_end"]["http_status"]) == ("completed", 200)


def test_what_was_written_is_logged_only_if_asked_besides(lab: GateLab) -> None:
    """Prompts, arguments and thoughts."""
    written = ("weather", "Oslo")
    without = json.dumps(lines(lab, LogsConfig(records=True)))
    assert not [text for text in written if text in without]
    lab.reset()
    found = {line["record_type"]: line for line in lines(lab, LogsConfig(records=True, record_content=True))}
    assert found["prompt_usage"]["prompt"] == PROMPT
    assert json.loads(found["tool_usage"]["input"]) == json.loads(ARGUMENTS)
    assert found["model_thought"]["content"] == THOUGHT


def test_a_request_that_cannot_be_recorded_is_not_logged_as_begun(
    lab: GateLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its end is."""
    lab.worker.means = lab.worker.means._replace(logs=LogsConfig(records=True))

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(lab.worker.journal, "_put", full)
        assert lab.ask(MESSAGES, ASKED).status == 503
    kinds = [line["record_type"] for line in logs if line["event"] == "interception log"]
    assert kinds == ["interception_end"]


def test_lines_of_a_request_have_its_ids(make_lab: MakeLab) -> None:
    """That of a trusted proxy, else that of the interception; when the request is over nothing has them."""
    lab = make_lab('[server]\ntrusted_proxies = ["10.0.0.0/8"]\n' + PROVIDERS)
    Spans.of(lab)
    found: list[Json] = []

    def see(*_arguments: object) -> None:
        found.append(dict(with_request(None, "info", {"event": "e"})))

    claim = lab.worker.ownership.claim
    lab.worker.ownership.claim = see
    ids: list[str] = []
    body = BODIES["/openai/v1/responses"]
    response: Json = {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": []}
    for peer, given in (("10.1.2.3", "r-1"), ("192.0.2.7", "r-2"), ("10.1.2.3", "not one")):
        lab.provider.push(answer(json.dumps(response).encode()))
        got = lab.ask("/openai/v1/responses", body, fields=[("x-request-id", given)], peer=(peer, 1))
        ids.append(got.value("x-bridge-interception-id") or "")
        assert lab.provider.requests[-1].values("x-request-id") == [given]
    lab.worker.ownership.claim = claim
    assert [line["request_id"] for line in found] == ["r-1", ids[1], ids[2]]
    assert [line["interception"] for line in found] == ids
    assert {len(line["trace_id"]) for line in found} == {32}
    assert {len(line["span_id"]) for line in found} == {16}


def test_a_request_that_is_over_names_no_line() -> None:
    """Tasks that it began and that go on have its context."""
    fields = {"request_id": "r"}
    identify_request(fields)
    assert with_request(None, "info", {"event": "e", "request_id": "own"})["request_id"] == "own"
    assert with_request(None, "info", {"event": "e"}) == {"event": "e", "request_id": "r"}
    fields.clear()
    assert with_request(None, "info", {"event": "e"}) == {"event": "e"}


@contextmanager
def telltale() -> Generator[str]:
    """Run a provider that answers, or refuses and repeats every credential that it was shown."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            shown = [self.headers[name] for name in ("authorization", "x-api-key") if self.headers[name]]
            if b"refuse" in body:
                error = {"type": "invalid_request_error", "message": f"I know {' and '.join(shown)}, and say no"}
                self._answer(400, {"type": "error", "error": error})
            else:
                self._answer(200, MESSAGE)

        def _answer(self, status: int, value: Json) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("set-cookie", "provider-cookie=secret-of-the-provider")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that it has there
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_no_secret_is_ever_in_the_log(tmp_path: Path) -> None:
    """Not with everything logged, a provider that repeats what it is shown, and users who say their tokens aloud."""
    options = (
        '[[providers]]\nname = "proxied"\ntype = "anthropic"\nbase_url = "{}"\nkeys = ["central-proxied-key"]\n'
        'extra_headers = {{ "x-proxy" = "secret-of-the-proxy" }}\nquery = {{ "key" = "secret-of-the-query" }}\n'
        "[logs]\nrecords = true\nrecord_content = true\n"
        '[tracing]\nendpoint = "http://127.0.0.1:9"\nheaders = {{ "x-key" = "secret-of-the-collector" }}\n'
    )
    server = 'access_log = true\nlog_level = "debug"\ntrusted_proxies = ["127.0.0.1"]\n'
    with telltale() as url:
        gateways.write_config(tmp_path, url, server=server, more=options.format(url))
        with gateways.running(tmp_path) as gateway:
            key = gateway.key
            wrong = f"{key[:-4]}wxyz"
            central = {"authorization": f"Bearer {key}"}
            own = {"authorization": "", "x-bridge-token": key, "x-api-key": "own-key-of-the-user"}
            said = ASKED | {"messages": [{"role": "user", "content": f"my token is {key}, refuse it"}]}
            further = {"cookie": "session=secret-of-the-cookie", "traceparent": "secret-of-the-trace"}
            statuses = [
                gateway.ask(path + "?password=secret-of-the-client", body, headers={**credential, **further}).status
                for path in (MESSAGES, "/proxied/v1/messages", CHAT)
                for credential in (central, own | {"authorization": "Bearer own-key-of-the-user"})
                for body in (ASKED, said)
            ]
            assert statuses == [200, 400] * 6
            assert gateway.ask(f"/anthropic/{key}", ASKED).status == 401
            assert gateway.ask(MESSAGES, ASKED, headers={"authorization": f"Bearer {wrong}"}).status == 401
            assert gateway.ask(MESSAGES, b"{").status == 400
        log = (tmp_path / "gateway.log").read_text()
    secrets = [
        key.rpartition("_")[2],
        wrong.rpartition("_")[2],
        "own-key-of-the-user",
        *[f"central-{name}-key" for name in ("anthropic", "openai", "proxied")],
        *[f"secret-of-the-{name}" for name in ("proxy", "query", "collector", "cookie", "client", "provider", "trace")],
    ]
    assert [text for text in secrets if text in log] == []
    found = [json.loads(line) for line in log.splitlines()]
    kinds = {line.get("record_type") for line in found}
    assert {"interception_start", "prompt_usage", "tool_usage", "model_thought", "interception_end"} <= kinds
    assert sum("and say no" in (line.get("error_message") or "") for line in found) == 6
    assert all(line["request_id"] == line["interception_id"] for line in found if "record_type" in line)
    assert [line["status"] for line in found if line["event"] == "request"][-3:] == [401, 401, 400]


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    """A pipe that is full takes no line; requests are answered and recorded, and the gateway ends as it should."""
    with telltale() as url:
        logs = "[logs]\nrecords = true\nrecord_content = true\n"
        gateways.write_config(tmp_path, url, server="access_log = true", more=logs)
        reader, writer = os.pipe()
        size = fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ, of Linux
        with gateways.running(tmp_path, stderr=writer) as gateway:
            written = 0
            while written < 4 * size:
                said = ASKED | {"messages": [{"role": "user", "content": "x" * 2000}]}
                assert gateway.ask(MESSAGES, said).status == 200
                written += 2000
            assert gateway.record()["status"] == "completed"
            assert gateway.stop() == 0
        os.close(writer)
        os.close(reader)
