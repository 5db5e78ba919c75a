"""A gateway on a loop of the test's own, without a socket on either side and without a clock that anybody waits for.

The worker, its application, its journal and its store are the real ones. The client is `clientlab`'s; the provider is
a script of bytes. Whoever waits for something that only time can bring gets it at once: see `SkippingLoop`.
"""

import asyncio
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, TypeVarTuple

import msgspec

from bridgecore import Reply, Request, Server
from bridgeserver.app import Application
from bridgeserver.config import Config, load
from bridgeserver.control import Snapshot
from bridgeserver.records import AnyRecord, Interception, InterceptionEnd, ModelThought, TokenUsage, ToolUse, UserPrompt
from bridgeserver.store import open_store
from bridgeserver.tail import Tail
from bridgeserver.worker import Place, Worker
from clientlab import Client, Wire
from pool_lab import SkippingLoop

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Users = tuple[Path, dict[str, str]]
"""A database, and the gateway key of each user in it."""

PATIENCE_S = 36_000.0
"""Of the loop's own time: longer than any timeout of the gateway."""

PROVIDERS = """
[[providers]]
name = "anthropic"
type = "anthropic"
base_url = "http://provider.example"
keys = ["central-anthropic-key"]

[[providers]]
name = "openai"
type = "openai"
base_url = "http://provider.example/v1"
keys = ["central-openai-key"]
"""
"""A provider of each type, as a configuration."""

Fields = Iterable[tuple[str, str]]
End = Literal["keep", "close", "reset", "silence"]
"""What follows an answer: the next request, the end of the connection in one way or the other, or nothing."""


class Play(NamedTuple):
    """One answer of the provider: each piece arrives by itself."""

    pieces: tuple[bytes, ...]
    end: End = "keep"


def answer(
    body: bytes,
    content_type: str | None = "application/json",
    *,
    status: str = "200 OK",
    fields: Fields = (),
    end: End = "keep",
) -> Play:
    """Return an answer with a body of known length."""
    typed = () if content_type is None else (("content-type", content_type),)
    lines = "".join(f"{name}: {value}\r\n" for name, value in (*typed, *fields))
    head = f"HTTP/1.1 {status}\r\n{lines}content-length: {len(body)}\r\n\r\n"
    return Play((head.encode("latin-1"), body), end)


def stream(*events: bytes, end: End = "keep", fields: Fields = ()) -> Play:
    """Return an answer whose body is a stream of events, each a chunk that arrives by itself."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{lines}transfer-encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    return Play((head.encode(), *chunks, *([b"0\r\n\r\n"] if end == "keep" else [])), end)


class Sent(NamedTuple):
    """A request as the provider got it."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes
    connection: int

    def values(self, name: str) -> list[str]:
        """Return all values of a header field."""
        return [value for field, value in self.fields if field.lower() == name]


class Got(NamedTuple):
    """An answer as the client got it; `is_whole` unless it broke off."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    is_whole: bool

    def value(self, name: str) -> str | None:
        """Return the first value of a header field."""
        return next((value for field, value in self.fields if field.lower() == name), None)

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """Return the error that the body is."""
        return dict(self.json["error"])


class Kept(NamedTuple):
    """What the journal holds of one interception."""

    start: Interception
    prompts: list[UserPrompt]
    tokens: list[TokenUsage]
    tools: list[ToolUse]
    thoughts: list[ModelThought]
    ends: list[InterceptionEnd]

    @property
    def end(self) -> InterceptionEnd:
        """Return how it ended, which is written once."""
        (end,) = self.ends
        return end

    @property
    def outcome(self) -> tuple[str, int | None, str | None]:
        """Return the status, the client's HTTP status and the type of the error."""
        return self.end.status, self.end.http_status, self.end.error_type

    @property
    def counts(self) -> list[tuple[int, int, int, int]]:
        """Return input, output, cache reads and cache writes of each response."""
        return [
            (use.input_tokens, use.output_tokens, use.cache_read_tokens, use.cache_write_tokens) for use in self.tokens
        ]


