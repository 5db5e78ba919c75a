"""What worker processes run in tests: it is spawned, so it has a module of its own."""

import os
import socket
import threading
from multiprocessing.connection import Connection


def tell_pid(listener: socket.socket, orders: Connection) -> None:
    """Tell everybody who connects the process id, until an order comes."""
    listener.listen()
    listener.settimeout(0.01)
    orders.send_bytes(b"ready")
    while not orders.poll():
        try:
            client, _address = listener.accept()
        except TimeoutError:
            continue
        with client:
            client.sendall(str(os.getpid()).encode())


def die(_listener: socket.socket, _orders: Connection) -> None:
    """End before anything was served."""
    raise SystemExit(3)


def stay(_listener: socket.socket, orders: Connection) -> None:
    """Serve nobody and obey nobody."""
    orders.send_bytes(b"ready")
    threading.Event().wait()
