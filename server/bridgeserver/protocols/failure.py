"""What a provider's error means, whether it came as a status, in a body or inside a stream."""

from http import HTTPStatus
from typing import Any

from bridgeserver.protocols import Failure, lenient
from bridgeserver.records import ErrorType

MESSAGE_LIMIT = 1024
"""Characters kept of a provider's message."""

_BY_STATUS: dict[int, ErrorType] = {
    400: "bad_request",
    401: "unauthorized",
    403: "unauthorized",
    404: "bad_request",
    405: "bad_request",
    408: "timeout",
    409: "bad_request",
    413: "bad_request",
    415: "bad_request",
    422: "bad_request",
    429: "rate_limited",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}

# Anthropic's `error.type`, then OpenAI's `error.type` and `error.code`.
_BY_NAME: dict[str, ErrorType] = {
    "invalid_request_error": "bad_request",
    "not_found_error": "bad_request",
    "request_too_large": "bad_request",
    "authentication_error": "unauthorized",
    "permission_error": "unauthorized",
    "rate_limit_error": "rate_limited",
    "timeout_error": "timeout",
    "api_error": "server_error",
    "overloaded_error": "overloaded",
    "context_length_exceeded": "bad_request",
    "invalid_prompt": "bad_request",
    "invalid_api_key": "unauthorized",
    "rate_limit_exceeded": "rate_limited",
    "insufficient_quota": "rate_limited",
    "server_error": "server_error",
    "internal_error": "server_error",
    "server_is_overloaded": "overloaded",
    "slow_down": "overloaded",
    "timeout": "timeout",
    "vector_store_timeout": "timeout",
}


def classify(status: int, body: bytes) -> Failure:
    """Say what an answer with an error status means; the message is the provider's own where it has one."""
    return Failure(_from_status(status), _clean(_message(lenient.read(body))) or _reason(status))


def reported(error: Any) -> Failure:
    """Say what an error object (or text, or code) inside a stream or a response means."""
    members = lenient.mapping(error)
    names = (members.get("type"), members.get("code"), error)
    message = _clean(_message({"error": error}))
    return Failure(_first_known(names), message or "the provider gave no message")


def _from_status(status: int) -> ErrorType:
    known = _BY_STATUS.get(status)
    if known is None:
        return "server_error" if 500 <= status <= 599 else "unknown"
    return known


def _first_known(names: tuple[Any, ...]) -> ErrorType:
    for name in names:
        found = _from_name(name)
        if found is not None:
            return found
    return "unknown"


def _from_name(name: Any) -> ErrorType | None:
    """Read an error's name, or the HTTP status that some providers put in its place."""
    status = lenient.count(name)
    if status is not None:
        return _from_status(status)
    return _BY_NAME.get(lenient.text(name))


def _message(body: Any) -> str:
    """Find the message in the forms that providers use: `error.message`, `error`, `message`."""
    members = lenient.mapping(body)
    error = members.get("error")
    places = (lenient.mapping(error).get("message"), error, members.get("message"))
    return next((place for place in places if isinstance(place, str) and place), "")


def _clean(message: str) -> str:
    return message[:MESSAGE_LIMIT].encode("utf-8", "replace").decode()


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Overloaded" if status == 529 else f"HTTP status {status}"
