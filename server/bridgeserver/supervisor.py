"""The parent process: it starts and stops the workers, ships their journals, and answers the signals.

What these do:

    SIGTERM  unready and 503 for `unready_s`; no new connections; at `drain_s` what still runs is cancelled and
             recorded; 5 s later the workers are killed; then the rest of the journal is shipped
    SIGINT   the same without the unready time, for a person at a terminal
             either one a second time: kill at once; the next start ends what was open
    SIGUSR2  start new workers one by one, and let the old ones finish
    SIGHUP   read the configuration and the stored providers again
"""

import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import structlog

from bridgeserver import entry
from bridgeserver.admin import Admin
from bridgeserver.asks import Answer, Ask
from bridgeserver.config import Config
from bridgeserver.config.checks import host_and_port, is_loopback
from bridgeserver.config.databases import sqlite_path
from bridgeserver.control import ControlServer
from bridgeserver.counting import total
from bridgeserver.errors import BridgeError, StoreUnavailable
from bridgeserver.listener import Listener
from bridgeserver.metrics import Families, journal_limit
from bridgeserver.purge import Purger
from bridgeserver.reload import Look, Reloader, Source
from bridgeserver.sealing import open_vault, refuse_without_key
from bridgeserver.shipper import Shipper
from bridgeserver.shipping_metrics import families as shipping_families
from bridgeserver.store import Store, open_store
from bridgeserver.store.revisions import CONFIG, KEYS
from bridgeserver.worker import Place
from bridgeserver.workers import Workers

log = structlog.get_logger("bridgecore")

KILL_AFTER_S = 5.0
SHIP_AT_END_S = 10.0


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

    def run(self) -> None:
        """Serve until a signal ends it; raises BridgeError if it cannot begin."""
        config = self._config
        journal = config.journal.path
        signal.signal(signal.SIGHUP, self._on_hangup)  # its default ends a process, also one that is starting
        with ExitStack() as cleanup:
            cleanup.callback(os.close, lock_journal(journal))
            listeners = listen(config.server.host, config.server.port, config.server.workers)
            for listener in listeners:
                cleanup.callback(listener.close)
            self._port = listeners[0].getsockname()[1]
            side_entrance = self._listen_for_scrapes()
            if side_entrance is not None:
                cleanup.callback(side_entrance.close)
            # A journal that is synced must not be dropped for a commit that a power cut can undo.
            store = open_store(config.store.url, is_durable=config.journal.sync != "none")
            cleanup.callback(store.close)
            vault = open_vault(config.store, sqlite_path(store.url))
            self._shipper = Shipper(journal, store, lost_after_s=config.journal.lost_after_s)
            self._control = ControlServer(lambda: self._shipper.lag_s, self._answer)
            self._control.start()
            cleanup.callback(self._control.close)
            reloader = Reloader(config, self._look, self._source, store, vault, self._control)
            self._reloader = reloader
            # What other parts of the parent tell Prometheus.
            further: list[Families] = [
                partial(journal_limit, config.journal.max_bytes),
                lambda: shipping_families(self._shipper.stats()),
            ]
            self._admin = Admin(
                store,
                vault,
                reloader,
                lambda: {**self._control.totals(), **store.prices.unpriced()},
                self._shipper.stats,
                further,
            )
            reloader.start()
            cleanup.callback(reloader.stop)
            self._check_secrets(store)
            cleanup.callback(store.listen(self._on_change))
            if side_entrance is not None:
                side_entrance.start()
            self._shipper.start()
            cleanup.callback(self._finish, journal)
            if config.records.retention_days:
                purger = Purger(store, config.records.retention_days)
                purger.start()
                cleanup.callback(purger.stop)
            self._serve(Place(store.url, journal, self._control.path), listeners)

    def _check_secrets(self, store: Store) -> None:
        """Raise SealError if there are secrets, and neither a key nor a place for one to open them with."""
        if not self._config.store.encryption_key and sqlite_path(store.url) is None:
            with suppress(StoreUnavailable):  # what cannot be opened later is left out then, and named
                if store.has_secrets():
                    refuse_without_key()

    def _on_change(self, revision: str) -> None:
        """Have it looked at now; whoever follows it would find it within a quarter of a second anyway."""
        if revision == CONFIG and self._reloader is not None:
            self._reloader.look()
        elif revision == KEYS:
            self._control.look()

    def _listen_for_scrapes(self) -> Listener | None:
        """Return what answers at `admin_listen`: with TLS where others than this machine reach it and there is any."""
        server = self._config.server
        if not server.admin_listen:
            return None
        host, port = host_and_port(server.admin_listen)
        tls = None if is_loopback(host) else entry.tls_context(server.tls_cert, server.tls_key)
        listener = Listener(host, port, self._answer, tls)
        log.info("admin_listening", host=listener.address[0], port=listener.address[1], tls=tls is not None)
        return listener

    def _finish(self, journal: Path) -> None:
        """Ship what is left after the last worker has gone."""
        if not self._shipper.stop(SHIP_AT_END_S):
            log.warning("journal_left", folder=str(journal), action="the next start ships it")
        counted = self._control.totals()
        log.info(
            "stopped",
            interceptions=total(counted, "interceptions"),
            passthrough=total(counted, "passthrough"),
            records_shipped=self._shipper.shipped,
        )

    def _serve(self, place: Place, listeners: Sequence[socket.socket]) -> None:
        server = self._config.server
        self._workers = Workers(
            partial(entry.main, self._config, place), listeners, server.drain_s + KILL_AFTER_S, self._announce
        )
        signal.signal(signal.SIGTERM, partial(self._on_stop, server.unready_s))
        signal.signal(signal.SIGINT, partial(self._on_stop, 0.0))
        signal.signal(signal.SIGUSR2, lambda _signum, _frame: self._workers.renew())
        self._workers.run()

    def _on_hangup(self, _signum: int, _frame: FrameType | None) -> None:
        if self._reloader is not None:
            self._reloader.hint()

    def _answer(self, ask: Ask) -> Answer:
        return self._admin.answer(ask)

    def _announce(self) -> None:
        """Say where the gateway is, now that it answers there."""
        host = self._config.server.host
        scheme = "https" if self._config.server.tls_cert else "http"
        self._on_serving(f"{scheme}://{'[' + host + ']' if ':' in host else host}:{self._port}")

    def _on_stop(self, unready_s: float, _signum: int, _frame: FrameType | None) -> None:
        self._stop_count += 1
        if self._stop_count == 1:
            threading.Thread(target=self._drain, args=(unready_s,), name="drain", daemon=True).start()
        else:
            self._workers.kill()

    def _drain(self, unready_s: float) -> None:
        log.info("draining", unready_s=unready_s, drain_s=self._config.server.drain_s)
        self._control.drain()
        time.sleep(unready_s)
        self._workers.finish()


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


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Return that many sockets bound to one address; who gets one listens on it. Port 0 is any that is free.

    Raises BridgeError if the address is taken or is none of this machine's. SO_REUSEPORT would let a second gateway
    in unnoticed, so the address is tried without it first.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listeners: list[socket.socket] = []
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
        for _ in range(count):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
    except OSError as exc:
        for listener in listeners:
            listener.close()
        raise BridgeError(f"cannot listen on {host}:{port}: {exc.strerror}; choose another --host or --port") from exc
    return listeners
