"""The control socket between the parent and its workers: commands and generations go down, reports come up.

A worker holds its connection for as long as it lives. Its end of file says that the parent is gone, and then
nobody ships, supervises or stops the worker any more: it exits at once, and what was open is ended as
`interrupted` by the next start. Messages are JSON, one a line. They hold provider keys, so the socket is in a folder
that nobody else can enter.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from bridgeserver.asks import Answer, Ask
from bridgeserver.config import McpServerConfig, ProviderConfig, ToolsConfig
from bridgeserver.counting import Sums
from bridgeserver.errors import BridgeError, Overloaded
from bridgeserver.secret import Secret

log = structlog.get_logger("bridgecore")

REPORT_S = 0.25
LAST_S = 1.0
"""How long the last report may take to be sent."""

PARENT_GONE_EXIT_CODE = 70

LINE_BYTES = 64 << 20
"""More than any configuration, and than the body of an administrative request."""

ANSWER_S = 10.0
"""How long a worker waits for the parent's answer."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """The gateway is about to stop: new requests should go elsewhere."""


class Look(msgspec.Struct, frozen=True, tag=True):
    """Keys have changed: look for it now."""


class Lag(msgspec.Struct, frozen=True, tag=True):
    """How far the shipper is behind."""

    lag_s: float


class Snapshot(msgspec.Struct, frozen=True, tag=True):
    """The content of a generation."""

    number: int
    providers: tuple[ProviderConfig, ...]
    broken: tuple[str, ...] = ()
    """Names of providers that cannot be served as they are configured."""
    mcp_servers: tuple[McpServerConfig, ...] = ()
    """Those that are enabled."""
    tools: ToolsConfig = msgspec.field(default_factory=ToolsConfig)


class Answered(msgspec.Struct, frozen=True, tag=True):
    """The answer to the question with that number."""

    number: int
    answer: Answer


class Report(msgspec.Struct, frozen=True, tag=True):
    """What a worker tells the parent, again and again."""

    pid: int
    generation: int
    reason: str
    """Why it is not ready, or nothing."""
    counters: dict[str, int]
    """What was counted since the last report: nothing is told twice."""
    gauges: dict[str, int]
    states: dict[str, float] = {}
    """Of what each worker sees in its own way, so that the highest is what counts."""


class Asked(msgspec.Struct, frozen=True, tag=True):
    """A question of a worker."""

    number: int
    ask: Ask


Down = Drain | Look | Lag | Snapshot | Answered
Up = Report | Asked


