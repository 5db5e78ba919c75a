"""Errors as the providers spell them."""

from typing import Any, Literal

from bridgeserver.fakeprovider.script import Fault

Family = Literal["anthropic", "openai"]

_MESSAGES: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "The request is not valid."),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "Not found"),
    405: ("invalid_request_error", "Method Not Allowed"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    500: ("api_error", "Internal server error"),
    503: ("overloaded_error", "Service unavailable"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}

_OPENAI: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request is not valid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("invalid_request_error", "permission_denied", "You do not have access to this resource."),
    404: ("invalid_request_error", "not_found", "Not found"),
    405: ("invalid_request_error", "method_not_supported", "Not allowed to use this method here."),
    413: ("invalid_request_error", "request_too_large", "The request is too large."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    500: ("server_error", None, "The server had an error while processing your request."),
    503: ("server_error", "server_is_overloaded", "The engine is currently overloaded, please try again later."),
    504: ("server_error", "timeout", "The request timed out."),
    529: ("server_error", "server_is_overloaded", "Overloaded"),
}


def messages_error(fault: Fault) -> dict[str, Any]:
    kind, message = _MESSAGES.get(fault.status, _MESSAGES[500])
    error = {"type": fault.type or kind, "message": fault.message or message}
    return {"type": "error", "error": error}


def openai_error(fault: Fault) -> dict[str, Any]:
    kind, code, message = _OPENAI.get(fault.status, _OPENAI[500])
    return {
        "error": {
            "message": fault.message or message,
            "type": fault.type or kind,
            "param": None,
            "code": fault.code or code,
        }
    }


def overloaded(family: Family) -> Fault:
    """Return what each of them reports when it breaks down in the middle of an answer."""
    return Fault(529 if family == "anthropic" else 503)


def not_json() -> Fault:
    return Fault(400, message="The request body is not valid JSON.")


def without_member(family: Family, name: str) -> Fault:
    """Return what a request gets that lacks a member."""
    if family == "anthropic":
        return Fault(400, message=f"{name}: Field required")
    return Fault(400, message=f"Missing required parameter: '{name}'.", code="missing_required_parameter")


def without_credentials(family: Family) -> Fault:
    if family == "anthropic":
        return Fault(401, message="x-api-key header is required")
    return Fault(401, message="You didn't provide an API key.")
