"""A request below `/-/` on its way from a worker to the parent, and the answer to it.

A worker checks who asks, and knows nothing of the store; the parent owns the store, and trusts that check. Both
refuse in one shape: `{"error": {"message": …, "type": …}}`.
"""

import re
from collections.abc import Mapping

import msgspec

MAX_BODY_BYTES = 1 << 20
"""Longest body of an administrative request; a provider with all its keys needs a thousandth of it."""

MAX_ANSWER_BYTES = 32 << 20
"""Longest answer, or part of one; the socket between the processes takes twice as much."""

ADMIN_NEEDED = "this needs an administrator's key: make one with `bridgecore keys create --admin`"

MAX_TARGET_BYTES = 4096
"""Longest path and query of one."""

TYPES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    429: "rate_limited",
    431: "too_large",
    503: "unavailable",
}
"""What `error.type` says beside each status; `server_error` stands for all others."""


OPEN = re.compile(
    r"/-/api/v1/((interceptions|sessions|usage)(/[^/]+)*|models|clients|users|openapi\.json)",
)
"""Paths at which a user's key may read, what is that user's. The parent's table of routes says the same again."""


class Ask(msgspec.Struct, frozen=True):
    """One request of somebody whom the worker has authenticated."""

    method: str
    path: str
    """The raw path: nothing in it is decoded."""
    query: str
    body: bytes
    actor: str
    """For the audit: `user NAME, key ID`."""
    user_id: str = ""
    is_admin: bool = False
    cursor: str | None = None
    """Which part of a long answer is wanted: `Answer.cursor` of the part before."""


class Answer(msgspec.Struct, frozen=True):
    """What the client gets."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = {}
    cursor: str | None = None
    """Where there is more of it: what to ask for it with."""


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer that says why there is no other."""
    error = {"message": message, "type": TYPES.get(status, "server_error")}
    return Answer(status, msgspec.json.encode({"error": error}), headers=dict(headers or {}))


class Refused(Exception):
    """An administrative request that is not done, with the answer that says why."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = refusal(status, message, headers)
