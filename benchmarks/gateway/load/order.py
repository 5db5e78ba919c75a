"""What the load generator is told, and what it answers."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from benchmarks.gateway.accounting import Cpu, cpu

Groups = Mapping[str, Sequence[int]]
"""Process ids of the program under test, by what they are for."""

Times = dict[str, Cpu]


class Target(TypedDict):
    """Where to send which request, and what a right answer is."""

    port: int
    request: str
    body_bytes: int | None
    """None where the program under test makes answers of its own, whose length varies."""
    events: int | None


class Window:
    """CPU time of the program under test between two moments."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._began: Times = {}
        self.used: Times = {}

    def begin(self) -> None:
        self._began = {name: cpu(pids) for name, pids in self._groups.items()}

    def end(self) -> None:
        for name, pids in self._groups.items():
            parts = zip(cpu(pids), self._began[name], strict=True)
            self.used[name] = Cpu(*(after - before for after, before in parts))
