"""An interpreter that ends with live caches, leases, cycles and listeners ends in silence."""

import threading
import warnings
from typing import Any

from bridgecore import Cache

warnings.simplefilter("ignore", ResourceWarning)  # the leases that are lost here on purpose


class Node:
    """A value that refers to its cache and uses it when it dies."""

    def __init__(self, cache: Cache[Any, Any]) -> None:
        self.cache = cache

    def __del__(self) -> None:
        """Use it, if anything is left of it."""
        self.cache.audit()
        len(self.cache)


def listener(_key: object, _value: object, cause: object) -> None:
    """Use what a module holds, which may be gone."""
    str(cause)


plain: Cache[Any, Any] = Cache(10)
plain.set("a", [1])
plain_lease = plain.acquire("a")
heard: Cache[Any, Any] = Cache(10, on_exit=listener, clock=lambda: 0.0)
heard.set("a", [heard], ttl=5)
heard.set("b", Node(plain))
heard_lease = heard.acquire("a")
heard.delete("a")
cyclic: Cache[Any, Any] = Cache(10, on_exit=listener)
cyclic.set("itself", cyclic)
cyclic.set("node", Node(plain))
cyclic.set("lease", cyclic.set_and_acquire("held", Node(plain)))
del cyclic
started = threading.Event()


def wait() -> None:
    """Hold a listener open in a thread that does not end."""

    def block(_key: object, _value: object, _cause: object) -> None:
        started.set()
        threading.Event().wait()

    blocked: Cache[Any, Any] = Cache(10, on_exit=block)
    blocked.set("a", 1)
    blocked.close()


threading.Thread(target=wait, daemon=True).start()
assert started.wait(30)
