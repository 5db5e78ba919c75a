"""Which client sent a request, and in which of its sessions: a table, and how to read it."""

from collections.abc import Callable
from functools import lru_cache

import msgspec

from bridgeserver.protocols import lenient

Header = Callable[[bytes], bytes | None]
"""Returns the value of a request header by its lower-case name."""

UNKNOWN = "Unknown"


class Client(msgspec.Struct, frozen=True):
    """One row: a client is known by the start of its user agent (in lower case) or by another header."""

    name: str
    user_agents: tuple[bytes, ...] = ()
    originator: bytes | None = None
    marker: bytes | None = None
    """A header that only this client sends."""
    session_headers: tuple[bytes, ...] = ()
    """The first that is not blank wins."""
    has_session_hint: bool = False


# The first row that fits wins, so the order matters where one client carries another's mark.
CLIENTS: tuple[Client, ...] = (
    Client("Xum", (b"xum/", b"mux/"), session_headers=(b"x-mux-workspace-id",)),
    Client(
        "Claude Code",
        (b"claude",),
        session_headers=(b"x-claude-code-session-id",),
        has_session_hint=True,
    ),
    Client("Codex", (b"codex",), session_headers=(b"session-id", b"session_id")),
    Client("Zed", (b"zed/",)),
    Client("GitHub Copilot (VS Code)", (b"githubcopilotchat/",), session_headers=(b"x-interaction-id",)),
    Client("GitHub Copilot (CLI)", (b"copilot/",), session_headers=(b"x-client-session-id",)),
    Client("Kilo Code", (b"kilo-code/",), originator=b"kilo-code", session_headers=(b"x-kilocode-taskid",)),
    Client("Roo Code", (b"roo-code/",), originator=b"roo-code"),
    Client("Coder Agents", (b"coder-agents/",), session_headers=(b"x-coder-chat-id",)),
    Client("Charm Crush", (b"charm crush/", b"charm-crush/")),
    Client("OpenCode", (b"opencode/",), session_headers=(b"x-opencode-session", b"x-session-affinity")),
    Client("Junie", (b"junie:",)),
    Client("Cursor", marker=b"x-cursor-client-version"),
)

AGENT_BYTES = max(len(start) for client in CLIENTS for start in client.user_agents)
"""What has to be looked at of a user agent."""

MARKS = (b"originator", *(client.marker for client in CLIENTS if client.marker is not None))
"""Headers other than the user agent by which a client is known."""


def detect(header: Header, session_hint: str | None) -> tuple[str, str | None]:
    """Return the client's name and its session id.

    *session_hint* is `Facts.session_hint`; it is read only for a client that keeps its session there.
    """
    user_agent = (header(b"user-agent") or b"")[:AGENT_BYTES].lower()
    if any(map(header, MARKS)):
        client = next((client for client in CLIENTS if _is_sent_by(client, user_agent, header)), None)
    else:
        client = _of_user_agent(user_agent)
    if client is None:
        return UNKNOWN, None
    return client.name, _session_id(client, header, session_hint)


@lru_cache(1024)
def _of_user_agent(user_agent: bytes) -> Client | None:
    """Return the client that is known by its user agent; there are few of them, and each sends many requests."""
    return next(
        (client for client in CLIENTS if client.user_agents and user_agent.startswith(client.user_agents)), None
    )


def _is_sent_by(client: Client, user_agent: bytes, header: Header) -> bool:
    if client.user_agents and user_agent.startswith(client.user_agents):
        return True
    if client.originator is not None and header(b"originator") == client.originator:
        return True
    return client.marker is not None and bool(header(client.marker))


def _session_id(client: Client, header: Header, session_hint: str | None) -> str | None:
    for name in client.session_headers:
        value = _clean((header(name) or b"").decode("utf-8", "replace"))
        if value:
            return value
    return _from_hint(session_hint) if client.has_session_hint and session_hint else None


def _from_hint(hint: str) -> str | None:
    """Read `{"session_id": …}`, or the older `user_…_session_<id>`."""
    members = lenient.read(hint.encode("utf-8", "replace")) if hint.lstrip().startswith("{") else None
    if isinstance(members, dict):
        return _clean(lenient.mapping(members).get("session_id"))
    return _clean(hint.partition("_session_")[2])


def _clean(value: object) -> str | None:
    return lenient.identifier(lenient.text(value).strip()) or None
