"""An MCP server in a process of its own, of the official package, with every kind of tool and every kind of fault.

    python mcpserver.py [--port PORT] [--old] [--stateful]

It prints its URL. `POST /mode` with the name of a fault lets it answer so from then on; `GET /seen` says what it was
asked, and `GET /calls` which calls began, ended and were cancelled.
"""

import argparse
import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from mcp.server.mcpserver import Audio, Context, Image, MCPServer
from mcp_types import CallToolResult, EmbeddedResource, ResourceLink, TextContent, TextResourceContents, Tool

Json = dict[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PNG = b"\x89PNG\r\n\x1a\n"
MEGABYTE = 1 << 20

server = MCPServer("laboratory", version="1", log_level="CRITICAL")
calls: list[list[Any]] = []
gates: dict[str, asyncio.Event] = {}


@server.tool()
def add(a: int, b: int) -> str:
    """Add two numbers."""
    calls.append(["add", a, b])
    return str(a + b)


@server.tool()
async def wait(seconds: float, label: str = "") -> str:
    """Take a while, or until the gate of that name is open."""
    calls.append(["begun", label])
    try:
        if label:
            await asyncio.wait_for(gates.setdefault(label, asyncio.Event()).wait(), seconds)
        else:
            await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        calls.append(["cancelled", label])
        raise
    calls.append(["ended", label])
    return "done"


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("it is broken")


@server.tool()
def whoami(context: Context) -> str:
    """Say as whom the caller comes."""
    headers = context.headers or {}
    return str(headers.get("authorization") or headers.get("x-team") or "nobody")


@server.tool()
def everything() -> CallToolResult:
    """Answer with content of every kind."""
    link = ResourceLink(type="resource_link", uri="file:///plan.md", name="plan", mime_type="text/markdown")
    text = TextResourceContents(uri="file:///a.txt", mime_type="text/plain", text="from a file")
    return CallToolResult(
        content=[
            TextContent(type="text", text="words"),
            Image(data=PNG, format="png").to_image_content(),
            Audio(data=b"RIFF", format="wav").to_audio_content(),
            EmbeddedResource(type="resource", resource=text),
            link,
        ],
        structured_content={"answer": 42},
    )


@server.tool()
def large(megabytes: int) -> str:
    """Answer with that many megabytes."""
    return "x" * (megabytes * MEGABYTE)


@server.tool()
async def learn(name: str, context: Context) -> str:
    """Have one more tool from now on, and say so."""
    server.add_tool(lambda: f"I am {name}", name=name, description=f"Learnt: {name}.")
    await context.notify_tools_changed()
    await context.request_context.session.send_tool_list_changed()
    return "learnt"


@server.tool(name="odd.name/with spaces")
def odd() -> str:
    """Have a name that no provider takes."""
    return "odd"


class Front:
    """What stands before the server's own application: faults, and a memory."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], *, is_old: bool) -> None:
        self._app = app
        self._is_old = is_old
        self._mode = "fine"
        self._seen: list[Json] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        if path == "/seen":
            await answer(send, 200, json.dumps(self._seen).encode())
        elif path == "/calls":
            await answer(send, 200, json.dumps(calls).encode())
        elif path == "/mode":
            self._mode = (await body_of(receive)).decode()
            await answer(send, 200, b"{}")
        elif path == "/open":
            gates.setdefault((await body_of(receive)).decode(), asyncio.Event()).set()
            await answer(send, 200, b"{}")
        else:
            body = await body_of(receive)
            asked: Json = json.loads(body) if body else {}
            self._seen.append({"method": method, "rpc": asked.get("method"), "headers": headers, "body": asked})
            await self._ask(scope, receive, send, body, asked)

    async def _ask(self, scope: Message, receive: Receive, send: Send, body: bytes, asked: Json) -> None:
        rpc, mode = asked.get("method"), self._mode
        if self._is_old and rpc == "server/discover":
            await answer(send, 400, b"Bad Request: unknown method")
        elif mode == "fine" or WHERE.get(mode.partition(":")[0], rpc) != rpc:
            await self._app(scope, replaying(body, receive), send)
        else:
            await self._misbehave(mode.removeprefix("call:").removeprefix("list:"), receive, send, asked)

    async def _misbehave(self, mode: str, receive: Receive, send: Send, asked: Json) -> None:
        if mode.isdigit():
            await answer(send, int(mode), b"no", b"text/plain")
        elif mode == "silence":
            while (await receive())["type"] != "http.disconnect":
                pass
        elif mode == "endless":
            await begin(send, 200, [(b"content-type", b"text/event-stream")])
            for _ in range(200):
                await send({"type": "http.response.body", "body": b": " + b"x" * MEGABYTE + b"\n", "more_body": True})
                await asyncio.sleep(0)
        elif mode == "error":
            error = {"code": -32602, "message": "the arguments are no good"}
            await answer(send, 200, json.dumps({"jsonrpc": "2.0", "id": asked.get("id"), "error": error}).encode())
        elif mode == "no-result":
            result = {"content": [{"type": "text", "text": {"private": 1}}], **LIST_END}
            await answer(send, 200, json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode())
        elif mode == "pages":
            params: Json = asked.get("params") or {}
            first = int(params.get("cursor") or 0)
            tools = [listed(f"tool_{first + number:04d}", HEAVY) for number in range(20)]
            result = {"tools": tools, "nextCursor": str(first + 20), **LIST_END}
            await answer(send, 200, json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode())
        elif mode in LISTS:
            result = {"tools": LISTS[mode], **LIST_END}
            await answer(send, 200, json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode())
        else:
            await answer(send, *ANSWERS[mode])


WHERE = {"call": "tools/call", "list": "tools/list"}
"""Which requests a mode is about, by how it begins; else all of them."""

ANSWERS: dict[str, tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]] = {
    "garbage": (200, b"<html>welcome</html>", b"text/html", []),
    "broken-json": (200, b'{"jsonrpc": "2.0", "id"', b"application/json", []),
    "redirect": (307, b"", b"text/plain", [(b"location", b"http://127.0.0.1:9/elsewhere")]),
    "gzip": (200, b"\x1f\x8b", b"application/json", [(b"content-encoding", b"gzip")]),
}


def listed(name: str, schema: Json | None = None) -> Json:
    """Return a tool as a server lists it."""
    return Tool(name=name, description="One of many.", input_schema=schema or {"type": "object"}).model_dump(
        by_alias=True, exclude_none=True
    )


LIST_END: Json = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}

HEAVY: Json = {"type": "object", "description": "x" * 60_000}

LOOSE: Json = {"type": "object", "anyOf": [{"properties": {"a": {"type": "array"}}}, {"required": ["b"]}]}

LISTS = {
    "loose": [listed("loose", LOOSE), listed("bare", {"type": "object"})],
    "many": [listed(f"tool_{number:04d}") for number in range(2000)],
    "heavy": [listed("light"), listed("heavy", {"type": "object", "description": "x" * MEGABYTE})],
}


def replaying(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already."""
    is_given = False

    async def again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def body_of(receive: Receive) -> bytes:
    """Return a whole body."""
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def answer(
    send: Send,
    status: int,
    body: bytes,
    media_type: bytes = b"application/json",
    extra: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Send a whole answer."""
    await begin(send, status, [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *(extra or [])])
    await send({"type": "http.response.body", "body": body})


async def begin(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    """Send the head of an answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--old", action="store_true")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", options.port))
    front = Front(server.streamable_http_app(json_response=False), is_old=options.old)
    config = uvicorn.Config(front, log_level="critical", lifespan="on", timeout_graceful_shutdown=1)
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
