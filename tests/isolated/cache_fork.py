"""A child that is forked while a listener runs, in another thread or in its own, delivers what it drops."""

import os
import threading
import warnings

from bridgecore import Cache

warnings.simplefilter("ignore", DeprecationWarning)  # later versions warn of forks beside threads
entered = threading.Event()
leave = threading.Event()
seen: list[str] = []


def listener(key: str, _value: object, _cause: object) -> None:
    """Wait with the first key until the test says so."""
    seen.append(key)
    if key == "first":
        entered.set()
        leave.wait(30)


def check(child_ok: bool) -> None:
    """End a child; its parent looks at the code."""
    os._exit(0 if child_ok else 1)


cache: Cache[str, int] = Cache(10, on_exit=listener)
for name in ("first", "second", "third", "fourth"):
    cache.set(name, 1)
thread = threading.Thread(target=cache.delete, args=("first",))
thread.start()
assert entered.wait(30)
cache.delete("second")  # waits for the other thread
assert seen == ["first"]
pid = os.fork()
if pid == 0:
    cache.audit()
    cache.delete("third")
    cache.audit()
    check(seen == ["first", "second", "third"] and "fourth" in cache)
assert os.waitpid(pid, 0)[1] == 0
assert seen == ["first"]
leave.set()
thread.join()
assert seen == ["first", "second"]
cache.audit()


inside: list[str] = []
nested: list[str] = []
children: list[int] = []


def forking(key: str, _value: object, _cause: object) -> None:
    """Fork at the first key; cause an exit at each of the others."""
    nested.extend(inside)
    inside.append(key)
    seen.append(key)
    if key == "0":
        children.append(os.fork())
    if int(key) < 5:
        forked.set(str(int(key) + 1), 1)
        forked.delete(str(int(key) + 1))
    inside.pop()


seen.clear()
forked: Cache[str, int] = Cache(10, on_exit=forking)
forked.set("0", 1)
forked.delete("0")
forked.audit()
good = seen == list("012345") and not nested
if children == [0]:
    check(good)
assert good, (seen, nested)
assert os.waitpid(children[0], 0)[1] == 0, "exits were nested in the child"
