"""What OpenAI's two protocols share: how tokens are counted, and how a failure is spelled."""

from typing import Any

import msgspec

from bridgeserver.protocols import Usage, lenient
from bridgeserver.records import ErrorType

_DETAILS = ("audio", "reasoning", "accepted_prediction", "rejected_prediction")

_TYPES: dict[ErrorType, str] = {
    "bad_request": "invalid_request_error",
    "unauthorized": "authentication_error",
    "rate_limited": "rate_limit_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
}

_CODES: dict[int, str] = {
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    413: "request_too_large",
    429: "rate_limit_exceeded",
}


class Counts:
    """Reads usage objects whose members begin with *asked* and *answered*, as `prompt` and `completion`."""

    def __init__(self, asked: str, answered: str) -> None:
        self._asked = f"{asked}_tokens"
        self._answered = f"{answered}_tokens"
        self._asked_details = f"{asked}_tokens_details"
        self._answered_details = f"{answered}_tokens_details"
        self._extra_asked = [(f"{name}_tokens", f"{asked}_{name}") for name in _DETAILS]
        self._extra_answered = [(f"{name}_tokens", f"{answered}_{name}") for name in _DETAILS]

    def read(self, members: dict[str, Any]) -> Usage:
        """Return the counts; OpenAI's input includes cached tokens, read or written, and here each is counted once."""
        count = lenient.count
        asked = lenient.mapping(members.get(self._asked_details))
        answered = lenient.mapping(members.get(self._answered_details))
        cache_read = count(asked.get("cached_tokens")) or 0
        cache_write = count(asked.get("cache_write_tokens")) or 0
        total = count(members.get(self._asked)) or 0
        extra: dict[str, int] = {}
        for details, names in ((asked, self._extra_asked), (answered, self._extra_answered)):
            for member, name in names:
                if member in details and (found := count(details[member])) is not None:
                    extra[name] = found
        return Usage(
            max(0, total - cache_read - cache_write),
            count(members.get(self._answered)) or 0,
            cache_read,
            cache_write,
            extra,
        )


def error_object(message: str, error_type: ErrorType, status: int | None = None) -> dict[str, str | None]:
    """Return the members of a failure; its code is the status's own name where it has one."""
    return {
        "message": message.encode("utf-8", "replace").decode(),
        "type": _TYPES.get(error_type, "server_error"),
        "param": None,
        "code": _CODES.get(status or 0, error_type),
    }


def error_body(status: int, message: str, error_type: ErrorType) -> bytes:
    """Return a failure as a JSON body."""
    return msgspec.json.encode({"error": error_object(message, error_type, status)})
