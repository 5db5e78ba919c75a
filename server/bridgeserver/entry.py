"""The entry of a worker process: its event loop, its listening socket, and how it ends."""

import asyncio
import gc
import os
import signal
import socket
import ssl
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import structlog
import uvloop

from bridgecore import Server
from bridgeserver.app import Application
from bridgeserver.config import Config
from bridgeserver.logs import backlog, configure_logs
from bridgeserver.worker import Place, Worker

log = structlog.get_logger("bridgecore")

HANDSHAKE_S = 10.0
LAST_S = 3.0
"""How long requests that were told to end may take for it."""

GC_THRESHOLDS = (5_000, 20, 50)
"""Requests leave nearly nothing to the collector, so that it may look at them less often than by default."""

READY = b"ready"


def main(config: Config, place: Place, listener: socket.socket, orders: Connection) -> None:
    """Serve connections of *listener* until there is anything to read on *orders*, or its end, which is the parent's.

    `READY` is written to it as soon as requests are answered.
    """
    # Signals to the process group, a Ctrl-C among them, are for the parent alone, which drains before it stops.
    os.setpgid(0, 0)
    # And so is every other, also when somebody signals every process there is.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    configure_logs(config.server.log_format, config.server.log_level, backlog())
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, place, listener, orders))
    except Exception:
        log.exception("worker_failed")
        sys.exit(1)


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return the context of the listening side, None without a certificate; the configuration has tried them."""
    if cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _serve(config: Config, place: Place, listener: socket.socket, orders: Connection) -> None:
    loop = asyncio.get_running_loop()
    worker = Worker(config, place)
    server = Server(
        loop,
        Application(worker).serve,
        timeout_s=config.server.keepalive_timeout_s,
        max_connections=config.server.max_connections,
    )
    await worker.start(server.wind_down, lambda: server.connections)
    tls = tls_context(config.server.tls_cert, config.server.tls_key)
    listening = await loop.create_server(
        server,
        sock=listener,
        backlog=min(config.server.max_connections, 65_535),
        ssl=tls,
        ssl_handshake_timeout=HANDSHAKE_S if tls else None,
    )
    ordered = asyncio.Event()
    loop.add_reader(orders.fileno(), ordered.set)
    # What is here now stays to the end; the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    orders.send_bytes(READY)
    await ordered.wait()
    loop.remove_reader(orders.fileno())
    listening.close()
    server.close()
    if not await _is_closed(server, config.server.drain_s):
        log.warning("drain_deadline", running=server.running, action="what still runs is cancelled and recorded")
        worker.stop()
        await _is_closed(server, LAST_S)
    server.abort()
    await worker.close()


async def _is_closed(server: Server, limit_s: float) -> bool:
    """Return whether the last connection ended within *limit_s*."""
    try:
        async with asyncio.timeout(limit_s):
            await server.wait_closed()
    except TimeoutError:
        return False
    return True
