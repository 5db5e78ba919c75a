"""Takes orders from standard input, a line `{"run": NAME, …}` each, answers each with a line, and ends with its input.

python -m benchmarks.gateway.load
"""

import asyncio
import gc
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvloop

from benchmarks.gateway.load import closed, paced, slow, streams
from benchmarks.gateway.load.held import Held


async def _serve() -> None:
    held = Held()
    ways: Mapping[str, Callable[..., Awaitable[Any]]] = {
        "closed": closed.run,
        "paced": paced.run,
        "streams": streams.run,
        "hold": held.grow,
        "let_go": held.let_go,
        "slow": slow.run,
    }
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()
    gc.disable()  # its pauses would be taken for those of the program under test
    while line := await lines.get():
        gc.collect()
        order = json.loads(line)
        answer = await ways[order.pop("run")](**order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve())
