"""The parent process: it starts and stops the workers, ships their journals, and answers the signals.

Granian spawns the workers and starts those again that die. Its own handling of signals is replaced, because
it stops taking connections the moment SIGTERM arrives, before any load balancer can know:

    SIGTERM  unready and 503 for `unready_s`; no new connections; at `drain_s` what still runs is cancelled and
             recorded; 5 s later the workers are killed; then the rest of the journal is shipped
    SIGINT   the same without the unready time, for a person at a terminal
             either one a second time: kill at once; the next start ends what was open
    SIGUSR2  start new workers one by one, and let the old ones finish
    SIGHUP   read the configuration and the stored providers again
"""

import fcntl
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from math import ceil
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels

from bridgeserver import app
from bridgeserver.admin import Admin
from bridgeserver.asks import Answer, Ask
from bridgeserver.config import Config
from bridgeserver.control import Command, ControlServer
from bridgeserver.errors import BridgeError
from bridgeserver.reload import Look, Reloader, Source
from bridgeserver.sealing import open_vault
from bridgeserver.shipper import Shipper
from bridgeserver.store import open_store
from bridgeserver.worker import Place

log = structlog.get_logger("bridgecore")

KILL_AFTER_S = 5.0
SHIP_AT_END_S = 10.0

HEAD_BUFFER_BYTES = 128 << 10
"""What Granian reads of a head; `max_head_bytes` is checked by the application, which can say so."""


class Supervisor:
    """One `bridgecore serve`."""

    def __init__(
        self,
        config: Config,
        on_serving: Callable[[str], None],
        source: Source | None = None,
        look: Look | None = None,
    ) -> None:
        self._config = config
        self._source = source or Source(lambda: config)
        self._look = look
        self._reloader: Reloader | None = None
        self._on_serving = on_serving
        self._port = config.server.port
        self._stop_count = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve until a signal ends it; raises BridgeError if it cannot begin."""
        config = self._config
        journal = config.journal.path
        signal.signal(signal.SIGHUP, self._on_hangup)  # its default ends a process, also one that is starting
        with ExitStack() as cleanup:
            cleanup.callback(os.close, lock_journal(journal))
            reservation = cleanup.enter_context(reserve_port(config.server.host, config.server.port))
            self._port = reservation.getsockname()[1]
            # A journal that is synced must not be dropped for a commit that a power cut can undo.
            store = open_store(config.store.url, is_durable=config.journal.sync != "none")
            cleanup.callback(store.close)
            vault = open_vault(config.store, store.path)
            self._shipper = Shipper(journal, store)
            self._control = ControlServer(lambda: self._shipper.lag_s, self._answer)
            self._control.start()
            cleanup.callback(self._control.close)
            reloader = Reloader(config, self._look, self._source, store, vault, self._control)
            self._reloader = reloader
            self._admin = Admin(store, vault, reloader, self._control.totals)
            reloader.start()
            cleanup.callback(reloader.stop)
            self._shipper.start()
            cleanup.callback(self._finish, journal)
            self._serve(Place(store.path, journal, self._control.path))

    def _finish(self, journal: Path) -> None:
        """Ship what is left after the last worker has gone."""
        self._ended.set()
        if not self._shipper.stop(SHIP_AT_END_S):
            log.warning("journal_left", folder=str(journal), action="the next start ships it")
        log.info("stopped", **self._control.totals(), records_shipped=self._shipper.shipped)

    def _serve(self, place: Place) -> None:
        server = self._config.server
        multiprocessing.set_start_method("spawn", force=True)  # `fork` is unsafe beside threads
        # Of Granian only the constructor is annotated.
        self._granian: Any = Granian(
            "bridgeserver.app",
            address=server.host,
            port=self._port,
            interface=Interfaces.ASGI,
            loop=Loops.uvloop,
            http=HTTPModes.http1,
            websockets=False,
            workers=server.workers,
            backlog=min(server.max_connections, 65_535),
            backpressure=server.max_connections,
            http1_settings=HTTP1Settings(
                header_read_timeout=int(server.keepalive_timeout_s * 1000), max_buffer_size=HEAD_BUFFER_BYTES
            ),
            log_level=LogLevels.warning,
            log_dictconfig={"loggers": {"_granian": {"handlers": [], "propagate": True}}},
            ssl_cert=server.tls_cert,
            ssl_key=server.tls_key,
            respawn_failed_workers=True,
            workers_kill_timeout=ceil(server.drain_s + KILL_AFTER_S),
        )
        self._granian.on_startup(self._start_up)
        try:
            self._granian.serve(target_loader=partial(app.load, self._config, place), wrap_loader=False)
        except SystemExit as exc:
            raise BridgeError("the workers died again and again; the log says why") from exc

    def _start_up(self) -> None:
        signal.signal(signal.SIGTERM, partial(self._on_stop, self._config.server.unready_s))
        signal.signal(signal.SIGINT, partial(self._on_stop, 0.0))
        signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGUSR2, self._granian.signal_handler_reload)
        threading.Thread(target=self._announce, name="announce", daemon=True).start()

    def _on_hangup(self, _signum: int, _frame: FrameType | None) -> None:
        if self._reloader is not None:
            self._reloader.hint()

    def _answer(self, ask: Ask) -> Answer:
        return self._admin.answer(ask)

    def _announce(self) -> None:
        """Say where the gateway is once it answers there."""
        host = self._config.server.host
        address = ("127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host, self._port)  # noqa: S104
        while not self._ended.is_set():
            try:
                socket.create_connection(address, timeout=1).close()
            except OSError:
                self._ended.wait(0.02)
            else:
                scheme = "https" if self._config.server.tls_cert else "http"
                self._on_serving(f"{scheme}://{'[' + host + ']' if ':' in host else host}:{self._port}")
                return

    def _on_stop(self, unready_s: float, _signum: int, _frame: FrameType | None) -> None:
        self._stop_count += 1
        if self._stop_count == 1:
            threading.Thread(target=self._drain, args=(unready_s,), name="drain", daemon=True).start()
        else:
            for worker in self._granian.wrks:
                worker.kill()
            self._granian.signal_handler_interrupt()

    def _drain(self, unready_s: float) -> None:
        log.info("draining", unready_s=unready_s, drain_s=self._config.server.drain_s)
        self._control.tell(Command("drain"))
        time.sleep(unready_s)
        self._granian.signal_handler_interrupt()
        if not self._ended.wait(self._config.server.drain_s):
            log.warning("drain_deadline", action="what still runs is cancelled and recorded")
            self._control.tell(Command("stop"))


def lock_journal(folder: Path) -> int:
    """Make the journal folder and lock it for this process; return the lock's descriptor.

    Raises BridgeError if another gateway holds it: two would serve one port without an error, and ship one
    journal twice.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)  # not its parents: a mistyped path is no wish for a new place
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise BridgeError(f"cannot use the journal folder {folder}: {exc.strerror}; set [journal] path") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise BridgeError(
            f"another gateway (process {owner}) serves from {folder}; stop it, or set another [journal] path",
        ) from exc
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def reserve_port(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address and listens to nobody, so that no other program takes it.

    The workers bind the same address with SO_REUSEPORT, which would let a second gateway in unnoticed; so it
    is tried without that first. Raises BridgeError if the address is taken or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
        reservation = socket.socket(family, socket.SOCK_STREAM)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reservation.bind((host, port))
    except OSError as exc:
        raise BridgeError(f"cannot listen on {host}:{port}: {exc.strerror}; choose another --host or --port") from exc
    return reservation
