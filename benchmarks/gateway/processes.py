"""Processes that are started here, pinned to a core, and ended by their number."""

import fcntl
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from benchmarks.gateway import accounting
from benchmarks.gateway.load.order import Target

ROOT = Path(__file__).parent.parent.parent
READY_S = 90.0
STOP_S = 15.0
ANSWER_S = 180.0

CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
"""Those that this process had at first."""

LOAD_CORE, TEST_CORE = CORES[0], CORES[-1]


LOCK = Path(tempfile.gettempdir()) / "bridgecore-benchmark.lock"


class NotAlone(Exception):
    """Another run is under way."""


@contextmanager
def alone(lock: Path = LOCK) -> Generator[None]:
    """Keep other runs out; raise NotAlone if one is under way: each would spoil the other's figures."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise NotAlone("another run measures on this machine: wait for its end") from exc
        yield
    finally:
        os.close(descriptor)


def free_port() -> int:
    """Return a port of the loopback address on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_core(command: Sequence[str | Path], cores: Sequence[int]) -> list[str]:
    """Return the command as it runs on some cores only and ends when this process does, where that is possible."""
    prefix: list[str] = []
    if shutil.which("setpriv"):
        prefix += ["setpriv", "--pdeathsig", "TERM"]
    if shutil.which("taskset"):
        prefix += ["taskset", "-c", ",".join(map(str, cores))]
    return [*prefix, *map(str, command)]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without anything that configures a gateway or speaks of providers."""
    names = ("BRIDGECORE_", "ANTHROPIC_", "OPENAI_", "LITELLM_", "TENSORZERO_", "PORTKEY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)} | dict(more or {})


class Process:
    """A process with what it starts."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cores: Sequence[int],
        log: Path,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        pipes: bool = False,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.log = log
        self._stop_signal = stop_signal
        self._read = b""
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                on_core(command, cores),
                cwd=cwd,
                env=environment(env),
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else errors,
                stderr=errors,
                bufsize=0,  # what is buffered here `select` would not see
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self, data: bytes) -> None:
        """Write all of it to the standard input."""
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), True)
        while data:
            data = data[self._process.stdin.write(data) :]

    def read_line(self, within_s: float) -> bytes:
        """Return the next line of the standard output; raise TimeoutError if it does not come in time."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + within_s
        while b"\n" not in self._read:
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"expected a line of {self.log.stem} within {within_s:.0f} s")
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                self._process.wait(STOP_S)
                self.check()
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line

    def check(self) -> None:
        """Raise RuntimeError with its last words if it has ended."""
        if (code := self._process.poll()) is not None:
            words = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.log.parent.name}/{self.log.name}: the process ended with {code}:\n{words}")

    def tree(self) -> list[int]:
        return accounting.tree(self.pid)

    def stop(self) -> None:
        """End the process and everything below it."""
        below = self.tree()[1:]
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pid in below:
            with suppress(ProcessLookupError):
                if os.getsid(pid) == self.pid:  # else the number is another process's by now
                    os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()


class Upstream:
    """The fake provider in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "benchmarks.gateway.upstream", str(self.port)]
        self._process = Process(command, cores=[LOAD_CORE], log=folder / "upstream.log", pipes=True)
        self._process.read_line(READY_S)

    def plan(self, **plan: Any) -> None:
        """Say how streams that begin from now on go."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("PUT", "/plan", json.dumps(plan))
        if connection.getresponse().status != 200:
            raise RuntimeError("the fake provider did not take its plan")
        connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._process.stop()


class Load:
    """The load generator in a process of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.gateway.load"]
        self._process = Process(command, cores=[LOAD_CORE], log=folder / "load.log", pipes=True)

    def run(self, name: str, target: Target | None = None, **order: Any) -> dict[str, Any]:
        """Have an order carried out, and return what came of it."""
        if target is not None:
            order["target"] = target
        self._process.write(json.dumps({"run": name, **order}).encode() + b"\n")
        return dict(json.loads(self._process.read_line(ANSWER_S)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._process.stop()
