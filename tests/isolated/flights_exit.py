"""An interpreter that ends with flights under way in threads ends in silence."""

import threading

from bridgecore import FlightGroup

group = FlightGroup()
started = threading.Event()


def work() -> None:
    """Never end."""
    started.set()
    threading.Event().wait()


for _ in range(3):
    threading.Thread(target=group.do, args=("key", work), daemon=True).start()
assert started.wait(30)
pause = threading.Event()
while group.stats().joined < 2:
    pause.wait(0.0002)
