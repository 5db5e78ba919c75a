"""A company's MCP server, to try the gateway with: which meeting rooms there are, and which are free.

    python examples/mcp_server.py [PORT]

It needs the package `mcp` (`pip install 'bridgecore[mcp]'`). docs/tools.md shows it at work.
"""

import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

SEATS = {"Ada": 4, "Grace": 8, "Hedy": 12}

server = MCPServer("office", version="1.0", log_level="WARNING")
booked: dict[str, str] = {}


@server.tool()
def free_rooms(people: int) -> str:
    """Say which meeting rooms are free and have seats for that many people."""
    rooms = [room for room, seats in SEATS.items() if seats >= people and room not in booked]
    return ", ".join(rooms) or "none"


@server.tool()
def book_room(room: str, purpose: str) -> str:
    """Book a meeting room for the rest of the day."""
    if room not in SEATS:
        raise ToolError(f"there is no room {room}; there are {', '.join(SEATS)}")
    if room in booked:
        raise ToolError(f"{room} is booked for {booked[room]}")
    booked[room] = purpose
    return f"{room} is booked"


if __name__ == "__main__":
    server.run("streamable-http", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8090)
