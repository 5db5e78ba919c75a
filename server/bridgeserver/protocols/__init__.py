"""The wire protocols, one file each: what a request says, and what a response adds to the record.

Nothing here does I/O or keeps a clock. A protocol is a small object of pure functions; a `Tap` watches one
upstream response from the side and says what was learnt. Neither ever changes a byte of the traffic; the one
edit that a protocol asks for is a `Splice`, made by the caller.
"""

from typing import ClassVar
from typing import Protocol as Interface

import msgspec

from bridgecore import Interest
from bridgeserver.records import ErrorType, ThoughtSource


class Facts(msgspec.Struct, frozen=True):
    """What one request body says, as far as the record and the relay need it."""

    model: str
    stream: bool
    prompt: str | None = None
    correlating_tool_call_id: str | None = None
    session_hint: str | None = None
    """`metadata.user_id` of a Messages request: Claude Code keeps its session there."""
    object_ids: tuple[str, ...] = ()
    """Provider-side objects that the request builds on (`previous_response_id`, `conversation`)."""


class Splice(msgspec.Struct, frozen=True):
    """Replace `body[start:end]` by `data`; nothing else changes."""

    start: int
    end: int
    data: bytes


class Usage(msgspec.Struct, frozen=True):
    """The tokens of one response; `input` excludes those that were read from a cache or written to one."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    extra: dict[str, int] = {}


class Tool(msgspec.Struct, frozen=True):
    """A tool call that is complete."""

    call_id: str
    name: str
    arguments: str


class Thought(msgspec.Struct, frozen=True):
    """A block of reasoning that is complete."""

    source: ThoughtSource
    text: str


class Failure(msgspec.Struct, frozen=True):
    """What the provider said went wrong."""

    error_type: ErrorType
    message: str


Finding = Tool | Thought


class Tap(Interface):
    """Watches one upstream response; fed either every event of a stream or one whole body.

    Neither method raises on anything a provider may send: what cannot be understood is passed over.
    """

    response_id: str
    """The provider's id of the response, empty until it was seen."""
    usage: Usage | None
    """The tokens seen so far."""
    stop_reason: str
    """Why the model stopped, in the provider's words; empty until it was seen."""
    service_tier: str
    """The tier that served the request, in the provider's words; empty where it says nothing of it."""
    complete: bool
    """Whether the protocol's own end was seen."""
    failure: Failure | None
    """An error that the provider reported inside the stream or in a response object."""
    interest: ClassVar[Interest | None]
    """The events that matter, None where all do; the others are passed over before anything is made of them."""
    object_ids: tuple[str, ...]
    """Provider-side objects that this response made or belongs to, and that outlive it."""

    def event(self, name: bytes, data: bytes) -> list[Finding]:
        """Take one event of a stream and return what it completed."""
        ...

    def body(self, data: bytes) -> list[Finding]:
        """Take the whole body of a response that was not streamed and return what is in it."""
        ...

    def is_extra_usage(self, data: bytes) -> bool:
        """Whether this event exists only because the gateway asked for usage (Chat only)."""
        ...


class Protocol(Interface):
    """One wire protocol."""

    name: str

    def facts(self, body: bytes) -> Facts:
        """Read a request body; raise `errors.BadRequest` unless it is a JSON object."""
        ...

    def tap(self) -> Tap:
        """Return a tap for one upstream response."""
        ...

    def usage_splice(self, body: bytes) -> Splice | None:
        """Return the edit that makes a streamed answer tell its usage, or None where none is needed.

        *body* is one that `facts` has accepted.
        """
        ...

    def error_body(self, status: int, message: str, error_type: ErrorType) -> bytes:
        """Return a failure of the gateway as this protocol spells it, as a JSON body."""
        ...

    def error_event(self, message: str, error_type: ErrorType) -> bytes:
        """Return a failure in mid-stream as one whole event with its blank line."""
        ...
