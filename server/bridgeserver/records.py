"""What the gateway writes down: one immutable type a record, as it stands in the journal and in the store.

A request has one `Interception`, written before anything goes upstream, and one `InterceptionEnd`. Between
them come what was asked and what it cost. Their ids are made in the worker, so that applying a record twice
changes nothing: an interception's is time-ordered, the others are numbered within it by `seq`.

Times are microseconds since the Unix epoch, in UTC.
"""

import time
from typing import Literal

import msgspec

Status = Literal["completed", "failed", "cancelled", "interrupted"]
"""`cancelled`: the client left. `interrupted`: the gateway crashed, or its drain deadline came."""

ErrorType = Literal[
    "bad_request",
    "unauthorized",
    "rate_limited",
    "overloaded",
    "server_error",
    "timeout",
    "unknown",
    "client_closed",
    "upstream_broken",
    "gateway_stopped",
]

ThoughtSource = Literal["thinking", "reasoning_summary", "commentary"]

PROMPT_LIMIT = 1 << 20
"""Bytes of UTF-8 kept of a recorded prompt."""

CONTENT_LIMIT = 256 << 10
"""Bytes of UTF-8 kept of a recorded thought or of a tool's arguments."""


MESSAGE_LIMIT = 1024
"""Bytes of UTF-8 kept of the text of an error."""


class Record(msgspec.Struct, frozen=True, tag_field="kind", array_like=False):
    """Base of everything that the journal holds."""


class Interception(Record, frozen=True, tag="interception"):
    """One bridged request that is about to go to a provider."""

    id: str
    user_id: str
    key_id: str
    provider: str  # the type: anthropic, openai, …
    provider_name: str
    protocol: str  # messages, chat, responses
    model: str
    streaming: bool
    client: str
    user_agent: str
    session_id: str | None
    correlating_tool_call_id: str | None
    credential_kind: Literal["centralized", "byok"]
    credential_hint: str
    worker: str  # the journal that holds this record; its death ends what is open
    started_at: int


class UserPrompt(Record, frozen=True, tag="prompt"):
    """The last thing that the user said in the request."""

    interception_id: str
    seq: int
    text: str
    truncated: bool
    created_at: int


class TokenUsage(Record, frozen=True, tag="tokens"):
    """What one upstream response cost; `input_tokens` excludes those read from a cache or written to one."""

    interception_id: str
    seq: int
    response_id: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    extra: dict[str, int]
    partial: bool  # the response was cut, or could not be read to its end
    created_at: int
    stop_reason: str = ""  # in the provider's words; empty where it gave none
    service_tier: str = ""


class ToolUse(Record, frozen=True, tag="tool"):
    """One tool call that the model asked for."""

    interception_id: str
    seq: int
    response_id: str
    tool_call_id: str
    name: str
    server: str | None
    arguments: str  # JSON as the provider sent it, or plain text for a custom tool
    truncated: bool
    injected: bool
    error: str | None
    created_at: int
    duration_us: int | None = None  # of a call that the gateway itself made
    result: str | None = None  # what it gave, where that is to be recorded
    user_id: str | None = None  # whose interception it is; none in journals of earlier versions


class ModelThought(Record, frozen=True, tag="thought"):
    """One block of reasoning that the model showed."""

    interception_id: str
    seq: int
    source: ThoughtSource
    text: str
    truncated: bool
    created_at: int


class InterceptionEnd(Record, frozen=True, tag="end"):
    """How an interception ended; the first end wins."""

    interception_id: str
    status: Status
    http_status: int | None  # what the client was sent; None when it was sent nothing
    error_type: ErrorType | None
    error_message: str | None
    attempts: int  # requests that were sent to a provider
    ended_at: int
    credential_hint: str | None = None  # of the central key that served, where it is not the one it began with


class ProviderObject(Record, frozen=True, tag="object"):
    """An object that a provider keeps (a response, a conversation), and the user it belongs to."""

    provider_name: str
    object_id: str
    user_id: str
    created_at: int


class ContinuedResponse(Record, frozen=True, tag="continued"):
    """A response that the gateway made of several turns: the id of the first, and that of the last."""

    provider_name: str
    first_id: str
    last_id: str
    created_at: int


AnyRecord = (
    Interception
    | UserPrompt
    | TokenUsage
    | ToolUse
    | ModelThought
    | InterceptionEnd
    | ProviderObject
    | ContinuedResponse
)


def now_us() -> int:
    """Return the wall clock in microseconds since the epoch."""
    return time.time_ns() // 1000


def clip(text: str, limit: int) -> tuple[str, bool]:
    """Return *text* cut to at most *limit* bytes of UTF-8, and whether anything was cut.

    A lone surrogate, which JSON can spell and UTF-8 cannot, becomes a replacement character.
    """
    if len(text) * 3 <= limit and text.isascii():
        return text, False
    if limit == 0:
        return "", bool(text)
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode(), False
    return data[:limit].decode("utf-8", "ignore"), True
