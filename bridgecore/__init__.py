"""The compiled core of the gateway; it knows nothing of providers, users or storage."""

from bridgecore.cache import Cache, Cause, Closed, Lease, Outcome, Stats
from bridgecore.guard import Guard, Guards
from bridgecore.hashing import hash2, pseudonym, siphash13
from bridgecore.heads import by_name, values_with, write_lines
from bridgecore.http1 import Connection, Head
from bridgecore.ids import uuid7
from bridgecore.scan import cut_down, find_each, find_member, find_members
from bridgecore.serving import ClientConnection, Reply, Request, Server
from bridgecore.singleflight import FlightAborted, FlightGroup, FlightStats, RecursiveFlight
from bridgecore.sse import Event, Interest, Scanner

__all__ = [
    "Cache",
    "Cause",
    "ClientConnection",
    "Closed",
    "Connection",
    "Event",
    "FlightAborted",
    "FlightGroup",
    "FlightStats",
    "Guard",
    "Guards",
    "Head",
    "Interest",
    "Lease",
    "Outcome",
    "RecursiveFlight",
    "Reply",
    "Request",
    "Scanner",
    "Server",
    "Stats",
    "by_name",
    "cut_down",
    "find_each",
    "find_member",
    "find_members",
    "hash2",
    "pseudonym",
    "siphash13",
    "uuid7",
    "values_with",
    "write_lines",
]
