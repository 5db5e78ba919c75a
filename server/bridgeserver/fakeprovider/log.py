"""The request log of the command line: one JSON object a line."""

import msgspec

from bridgeserver.errors import BadRequest
from bridgeserver.fakeprovider.received import Received
from bridgeserver.fakeprovider.routes import find_route
from bridgeserver.protocols import Facts, Protocol
from bridgeserver.protocols.chat import Chat
from bridgeserver.protocols.messages import Messages
from bridgeserver.protocols.responses import Responses

EXCERPT_LENGTH = 120
"""Characters of the prompt."""

_PROTOCOLS: dict[str, Protocol] = {"messages": Messages(), "chat": Chat(), "responses": Responses()}


def log_line(received: Received) -> bytes:
    """Return what a person wants to know of a request that has ended."""
    facts = _facts(received)
    line = {
        "method": received.method,
        "path": received.target,
        "model": facts.model if facts else None,
        "prompt": (facts.prompt or "")[:EXCERPT_LENGTH] if facts else None,
        "status": received.status,
        "closed_by_client": received.closed.is_set(),
    }
    return msgspec.json.encode(line) + b"\n"


def _facts(received: Received) -> Facts | None:
    route = find_route(received.path)
    protocol = _PROTOCOLS.get(route.name) if route else None
    try:
        return protocol.facts(received.body) if protocol else None
    except BadRequest:
        return None
