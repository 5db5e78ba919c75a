"""Clients that read a little at a time of much."""

import asyncio
import socket
from typing import Any

from benchmarks.gateway.load.order import Target

READ_BYTES = 1 << 14
EVERY_S = 0.05
FIRST_S = 10.0
"""How much longer than asked for a client waits for its first bytes at most: others may use the machine."""


async def run(target: Target, clients: int, seconds: float) -> dict[str, Any]:
    """Read slowly for a while, and return how many bytes each client has read."""
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    for _ in range(clients):
        connection = socket.socket()
        connection.setblocking(False)
        sockets.append(connection)
        await loop.sock_connect(connection, ("127.0.0.1", target["port"]))
        await loop.sock_sendall(connection, target["request"].encode())
    read = [0] * clients
    statuses = [b""] * clients
    end = loop.time() + seconds
    while (now := loop.time()) < end or (not all(read) and now < end + FIRST_S):
        for number, connection in enumerate(sockets):
            try:
                data = connection.recv(READ_BYTES)
            except BlockingIOError:
                continue
            if not read[number]:
                statuses[number] = data[9:12]
            read[number] += len(data)
        await asyncio.sleep(EVERY_S)
    for connection in sockets:
        connection.close()
    return {"read": read, "wrong": sum(status != b"200" for status in statuses)}
