"""What can go wrong, as one tree; each class carries the status that the client sees.

BridgeError
├── ConfigError           the configuration, found before anything starts
├── StoreError            the database cannot be read or written
│   └── StoreUnavailable       now; later it may be
├── SealError             a stored secret cannot be sealed or opened
├── ClientError           the request is at fault
│   ├── BadRequest             400
│   │   └── InvalidMembers         with all mistakes at once
│   ├── Unauthorized           401
│   ├── NotFound               404
│   ├── RequestTimeout         408
│   ├── Conflict               409
│   ├── BodyTooLarge           413
│   ├── UnsupportedEncoding    415
│   ├── UpgradeRefused         426
│   ├── TooManyRequests        429
│   └── HeadTooLarge           431
├── UpstreamError         the provider is at fault
│   ├── Unreachable            502
│   ├── BadResponse            502
│   ├── TurnRefused            502: it refused to go on with an answer that the client has the beginning of
│   ├── KeysRefused            502: none of the gateway's own keys is accepted, and a retry cannot help
│   └── UpstreamTimeout        504
├── ProviderBroken        502: it cannot be used as it is configured
├── KeysRateLimited       429, with Retry-After
├── CircuitOpen           503, with Retry-After
├── Overloaded            503, with Retry-After
│   └── NotRecordable          503: the journal or the store cannot take the record
├── ToolLimit             502: the model called the gateway's tools again and again
├── ToolError             a call of an MCP server's tool gave no result; the model is told
├── CredentialsMissing    500: what the gateway itself needs to ask a provider is not there
├── ProviderDisabled      503, and a retry cannot help
└── Ended                 the request was ended from outside
    ├── ClientClosed           the client left, or stopped reading
    └── GatewayStopped    503, or an aborted stream
"""

from typing import ClassVar

from bridgeserver.records import ErrorType


class BridgeError(Exception):
    """Base of every failure that this package raises on purpose; its text may be shown to the client."""

    status: ClassVar[int] = 500
    error_type: ErrorType = "server_error"
    retry_after_s: int | None = None
    should_retry: ClassVar[bool | None] = None
    """What `x-should-retry` says to an SDK; None leaves the choice to its own rules."""


class ConfigError(BridgeError):
    """The configuration has mistakes; `mistakes` holds one line for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class StoreError(BridgeError):
    """The database cannot be read or written, or holds a schema that this version does not know."""

    status = 503
    retry_after_s = 5


class StoreUnavailable(StoreError):
    """The database does not answer: it is locked, its disk is full, its server is down."""


class SealError(BridgeError):
    """A secret at rest cannot be sealed or opened: its key is missing, or the value is broken."""


class ClientError(BridgeError):
    """The request is at fault; sending it again as it is cannot help."""

    status = 400
    error_type: ErrorType = "bad_request"
    should_retry: ClassVar[bool | None] = False


class BadRequest(ClientError):
    """The path, the head or the body cannot be accepted."""


class InvalidMembers(BadRequest):
    """Members of an object have mistakes; `mistakes` holds one line for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class Unauthorized(ClientError):
    """No gateway key, an unknown one, or more than one."""

    status = 401
    error_type: ErrorType = "unauthorized"


class NotFound(ClientError):
    """No provider or no route of that name."""

    status = 404


class RequestTimeout(ClientError):
    """The client stopped sending its body."""

    status = 408
    error_type: ErrorType = "timeout"
    should_retry: ClassVar[bool | None] = None


class Conflict(ClientError):
    """The name is taken."""

    status = 409


class BodyTooLarge(ClientError):
    """The body is longer than `max_body_bytes`."""

    status = 413


class UnsupportedEncoding(ClientError):
    """The body's `Content-Encoding` cannot be read where it has to be."""

    status = 415


class UpgradeRefused(ClientError):
    """Another protocol is asked for on a connection that speaks HTTP; Codex then falls back to HTTP at once."""

    status = 426


class TooManyRequests(ClientError):
    """Too many refused keys from one address."""

    status = 429
    error_type: ErrorType = "rate_limited"
    retry_after_s = 1
    should_retry: ClassVar[bool | None] = None


class HeadTooLarge(ClientError):
    """The request's head is longer than `max_head_bytes`."""

    status = 431


class UpstreamError(BridgeError):
    """The provider is at fault."""

    status = 502
    error_type: ErrorType = "upstream_broken"


class Unreachable(UpstreamError):
    """No connection to the provider could be made."""


class BadResponse(UpstreamError):
    """The provider's answer broke off, or is not HTTP."""


class TurnRefused(UpstreamError):
    """The provider refused a later turn of an answer whose beginning the client has seen."""

    def __init__(self, message: str, error_type: ErrorType) -> None:
        super().__init__(message)
        self.error_type = error_type


class KeysRefused(UpstreamError):
    """The provider accepts none of the keys that the gateway holds for it; that is nothing a client can mend."""

    error_type: ErrorType = "unauthorized"
    should_retry: ClassVar[bool | None] = False


class UpstreamTimeout(UpstreamError):
    """The provider was silent for too long."""

    status = 504
    error_type: ErrorType = "timeout"


class KeysRateLimited(BridgeError):
    """All keys that the gateway holds for a provider have reached its limits."""

    status = 429
    error_type: ErrorType = "rate_limited"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CircuitOpen(BridgeError):
    """The provider has failed too often in a row; it is left alone for a while."""

    status = 503
    error_type: ErrorType = "overloaded"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(BridgeError):
    """A limit of this gateway is reached; later it may not be."""

    status = 503
    error_type: ErrorType = "overloaded"
    retry_after_s = 1


class NotRecordable(Overloaded):
    """The request cannot be recorded, so it is not sent."""

    retry_after_s = 5


class ToolLimit(BridgeError):
    """The model called the gateway's tools more often than a conversation may, even after it was told."""

    status = 502
    should_retry: ClassVar[bool | None] = False


class ToolError(BridgeError):
    """A call of a tool gave no result: its server is away, too slow, says no, or sends too much."""

    status = 502


class CredentialsMissing(BridgeError):
    """The gateway has no credentials of its own for a provider, or cannot refresh them."""


class ProviderDisabled(BridgeError):
    """The provider is switched off; its sentinel answers instead."""

    status = 503
    error_type: ErrorType = "overloaded"
    should_retry: ClassVar[bool | None] = False


class ProviderBroken(BridgeError):
    """The provider cannot be used as it is configured; the others can."""

    status = 502
    should_retry: ClassVar[bool | None] = False


class Ended(BridgeError):
    """The request was ended from outside while it ran."""


class ClientClosed(Ended):
    """The client left, or read nothing for too long; nobody is there to be answered."""

    status = 499
    error_type: ErrorType = "client_closed"


class GatewayStopped(Ended):
    """The drain deadline came before the request had ended."""

    status = 503
    error_type: ErrorType = "gateway_stopped"
    retry_after_s = 1
