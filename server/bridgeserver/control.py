"""The control socket between the parent and its workers: commands go down, counters come up.

A worker holds its connection for as long as it lives. Its end of file says that the parent is gone, and then
nobody ships, supervises or stops the worker any more: it exits at once, and what was open is ended as
`interrupted` by the next start. Messages are JSON, one a line.
"""

import asyncio
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

import msgspec

REPORT_S = 0.25
PARENT_GONE_EXIT_CODE = 70


class Command(msgspec.Struct, frozen=True):
    """What the parent tells its workers."""

    do: Literal["drain", "stop", "lag"]
    lag_s: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """What a worker tells the parent: its counters since its start."""

    counters: dict[str, int]


class ControlServer:
    """The parent's end: a Unix socket in a private folder, served by a thread of its own."""

    def __init__(self, lag_s: Callable[[], float]) -> None:
        self._lag_s = lag_s
        self._folder = Path(tempfile.mkdtemp(prefix="bridgecore-"))  # 0700, and short enough for a socket's name
        self.path = self._folder / "control"
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._latest: dict[asyncio.StreamWriter, Counter[str]] = {}
        self._gone: Counter[str] = Counter()
        self._state: Command | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Listen; returns once workers can connect."""
        self._thread.start()
        self._ready.result()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def tell(self, command: Command) -> None:
        """Send *command* to every worker, and to those that connect later. Callable from any thread."""
        self._state = command
        self._loop.call_soon_threadsafe(self._send, command)

    def totals(self) -> Counter[str]:
        """Return the counters summed over all workers, those that are gone included."""
        total = self._gone.copy()
        for counters in list(self._latest.values()):
            total.update(counters)
        return total

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_unix_server(self._serve_worker, self.path))
        self.path.chmod(0o600)
        ticker = self._loop.create_task(self._tell_lag())
        self._ready.set_result(None)
        self._loop.run_forever()
        server.close()
        ticker.cancel()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve_worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self._state is not None:
            writer.write(_line(self._state))
        try:
            while line := await reader.readline():
                self._latest[writer] = Counter(msgspec.json.decode(line, type=Report).counters)
        except (ConnectionError, msgspec.DecodeError, asyncio.CancelledError):
            pass  # the worker, perhaps in the middle of a line, or the whole gateway is ending
        finally:
            self._writers.discard(writer)
            self._gone.update(self._latest.pop(writer, Counter()))
            writer.close()

    async def _tell_lag(self) -> None:
        while True:
            self._send(Command("lag", self._lag_s()))
            await asyncio.sleep(REPORT_S)

    def _send(self, command: Command) -> None:
        for writer in self._writers:
            writer.write(_line(command))


class ControlClient:
    """The worker's end."""

    def __init__(self, path: Path, counters: Counter[str], on_command: Callable[[Command], None]) -> None:
        self._path = path
        self._counters = counters
        self._on_command = on_command
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect, and follow the parent from then on."""
        reader, self._writer = await asyncio.open_unix_connection(self._path)
        self._tasks = [asyncio.create_task(self._listen(reader)), asyncio.create_task(self._report())]

    async def close(self) -> None:
        """Send the counters a last time and disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._writer is not None:
            self._send_report(self._writer)
            self._writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._on_command(msgspec.json.decode(line, type=Command))
        except ConnectionError:
            pass  # as good as an end of file
        os._exit(PARENT_GONE_EXIT_CODE)

    async def _report(self) -> None:
        while self._writer is not None:
            self._send_report(self._writer)
            await asyncio.sleep(REPORT_S)

    def _send_report(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_line(Report(dict(self._counters))))


def _line(message: Command | Report) -> bytes:
    return msgspec.json.encode(message) + b"\n"
