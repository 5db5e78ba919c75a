"""Writes down one interception: numbers its records, cuts what is too long, and appends them to the journal."""

from bridgeserver.journal import Sink, Then
from bridgeserver.protocols import Finding, Tap, Tool, Usage, lenient
from bridgeserver.records import (
    CONTENT_LIMIT,
    MESSAGE_LIMIT,
    PROMPT_LIMIT,
    AnyRecord,
    ErrorType,
    Interception,
    InterceptionEnd,
    ModelThought,
    Status,
    TokenUsage,
    ToolUse,
    UserPrompt,
    clip,
    now_us,
)
from bridgeserver.traffic import Series
from bridgeserver.weaving import Call


class Recorder:
    """The records of one interception, in the order in which they are made; *series* counts what they say."""

    __slots__ = ("_began", "_interception", "_journal", "_last", "_seq", "_series", "id")

    prompt_limit = PROMPT_LIMIT
    content_limit = CONTENT_LIMIT
    message_limit = MESSAGE_LIMIT

    def __init__(self, journal: Sink, interception: Interception, series: Series) -> None:
        self.id = interception.id
        self._interception = interception
        self._journal = journal
        self._series = series
        self._began = 0.0
        self._last: list[AnyRecord] = []
        self._seq = 0

    def begin(self, prompt: str | None, then: Then) -> None:
        """Append the interception and its prompt, and call *then* once they are kept.

        Raises NotRecordable if there is no room. Otherwise an `end` must follow, even if *then* is told of a failure.
        """
        records: list[AnyRecord] = [self._interception]
        if prompt is not None:
            text, truncated = clip(prompt, self.prompt_limit)
            records.append(UserPrompt(self.id, self._next(), text, truncated, self._interception.started_at))
        self._journal.begin(records, then)
        self._began = self._series.begin(prompt)

    def finding(self, found: Finding, response_id: str) -> None:
        """Keep a tool call or a thought."""
        if isinstance(found, Tool):
            arguments, truncated = clip(found.arguments, self.content_limit)
            record: AnyRecord = ToolUse(
                self.id,
                self._next(),
                response_id,
                found.call_id,
                found.name,
                server=None,
                arguments=arguments,
                truncated=truncated,
                injected=False,
                error=None,
                created_at=now_us(),
                user_id=self._interception.user_id,
            )
        else:
            text, truncated = clip(found.text, self.content_limit)
            record = ModelThought(self.id, self._next(), found.source, text, truncated, now_us())
        self._journal.append(record)

    def injected_tool(
        self, call: Call, response_id: str, error: str | None, duration_us: int | None, result: str | None
    ) -> None:
        """Keep a call of one of the gateway's tools, and what came of it."""
        arguments, truncated = clip(call.arguments, self.content_limit)
        self._journal.append(
            ToolUse(
                self.id,
                self._next(),
                response_id,
                lenient.identifier(call.id),
                lenient.identifier(call.tool.name),
                call.tool.server_url,
                arguments,
                truncated,
                injected=True,
                error=None if error is None else clip(error, MESSAGE_LIMIT)[0],
                created_at=now_us(),
                duration_us=duration_us,
                result=None if result is None else clip(result, self.content_limit)[0],
                user_id=self._interception.user_id,
            )
        )

    def turn(self, usage: Usage, tap: Tap) -> None:
        """Keep what the upstream response cost that *tap* has watched, after which another turn begins."""
        self._journal.append(self._usage(usage, tap, partial=False))

    def usage(self, usage: Usage, tap: Tap, *, partial: bool) -> None:
        """Keep what the upstream response cost that *tap* has watched, together with the end."""
        self._last.append(self._usage(usage, tap, partial=partial))

    def _usage(self, usage: Usage, tap: Tap, *, partial: bool) -> TokenUsage:
        self._series.tokens(usage)
        return TokenUsage(
            self.id,
            self._next(),
            tap.response_id,
            usage.input,
            usage.output,
            usage.cache_read,
            usage.cache_write,
            usage.extra,
            partial,
            now_us(),
            tap.stop_reason,
            tap.service_tier,
        )

    def end(
        self,
        status: Status,
        *,
        http_status: int | None,
        attempts: int,
        error_type: ErrorType | None = None,
        error_message: str | None = None,
        credential_hint: str | None = None,
    ) -> None:
        """Keep how it ended."""
        if error_message is not None:
            error_message = clip(error_message, self.message_limit)[0] if self.message_limit else None
        self._last.append(
            InterceptionEnd(
                self.id,
                status,
                http_status,
                error_type,
                error_message,
                attempts,
                max(now_us(), self._interception.started_at),  # the clock may have been set back
                credential_hint,
            )
        )
        self._journal.end(self._last)
        self._series.end(status, self._began)

    def _next(self) -> int:
        self._seq += 1
        return self._seq


class UsageRecorder(Recorder):
    """Keeps nothing of what was said: of prompts when they came, of tools their names and ids, no thoughts.

    What is left out is marked as cut. An error keeps its type: its text may be a provider's or a server's, which quotes
    what it was sent.
    """

    __slots__ = ()

    prompt_limit = 0
    content_limit = 0
    message_limit = 0

    def finding(self, found: Finding, response_id: str) -> None:
        """Keep a tool call."""
        if isinstance(found, Tool):
            super().finding(found, response_id)

    def injected_tool(
        self, call: Call, response_id: str, error: str | None, duration_us: int | None, result: str | None
    ) -> None:
        """Keep that a tool was called, and whether it failed; why one was not called is the gateway's own word."""
        del result
        if error is not None and duration_us is not None:
            error = "failed"
        super().injected_tool(call, response_id, error, duration_us, None)
