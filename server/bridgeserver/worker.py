"""What one worker process holds: its journal, its connections, its view of the store, and what runs in it."""

import asyncio
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path

import msgspec
import structlog

from bridgecore import Guards
from bridgeserver.account import ALL_BYTES
from bridgeserver.asks import Answer, Ask
from bridgeserver.config import Config, TracingConfig
from bridgeserver.config.databases import sqlite_path
from bridgeserver.control import ControlClient, Drain, Lag, Look, Report, Snapshot
from bridgeserver.counting import Counters, Growth
from bridgeserver.dumps import Dumps
from bridgeserver.errors import BridgeError, ClientClosed, GatewayStopped, NotRecordable, Overloaded
from bridgeserver.generation import Generation
from bridgeserver.identity import Keyring
from bridgeserver.interception import Means
from bridgeserver.journal import Journal
from bridgeserver.limits import Admission, Budget
from bridgeserver.looplag import LoopLag
from bridgeserver.ownership import Ownership
from bridgeserver.pool import BridgePool
from bridgeserver.providers import build
from bridgeserver.recorder import Recorder, UsageRecorder
from bridgeserver.relay import Timeouts
from bridgeserver.store.reader import Reader
from bridgeserver.tools.connector import Connector
from bridgeserver.tracing import Tracing
from bridgeserver.traffic import Traffic
from bridgeserver.upstream import Limits, Upstreams
from bridgeserver.usertokens import UserTokens

log = structlog.get_logger("bridgecore")

SWEEP_S = 1.0
"""How often bridges whose time is over are looked for."""


class Place(msgspec.Struct, frozen=True):
    """Where the parent put what its workers share; *database* is the URL of the store."""

    database: str
    journal: Path
    control: Path


