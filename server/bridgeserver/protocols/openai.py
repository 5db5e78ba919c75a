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


def read_usage(members: dict[str, Any], asked: str, answered: str) -> Usage:
    """Read a usage object whose members begin with *asked* and *answered*, as `prompt` and `completion`.

    OpenAI counts cached tokens, read or written, within the input; here each token is counted once.
    """
    asked_details = lenient.mapping(members.get(f"{asked}_tokens_details"))
    answered_details = lenient.mapping(members.get(f"{answered}_tokens_details"))
    cache_read = lenient.count(asked_details.get("cached_tokens")) or 0
    cache_write = lenient.count(asked_details.get("cache_write_tokens")) or 0
    total = lenient.count(members.get(f"{asked}_tokens")) or 0
    return Usage(
        input=max(0, total - cache_read - cache_write),
        output=lenient.count(members.get(f"{answered}_tokens")) or 0,
        cache_read=cache_read,
        cache_write=cache_write,
        extra=_details(asked, asked_details) | _details(answered, answered_details),
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


def _details(prefix: str, members: dict[str, Any]) -> dict[str, int]:
    counts = ((name, lenient.count(members.get(f"{name}_tokens"))) for name in _DETAILS)
    return {f"{prefix}_{name}": found for name, found in counts if found is not None}
