"""The compiled core of the gateway; it knows nothing of providers, users or storage."""

from bridgecore.http1 import Connection, Head
from bridgecore.scan import find_member, find_members
from bridgecore.sse import Event, Scanner

__all__ = ["Connection", "Event", "Head", "Scanner", "find_member", "find_members"]
