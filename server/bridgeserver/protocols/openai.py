"""What OpenAI's two protocols share: how tokens are counted, and how a failure is spelled."""

from typing import Annotated, Any

import msgspec

from bridgeserver.protocols import Usage, lenient
from bridgeserver.protocols.lenient import Shape
from bridgeserver.records import ErrorType

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


Count = Annotated[int, msgspec.Meta(ge=0, le=lenient.INTEGER_LIMIT)]
"""What `lenient.count` accepts."""


class Details(msgspec.Struct):
    """What kinds of tokens one of the two sums is made of."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    accepted_prediction_tokens: Count | None = None
    rejected_prediction_tokens: Count | None = None

    def further(self, prefix: str) -> dict[str, int]:
        """Return those that are not counted by themselves, as they are recorded."""
        found: dict[str, int] = {}
        if self.audio_tokens is not None:
            found[prefix + "_audio"] = self.audio_tokens
        if self.reasoning_tokens is not None:
            found[prefix + "_reasoning"] = self.reasoning_tokens
        if self.accepted_prediction_tokens is not None:
            found[prefix + "_accepted_prediction"] = self.accepted_prediction_tokens
        if self.rejected_prediction_tokens is not None:
            found[prefix + "_rejected_prediction"] = self.rejected_prediction_tokens
        return found


def usage(
    asked: int | None,
    answered: int | None,
    asked_details: Details | None,
    answered_details: Details | None,
    names: tuple[str, str],
) -> Usage:
    """Return the counts; OpenAI's input includes cached tokens, read or written, and here each is counted once.

    *names* are what the recorded names of further counts begin with, for the two sums.
    """
    cache_read = cache_write = 0
    extra: dict[str, int] = {}
    if asked_details is not None:
        cache_read, cache_write = asked_details.cached_tokens or 0, asked_details.cache_write_tokens or 0
        extra = asked_details.further(names[0])
    if answered_details is not None:
        extra |= answered_details.further(names[1])
    return Usage(max(0, (asked or 0) - cache_read - cache_write), answered or 0, cache_read, cache_write, extra)


def fill(shape: type[Shape], members: dict[str, Any]) -> Shape:
    """Return the counts and details that *shape* names, of a usage object whose members may have any type."""
    values = {
        name: _details(members.get(name)) if name.endswith("_details") else lenient.count(members.get(name))
        for name in shape.__struct_fields__
    }
    return shape(**values)


def _details(value: Any) -> Details | None:
    members = lenient.mapping(value)
    return Details(**{name: lenient.count(members.get(name)) for name in Details.__struct_fields__})


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
