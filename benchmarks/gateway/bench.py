"""What all parts of the benchmark share: the upstream, the load generator, and the programs that are found."""

import http.client
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gateway import checks
from benchmarks.gateway.processes import READY_S, Load, Upstream
from benchmarks.gateway.requests import Kind
from benchmarks.gateway.subjects import Bridgecore, Peer, Subject

Row = dict[str, Any]

POLL_S = 0.002


class Case(NamedTuple):
    """Streams of one number and pace."""

    streams: int
    gap_ms: int
    events: int
    turns: int
    """Streams that follow one another on a connection."""
    ramp_s: float
    """Time over which the first streams begin."""
    from_s: float
    to_s: float
    """Between these two moments CPU time is measured: all streams are open then."""
    rounds: int
    with_peers: bool = False


class Scale(NamedTuple):
    """How much is measured."""

    chat_rounds: int
    chat_s: float
    peer_rounds: int
    connections: int
    cases: tuple[Case, ...]
    probe_s: float
    paced_rounds: int
    paced_s: float
    rates: tuple[int, ...]
    held: tuple[int, ...]
    """Open streams; the last of all, as many as descriptors allow, is added to them."""
    most_held: int
    settle_s: float
    start_rounds: int
    worker_rounds: int
    slow_clients: int
    slow_s: float
    slow_bytes: int


FULL = Scale(
    chat_rounds=5,
    chat_s=1.2,
    peer_rounds=3,
    connections=32,
    cases=(
        Case(1, gap_ms=2, events=200, turns=6, ramp_s=0, from_s=0.2, to_s=2.2, rounds=4),
        Case(64, gap_ms=10, events=200, turns=2, ramp_s=2, from_s=2, to_s=4, rounds=5),
        Case(1000, gap_ms=60, events=200, turns=1, ramp_s=2, from_s=3, to_s=11, rounds=3),
        Case(64, gap_ms=50, events=200, turns=1, ramp_s=2, from_s=2.5, to_s=9.5, rounds=1, with_peers=True),
    ),
    probe_s=0.5,
    paced_rounds=5,
    paced_s=3,
    rates=(500, 2000, 5000),
    held=(1000, 4000),
    most_held=1 << 20,
    settle_s=1,
    start_rounds=5,
    worker_rounds=9,
    slow_clients=64,
    slow_s=8,
    slow_bytes=100 << 20,
)

QUICK = Scale(
    chat_rounds=1,
    chat_s=0.1,
    peer_rounds=1,
    connections=4,
    cases=(Case(4, gap_ms=2, events=40, turns=2, ramp_s=0.05, from_s=0.05, to_s=0.1, rounds=1),),
    probe_s=0.1,
    paced_rounds=1,
    paced_s=0.3,
    rates=(200,),
    held=(20,),
    most_held=40,
    settle_s=0.1,
    start_rounds=1,
    worker_rounds=1,
    slow_clients=4,
    slow_s=0.3,
    slow_bytes=4 << 20,
)


class Bench:
    """One run."""

    def __init__(
        self, folder: Path, scale: Scale, upstream: Upstream, load: Load, subjects: Sequence[Subject], most_open: int
    ) -> None:
        self.folder = folder
        self.scale = scale
        self.upstream = upstream
        self.load = load
        self.subjects = subjects
        self.most_open = most_open
        """Descriptors that a process may have."""
        self._running = ExitStack()

    @property
    def bridgecore(self) -> Bridgecore:
        return next(subject for subject in self.subjects if isinstance(subject, Bridgecore))

    @property
    def direct(self) -> Subject:
        return self.subjects[0]

    @property
    def measured(self) -> list[Subject]:
        """The programs, without the upstream alone."""
        return list(self.subjects[1:])

    def say(self, text: str) -> None:
        """Tell who waits what is going on."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def start_all(self) -> None:
        """Have every program run; those that do already go on."""
        if not any(subject.process for subject in self.measured):
            self._running.enter_context(self.running(self.measured))

    def stop_all(self) -> None:
        """End what `start_all` has started."""
        self._running.close()

    close = stop_all

    @contextmanager
    def running(self, subjects: Sequence[Subject]) -> Generator[None]:
        """Start programs, wait until each answers rightly, and end them afterwards."""
        with ExitStack() as cleanup:
            for subject in subjects:
                cleanup.callback(subject.stop)
                subject.start()
            for subject in subjects:
                wait(subject)
            yield

    def check(self, subject: Subject) -> list[Row]:
        """Ask everything once; raise WrongAnswer if an answer is not right."""
        self.upstream.plan(events=checks.STREAM_EVENTS, gap_ms=1)
        return [checks.check(subject, kind) for kind in Kind if kind in subject.speaks]

    def closed(self, subject: Subject, kind: Kind, seconds: float, warm_s: float = 0.3) -> Row:
        """Return what a closed loop measured."""
        return self.load.run(
            "closed",
            subject.target(kind),
            connections=self.scale.connections,
            warm_s=min(warm_s, seconds),
            measure_s=seconds,
            groups=subject.groups(),
        )


def wait(subject: Subject) -> None:
    """Return as soon as the program answers a short chat rightly."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            checks.check(subject, Kind.CHAT)
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
            if subject.process is not None:
                subject.process.check()
            time.sleep(POLL_S)
        else:
            return


def is_in_round(subject: Subject, number: int, peer_rounds: int) -> bool:
    """Return whether a program is measured in a round: peers are in the first ones only, which costs the less time."""
    return number < peer_rounds or not isinstance(subject, Peer)
