"""The worker processes as their parent sees them, with workers that do nothing but serve a socket."""

import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

import pytest

from bridgeserver.errors import BridgeError
from bridgeserver.supervisor import listen
from bridgeserver.workers import Target, Workers
from gateway import eventually
from workerlab import die, stay, tell_pid


def ask(port: int) -> int:
    """Return the process id of a worker."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        return int(client.recv(100))


@contextmanager
def running(target: Target, count: int = 1, finish_s: float = 30) -> Generator[tuple[Workers, int]]:
    """Run workers in a thread, and finish them; yields the port as well, once they are ready."""
    ready = threading.Event()
    listeners = listen("127.0.0.1", 0, count)
    port = listeners[0].getsockname()[1]
    workers = Workers(target, listeners, finish_s, ready.set)
    thread = threading.Thread(target=workers.run)
    thread.start()
    try:
        assert ready.wait(30)
        yield workers, port
    finally:
        workers.finish()
        thread.join(30)
        assert not thread.is_alive()


def test_they_serve_one_address_and_finish() -> None:
    """Connections are spread among them; after the end nobody listens."""
    with running(tell_pid, 2) as (_workers, port):
        eventually(partial(both_answer, port))
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def both_answer(port: int) -> bool | None:
    """Whether ten connections met more than one process."""
    return True if len({ask(port) for _ in range(10)}) == 2 else None


def test_one_that_dies_is_replaced_and_its_connections_wait() -> None:
    """The listening socket is the parent's, so nobody is refused meanwhile."""
    with running(tell_pid) as (_workers, port):
        before = ask(port)
        os.kill(before, signal.SIGKILL)
        after = ask(port)
        while after == before:  # it was still answering when the signal was on its way
            after = ask(port)
        assert after != before


def test_renewal_replaces_each_and_refuses_nobody() -> None:
    """The old ones go when the new ones serve."""
    with running(tell_pid, 2) as (workers, port):
        before = {ask(port) for _ in range(30)}
        workers.renew()
        eventually(lambda: True if not before & {ask(port) for _ in range(10)} else None)


def test_workers_that_die_at_once_end_the_gateway() -> None:
    """It tries some times, and then says so."""
    (listener,) = listen("127.0.0.1", 0, 1)
    with listener, pytest.raises(BridgeError, match="died again and again"):
        Workers(die, [listener], 30, lambda: None).run()


@pytest.mark.parametrize("how", ["finish", "kill"])
def test_one_that_does_not_end_is_killed(how: str) -> None:
    """When its time is over, or at once."""
    with running(stay, finish_s=0.01 if how == "finish" else 3600) as (workers, _port):
        getattr(workers, how)()
