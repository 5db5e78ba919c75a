"""Response heads with the headers that the providers send."""

from http import HTTPStatus

from bridgeserver.fakeprovider.answer import EVENT_STREAM, JSON, Answer
from bridgeserver.fakeprovider.faults import Family
from bridgeserver.fakeprovider.seed import make_id

_REASONS = {status.value: status.phrase for status in HTTPStatus}

# A cookie and an advertised HTTP/3 belong to the hop: a gateway must keep both to itself.
_SHARED = (
    "date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    "server: cloudflare\r\n"
    "set-cookie: __cf_bm=fake; path=/; HttpOnly; Secure; SameSite=None\r\n"
    'alt-svc: h3=":443"; ma=86400\r\n'
)

_FIXED: dict[Family, str] = {
    "anthropic": _SHARED
    + "anthropic-organization-id: 00000000-fa4e-4000-8000-000000000001\r\n"
    + "anthropic-ratelimit-requests-limit: 4000\r\n"
    + "anthropic-ratelimit-requests-remaining: 3999\r\n"
    + "anthropic-ratelimit-requests-reset: 2026-01-01T00:00:01Z\r\n"
    + "anthropic-ratelimit-tokens-limit: 400000\r\n"
    + "anthropic-ratelimit-tokens-remaining: 399000\r\n"
    + "anthropic-ratelimit-tokens-reset: 2026-01-01T00:00:01Z\r\n",
    "openai": _SHARED
    + "openai-organization: fake-organization\r\n"
    + "openai-processing-ms: 12\r\n"
    + "openai-version: 2020-10-01\r\n"
    + "x-ratelimit-limit-requests: 5000\r\n"
    + "x-ratelimit-limit-tokens: 800000\r\n"
    + "x-ratelimit-remaining-requests: 4999\r\n"
    + "x-ratelimit-remaining-tokens: 799000\r\n"
    + "x-ratelimit-reset-requests: 12ms\r\n"
    + "x-ratelimit-reset-tokens: 6ms\r\n",
}


def make_head(
    answer: Answer,
    family: Family,
    seed: str,
    further: tuple[tuple[str, str], ...],
    *,
    is_chunked: bool,
    closes: bool,
) -> bytes:
    """Return the head up to and with its blank line."""
    own = [_request_id(family, seed), ("content-type", EVENT_STREAM if answer.is_stream else JSON)]
    if is_chunked:
        own.append(("transfer-encoding", "chunked"))
    elif not answer.is_stream:
        own.append(("content-length", str(sum(map(len, answer.pieces)))))
    if closes:
        own.append(("connection", "close"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in (*own, *answer.headers, *further))
    reason = _REASONS.get(answer.status, "")
    return f"HTTP/1.1 {answer.status} {reason}\r\n{_FIXED[family]}{lines}\r\n".encode("latin-1")


def _request_id(family: Family, seed: str) -> tuple[str, str]:
    if family == "anthropic":
        return "request-id", make_id(seed, "req_011C", 20)
    return "x-request-id", make_id(seed, "req_", 32)
