"""A Bedrock of one's own: keeps what it was sent, and answers with binary event streams or JSON as it is told."""

import base64
import json
import struct
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from zlib import crc32


class Asked(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Answer(NamedTuple):
    """One answer; `pieces` are written one by one."""

    status: int
    content_type: str
    pieces: tuple[bytes, ...]
    headers: tuple[tuple[str, str], ...] = ()


class FakeBedrock:
    """What was asked, and what is to be answered next."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.answers: list[Answer] = []


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """Return one frame of an event stream."""
    fields = b"".join(
        struct.pack(">B", len(name)) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(fields) + len(payload), len(fields))
    data = prelude + struct.pack(">I", crc32(prelude)) + fields + payload
    return data + struct.pack(">I", crc32(data))


def chunk(event: dict[str, Any]) -> bytes:
    """Return the frame of one event of a Messages stream."""
    text = json.dumps(event, separators=(",", ":")).encode()
    payload = json.dumps({"bytes": base64.b64encode(text).decode(), "p": "abc"}).encode()
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, payload)


def exception(name: str, message: str) -> bytes:
    """Return the frame of a failure in mid-stream."""
    return frame({":exception-type": name, ":message-type": "exception"}, json.dumps({"message": message}).encode())


def stream(*frames: bytes) -> Answer:
    """Return a streamed answer."""
    return Answer(200, "application/vnd.amazon.eventstream", frames)


EVENTS: tuple[dict[str, Any], ...] = (
    {
        "type": "message_start",
        "message": {
            "id": "msg_bdrk_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [],
            "usage": {"input_tokens": 2, "output_tokens": 5, "cache_read_input_tokens": 13993},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello from Bedrock."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "toolu_1", "name": "Read"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 61}},
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 2}},
)

MESSAGE: dict[str, Any] = {
    "id": "msg_bdrk_2",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Hello."}, {"type": "tool_use", "id": "toolu_2", "name": "Read", "input": {}}],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 3, "output_tokens": 84, "cache_read_input_tokens": 23490},
}


@contextmanager
def running() -> Generator[FakeBedrock]:
    """Run one on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            fields = {name.lower(): value for name, value in self.headers.items()}
            fake.asked.append(Asked(self.path, fields, body))
            answer = fake.answers.pop(0) if fake.answers else _usual(self.path)
            self.send_response(answer.status)
            self.send_header("content-type", answer.content_type)
            self.send_header("x-amzn-requestid", "r-1")
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            _write(self, answer.pieces)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - so the base class calls it
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakeBedrock(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _usual(path: str) -> Answer:
    if path.endswith("stream"):
        return stream(*map(chunk, EVENTS))
    return Answer(200, "application/json", (json.dumps(MESSAGE).encode(),))


def _write(handler: BaseHTTPRequestHandler, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        handler.wfile.flush()
    handler.wfile.write(b"0\r\n\r\n")
