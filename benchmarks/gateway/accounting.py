"""What the kernel knows of a process: its CPU time, its memory, its children (Linux)."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")

PROC = Path("/proc")


class Stat(NamedTuple):
    """The parts of `/proc/PID/stat` that are asked for here."""

    parent: int
    user_us: int
    system_us: int


class Cpu(NamedTuple):
    """CPU time that processes have used, in µs."""

    total: float
    user: float
    system: float


class Memory(NamedTuple):
    """Resident memory in KB: all of it, and with shared pages divided by who shares them."""

    rss: int
    pss: int


def parse_stat(text: str) -> Stat:
    """Return what a line of `/proc/PID/stat` says; the name in it may hold spaces and parentheses."""
    fields = text.rpartition(")")[2].split()
    return Stat(int(fields[1]), int(fields[11]) * TICK_US, int(fields[12]) * TICK_US)


def parse_memory(text: str) -> Memory:
    """Return what `/proc/PID/smaps_rollup` says."""
    sizes = dict(line.split()[:2] for line in text.splitlines()[1:])
    return Memory(int(sizes["Rss:"]), int(sizes["Pss:"]))


def parse_peak(text: str) -> int:
    """Return the highest resident memory in KB, from `/proc/PID/status`."""
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:"))


def stat(pid: int) -> Stat:
    return parse_stat((PROC / str(pid) / "stat").read_text())


def cpu(pids: Iterable[int]) -> Cpu:
    """Return the CPU time of processes with all their threads, those included that have ended.

    The total is the processes' CPU clock, exact to the microsecond; `/proc/PID/stat` counts the same in ticks of 10 ms
    and is asked only for how it divides into user and system.
    """
    total = user = system = 0.0
    for pid in pids:
        total += time.clock_gettime_ns(_cpu_clock(pid)) / 1000
        parts = stat(pid)
        user += parts.user_us
        system += parts.system_us
    return Cpu(total, user, system)


def _cpu_clock(pid: int) -> int:
    """Return the id of a process's CPU clock, as clock_getcpuclockid(3) of Linux makes it."""
    return (~pid << 3) | 2


def memory(pid: int) -> Memory:
    return parse_memory((PROC / str(pid) / "smaps_rollup").read_text())


def peak_rss(pid: int) -> int:
    """Return the highest resident memory in KB since the start or the last `forget_peak`."""
    return parse_peak((PROC / str(pid) / "status").read_text())


def forget_peak(pid: int) -> None:
    """Let the highest resident memory begin anew with what is resident now."""
    (PROC / str(pid) / "clear_refs").write_text("5")


def command_line(pid: int) -> str:
    return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def tree(root: int) -> list[int]:
    """Return a process and everything below it, parents first."""
    return descend(root, dict(_parents()))


def descend(root: int, parents: Mapping[int, int]) -> list[int]:
    """Return the process and its descendants, given each process's parent."""
    found = [root]
    for pid in found:  # grows meanwhile
        found += sorted(child for child, parent in parents.items() if parent == pid)
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                yield int(folder.name), parse_stat((folder / "stat").read_text()).parent
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
