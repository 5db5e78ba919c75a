"""Where a generation comes from: the configuration file and the store, read together, validated, then published.

Whatever says that something changed (the file's look, a revision in the store, SIGHUP, the admin API) is only a hint:
everything is read again, and what is wrong with it leaves the generation in force as it is. One thread does this, so
of two reloads at once the later one reads last.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from bridgeserver.config import Config
from bridgeserver.control import ControlServer, Snapshot
from bridgeserver.errors import BridgeError, ConfigError, StoreError, StoreUnavailable
from bridgeserver.merging import merge, merge_servers
from bridgeserver.sealing import Vault
from bridgeserver.status import McpServerStatus, ProviderStatus, ReloadStatus, WorkerStatus
from bridgeserver.store import Store
from bridgeserver.store.stored import Loaded
from bridgeserver.verdict import judge, judge_servers

log = structlog.get_logger("bridgecore")

POLL_S = 0.25
FIRST_RETRY_S = 0.05
RETRY_LIMIT_S = 10.0
STOP_S = 1.0
"""How long the end waits for a look at the store; the thread is a daemon."""


READS = 5
"""How often a file that changes while it is read is read again."""

Look = tuple[int, int, int]


class Source(NamedTuple):
    """How the configuration is read, and the file that it is in."""

    load: Callable[[], Config]
    path: Path | None = None

    def look(self) -> Look | None:
        """Return what differs after a change of the file, its mode included; None while there is none."""
        if self.path is None:
            return None
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ctime_ns, found.st_size, found.st_ino

    def read(self) -> tuple[Config, Look | None]:
        """Return the configuration and the look of the file that it was read from. Raises ConfigError."""
        for _ in range(READS):
            look = self.look()
            config = self.load()
            if self.look() == look:
                return config, look
        raise ConfigError([f"{self.path}: found a file that changes all the time, expected one that is whole"])


class Reloader:
    """Follows the sources of a generation for as long as the parent runs.

    *config* was read when the file had that *look*.
    """

    def __init__(
        self, config: Config, look: Look | None, source: Source, store: Store, vault: Vault, control: ControlServer
    ) -> None:
        self._started_with = config
        self._config = config
        self._source = source
        self._store = store
        self._vault = vault
        self._control = control
        self._look = look
        self._next_look = look
        self._has_file = look is not None
        self._revision = -1
        self._snapshot = Snapshot(0, ())
        self._statuses: tuple[ProviderStatus, ...] = ()
        self._server_statuses: tuple[McpServerStatus, ...] = ()
        self._restart_needed: tuple[str, ...] = ()
        self._published_at: float | None = None
        self._last_reload_at: float | None = None
        self._last_success_at: float | None = None
        self._last_error: str | None = None
        self._store_error: str | None = None
        self._retry_s = FIRST_RETRY_S
        self._is_hinted = False
        self._is_woken = False
        self._is_upgraded = False
        self._asked = 0
        self._answered = 0
        self._applied = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        """Make the first generation if the store can be read, and follow the sources from then on.

        Raises StoreError if the store can be read and is not one that this version can use.
        """
        self._control.publish(self._snapshot)
        # A store that comes back later may take records before it was read for providers.
        self._store.prices.configure(self._config.prices, self._config.providers)
        try:
            self._store.upgrade()
            self._is_upgraded = True
        except StoreUnavailable as exc:
            self._note_store_error(exc)
        else:
            self._apply_store()
            self._last_reload_at = self._last_success_at = time.time()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(STOP_S)

    def hint(self) -> None:
        """Have everything read again soon. Safe in a signal handler: takes no lock."""
        self._is_hinted = True

    def look(self) -> None:
        """Have the hints looked at now, and not within a quarter of a second. Callable from any thread."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def apply(self, timeout_s: float) -> bool:
        """Read everything again now; return whether what the store has was in force everywhere within *timeout_s*."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answered >= asked or self._stopping, timeout_s)
            if self._applied < asked:
                return False
        return self._control.wait_for(self._snapshot.number, max(0.0, deadline - time.monotonic()))

    @property
    def file_names(self) -> frozenset[str]:
        """The names of the providers of the configuration, without the store's."""
        names = [provider.name for provider in self._config.providers]
        return frozenset([*names, *(broken.name for broken in self._config.broken)])

    @property
    def file_servers(self) -> dict[str, str]:
        """The URLs of the MCP servers of the configuration by name, without the store's."""
        return {server.name: server.public_url for server in self._config.mcp_servers}

    def status(self) -> ReloadStatus:
        """Return what is in force, and how the last attempts to replace it went."""
        return ReloadStatus(
            number=self._snapshot.number,
            published_at=self._published_at,
            last_reload_at=self._last_reload_at,
            last_success_at=self._last_success_at,
            last_error=self._last_error,
            restart_needed=self._restart_needed,
            store_error=self._store_error,
            providers=self._statuses,
            mcp_servers=self._server_statuses,
            workers=tuple(
                WorkerStatus(report.pid, report.generation, not report.reason, report.reason)
                for report in self._control.workers()
            ),
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                pause_s = POLL_S if self._store_error is None else self._retry_s
                self._changed.wait_for(
                    lambda: self._stopping or self._is_woken or self._asked > self._answered, pause_s
                )
                if self._stopping:
                    return
                self._is_woken = False
                asked = self._asked
            is_applied = False
            try:
                if asked > self._answered or self._is_due():
                    is_applied = self._reload()
            except Exception as exc:  # whatever it is, following must go on
                log.exception("reload_failed")
                self._last_error = f"{type(exc).__name__}: {exc}"
            with self._changed:
                self._answered = asked
                if is_applied:
                    self._applied = asked
                self._changed.notify_all()

    def _is_due(self) -> bool:
        """Whether anything hints at a change, or the store may be back."""
        if self._is_hinted or self._store_error is not None:
            return True
        look, before = self._source.look(), self._next_look
        self._next_look = look
        if look != self._look and look == before:  # it has held for one turn: whoever writes it has done
            return True
        try:
            return self._store.config_revision() != self._revision
        except StoreError as exc:
            self._note_store_error(exc)
            return False

    def _reload(self) -> bool:
        """Read, validate and publish; return whether what the store has is in force.

        A file with mistakes does not keep the store from being followed: its last good content stands in.
        """
        self._is_hinted = False
        self._last_reload_at = time.time()
        look = self._source.look()
        error = self._follow_file()
        if error is not None:
            if error != self._last_error or look != self._look:
                log.error("reload_failed", reason=error, effect="the providers in force go on")
            self._look = look
        self._last_error = error
        is_applied = self._apply_store()
        if is_applied and error is None:
            self._last_success_at = time.time()
        return is_applied

    def _follow_file(self) -> str | None:
        """Take what the file says now; return what is wrong with it, which leaves its last good content."""
        try:
            config = self._read()
        except BridgeError as exc:
            return str(exc)
        self._config = config
        self._note_sections(config)
        return None

    def _apply_store(self) -> bool:
        """Read the store and publish; return whether it could be read."""
        try:
            loaded = self._read_store()
        except StoreError as exc:
            self._note_store_error(exc)
            return False
        self._publish(loaded)
        return True

    def _read(self) -> Config:
        """Read the configuration again; a file that was there must not be gone or empty."""
        look = self._source.look()
        if self._has_file:
            self._check_file(look)
        config, look = self._source.read()
        if self._has_file:
            self._check_file(look)
        self._has_file = look is not None
        self._look = look
        return config

    def _check_file(self, look: Look | None) -> None:
        if look is None:
            raise ConfigError([f"{self._source.path}: found no such file, expected the configuration"])
        if look[1] == 0:
            raise ConfigError([f"{self._source.path}: found an empty file, expected the configuration"])

    def _read_store(self) -> Loaded:
        if not self._is_upgraded:
            self._store.upgrade()
            self._is_upgraded = True
        loaded = self._store.load(self._vault)
        self._revision = loaded.providers.revision
        if self._store_error is not None:
            log.info("store_readable")
        self._store_error = None
        self._retry_s = FIRST_RETRY_S
        return loaded

    def _publish(self, loaded: Loaded) -> None:
        """Send what is good of the file and the store to the workers, unless they have it."""
        config = self._config
        good, statuses = judge(merge(config.providers, loaded.providers, config.broken), loaded.providers)
        self._store.prices.configure(config.prices, good)
        for status in statuses:
            if status.status == "error":
                log.error("provider_excluded", provider=status.name, reason=status.reason)
        self._statuses = statuses
        broken = tuple(status.name for status in statuses if status.status == "error")
        merged = merge_servers(config.mcp_servers, loaded.servers)
        self._server_statuses = judge_servers(merged, loaded.servers)
        for error in loaded.servers.errors:
            log.error("mcp_server_excluded", server=error.name, reason=error.reason)
        servers = tuple(server for server in merged if server.enabled)
        number = self._snapshot.number
        latest = Snapshot(number, good, broken, servers, config.tools)
        if number == 0 or latest != self._snapshot:
            self._snapshot = msgspec.structs.replace(latest, number=number + 1)
            self._published_at = time.time()
            self._control.publish(self._snapshot)
        log.info(
            "reloaded",
            generation=self._snapshot.number,
            providers=[provider.name for provider in good],
            mcp_servers=[server.name for server in servers],
        )

    def _note_sections(self, config: Config) -> None:
        """Say which sections changed that a reload cannot put in force."""
        changed = tuple(
            name
            for name in ("server", "store", "journal", "pool", "records", "dumps", "metrics", "tracing", "logs")
            if getattr(config, name) != getattr(self._started_with, name)
        )
        if changed != self._restart_needed and changed:
            log.warning("restart_needed", sections=changed)
        self._restart_needed = changed

    def _note_store_error(self, error: StoreError) -> None:
        if self._store_error is None:
            log.warning("store_unreadable", reason=str(error), effect="the generation in force goes on")
        self._store_error = str(error)
        self._retry_s = min(self._retry_s * 2, RETRY_LIMIT_S)
