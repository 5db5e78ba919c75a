"""What one answer is to be, and how it is to go wrong."""

from pathlib import Path

import msgspec

from bridgeserver.errors import ConfigError


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool that the model calls."""

    name: str
    """With a `*`: the first tool of that pattern that the request offers, and no call when there is none."""
    arguments: str = "{}"
    """JSON, sent as it is written here."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error that the provider reports; what is empty is what the real one says with that status."""

    status: int
    type: str = ""
    message: str = ""
    code: str = ""
    """OpenAI's `error.code`."""
    retry_after: str = ""
    """The `Retry-After` header."""


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer. In a stream an event is one server-sent event; the head goes out with the first.

    Where a blocking answer is to be cut, stalled or gated, its body counts as two events: its halves.
    """

    text: str = "Hello from the fake provider. This answer was made up."
    events: int = 5
    """Pieces that the text (and the thinking) of a stream comes in; more than it has characters is as many."""
    thinking: str | None = None
    """A thinking block, or a reasoning summary; Chat Completions do not show it."""
    tools: tuple[ToolCall, ...] = ()
    tool_turns: int | None = None
    """Call no tools once the conversation holds this many turns of tool results; None: call them always."""
    quotes_result: bool = False
    """The text ends with what the tools answered last; before that with nothing."""
    is_incomplete: bool = False
    """The answer ends at the token limit."""

    input_tokens: int = 25
    """Tokens that were neither read from the cache nor written to it."""
    output_tokens: int = 12
    cache_read_tokens: int = 7
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    """Those among the output tokens that were thought."""
    web_searches: int = 0
    """Messages only: `server_tool_use`."""

    first_delay_s: float = 0.0
    gap_s: float = 0.0
    """Time between two events; a blocking answer comes when the text of its stream would have ended."""

    fail: Fault | None = None
    """Answer with this error; with `stream_error_after`, report it inside the stream."""
    stream_error_after: int | None = None
    """Report an error as an event after this many others and end the stream; a blocking answer is the error."""
    cut_after: int | None = None
    """Close the connection after this many events; 0: before any byte."""
    reset: bool = False
    """Cut by RST in place of FIN."""
    stall_after: int | None = None
    """Be silent after this many events until the client closes; 0: before any byte."""
    gate: bool = False
    """Each event after the first waits for `FakeProvider.release`."""

    close: bool | None = None
    """Close the connection after the answer; None: only a raw one."""
    encoding: str = ""
    """`gzip`: compress the body, asked for or not."""
    headers: tuple[tuple[str, str], ...] = ()
    """Further response headers."""
    raw: tuple[bytes, ...] | None = None
    """Written as the whole answer, head included; each counts as an event."""

    def __post_init__(self) -> None:
        if self.encoding not in {"", "gzip"}:
            raise ValueError(f"Script.encoding: expected 'gzip' or '', found {self.encoding!r}")

    @property
    def steps_through(self) -> bool:
        """Whether what happens depends on how much of the answer was sent."""
        return self.gate or self.cut_after is not None or self.stall_after is not None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    models: dict[str, Script]


def load_scripts(path: Path) -> dict[str, Script]:
    """Read scripts by model name from a TOML file: a table `[models."NAME"]` for each, with members of `Script`.

    Raises ConfigError.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=_File).models
    except OSError as exc:
        raise ConfigError([f"{path}: cannot be read: {exc.strerror}"]) from exc
    except (msgspec.DecodeError, ValueError) as exc:
        raise ConfigError([f'{path}: expected [models."NAME"] tables of script members: {exc}']) from exc
