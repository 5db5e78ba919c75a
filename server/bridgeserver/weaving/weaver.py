"""What the weavers of all protocols have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from bridgecore import Event
from bridgeserver.errors import BridgeError
from bridgeserver.protocols import lenient
from bridgeserver.tools.tool import Catalog, Tool, ToolResult
from bridgeserver.weaving.edits import Span

COMMENT = b": a tool is running\n\n"
"""What keeps a stream alive whose protocol has no event for it; every reader of event streams passes over comments."""


class NotWoven(BridgeError):
    """The tools have no place in a request; it is sent as it came."""


class Call(NamedTuple):
    """A call of one of the gateway's tools."""

    id: str
    tool: Tool
    arguments: str
    """As the model wrote them, which should be JSON text of an object."""

    def parsed(self) -> dict[str, Any] | None:
        """Return the arguments, or None where they are no object."""
        if not self.arguments.strip():
            return {}
        found = lenient.read(self.arguments.encode("utf-8", "surrogatepass"))
        return lenient.mapping(found) if isinstance(found, dict) else None


class Outcome(NamedTuple):
    """What came of a call: a result, or why there is none."""

    call: Call
    result: ToolResult | None
    error: str | None = None

    @property
    def is_error(self) -> bool:
        """Whether the model is to be told that it failed."""
        return self.result is None or self.result.is_error


class Memory(NamedTuple):
    """What a client does not have of a turn in which both sides had calls to answer.

    The client's next request tells its results alone; with this, the provider gets those of all calls.
    """

    anchor: str
    """The id of the first call that the client answers."""
    before: tuple[bytes, ...]
    """The hidden elements that came before that call, as JSON text."""
    after: tuple[bytes, ...]
    results: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """What it takes, roughly."""
        return sum(map(len, (*self.before, *self.after, *self.results)))


class Weaver(ABC):
    """One conversation, from the request that the client sent to the one answer that it gets.

    A turn is an answer of the provider: `begin`, then `event` for each event of a stream or `whole` for a body. Then
    `calls` are those that the gateway has to make, and with their outcomes `proceed` returns the next request.
    """

    ping: ClassVar[bytes] = COMMENT
    """What may be sent between two events, so that nobody on the way takes the stream for dead."""

    def __init__(self, body: bytes, at: int, catalog: Catalog) -> None:
        self.body = body
        """The request of the current turn."""
        self._at = at
        self._catalog = catalog
        self._turns = 0
        self._usage: dict[str, Any] = {}
        self.calls: list[Call] = []
        """The calls of the turn that has ended, in the order in which the model made them."""
        self.is_mixed = False
        """Whether the client has calls of the same turn to answer, so that its answer ends here."""
        self.continued: tuple[str, str] | None = None
        """The id that the client knows the answer by, and the provider's id of the last turn, where they differ."""

    @property
    def held_bytes(self) -> int:
        """What is kept of the turn, roughly."""
        return 0

    @property
    def is_first_turn(self) -> bool:
        """Whether the answer that was begun last is the first."""
        return self._turns == 1

    def find(self, name: str) -> Tool | None:
        """Return the gateway's tool that the model calls by that name."""
        return self._catalog.find(name)

    def begin(self) -> None:
        """Begin with the next answer."""
        self._turns += 1
        self.calls = []
        self.is_mixed = False

    @abstractmethod
    def event(self, event: Event, raw: bytes) -> bytes:
        """Take an event, which stood in the stream as *raw*, and return what the client gets now."""

    @abstractmethod
    def whole(self, body: bytes) -> bytes:
        """Take an answer that is one document, and return what the client gets if it is the last."""

    @abstractmethod
    def ended(self) -> bytes:
        """Return what was held back of the end of a stream, now that it is the last."""

    @abstractmethod
    def proceed(self, outcomes: Sequence[Outcome]) -> bytes:
        """Return the request of the next turn, in which the model is told the *outcomes* of its calls."""

    @abstractmethod
    def remembered(self, outcomes: Sequence[Outcome]) -> Memory:
        """Return what has to come back into the next request of the client, for a turn that is mixed."""

    def _grow(self, pieces: Iterable[bytes]) -> bytes:
        """Add elements to the end of the conversation, and return the body."""
        added = b"".join(b"," + piece for piece in pieces)
        self.body = b"".join((self.body[: self._at], added, self.body[self._at :]))
        self._at += len(added)
        return self.body


def frame(event: Event, data: bytes) -> bytes:
    """Return an event of that name with other data."""
    return b"event: %b\ndata: %b\n\n" % (event.name, data) if event.name else b"data: %b\n\n" % data


Memories = Mapping[str, Memory]
"""What one caller's clients do not have, by the id of the call that it belongs to."""

Elements = list[bytes]


def split(elements: Iterable[tuple[bytes, bool]], is_anchor: Callable[[bytes], bool]) -> tuple[Elements, Elements]:
    """Return the hidden ones among the *elements*, each with whether it is hidden: before the anchor, and after it."""
    before: Elements = []
    after: Elements = []
    side = before
    for element, is_hidden in elements:
        if is_hidden:
            side.append(element)
        elif is_anchor(element):
            side = after
    return before, after


def memories_in(body: bytes, span: Span, memories: Memories) -> list[Memory]:
    """Return those whose call may be in the text at *span*."""
    return [memory for anchor, memory in memories.items() if body.find(anchor.encode("utf-8", "replace"), *span) >= 0]
