"""An answer in parts: each is asked of the parent when the client has taken the one before.

So a worker holds one part, however long the answer is and however slow its client. What fails in the middle breaks the
answer off: a file that looks whole is whole.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from bridgecore import Reply, Request
from bridgeserver.asks import Answer

log = structlog.get_logger("bridgecore")


async def send(
    request: Request,
    reply: Reply,
    lines: bytes,
    first: Answer,
    following: Callable[[str], Awaitable[Answer]],
    stall_s: float,
) -> None:
    """Send the answer that begins with *first*, with the header fields *lines*; *following* gives a part by its cursor.

    A client that leaves, or reads nothing for *stall_s*, ends it.
    """
    has_left = asyncio.Event()
    request.on_lost(has_left.set)
    reply.start(first.status, lines)
    part = first
    while part.cursor is not None and request.method != "HEAD":
        reply.write(part.body, more=True)
        if not await _is_taken(reply, stall_s) or has_left.is_set():
            return
        part = await following(part.cursor)
        if has_left.is_set():
            return
        if part.status != 200:
            reason = part.body[:500].decode("utf-8", "replace")
            log.error("download_broken_off", path=request.path, status=part.status, reason=reason)
            return
    reply.write(part.body, more=False)


async def _is_taken(reply: Reply, stall_s: float) -> bool:
    """Wait until the client has taken what was written; return False if it reads nothing for *stall_s*."""
    try:
        async with asyncio.timeout(stall_s):
            await reply.drain()
    except TimeoutError:
        return False
    return True
