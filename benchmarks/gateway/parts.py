"""What is measured, part by part."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from benchmarks.gateway import accounting
from benchmarks.gateway.bench import Bench, Case, Row, is_in_round, wait
from benchmarks.gateway.processes import CORES, LOAD_CORE, TEST_CORE
from benchmarks.gateway.requests import Kind
from benchmarks.gateway.subjects import Bridgecore, Nginx, Peer, Subject

ENOUGH = 1.3
"""A peer is measured at a rate if it carries so many times as much in a closed loop."""

SPARE = 200
"""Descriptors that a process needs for other things than streams."""

SHIPPED_S = 15.0


class Incomplete(Exception):
    """What was recorded is not what was answered."""


def checked(bench: Bench) -> list[Row]:
    """Ask every program everything once."""
    return [row for subject in bench.subjects for row in bench.check(subject)]


def chat(bench: Bench) -> list[Row]:
    """Measure requests a second in a closed loop and the CPU time of each: short chats and long bodies."""
    rows: list[Row] = []
    scale = bench.scale
    answered = 0
    before = _count(bench.bridgecore)
    for number in range(scale.chat_rounds):
        for subject in bench.subjects:
            if not is_in_round(subject, number, scale.peer_rounds):
                continue
            for kind in (Kind.CHAT, Kind.CLAUDE_100K, Kind.CLAUDE_1M):
                if kind in subject.speaks:
                    found = bench.closed(subject, kind, scale.chat_s)
                    answered += found["answered_ever"] if isinstance(subject, Bridgecore) else 0
                    rows.append({"subject": subject.name, "kind": kind, "round": number, **found})
        bench.say(f"chat: round {number + 1} of {scale.chat_rounds}")
    recorded = _wait_for_records(bench.bridgecore, before + answered) - before
    return [*rows, {"subject": "bridgecore", "kind": "records", "answered": answered, "recorded": recorded}]


def _wait_for_records(gateway: Bridgecore, expected: int) -> int:
    """Return how many completed interceptions are in the store, when all are; raise Incomplete if some stay away."""
    deadline = time.monotonic() + SHIPPED_S
    while (found := _count(gateway)) < expected:
        if time.monotonic() > deadline:
            raise Incomplete(f"expected {expected} completed records in the store, found {found}")
        time.sleep(0.05)
    return found


def _count(gateway: Bridgecore) -> int:
    return gateway.recorded().get("completed", 0)


def streams(bench: Bench) -> list[Row]:
    """Measure CPU time of an event, and time to the first one, with many streams at once."""
    rows: list[Row] = []
    for case in bench.scale.cases:
        bench.upstream.plan(events=case.events, gap_ms=case.gap_ms)
        taking_part = [each for each in bench.subjects if case.with_peers or not isinstance(each, Peer)]
        for number in range(case.rounds):
            rows.extend(_stream(bench, subject, case) | {"round": number} for subject in taking_part)
        bench.say(f"streams: {case.streams} at once, {case.gap_ms} ms between events")
    return rows


def _stream(bench: Bench, subject: Subject, case: Case) -> Row:
    found = bench.load.run(
        "streams",
        subject.target(Kind.STREAM, events=case.events),
        count=case.streams,
        turns=case.turns,
        ramp_s=case.ramp_s,
        span_s=(case.from_s, case.to_s),
        groups=subject.groups(),
    )
    return {"subject": subject.name, "streams": case.streams, "gap_ms": case.gap_ms, **found}


def paced(bench: Bench) -> list[Row]:
    """Measure the latency of short chats that leave at fixed times, whatever the answers do."""
    rows: list[Row] = []
    scale = bench.scale
    fit = {subject.name: scale.rates for subject in bench.subjects}
    for subject in bench.subjects:
        if isinstance(subject, Peer):
            carried = _probe(bench, subject)
            fit[subject.name] = tuple(rate for rate in scale.rates if carried >= ENOUGH * rate)
            left_out = [rate for rate in scale.rates if rate not in fit[subject.name]]
            rows.append({"subject": subject.name, "carried": carried, "left_out": left_out})
    for number in range(scale.paced_rounds):
        for rate in scale.rates:
            for subject in bench.subjects:
                if is_in_round(subject, number, scale.peer_rounds) and rate in fit[subject.name]:
                    order = {"connections": 4 * scale.connections, "rate": rate, "seconds": scale.paced_s}
                    found = bench.load.run("paced", subject.target(Kind.CHAT), **order, seed=number)
                    rows.append({"subject": subject.name, "rate": rate, "round": number, **found})
        bench.say(f"latency: round {number + 1} of {scale.paced_rounds}")
    return rows


def _probe(bench: Bench, subject: Subject) -> float:
    found = bench.closed(subject, Kind.CHAT, bench.scale.probe_s)
    return float(found["answered"] / found["seconds"])


def memory(bench: Bench) -> list[Row]:
    """Measure resident memory, idle and with streams that stay open."""
    rows: list[Row] = []
    scale = bench.scale
    most = min(scale.most_held, (bench.most_open - SPARE) // 2)
    for subject in bench.measured:
        if isinstance(subject, Bridgecore):
            subject.configure(more=f"upstream_pool = {most + SPARE}")
        counts = scale.held[:1] if isinstance(subject, Peer) else (*scale.held, most)
        with bench.running([subject]):
            bench.upstream.plan(hold=True)
            time.sleep(scale.settle_s)
            rows.append(_resident(subject, 0) | {"idle_us_a_second": _idle(subject, scale.settle_s)})
            for count in counts:
                opened = bench.load.run("hold", subject.target(Kind.STREAM), count=count)["open"]
                time.sleep(scale.settle_s)
                rows.append(_resident(subject, opened) | {"wanted": count})
            bench.load.run("let_go")
        bench.say(f"memory: {subject.name}")
    bench.bridgecore.configure()
    return rows


def _resident(subject: Subject, count: int) -> Row:
    groups = subject.groups()
    resident = {name: [accounting.memory(pid) for pid in pids] for name, pids in groups.items()}
    return {
        "subject": subject.name,
        "streams": count,
        "rss_kb": {name: sum(each.rss for each in found) for name, found in resident.items()},
        "pss_kb": {name: sum(each.pss for each in found) for name, found in resident.items()},
    }


def _idle(subject: Subject, seconds: float) -> dict[str, float]:
    """Return how much CPU time the program uses in a second in which nothing happens."""
    before = {name: accounting.cpu(pids).total for name, pids in subject.groups().items()}
    time.sleep(seconds)
    return {name: (accounting.cpu(pids).total - before[name]) / seconds for name, pids in subject.groups().items()}


def startup(bench: Bench) -> list[Row]:
    """Measure the time from the start of a program to its first right answer."""
    rows: list[Row] = []
    for number in range(bench.scale.start_rounds):
        for subject in bench.measured:
            if is_in_round(subject, number, 1):
                began = time.perf_counter()
                with bench.running([subject]):
                    rows.append({"subject": subject.name, "round": number, "seconds": time.perf_counter() - began})
    bench.say(f"start-up: {bench.scale.start_rounds} rounds")
    return rows


def workers(bench: Bench) -> list[Row]:
    """Measure two workers beside one. All cores are theirs, and the load generator's and the upstream's too."""
    rows: list[Row] = []
    with ExitStack() as cleanup:
        gateways: dict[int, Bridgecore] = {}
        for count in (1, 2):
            folder = bench.folder / f"workers-{count}"
            folder.mkdir(exist_ok=True)
            gateways[count] = gateway = Bridgecore(folder, bench.upstream.port)
            gateway.configure(workers=count)
            cleanup.callback(gateway.stop)
            gateway.start(CORES)
        for count, gateway in gateways.items():
            wait(gateway)
            _spread(gateway, count)
        for number in range(bench.scale.worker_rounds):
            for count, gateway in gateways.items():
                groups = gateway.groups()
                each = {f"worker {place}": [pid] for place, pid in enumerate(groups["worker"])}
                found = bench.load.run(
                    "closed",
                    gateway.target(Kind.CHAT),
                    connections=4 * bench.scale.connections,
                    warm_s=min(0.3, bench.scale.chat_s),
                    measure_s=bench.scale.chat_s,
                    groups={**each, "parent": groups["parent"]},
                )
                rows.append({"workers": count, "round": number, **found})
    bench.say(f"workers: {bench.scale.worker_rounds} rounds")
    return rows


def _spread(gateway: Bridgecore, count: int) -> None:
    """Give each worker a core, the second one that of the load generator and the upstream."""
    deadline = time.monotonic() + SHIPPED_S
    while len(found := gateway.groups()["worker"]) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected {count} workers, found {len(found)}")
        time.sleep(0.05)
    for pid, core in zip(found, (TEST_CORE, LOAD_CORE), strict=False):
        for thread in (accounting.PROC / str(pid) / "task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def slow(bench: Bench) -> list[Row]:
    """Measure the highest resident memory while many clients read slowly what the upstream would send fast."""
    rows: list[Row] = []
    scale = bench.scale
    for subject in bench.measured:
        if not isinstance(subject, Bridgecore | Nginx):
            continue
        with bench.running([subject]):
            bench.upstream.plan(bulk_bytes=scale.slow_bytes)
            pids = subject.groups()["worker"]
            before = sum(accounting.memory(pid).rss for pid in pids)
            for pid in pids:
                accounting.forget_peak(pid)
            order = {"clients": scale.slow_clients, "seconds": scale.slow_s}
            found = bench.load.run("slow", subject.target(Kind.STREAM), **order)
            rows.append(
                {
                    "subject": subject.name,
                    "clients": scale.slow_clients,
                    "bytes_each": scale.slow_bytes,
                    "rss_kb_before": before,
                    "peak_rss_kb": sum(accounting.peak_rss(pid) for pid in pids),
                    "read_bytes": math.fsum(found["read"]),
                    "wrong": found["wrong"],
                }
            )
    bench.say(f"slow clients: {scale.slow_clients} at once")
    return rows


class Part(NamedTuple):
    """One of the questions."""

    measure: Callable[[Bench], Sequence[Row]]
    is_with_all: bool
    """Whether it wants all programs running; those of the part before go on then. The others start their own."""


PARTS: Mapping[str, Part] = {
    "checks": Part(checked, is_with_all=True),
    "chat": Part(chat, is_with_all=True),
    "streams": Part(streams, is_with_all=True),
    "latency": Part(paced, is_with_all=True),
    "memory": Part(memory, is_with_all=False),
    "startup": Part(startup, is_with_all=False),
    "workers": Part(workers, is_with_all=False),
    "slow": Part(slow, is_with_all=False),
}


def measure(bench: Bench, name: str) -> Sequence[Row]:
    """Return the rows of one part."""
    part = PARTS[name]
    if part.is_with_all:
        bench.start_all()
    else:
        bench.stop_all()
    return part.measure(bench)
