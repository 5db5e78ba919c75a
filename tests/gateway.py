"""A gateway in processes of its own, and the plainest client there is."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import samples
from bridgeserver.store import open_store

BODIES: dict[str, dict[str, Any]] = {
    "/anthropic/v1/messages": {
        "model": "m",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "hello"}],
    },
    "/openai/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hello"}]},
    "/openai/v1/responses": {"model": "m", "input": "hello"},
}
"""A small request for each bridged route."""


T = TypeVar("T")


class Answer(NamedTuple):
    """One whole HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class OpenAnswer:
    """An HTTP response whose body is still to be read."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._response = connection.getresponse()
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}

    def read1(self) -> bytes:
        """Return what is here of the body, at least a byte; b"" at its end."""
        return self._response.read1()

    def read(self) -> bytes:
        """Return the rest of the body."""
        return self._response.read()

    def close(self) -> None:
        """Close the connection at once."""
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


class Gateway:
    """A running `bridgecore serve`."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, folder: Path, key: str) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.folder = folder
        self.key = key

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPConnection:
        """Return a connection to the gateway from the loopback address *source*."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30, source_address=(source, 0))

    def open(
        self,
        path: str,
        body: bytes | dict[str, Any] | None = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        source: str = "127.0.0.1",
    ) -> "OpenAnswer":
        """Send a request with the gateway key, and return once the head of its answer is here."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        connection = self.connect(source)
        fields = {"authorization": f"Bearer {self.key}", "content-type": "application/json"} | dict(headers or {})
        connection.request(method or ("GET" if body is None else "POST"), path, body, fields)
        return OpenAnswer(connection)

    def ask(self, path: str, body: bytes | dict[str, Any] | None = None, **options: Any) -> Answer:
        """Send a request with the gateway key and return the whole answer."""
        with self.open(path, body, **options) as answer:
            return Answer(answer.status, answer.headers, answer.read())

    def raw(self, data: bytes) -> bytes:
        """Send a request that asks to close, and return everything that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            client.sendall(data)
            received = b""
            while chunk := client.recv(1 << 16):
                received += chunk
            return received

    def records(self) -> list[dict[str, Any]]:
        """Return what `bridgecore records --json` prints."""
        return read_records(self.folder)

    def record(self, interception_id: str | None = None) -> dict[str, Any]:
        """Return one ended record, the newest unless told which, as soon as it was shipped."""

        def ended() -> dict[str, Any] | None:
            records = [record for record in self.records() if interception_id in {None, record["id"]}]
            return records[-1] if records and records[-1]["status"] != "open" else None

        return eventually(ended)

    def count_recorded(self) -> int:
        """Return how many interceptions there are, after making sure that every earlier one was shipped."""
        path = "/openai/v1/responses"
        self.record(self.ask(path, BODIES[path]).headers["x-bridge-interception-id"])
        return len(self.records())

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        output = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        lines = [line.split(maxsplit=1) for line in output.splitlines()]
        return [int(pid) for pid, arguments in lines if "spawn_main" in arguments]

    def stop(self, stop_signal: signal.Signals = signal.SIGINT) -> int:
        """Send a signal to the parent and return its exit code."""
        self.process.send_signal(stop_signal)
        return self.process.wait(60)


def eventually(probe: Callable[[], T | None], timeout_s: float = 20) -> T:
    """Return the first result of *probe* that is not None; fail after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (result := probe()) is not None:
            return result
        time.sleep(0.02)
    raise AssertionError(f"{probe} gave nothing within {timeout_s} s")


def bridgecore(folder: Path, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run one command of the command line in *folder*."""
    return subprocess.run(
        [sys.executable, "-m", "bridgeserver", *arguments],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )


def succeed(folder: Path, *arguments: str, typed: str = "") -> str:
    """Run a command with *typed* as its standard input, and return what it printed."""
    done = bridgecore(folder, *arguments, input=typed)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records in the store of *folder*."""
    with closing(open_store(store_url(folder))) as store:
        return list(store.records())


def tables(folder: Path, names: Sequence[str] = samples.TABLES) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of tables in the store of *folder*."""
    with closing(open_store(store_url(folder))) as store:
        return samples.tables(store, names)


def store_url(folder: Path) -> str:
    """Return which database the gateway of *folder* has: the one that its configuration names, or a file in it."""
    config = folder / "bridgecore.toml"
    named = re.search(r'^url = "(postgresql://.+)"$', config.read_text() if config.exists() else "", re.MULTILINE)
    return named[1] if named else f"sqlite:///{folder}/bridgecore.db"


def clean_environment() -> dict[str, str]:
    """Return an environment without anything that configures a gateway."""
    names = ("BRIDGECORE_", "ANTHROPIC_", "OPENAI_")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


def write_config(folder: Path, upstream: str, *, server: str = "", more: str = "") -> None:
    """Write a configuration with both providers at *upstream*."""
    (folder / "bridgecore.toml").write_text(
        f"""
[server]
port = 0
unready_s = 0.1
{server}

[[providers]]
name = "anthropic"
type = "anthropic"
base_url = "{upstream}"
keys = ["central-anthropic-key"]

[[providers]]
name = "openai"
type = "openai"
base_url = "{upstream}/v1"
keys = ["central-openai-key"]

[[providers]]
name = "switched-off"
type = "anthropic"
base_url = "{upstream}"
keys = ["x"]
enabled = false
{more}
""",
    )


def make_key(folder: Path, user: str = "tester", *, is_admin: bool = False) -> str:
    """Make a key in the store of *folder*, and the store if there is none."""
    with closing(open_store(store_url(folder))) as store:
        store.upgrade()
        return store.create_key(user, "", is_admin=is_admin, actor="tests")


def running(folder: Path, stderr: int | None = None) -> AbstractContextManager[Gateway]:
    """Make a key, and run a gateway in *folder*."""
    return started(folder, make_key(folder), stderr)


@contextmanager
def started(folder: Path, key: str, stderr: int | None = None) -> Generator[Gateway]:
    """Start a gateway in *folder*, whose configuration is written already, and kill what is left of it afterwards.

    Its log goes to `gateway.log`, or to the descriptor *stderr*.
    """
    log = (folder / "gateway.log").open("a")
    process = subprocess.Popen(
        [sys.executable, "-m", "bridgeserver", "serve"],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=log if stderr is None else stderr,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("bridgecore serves on "), (line, (folder / "gateway.log").read_text())
        yield Gateway(process, line.split()[-1], folder, key)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert process.stdout is not None
        process.stdout.close()
        log.close()