class Worker:
    """The state of one worker process; made inside its event loop."""

    def __init__(self, config: Config, place: Place) -> None:
        server = config.server
        self.config = config
        self.loop = asyncio.get_running_loop()
        self.timeouts = Timeouts(upstream_s=server.upstream_idle_timeout_s, client_s=server.client_stall_s)
        self.metrics_tokens = [token.reveal().encode() for token in config.metrics.token]
        self.trusted_proxies = [ip_network(network, strict=False) for network in server.trusted_proxies]
        self.admission = Admission(server.max_streams)
        self.budget = Budget(server.max_buffered_bytes)
        self.counters = Counters()
        self.traffic = Traffic(self.counters, user_label=config.metrics.user_label)
        self._loop_lag = LoopLag(self.counters)
        self._growth = Growth()
        self._count_connections: Callable[[], int] = int
        self.is_draining = False
        self._lag_s = 0.0
        journal = config.journal
        self._max_lag_s = journal.max_lag_s if journal.on_store_failure == "reject" else math.inf
        shortest_s = min(server.body_timeout_s, server.client_stall_s, server.upstream_idle_timeout_s)
        self.guards = Guards(self.loop, shortest_s / 10, _left)
        self._upstreams = Upstreams(
            Limits(
                connections=server.upstream_pool,
                wait_s=server.upstream_pool_wait_s,
                connect_timeout_s=server.upstream_connect_timeout_s,
            )
        )
        # Every read of the store is made in this one thread: a disk that stalls must not stall the loop.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._reader = Reader(place.database)
        self._connector = Connector(UserTokens(self._reader, self._executor, config.store, sqlite_path(place.database)))
        self.pool = BridgePool(
            Generation(0, {}),
            self._connector.connect,
            max_bridges=config.pool.max_bridges,
            ttl_s=config.pool.ttl_s,
        )
        self.keyring = Keyring(self._reader, self._executor, server.identity_grace_s, on_forget=self.pool.drop)
        share = config.journal.max_bytes // server.workers
        self.journal = Journal(place.journal, max_bytes=share, sync=config.journal.sync, workers=server.workers)
        self.ownership = Ownership(self.journal, self._reader, self._executor)
        self.dumps = Dumps(
            config.dumps.path,
            max_file_bytes=config.dumps.max_file_bytes,
            max_bytes=config.dumps.max_bytes // server.workers,
        )
        self.tracing = _tracing(config.tracing)
        self.means = Means(
            self.journal,
            self.ownership,
            self.timeouts,
            Budget(ALL_BYTES),
            self.dumps,
            self.budget,
            self.traffic,
            config.logs,
            Recorder if config.records.content else UsageRecorder,
        )
        self._control = ControlClient(
            place.control,
            self._report,
            {Drain: self._drain, Look: self._look, Lag: self._note_lag, Snapshot: self._publish},
        )
        self._followers: list[asyncio.Task[None]] = []

    async def start(self, on_drain: Callable[[], None], count_connections: Callable[[], int] = int) -> None:
        """Connect to the parent and begin to follow the store; call *on_drain* when new requests are unwanted.

        *count_connections* says how many clients are connected.
        """
        self._on_drain = on_drain
        self._count_connections = count_connections
        await self.keyring.refresh()
        await self._control.start()
        following = self.keyring.follow(), self._sweep(), self._loop_lag.follow()
        self._followers = [asyncio.create_task(work) for work in following]

    async def close(self) -> None:
        """Let go of everything; all requests have ended."""
        self.guards.stop()
        for task in self._followers:
            task.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        await self.pool.close(0.0)
        self._upstreams.close()
        self.journal.close()
        await self._control.close()
        if self.tracing is not None:
            await self.loop.run_in_executor(None, self.tracing.close)
        self._executor.shutdown()
        self.dumps.close()
        self._reader.close()

    @property
    def generation(self) -> Generation:
        """The one in force."""
        return self.pool.generation

    @property
    def unready_reason(self) -> str:
        """Why new requests should not be sent here, or nothing."""
        if self.is_draining:
            return "the gateway is shutting down"
        if self.generation.number == 0:
            return "the gateway is starting: it has not read its store yet"
        if not self.keyring.is_readable:
            return "the store cannot be read"
        if self._lag_s > self._max_lag_s:
            return f"records have not reached the store for {self._lag_s:.0f} s"
        if self.journal.is_lost:
            return "the folder of the journal is gone"
        return ""

    @property
    def is_ready(self) -> bool:
        """Whether new requests should be sent here."""
        return not self.unready_reason

    async def ask(self, ask: Ask) -> Answer:
        """Have the parent answer an administrative request."""
        return await self._control.ask(ask)

    def admit(self) -> None:
        """Count a request in, or raise why it cannot be taken."""
        if self.is_draining or self.generation.number == 0:
            raise Overloaded(self.unready_reason)
        self.admission.enter()

    def check_recordable(self) -> None:
        """Raise NotRecordable while records do not reach the store and the configuration asks to refuse then."""
        if self._lag_s > self._max_lag_s:
            raise NotRecordable(f"records have not reached the store for {self._lag_s:.0f} s")

    def _look(self, _look: Look) -> None:
        self.keyring.look()

    def _note_lag(self, lag: Lag) -> None:
        self._lag_s = lag.lag_s

    def _publish(self, snapshot: Snapshot) -> None:
        """Serve another generation from now on; what cannot be built leaves the one in force as it is."""
        if snapshot.number <= self.generation.number:
            return  # one that was on its way when this worker connected, and was given a later one
        try:
            providers = build(snapshot.providers, self.generation.providers, self.counters)
        except BridgeError:
            log.exception("generation_refused", number=snapshot.number)
            return
        if snapshot.mcp_servers:
            self._connector.prepare()
        upstreams = self._upstreams.reach(provider.origin for provider in providers.values())
        self.pool.publish(
            Generation(snapshot.number, providers, upstreams, snapshot.broken, snapshot.mcp_servers, snapshot.tools)
        )
        self._control.report()

    def stop(self) -> None:
        """End what still runs, and what begins from now on."""
        self.is_draining = True
        self.guards.end(_stopped)

    def _report(self) -> Report:
        stats = self.pool.stats()
        kept_elsewhere = {
            "pool_hits": stats.hits,
            "pool_misses": stats.misses,
            "pool_added": stats.added,
            "pool_builds": stats.builds,
            "pool_build_failures": stats.build_failures,
            "pool_build_us": int(stats.build_s * 1e6),
            "pool_joined": stats.joined,
            "pool_uncached": stats.uncached,
            "pool_shut_down": stats.shut_down,
            "pool_forced": stats.forced,
            "journal_records_dropped": self.journal.dropped,
        }
        kept_elsewhere |= {f"pool_evicted.{cause.value}": count for cause, count in stats.evicted.items() if count}
        if self.tracing is not None:
            kept_elsewhere["spans_dropped"] = self.tracing.dropped
        gauges = self.traffic.inflight() | {
            "pool_live": stats.live,
            "pool_leased": stats.leased,
            "pool_retired": stats.retired,
            "open_streams": self.admission.running,
            "open_connections": self._count_connections(),
            f"loop_lag_max_us.{os.getpid()}": self._loop_lag.max_us,
        }
        states: dict[str, float] = {}
        for name, provider in self.generation.providers.items():
            if provider.keys is not None:
                gauges |= {f"key_pool_state.{name}.{state}": count for state, count in provider.keys.states().items()}
            if provider.breaker is not None:
                states |= {f"circuit_breaker_state.{name}": state for name, state in provider.breaker.states().items()}
        counters = self.traffic.take() | self._growth.take(kept_elsewhere)
        return Report(os.getpid(), self.generation.number, self.unready_reason, counters, gauges, states)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.pool.sweep()

    def _drain(self, _message: Drain) -> None:
        self.is_draining = True
        self._on_drain()


def _tracing(config: TracingConfig) -> Tracing | None:
    """Return what traces requests, if anybody wants to see them: its packages are imported only then."""
    if not config.endpoint:
        return None
    from bridgeserver import exporting

    return exporting.start(config)


def _left() -> ClientClosed:
    return ClientClosed("the client left before the answer was whole")


def _stopped() -> GatewayStopped:
    return GatewayStopped("the gateway stopped before the answer was whole")
