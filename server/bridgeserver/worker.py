"""What one worker process holds: its journal, its connections, its view of the store, and what runs in it."""

import asyncio
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path

import msgspec

from bridgeserver.config import Config
from bridgeserver.control import Command, ControlClient
from bridgeserver.errors import GatewayStopped, NotRecordable, Overloaded
from bridgeserver.guard import Guard
from bridgeserver.identity import Keyring
from bridgeserver.journal import Journal
from bridgeserver.limits import Admission, Budget
from bridgeserver.ownership import Ownership
from bridgeserver.providers import build
from bridgeserver.relay import Timeouts
from bridgeserver.store.reader import Reader
from bridgeserver.upstream import Limits, Origin, Upstream


def _ignore() -> None:
    """Do nothing about a signal."""


class Place(msgspec.Struct, frozen=True):
    """Where the parent put what its workers share."""

    database: Path
    journal: Path
    control: Path


class Worker:
    """The state of one worker process; made inside its event loop."""

    def __init__(self, config: Config, place: Place) -> None:
        server = config.server
        self.config = config
        self.loop = asyncio.get_running_loop()
        self.providers = build(config.providers)
        self.timeouts = Timeouts(upstream_s=server.upstream_idle_timeout_s, client_s=server.client_stall_s)
        self.tick_s = min(server.body_timeout_s, server.client_stall_s, server.upstream_idle_timeout_s) / 10
        self.trusted_proxies = [ip_network(network, strict=False) for network in server.trusted_proxies]
        self.admission = Admission(server.max_streams)
        self.budget = Budget(server.max_buffered_bytes)
        self.counters: Counter[str] = Counter()
        self.is_draining = False
        self._is_stopped = False
        self._lag_s = 0.0
        self._guards: set[Guard] = set()
        self._upstreams: dict[Origin, Upstream] = {}
        self._limits = Limits(
            connections=server.upstream_pool,
            wait_s=server.upstream_pool_wait_s,
            connect_timeout_s=server.upstream_connect_timeout_s,
        )
        # Every read of the store is made in this one thread: a disk that stalls must not stall the loop.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._reader = Reader(place.database)
        self.keyring = Keyring(self._reader, self._executor, server.identity_grace_s)
        share = config.journal.max_bytes // server.workers
        self.journal = Journal(place.journal, max_bytes=share, sync=config.journal.sync)
        self.ownership = Ownership(self.journal, self._reader, self._executor)
        self._control = ControlClient(place.control, self.counters, self._obey)
        self._followers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect to the parent and begin to follow the store."""
        # How a worker ends is the parent's business, also when somebody signals every process there is.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            self.loop.add_signal_handler(number, _ignore)
        await self._control.start()
        self._followers = [asyncio.create_task(self.keyring.follow())]

    async def close(self) -> None:
        """Let go of everything; all requests have ended."""
        for task in self._followers:
            task.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        for upstream in self._upstreams.values():
            upstream.close()
        self.journal.close()
        await self._control.close()
        self._executor.shutdown()
        self._reader.close()

    @property
    def is_ready(self) -> bool:
        """Whether new requests should be sent here."""
        return not self.is_draining and self.keyring.is_readable and not self._is_behind

    def admit(self) -> None:
        """Count a request in, or raise why it cannot be taken."""
        if self.is_draining:
            raise Overloaded("the gateway is shutting down")
        self.admission.enter()

    def check_recordable(self) -> None:
        """Raise NotRecordable while records do not reach the store and the configuration asks to refuse then."""
        if self._is_behind:
            raise NotRecordable(f"records have not reached the store for {self._lag_s:.0f} s")

    def upstream(self, origin: Origin) -> Upstream:
        """Return the connections to *origin*."""
        upstream = self._upstreams.get(origin)
        if upstream is None:
            upstream = self._upstreams[origin] = Upstream(origin, self._limits)
        return upstream

    def guard(self, task: asyncio.Task[object]) -> Guard:
        """Return a guard for the request that *task* serves; `release` takes it back. Raises GatewayStopped."""
        if self._is_stopped:
            raise _stopped()
        guard = Guard(task, self.loop, self.tick_s)
        self._guards.add(guard)
        return guard

    def release(self, guard: Guard) -> None:
        """Take back the guard of a request that has ended."""
        guard.close()
        self._guards.discard(guard)

    @property
    def _is_behind(self) -> bool:
        journal = self.config.journal
        return journal.on_store_failure == "reject" and self._lag_s > journal.max_lag_s

    def _obey(self, command: Command) -> None:
        if command.do == "lag":
            self._lag_s = command.lag_s
            return
        self.is_draining = True
        if command.do == "stop":
            self._is_stopped = True
            for guard in list(self._guards):
                guard.end(_stopped())


def _stopped() -> GatewayStopped:
    return GatewayStopped("the gateway stopped before the answer was whole")
