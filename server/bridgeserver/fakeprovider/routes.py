"""Which API a path belongs to; what stands before the known part does not matter."""

import re
from functools import lru_cache
from typing import Literal

import msgspec

from bridgeserver.fakeprovider.faults import Family

Name = Literal[
    "messages",
    "chat",
    "responses",
    "count_tokens",
    "response",
    "cancel",
    "input_items",
    "conversations",
    "conversation",
    "models",
    "model",
    "events",
]


class Route(msgspec.Struct, frozen=True):
    """What a path stands for, and the id inside it."""

    name: Name
    family: Family | None
    """None: both have it."""
    methods: frozenset[str]
    object_id: str = ""


_READ = frozenset({"GET", "HEAD"})
_POST = frozenset({"POST"})

_ROUTES: list[tuple[str, Name, Family | None, frozenset[str]]] = [
    (r"/messages", "messages", "anthropic", _POST),
    (r"/chat/completions", "chat", "openai", _POST),
    (r"/responses", "responses", "openai", _POST),
    (r"/messages/count_tokens", "count_tokens", "anthropic", _POST),
    (r"/responses/([^/]+)", "response", "openai", _READ | {"DELETE"}),
    (r"/responses/([^/]+)/cancel", "cancel", "openai", _POST),
    (r"/responses/([^/]+)/input_items", "input_items", "openai", _READ),
    (r"/conversations", "conversations", "openai", _POST),
    (r"/conversations/([^/]+)", "conversation", "openai", _READ | {"POST", "DELETE"}),
    (r"/models", "models", None, _READ),
    (r"/models/(.+)", "model", None, _READ),
    (r"/api/event_logging/.*", "events", "anthropic", _POST),
]
_PATTERNS: list[tuple[re.Pattern[str], Name, Family | None, frozenset[str]]] = [
    (re.compile(f"{pattern}/?$"), name, family, methods) for pattern, name, family, methods in _ROUTES
]


@lru_cache(maxsize=1024)
def find_route(path: str) -> Route | None:
    """Return the route that *path* (without its query) ends with."""
    for pattern, name, family, methods in _PATTERNS:
        found = pattern.search(path)
        if found:
            return Route(name, family, methods, found[1] if found.lastindex else "")
    return None
