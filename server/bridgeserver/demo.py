"""`bridgecore demo`: a gateway that checks itself. Three protocols, blocking and streaming, through real processes.

The gateway is started with the fake provider behind it, on free ports and in a folder that is removed again. For
each request it prints what the client read off the wire beside what was recorded.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from bridgecore import Scanner
from bridgeserver import fakeprovider
from bridgeserver.errors import BridgeError
from bridgeserver.fakeprovider import Script, ToolCall
from bridgeserver.store import open_store

PROMPT = "What is the weather in Paris?"
SCRIPT = Script(
    text="I will look it up.",
    thinking="A question about weather: there is a tool for that.",
    tools=(ToolCall("get_weather", '{"city": "Paris"}'),),
    input_tokens=120,
    output_tokens=45,
    cache_read_tokens=2000,
)
SHIP_TIMEOUT_S = 5.0


class Case(NamedTuple):
    """One protocol's route and request."""

    protocol: str
    path: str
    body: dict[str, Any]


CASES = (
    Case(
        "messages",
        "/anthropic/v1/messages",
        {"model": "claude-demo", "max_tokens": 100, "messages": [{"role": "user", "content": PROMPT}]},
    ),
    Case(
        "chat",
        "/openai/v1/chat/completions",
        {"model": "gpt-demo", "messages": [{"role": "user", "content": PROMPT}]},
    ),
    Case("responses", "/openai/v1/responses", {"model": "gpt-demo", "input": PROMPT}),
)


class Seen(NamedTuple):
    """What one side knows of a request."""

    status: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    tools: str

    def __str__(self) -> str:
        return f"{self.status}  {self.input_tokens}+{self.cached_tokens} in, {self.output_tokens} out  {self.tools}"


def run() -> int:
    """Run every case and print the table; return 0 only if both sides agree in all of them."""
    with (
        tempfile.TemporaryDirectory(prefix="bridgecore-demo-") as folder,
        fakeprovider.running(script=SCRIPT) as fake,
        _gateway(Path(folder), fake.url) as url,
    ):
        rows = list(_rows(Path(folder), url))
    titles = ("protocol", "mode", "the client saw", "was recorded", "agree")
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    for row in (titles, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0 if all(row[-1] == "yes" for row in rows) else 1


def _rows(folder: Path, url: str) -> Iterator[tuple[str, ...]]:
    store = open_store(f"sqlite:///{folder}/bridgecore.db")
    try:
        key = store.create_key("demo", "demo", is_admin=False, actor="demo")
        for case in CASES:
            for stream in (False, True):
                identifier, seen = _ask(url, key, case, stream=stream)
                recorded = _recorded(store.records, identifier)
                mode = "streaming" if stream else "blocking"
                yield case.protocol, mode, str(seen), str(recorded), "yes" if seen == recorded else "NO"
    finally:
        store.close()


@contextmanager
def _gateway(folder: Path, upstream: str) -> Generator[str]:
    """Start `bridgecore serve` in *folder* and yield its address."""
    names = ("BRIDGECORE_", "ANTHROPIC_", "OPENAI_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    for name, path in (("ANTHROPIC", ""), ("OPENAI", "/v1")):
        prefix = f"BRIDGECORE_PROVIDERS__{name}__"
        environment |= {prefix + "BASE_URL": upstream + path, prefix + "KEYS": "demo-key"}
    process = subprocess.Popen(
        [sys.executable, "-m", "bridgeserver", "serve", "--port", "0"],
        cwd=folder,
        env=environment | {"BRIDGECORE_SERVER__LOG_LEVEL": "warning"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        line = process.stdout.readline()
        if not line:
            raise BridgeError("the gateway did not start; what it printed says why")
        try:
            yield line.split()[-1]
        finally:
            process.send_signal(signal.SIGINT)


def _ask(url: str, key: str, case: Case, *, stream: bool) -> tuple[str, Seen]:
    """Make one request; return the interception's id, and what stands in the answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    asked: dict[str, Any] = case.body | {"stream": stream}
    if case.protocol == "chat" and stream:
        asked["stream_options"] = {"include_usage": True}
    try:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", case.path, json.dumps(asked).encode(), headers)
        response = connection.getresponse()
        identifier = response.getheader("x-bridge-interception-id", "")
        body = response.read()
    finally:
        connection.close()
    data = [event.data for event in Scanner().feed(body)] if stream else [body]
    members = [json.loads(item) for item in data if item != b"[DONE]"]
    return identifier, Seen(response.status, *_READERS[case.protocol](members))


Members = list[dict[str, Any]]
Counts = tuple[int, int, int, str]
"""Input without cached tokens, cached tokens, output, names of tools."""


def _read_messages(members: Members) -> Counts:
    answer = next((item["message"] for item in members if item["type"] == "message_start"), members[0])
    usage = dict(answer["usage"])
    for item in members:
        usage |= item["usage"] if item["type"] == "message_delta" else {}
    blocks = answer["content"] + [item["content_block"] for item in members if item["type"] == "content_block_start"]
    tools = ", ".join(block["name"] for block in blocks if block["type"] == "tool_use")
    return usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"], tools


def _read_chat(members: Members) -> Counts:
    usage = next(item["usage"] for item in reversed(members) if item.get("usage"))
    choices: Members = [choice for item in members for choice in item["choices"]]
    said: Members = [choice.get("message") or choice["delta"] for choice in choices]
    calls: Members = [call["function"] for part in said if part.get("tool_calls") for call in part["tool_calls"]]
    names = [str(call["name"]) for call in calls if call.get("name")]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return usage["prompt_tokens"] - cached, cached, usage["completion_tokens"], ", ".join(names)


def _read_responses(members: Members) -> Counts:
    answer: dict[str, Any] = members[-1].get("response", members[-1])
    usage = answer["usage"]
    cached = usage["input_tokens_details"]["cached_tokens"]
    tools = ", ".join(item["name"] for item in answer["output"] if item["type"] == "function_call")
    return usage["input_tokens"] - cached, cached, usage["output_tokens"], tools


_READERS = {"messages": _read_messages, "chat": _read_chat, "responses": _read_responses}


def _recorded(records: Any, identifier: str) -> Seen:
    """Return what the store has, once the record was shipped."""
    deadline = time.monotonic() + SHIP_TIMEOUT_S
    while time.monotonic() < deadline:
        for record in records():
            if record["id"] == identifier and record["status"] == "completed":
                return Seen(
                    record["http_status"],
                    record["input_tokens"],
                    record["cache_read_tokens"],
                    record["output_tokens"],
                    ", ".join(tool["name"] for tool in record["tools"]),
                )
        time.sleep(0.05)
    raise BridgeError(f"interception {identifier!r} was not recorded as completed within {SHIP_TIMEOUT_S:g} s")
