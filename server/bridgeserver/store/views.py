"""What was recorded as it is shown: in the answers of the API, and by `bridgecore records`. No SQL here.

Times are ISO 8601 in UTC with six decimals. Money is in millionths of a dollar.
"""

from msgspec import UNSET, Struct, UnsetType, field

from bridgeserver.records import ErrorType

TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
"""The four counts, which are prices of their own."""


class View(Struct, frozen=True, kw_only=True):
    """Base of everything that is shown."""


class Tokens(View, frozen=True, kw_only=True):
    """Sums of tokens; `input_tokens` excludes those read from a cache or written to one."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


class Response(Tokens, frozen=True, kw_only=True):
    """What one upstream response cost."""

    response_id: str
    cost_micros: int | None
    """None for a model without a price."""
    partial: bool
    """Whether the response was cut, so that there may have been more."""
    stop_reason: str
    service_tier: str


class ToolName(View, frozen=True, kw_only=True):
    """One tool call in short."""

    name: str
    server: str | None
    injected: bool
    error: str | None


class ToolCall(ToolName, frozen=True, kw_only=True):
    """One tool call that the model asked for; `result` is there where the configuration keeps results."""

    tool_call_id: str
    arguments: str
    truncated: bool
    duration_us: int | None
    result: str | None


class Thought(View, frozen=True, kw_only=True):
    """One block of reasoning that the model showed."""

    source: str
    text: str
    truncated: bool


class Interception(View, frozen=True, kw_only=True):
    """One bridged request."""

    id: str
    user: str
    """The name, or the id of a user whose row is missing."""
    provider: str
    provider_name: str
    model: str
    client: str
    session_id: str | None
    """As the client gave it."""
    started_at: str
    ended_at: str | None
    status: str
    http_status: int | None
    streaming: bool
    input_tokens: int
    """Without those that were read from a cache or written to one."""
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    prompt: str | None
    tools: list[ToolName]
    error_type: ErrorType | None
    error_message: str | None
    user_id: str
    key_id: str
    protocol: str
    session_key: str
    """The session that it is counted to: the client's, else its thread's, else its own."""
    thread_id: str
    """The interception that began its thread, perhaps itself."""
    thread_parent_id: str | None
    credential_kind: str
    credential_hint: str
    attempts: int | None
    cost_micros: int | None
    """Of the responses that have a price; None where none has."""
    unpriced: int
    """Responses without a price."""
    responses: list[Response]
    tool_calls: list[ToolCall]
    thoughts: list[Thought]


class Interceptions(View, frozen=True, kw_only=True):
    """A page of interceptions."""

    interceptions: list[Interception]
    next: str | None
    """The cursor to go on with, None at the end. A page may end before its limit where its texts are long."""


class Initiator(View, frozen=True, kw_only=True):
    """A user."""

    id: str
    username: str


class Session(View, frozen=True, kw_only=True):
    """All interceptions of one user that share a session."""

    id: str
    initiator: Initiator
    providers: list[str]
    models: list[str]
    client: str
    started_at: str
    ended_at: str | None
    """None while one of its interceptions runs."""
    last_active_at: str
    threads: int
    token_usage_summary: Tokens
    cost_micros: int
    """Of the responses that have a price."""
    unpriced: int
    """Responses without a price."""
    last_prompt: str | None
    """Its beginning."""


class Sessions(View, frozen=True, kw_only=True):
    """A page of sessions."""

    count: int
    """How many there are by these filters, counted to a limit."""
    sessions: list[Session]
    next: str | None
    """The cursor to go on with, None at the end."""


class Action(View, frozen=True, kw_only=True):
    """One request of an agent's loop: what the model thought, and the tools that it called."""

    interception_id: str
    model: str
    started_at: str
    thinking: list[Thought]
    token_usage: Tokens
    tool_calls: list[ToolCall]


class Thread(View, frozen=True, kw_only=True):
    """One prompt and the requests that followed from it; an error is that of the last one."""

    id: str
    prompt: str | None
    model: str
    provider: str
    credential_kind: str
    credential_hint: str
    started_at: str
    ended_at: str | None
    error_type: ErrorType | None
    error_message: str | None
    token_usage: Tokens
    cost_micros: int
    unpriced: int
    agentic_actions: list[Action]


class SessionThreads(View, frozen=True, kw_only=True):
    """A session with a page of its threads, the oldest first."""

    session: Session
    threads: list[Thread]
    previous: str | None
    """The value of `before_id` for the page before this one, None at the beginning."""
    next: str | None
    """The value of `after_id` for the next page, None at the end."""


class Models(View, frozen=True, kw_only=True):
    """Models that were asked for."""

    models: list[str]


class Clients(View, frozen=True, kw_only=True):
    """Clients that asked."""

    clients: list[str]


class Users(View, frozen=True, kw_only=True):
    """Users, by name."""

    users: list[Initiator]


class Spent(Tokens, frozen=True, kw_only=True):
    """What requests used."""

    requests: int = 0
    cost_micros: int = 0
    """Of the responses that have a price."""
    unpriced_requests: int = 0
    """Requests with a response that has none."""


class UsageRow(Spent, frozen=True, kw_only=True):
    """What the requests of one group used; a member that was not grouped by is not there."""

    day: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    user: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    provider_name: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    client: str | UnsetType = UNSET


class UsageReport(View, frozen=True, kw_only=True):
    """Usage by group; the totals are the sums of the rows. `to` is not part of the period."""

    since: str = field(name="from")
    until: str = field(name="to")
    rows: list[UsageRow]
    totals: Spent


class Unpriced(View, frozen=True, kw_only=True):
    """Models without a price, and what they used that is in no sum of money."""

    since: str = field(name="from")
    until: str = field(name="to")
    models: list[UsageRow]
