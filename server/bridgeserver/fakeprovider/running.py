"""A provider in a thread of its own, or as a process."""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ParamSpec

import uvloop

from bridgeserver.fakeprovider.script import load_scripts
from bridgeserver.fakeprovider.server import FakeProvider

P = ParamSpec("P")


def _in_thread(make: Callable[P, FakeProvider]) -> Callable[P, AbstractContextManager[FakeProvider]]:
    @contextmanager
    def run(*arguments: P.args, **options: P.kwargs) -> Generator[FakeProvider]:
        provider = make(*arguments, **options)
        started = Future[Callable[[], object]]()
        thread = threading.Thread(target=_run, args=(provider, started), name="fake provider", daemon=True)
        thread.start()
        stop = started.result()
        try:
            yield provider
        finally:
            stop()
            thread.join()

    return run


running = _in_thread(FakeProvider)
"""Run a provider in a thread with a loop of its own; takes what `FakeProvider` takes, and yields it started."""


def _run(provider: FakeProvider, started: "Future[Callable[[], object]]") -> None:
    async def main() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        await provider.start()
        started.set_result(lambda: loop.call_soon_threadsafe(stopping.set))
        await stopping.wait()
        await provider.stop()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except BaseException as exc:
        if started.done():
            raise
        started.set_exception(exc)


async def serve(host: str, port: int, script_file: Path | None, log_file: Path | None) -> None:
    """Print where the provider listens and serve until SIGINT or SIGTERM."""
    scripts = load_scripts(script_file) if script_file else None
    provider = FakeProvider(host=host, port=port, scripts=scripts, log=log_file, keep_requests=0)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await provider.start()
    sys.stdout.write(f"fake provider on {provider.url}\n")
    sys.stdout.flush()
    await stopping.wait()
    await provider.stop()
