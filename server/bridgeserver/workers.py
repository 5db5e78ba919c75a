"""The worker processes as their parent sees them: started, replaced when they die, renewed one by one, ended.

Every worker has a listening socket of its own, among which the kernel spreads the connections. The sockets are the
parent's, so that connections that come while a worker is replaced wait for the next one and are not refused.
"""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import structlog

from bridgeserver.errors import BridgeError

log = structlog.get_logger("bridgecore")

MAX_DEATHS = 5
"""Workers in a row that may die young before the gateway gives up; each waits longer than the one before."""

YOUNG_S = 3.0
PAUSE_S = 0.1

Target = Callable[[socket.socket, Connection], None]
"""What a worker runs, with its listening socket and its end of the pipe to the parent; spawned, so it is pickled."""


class _Process:
    """One worker process, for the slot *number*."""

    def __init__(self, number: int, listener: socket.socket, target: Target) -> None:
        context = multiprocessing.get_context("spawn")  # `fork` is unsafe beside threads
        self.number = number
        self.started = time.monotonic()
        self.is_ready = False
        self.kill_at: float | None = None
        """When it is killed; None as long as it is to serve."""
        self.orders, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=target, args=(listener, theirs), name=f"worker-{number}")
        self._process.start()
        theirs.close()  # so that the end of the pipe tells of the end of the process, in both directions

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def read(self) -> None:
        """Take note of what the worker says."""
        try:
            self.orders.recv_bytes()
        except (OSError, EOFError):
            return  # it has ended, and its sentinel says so
        self.is_ready = True

    def finish(self, within_s: float) -> None:
        """Have it end what runs and exit; it is killed if that takes longer than *within_s*."""
        if self.kill_at is None:
            self.kill_at = time.monotonic() + within_s
            with suppress(OSError):
                self.orders.send_bytes(b"finish")

    def kill(self) -> None:
        """End it at once."""
        self.kill_at = float("inf")
        self._process.kill()

    def close(self) -> int | None:
        """Let go of an ended process and return its exit code."""
        self._process.join()
        code = self._process.exitcode
        self.orders.close()
        self._process.close()
        return code


class Workers:
    """One worker for each of *listeners*; `run` returns when all have ended. The other methods are for signals.

    *on_ready* is called when each of them answers requests for the first time.
    """

    def __init__(
        self, target: Target, listeners: Sequence[socket.socket], finish_s: float, on_ready: Callable[[], None]
    ) -> None:
        self._target = target
        self._listeners = listeners
        self._finish_s = finish_s
        self._on_ready: Callable[[], None] | None = on_ready
        self._serving: dict[int, _Process] = {}
        self._leaving: list[_Process] = []
        self._renewing: list[int] = []
        self._restart_at: dict[int, float] = {}
        self._deaths = 0
        self._is_finishing = False
        self._is_killing = False
        self._wants_renewal = False
        # A handler of a signal only leaves word here; what it wants is done by `run`.
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)

    def run(self) -> None:
        """Start the workers and look after them; raises BridgeError if they die again and again."""
        try:
            for number in range(len(self._listeners)):
                self._start(number)
            while self._serving or self._leaving or self._restart_at:
                self._wait()
                self._renew()
        finally:
            for process in [*self._serving.values(), *self._leaving]:
                process.kill()
                process.close()
            os.close(self._woken)
            os.close(self._waker)

    def finish(self) -> None:
        """Take no more connections, and have the workers end what runs."""
        self._is_finishing = True
        self._wake()

    def kill(self) -> None:
        """End the workers at once."""
        self._is_finishing = self._is_killing = True
        self._wake()

    def renew(self) -> None:
        """Replace the workers one by one; each old one ends what it has begun once a new one serves in its place."""
        self._wants_renewal = True
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):
            os.write(self._waker, b"!")

    def _start(self, number: int) -> None:
        self._serving[number] = _Process(number, self._listeners[number], self._target)

    def _wait(self) -> None:
        """Wait for the next event and follow it."""
        processes = [*self._serving.values(), *self._leaving]
        deadlines = [process.kill_at for process in processes if process.kill_at is not None]
        deadlines += self._restart_at.values()
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        watched: list[int | Connection] = [self._woken]
        for process in processes:
            watched += [process.sentinel] if process.is_ready else [process.sentinel, process.orders]
        ready = connection.wait(watched, None if timeout == float("inf") else timeout)
        if self._woken in ready:
            os.read(self._woken, 64)
            self._obey()
        for process in processes:
            if process.orders in ready:
                process.read()
            if process.sentinel in ready:
                self._bury(process)
            elif process.kill_at is not None and time.monotonic() >= process.kill_at:
                log.warning("worker_killed", pid=process.pid, reason="it did not end in time")
                process.kill()
        self._restart()
        for process in self._leaving:
            if process.kill_at is None and self._serves(process.number):
                process.finish(self._finish_s)
        if self._on_ready and all(map(self._serves, range(len(self._listeners)))):
            self._on_ready()
            self._on_ready = None

    def _obey(self) -> None:
        """Do what the signals asked for."""
        if self._wants_renewal:
            self._wants_renewal = False
            self._renewing = list(range(len(self._listeners)))
        if self._is_finishing:
            self._renewing.clear()
            self._restart_at.clear()
            for listener in self._listeners:
                listener.close()
            for process in [*self._serving.values(), *self._leaving]:
                if self._is_killing:
                    process.kill()
                else:
                    process.finish(self._finish_s)

    def _bury(self, process: _Process) -> None:
        """Take note of the end of a worker, and plan the next one if nobody had asked for it."""
        pid, code = process.pid, process.close()
        if process in self._leaving:
            self._leaving.remove(process)
            return
        del self._serving[process.number]
        if self._is_finishing:
            return
        log.error("worker_died", pid=pid, exit_code=code, action="another one takes its place")
        is_young = not process.is_ready or time.monotonic() - process.started < YOUNG_S
        self._deaths = self._deaths + 1 if is_young else 0
        if self._deaths > MAX_DEATHS:
            raise BridgeError("the workers died again and again; the log says why")
        self._restart_at[process.number] = time.monotonic() + PAUSE_S * max(0, self._deaths - 1)

    def _restart(self) -> None:
        for number, at in list(self._restart_at.items()):
            if time.monotonic() >= at:
                del self._restart_at[number]
                self._start(number)

    def _renew(self) -> None:
        """Go on with the renewal: the next worker is replaced when the one before it serves."""
        if self._renewing and all(map(self._serves, range(len(self._listeners)))):
            number = self._renewing.pop(0)
            self._leaving.append(self._serving.pop(number))
            self._start(number)

    def _serves(self, number: int) -> bool:
        process = self._serving.get(number)
        return process is not None and process.is_ready
