"""`/-/healthz` and `/-/readyz`: open to everybody, and without detail."""

from bridgeserver.reply import Reply
from bridgeserver.request import Request
from bridgeserver.worker import Worker

TEXT = b"text/plain; charset=utf-8"


async def answer(worker: Worker, request: Request, reply: Reply) -> None:
    """Answer a request below `/-/`; an unknown one is 404."""
    if request.method not in {"GET", "HEAD"} or request.path not in {"/-/healthz", "/-/readyz"}:
        await reply.whole(404, f"route not supported: {request.method} {request.path}\n".encode("latin-1"), TEXT)
    elif request.path == "/-/healthz" or worker.is_ready:
        await reply.whole(200, b"ok\n", TEXT)
    else:
        await reply.whole(503, b"not ready\n", TEXT, [(b"retry-after", b"1")])