class ControlServer:
    """The parent's end: a Unix socket in a private folder, served by a thread of its own."""

    def __init__(self, lag_s: Callable[[], float], answer: Callable[[Ask], Answer]) -> None:
        self._lag_s = lag_s
        self._answer = answer
        self._folder = Path(tempfile.mkdtemp(prefix="bridgecore-"))  # 0700, and short enough for a socket's name
        self.path = self._folder / "control"
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._latest: dict[asyncio.StreamWriter, Report] = {}
        self._sums = Sums()
        self._is_draining = False
        self._snapshot: Snapshot | None = None
        self._reported = threading.Condition()
        self._ready: Future[None] = Future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Listen; returns once workers can connect. Raises BridgeError where that is not possible."""
        self._thread.start()
        try:
            self._ready.result()
        except BridgeError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def drain(self) -> None:
        """Have every worker drain, those that connect later too. Callable from any thread."""
        self._is_draining = True
        self._loop.call_soon_threadsafe(self._send, Drain())

    def look(self) -> None:
        """Have every worker look now which keys have changed. Callable from any thread."""
        self._loop.call_soon_threadsafe(self._send, Look())

    def publish(self, snapshot: Snapshot) -> None:
        """Have every worker serve *snapshot*, those that connect later too. Callable from any thread."""
        self._snapshot = snapshot
        self._loop.call_soon_threadsafe(self._send, snapshot)

    def wait_for(self, number: int, timeout_s: float) -> bool:
        """Wait until every connected worker serves that generation or a later one; return whether they do."""
        with self._reported:
            return self._reported.wait_for(
                lambda: (
                    len(self._latest) == len(self._writers)
                    and all(report.generation >= number for report in self.workers())
                ),
                timeout_s,
            )

    def workers(self) -> list[Report]:
        """Return the last report of each worker."""
        return list(self._latest.values())

    def totals(self) -> Mapping[str, float]:
        """Return what the workers have reported, in one.

        Counters are summed over all, those that are gone included, gauges over the others; the highest state counts.
        """
        with self._reported:
            reports = self.workers()
            return self._sums.with_gauges([report.gauges for report in reports], [report.states for report in reports])

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            server = self._loop.run_until_complete(
                asyncio.start_unix_server(self._serve_worker, self.path, limit=LINE_BYTES)
            )
            self.path.chmod(0o600)
        except OSError as exc:
            self._loop.close()
            self._ready.set_exception(BridgeError(f"cannot listen on {self.path} ({exc}): set TMPDIR elsewhere"))
            return
        ticker = self._loop.create_task(self._tell_lag())
        self._ready.set_result(None)
        self._loop.run_forever()
        server.close()
        ticker.cancel()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _serve_worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self._snapshot is not None:
            writer.write(_line(self._snapshot))
        if self._is_draining:
            writer.write(_line(Drain()))
        try:
            while line := await reader.readline():
                self._hear(_decode_up(line), writer)
        except (ConnectionError, ValueError, msgspec.DecodeError, asyncio.CancelledError):
            pass  # the worker, perhaps in the middle of a line, or the whole gateway is ending
        finally:
            with self._reported:
                self._writers.discard(writer)
                self._latest.pop(writer, None)
                self._reported.notify_all()
            writer.close()

    def _hear(self, message: Up, writer: asyncio.StreamWriter) -> None:
        if isinstance(message, Asked):
            task = self._loop.create_task(self._answer_one(message, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        with self._reported:
            self._latest[writer] = message
            self._sums.add(message.counters, message.gauges)
            self._reported.notify_all()

    async def _answer_one(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        """Answer in a thread: it reads and writes the store."""
        answer = await self._loop.run_in_executor(None, self._answer, asked.ask)
        if writer in self._writers:
            writer.write(_line(Answered(asked.number, answer)))

    async def _tell_lag(self) -> None:
        while True:
            self._send(Lag(self._lag_s()))
            await asyncio.sleep(REPORT_S)

    def _send(self, message: Down) -> None:
        line = _line(message)
        for writer in self._writers:
            writer.write(line)


class ControlClient:
    """The worker's end."""

    def __init__(self, path: Path, report: Callable[[], Report], obey: Mapping[type, Callable[[Any], None]]) -> None:
        self._path = path
        self._report = report
        self._obey = obey
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    async def start(self) -> None:
        """Connect, obey what the parent says first, and follow it from then on."""
        reader, self._writer = await asyncio.open_unix_connection(self._path, limit=LINE_BYTES)
        self._hear(await reader.readline())
        self._tasks = [asyncio.create_task(self._listen(reader)), asyncio.create_task(self._keep_reporting())]

    async def close(self) -> None:
        """Send a last report and disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.report()
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await self._writer.wait_closed()
            self._writer = None

    def report(self) -> None:
        """Tell the parent at once how things are; while there is no connection, nothing is taken to be told."""
        if self._writer is not None:
            self._write(self._report())

    async def ask(self, ask: Ask) -> Answer:
        """Return the parent's answer; raises Overloaded if it takes too long."""
        number = next(self._numbers)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._write(Asked(number, ask))
        try:
            async with asyncio.timeout(ANSWER_S):
                return await future
        except TimeoutError as exc:
            raise Overloaded(f"the parent process has not answered within {ANSWER_S:g} s; its log may say why") from exc
        finally:
            del self._waiting[number]

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                try:
                    self._hear(line)
                except Exception:  # whatever it is, the worker must go on listening
                    log.exception("message_refused")
        except (ConnectionError, ValueError):
            pass  # as good as an end of file
        os._exit(PARENT_GONE_EXIT_CODE)

    def _hear(self, line: bytes) -> None:
        message = _decode_down(line)
        if not isinstance(message, Answered):
            self._obey[type(message)](message)
        elif (future := self._waiting.get(message.number)) is not None and not future.done():
            future.set_result(message.answer)

    async def _keep_reporting(self) -> None:
        while True:
            try:
                self.report()
            except Exception:  # whatever it is, the next one may be told
                log.exception("report_failed")
            await asyncio.sleep(REPORT_S)

    def _write(self, message: Up) -> None:
        if self._writer is not None:
            self._writer.write(_line(message))


def _reveal(value: object) -> str:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(f"cannot send a {type(value).__name__}")


def _hide(kind: type, value: Any) -> Secret:
    if kind is Secret:
        return Secret(value)
    raise NotImplementedError(f"cannot receive a {kind.__name__}")


_encode = msgspec.json.Encoder(enc_hook=_reveal).encode
_decode_down = msgspec.json.Decoder(Down, dec_hook=_hide).decode
_decode_up = msgspec.json.Decoder(Up).decode


def _line(message: Down | Up) -> bytes:
    return _encode(message) + b"\n"