class Line(asyncio.Transport):
    """One connection to the provider."""

    def __init__(self, provider: "Provider", protocol: asyncio.Protocol, number: int) -> None:
        super().__init__()
        self._provider = provider
        self._protocol = protocol
        self._number = number
        self._received = b""
        self._coming = deque[bytes]()
        self._end: End = "keep"
        self._is_playing = False
        self._reads = True
        self.is_over = False

    def write(self, data: Any) -> None:
        self._received += bytes(data)
        self._take_requests()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True
        self._provider.loop.call_soon(self._deliver)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self._lose(None)

    def abort(self) -> None:
        self._lose(None)

    def play(self, *pieces: bytes) -> None:
        """Go on with an answer that was followed by silence."""
        self._coming.extend(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        self._is_playing = True
        self._provider.loop.call_soon(self._deliver)

    def _take_requests(self) -> None:
        head, blank, rest = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        length = next((int(value) for name, value in fields if name == "content-length"), 0)
        if len(rest) < length:
            return
        method, target, _version = first.split(" ")
        self._received = rest[length:]
        play = self._provider.next(Sent(method, target, fields, rest[:length], self._number))
        self._coming.extend(play.pieces)
        self._end, self._is_playing = play.end, True
        self._provider.loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Let the next piece arrive, each in a turn of the loop of its own."""
        if self.is_over or not self._reads or not self._is_playing:
            return
        if self._coming:
            self._protocol.data_received(self._coming.popleft())
            self._provider.loop.call_soon(self._deliver)
            return
        self._is_playing = False
        if self._end in {"close", "reset"}:
            self._lose(ConnectionResetError() if self._end == "reset" else None)

    def _lose(self, error: Exception | None) -> None:
        if not self.is_over:
            self.is_over = True
            self._provider.loop.call_soon(self._protocol.connection_lost, error)


class Provider:
    """Gives its answers in their order, whoever asks; an answer that nobody has asked for fails the test."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.answers = deque[Play]()
        self.requests: list[Sent] = []
        self.lines: list[Line] = []
        self._count = 0
        self.is_reachable = True
        self.surplus = 0
        """Requests that came when there was no answer left."""

    def push(self, *answers: Play) -> None:
        """Have these answers ready for the next requests."""
        self.answers.extend(answers)

    def connect(self, protocol: asyncio.Protocol) -> Line:
        """Return a new connection."""
        if not self.is_reachable:
            raise ConnectionRefusedError("nobody listens")
        self._count += 1
        line = Line(self, protocol, self._count)
        self.lines.append(line)
        return line

    def next(self, request: Sent) -> Play:
        """Take a request and return its answer."""
        self.requests.append(request)
        if self.answers:
            return self.answers.popleft()
        self.surplus += 1
        return Play((), "close")

    def break_off(self) -> None:
        """Close all connections."""
        for line in self.lines:
            line.close()

    def forget(self) -> None:
        """Begin anew."""
        self.answers.clear()
        self.requests.clear()
        self.lines = [line for line in self.lines if not line.is_over]
        self.is_reachable = True
        self.surplus = 0


class MemoryLoop(SkippingLoop):
    """A loop whose outgoing connections all lead to one provider, and whose threads are itself."""

    def __init__(self) -> None:
        super().__init__()
        self.provider = Provider(self)

    async def create_connection(self, *arguments: Any, **_options: Any) -> Any:
        make: Callable[[], asyncio.Protocol] = arguments[0]
        protocol = make()
        line = self.provider.connect(protocol)
        protocol.connection_made(line)
        return line, protocol

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:
            future.set_exception(exc)
        return future


class Visit:
    """One request under way."""

    def __init__(self, lab: "GateLab", data: bytes, peer: tuple[str, int] | None, *, is_head: bool) -> None:
        self._lab = lab
        self._is_head = is_head
        self.over = lab.expect_answer()
        self.client = Client(lab.server, Wire(peer))
        for start in range(0, len(data), 1 << 16):
            self.client.send(data[start : start + (1 << 16)])
            lab.settle()

    @property
    def got(self) -> Got:
        """What is here of the answer."""
        return read_answer(self.client.wire.sent, is_head=self._is_head)

    def leave(self) -> None:
        """Close the connection, and wait until the gateway is done with the request."""
        self.client.leave()
        self.finish()

    def finish(self) -> Got:
        """Wait until the gateway is done with the request, and return its answer."""
        self._lab.wait(self.over)
        self.client.leave()
        return self.got


class GateLab:
    """A gateway with two users, ann and bob."""

    def __init__(self, folder: Path, users: Users, config: str, environ: Mapping[str, str] | None = None) -> None:
        made, self.tokens = users
        folder.mkdir()
        file = folder / "bridgecore.toml"
        file.write_text(config)
        tree = load(file, environ or {}, {})
        self.loop = MemoryLoop()
        self.provider = self.loop.provider
        self.database = folder / "bridgecore.db"
        place = Place(f"sqlite:///{self.database}", folder / "journal", folder / "control")
        shutil.copy(made, self.database)
        place.journal.mkdir()
        self._answers = deque[asyncio.Future[None]]()
        self.worker, self.server = self.run(self._start(tree, place))
        self._tail = Tail(place.journal / self.worker.journal.worker)

    async def _start(self, config: Config, place: Place) -> tuple[Worker, Server]:
        worker = Worker(config, place)
        broken = tuple(provider.name for provider in config.broken)
        snapshot = Snapshot(1, config.providers, broken, config.mcp_servers, config.tools)
        worker._publish(snapshot)  # pyright: ignore[reportPrivateUsage]
        application = Application(worker)

        async def serve(request: Request, reply: Reply) -> None:
            over = self._answers.popleft()
            try:
                await application.serve(request, reply)
            finally:
                over.set_result(None)

        return worker, Server(self.loop, serve, timeout_s=PATIENCE_S, max_connections=64)

    def close(self) -> None:
        """End it; nothing may be left running."""
        self.server.abort()
        self.settle()
        assert self.server.running == 0
        self.run(self.worker.close())
        self.loop.close()

    def run(self, work: Any) -> Any:
        """Run a coroutine or a future to its end."""
        return self.loop.run_until_complete(work)

    def wait(self, future: asyncio.Future[None]) -> None:
        """Wait for *future*, and not for ever."""
        self.run(asyncio.wait_for(future, PATIENCE_S))

    def settle(self) -> None:
        """Let everything happen that needs no time."""

        async def turns() -> None:
            for _ in range(30):
                await asyncio.sleep(0)

        self.run(turns())

    def pass_time(self, seconds: float) -> None:
        """Let time pass on the loop's clock."""
        self.run(asyncio.sleep(seconds))

    def expect_answer(self) -> asyncio.Future[None]:
        """Return what is done when the next request has been answered."""
        over: asyncio.Future[None] = self.loop.create_future()
        self._answers.append(over)
        return over

    @property
    def user_ids(self) -> dict[str, str]:
        """Return the id of each user, by name."""
        return {name: self.run(self.worker.keyring.authenticate(key, "")).user_id for name, key in self.tokens.items()}

    def reset(self) -> None:
        """Forget what the provider was asked, and that its answers were all wanted."""
        self.provider.forget()
        self.records()

    def begin(
        self,
        path: str,
        body: bytes | dict[str, Any] | None = None,
        *,
        method: str | None = None,
        fields: Fields = (),
        user: str | None = "ann",
        byok: bool = False,
        peer: tuple[str, int] | None = ("192.0.2.7", 1),
    ) -> Visit:
        """Send a request with the gateway key of *user*, in the header that makes it BYOK if it is to be that."""
        if isinstance(body, dict):
            body = msgspec.json.encode(body)
        method = method or ("GET" if body is None else "POST")
        lines = [f"{method} {path} HTTP/1.1", "host: gateway.example.com"]
        if user is not None:
            token = self.tokens[user]
            lines.append(f"x-bridge-token: {token}" if byok else f"authorization: Bearer {token}")
        lines += [f"{name}: {value}" for name, value in fields]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return Visit(self, head + (body or b""), peer, is_head=method == "HEAD")

    def ask_raw(self, data: bytes) -> Got:
        """Send bytes that are one request and return the whole answer."""
        return Visit(self, data, ("192.0.2.7", 1), is_head=False).finish()

    def ask(self, path: str, body: bytes | dict[str, Any] | None = None, **options: Any) -> Got:
        """Send a request and return the whole answer."""
        return self.begin(path, body, **options).finish()

    def records(self) -> list[AnyRecord]:
        """Return the records that were made since the last time."""
        self.settle()
        piece = self._tail.read(1_000_000)
        piece.advance()
        return piece.records

    def kept(self) -> Kept:
        """Return what was recorded of the one interception that there was since the last time."""
        records = self.records()
        (start,) = [record for record in records if isinstance(record, Interception)]
        return Kept(
            start,
            [record for record in records if isinstance(record, UserPrompt)],
            [record for record in records if isinstance(record, TokenUsage)],
            [record for record in records if isinstance(record, ToolUse)],
            [record for record in records if isinstance(record, ModelThought)],
            [record for record in records if isinstance(record, InterceptionEnd)],
        )


MakeLab = Callable[..., GateLab]
"""Makes a lab of a configuration, and of an environment if there is one."""


def make_store(folder: Path) -> Users:
    """Make a database with a key for each of two users, and return its path and the keys."""
    store = open_store(f"sqlite:///{folder}/users.db")
    store.upgrade()
    tokens = {user: store.create_key(user, "", is_admin=False, actor="tests") for user in ("ann", "bob")}
    store.close()
    return folder / "users.db", tokens


def read_answer(data: bytes, *, is_head: bool = False) -> Got:
    """Read one answer as its client does."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    assert blank, data
    line, *lines = head.decode("latin-1").split("\r\n")
    fields = [(name, value) for name, _, value in (field.partition(": ") for field in lines)]
    got = Got(int(line.split(" ")[1]), fields, rest, is_whole=True)
    if is_head:
        return got
    if got.value("transfer-encoding") == "chunked":
        body, is_whole = _dechunked(rest)
        return got._replace(body=body, is_whole=is_whole)
    return got._replace(is_whole=len(rest) == int(got.value("content-length") or 0))


def _dechunked(data: bytes) -> tuple[bytes, bool]:
    """Return the content of a chunked body, and whether its end is there."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return body, data == b"\r\n"
        body += data[:length]
        data = data[length + 2 :]
    return body, False
