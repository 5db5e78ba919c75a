"""What tools cost a request: 50 tools of MCP servers spliced into its body.

    python benchmarks/injecting.py [--quick] [--json OUT]

A row is the CPU time of one request: finding the places, and making the body that is sent. The tools' own bytes are
made once a bridge and not here. The bodies: a short chat, and one of 40 turns with 20 tools of the client's own, as a
coding agent sends them. "Parse and dump" is what it would cost to read and write the same bodies as JSON by msgspec,
which is the fastest library for that and changes bytes that are not its own.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from common import about, save, table

from bridgeserver.protocols import Protocol
from bridgeserver.protocols.chat import Chat
from bridgeserver.protocols.messages import Messages
from bridgeserver.protocols.responses import Responses
from bridgeserver.tools.names import id_of
from bridgeserver.tools.tool import Catalog, Tool
from bridgeserver.weaving import weave

PACKAGES = ("msgspec",)
TOOLS = 50
TURNS = 40
OWN = 20
SCHEMA = {
    "type": "object",
    "properties": {
        name: {"type": "string", "description": f"The {name} that is meant, as the search shows it."}
        for name in ("query", "space", "author", "since", "limit")
    },
    "required": ["query"],
}
SAID = "I have looked at the file; the function that you mean reads its input twice. " * 14


def catalog() -> Catalog:
    """Return the tools of a server."""
    names = [f"search_{number:02d}" for number in range(TOOLS)]
    return Catalog(
        Tool(id_of("wiki", name), name, "wiki", "https://wiki.example.com/mcp", f"Search shelf {name}.", SCHEMA)
        for name in names
    )


def bodies(kind: str) -> tuple[bytes, bytes]:
    """Return a short request and a long one."""
    describe: dict[str, Callable[[str], dict[str, Any]]] = {
        "messages": lambda name: {"name": name, "description": SAID, "input_schema": SCHEMA},
        "chat": lambda name: {
            "type": "function",
            "function": {"name": name, "description": SAID, "parameters": SCHEMA},
        },
        "responses": lambda name: {"type": "function", "name": name, "description": SAID, "parameters": SCHEMA},
    }
    member = "input" if kind == "responses" else "messages"
    turns = [{"role": ("user", "assistant")[turn % 2], "content": SAID} for turn in range(TURNS + 1)]
    short = {"model": "m", "max_tokens": 99, member: turns[:1]}
    long = {"model": "m", "max_tokens": 99, "tools": [describe[kind](f"own_{n}") for n in range(OWN)], member: turns}
    return msgspec.json.encode(short), msgspec.json.encode(long)


def parse_and_dump(body: bytes) -> bytes:
    """Return the same JSON, read and written."""
    return msgspec.json.encode(msgspec.json.decode(body))


def cost_us(work: Callable[[], object], count: int, rounds: int) -> float:
    """Return the median over rounds of one call's CPU time."""

    def one() -> float:
        began = time.process_time_ns()
        for _ in range(count):
            work()
        return (time.process_time_ns() - began) / 1000 / count

    one()
    return median(one() for _ in range(rounds))


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a few calls only, to see that it runs")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    count, rounds = (20, 1) if options.quick else (2000, 9)
    tools = catalog()
    protocols: dict[str, Protocol] = {"messages": Messages(), "chat": Chat(), "responses": Responses()}
    rows: list[dict[str, Any]] = []
    for name, protocol in protocols.items():
        for length, body in zip(("short", "long"), bodies(name), strict=True):
            inject = partial(weave, protocol, body, tools, {}, drops_usage=False)
            parse = partial(parse_and_dump, body)
            rows.append(
                {
                    "protocol": name,
                    "body": length,
                    "bytes": len(body),
                    "inject_us": cost_us(inject, count, rounds),
                    "parse_us": cost_us(parse, count, rounds),
                }
            )
    cells = [
        [
            f"{row['protocol']}, {row['body']}",
            f"{row['bytes']:,}",
            f"{row['inject_us']:.1f}",
            f"{row['parse_us']:.1f}",
        ]
        for row in rows
    ]
    print(table(("request", "bytes", f"inject {TOOLS} tools, µs", "parse and dump, µs"), cells))
    if options.json:
        save(options.json, about(PACKAGES), {"injecting": rows})


if __name__ == "__main__":
    main()
