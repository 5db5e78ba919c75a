"""The tool loop of one interception: calls of the gateway's tools are made, recorded and answered."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import structlog

from bridgecore import Connection, Guard, Reply, Scanner
from bridgeserver.account import BODY_BYTES, Account
from bridgeserver.config import ToolsConfig
from bridgeserver.counting import Counters
from bridgeserver.errors import BadResponse, Overloaded, ToolError, ToolLimit
from bridgeserver.limits import Budget
from bridgeserver.protocols import Finding, Tap, Tool
from bridgeserver.recorder import Recorder
from bridgeserver.records import now_us
from bridgeserver.relay import Timeouts
from bridgeserver.spans import span
from bridgeserver.tools.tool import Toolbox
from bridgeserver.weaving import Call, Memory, Outcome, Weaver

log = structlog.get_logger("bridgecore")

PING_S = 3.0
"""How long a stream is silent at most while the gateway is at work, or the model on what its client does not get."""

EVENT_BYTES = 32 << 20
"""The largest event: the last one of a Responses stream brings all images again that it has made."""

MEMORIES = 32
MEMORY_BYTES = 4 << 20
"""What is kept of one caller's turns that client and gateway share; the oldest goes first."""


class Memories:
    """What the clients of one caller do not have of the turns in which both sides had calls to answer."""

    def __init__(self) -> None:
        self.by_call: dict[str, Memory] = {}
        self._bytes = 0

    def add(self, memory: Memory) -> None:
        """Keep one more; there are providers whose ids of calls come again, and of these the last counts."""
        known = self.by_call.pop(memory.anchor, None)
        self._bytes += memory.size - (0 if known is None else known.size)
        self.by_call[memory.anchor] = memory
        while len(self.by_call) > MEMORIES or (self._bytes > MEMORY_BYTES and len(self.by_call) > 1):
            self._bytes -= self.by_call.pop(next(iter(self.by_call))).size


class Tools(NamedTuple):
    """What a request has of the gateway's tools."""

    weaver: Weaver
    toolbox: Toolbox
    memories: Memories
    config: ToolsConfig


class ToolLoop:
    """The calls of one interception, in as many turns as the model takes."""

    def __init__(self, tools: Tools, recorder: Recorder, counters: Counters, labels: tuple[str, str]) -> None:
        self.weaver = tools.weaver
        self._tools = tools
        self._recorder = recorder
        self._counters = counters
        self._labels = labels
        self._turns = 0

    async def run(self, response_id: str) -> list[Outcome]:
        """Make the calls of the turn that has ended, side by side, and return what came of them, in their order.

        Beyond the last turn that a conversation may have, the model is told so instead. Raises ToolLimit if it goes on.
        """
        self._turns += 1
        limit = self._tools.config.max_turns
        if self._turns > limit:
            said = f"not called: the limit of {limit} turns with tools is reached; answer with what is known"
            refused = [self._refused(call, response_id, said) for call in self.weaver.calls]
            if self._turns > limit + 1:
                raise ToolLimit(f"the model went on calling tools after {limit} turns, the limit of the gateway")
            return refused
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._call(call, response_id)) for call in self.weaver.calls]
        return [task.result() for task in tasks]

    def remember(self, outcomes: Sequence[Outcome]) -> None:
        """Keep what the client's next request will lack."""
        self._tools.memories.add(self.weaver.remembered(outcomes))

    def not_run(self, finding: Tool, response_id: str) -> None:
        """Record a call that the answer broke off after, or was cut off in."""
        tool = self.weaver.find(finding.name)
        if tool is not None:
            call = Call(finding.call_id, tool, finding.arguments)
            self._record(call, response_id, Outcome(call, None, "not called: the answer ended before"), None)

    async def _call(self, call: Call, response_id: str) -> Outcome:
        started = now_us()
        arguments = call.parsed()
        if arguments is None:
            return self._refused(call, response_id, "not called: the arguments are not a JSON object")
        shown = self._recorder.content_limit  # what is not recorded is not for spans either
        with span("Intercept.ProcessRequest.ToolCall", _attributes(call, shown)) as traced:
            try:
                outcome = Outcome(call, await self._tools.toolbox.call(call.tool, arguments))
            except ToolError as error:
                outcome = Outcome(call, None, f"calling tool: {error}")
                traced.fail(str(error)[:shown] or type(error).__name__)
            except asyncio.CancelledError:
                self._record(call, response_id, Outcome(call, None, "cancelled: the request ended"), now_us() - started)
                raise
            except Exception as error:  # the conversation goes on without this result
                log.exception("tool_failed", tool=call.tool.id)
                outcome = Outcome(call, None, f"the gateway failed: {type(error).__name__}")
                traced.fail(type(error).__name__)
        self._record(call, response_id, outcome, now_us() - started)
        return outcome

    def _refused(self, call: Call, response_id: str, reason: str) -> Outcome:
        outcome = Outcome(call, None, reason)
        self._record(call, response_id, outcome, None)
        return outcome

    def _record(self, call: Call, response_id: str, outcome: Outcome, duration_us: int | None) -> None:
        result = None
        if self._tools.config.record_results and outcome.result is not None:
            result = msgspec.json.encode(outcome.result).decode()
        error = outcome.error or ("the tool said that it failed" if outcome.is_error else None)
        self._recorder.injected_tool(call, response_id, error, duration_us, result)
        if duration_us is not None:
            self._counters.add("injected_tool_invocations", *self._labels, call.tool.server_url, call.tool.name)


class WovenStream(Account):
    """Reads along with one turn of a stream, of which the weaver says what the client gets."""

    is_stream = True
    edits = True

    def __init__(self, tap: Tap, status: int, budget: Budget, weaver: Weaver) -> None:
        super().__init__(tap, status, None, budget)
        self._weaver = weaver
        self._scanner = Scanner(EVENT_BYTES)
        self._held = bytearray()
        self._time = asyncio.get_running_loop().time
        self._told_at = self._time()

    @property
    def is_between_events(self) -> bool:
        return True  # nothing but whole events is relayed

    def feed(self, chunk: bytes) -> tuple[bytes, list[Finding]]:
        findings: list[Finding] = []
        held = self._held
        held += chunk
        first = self._scanner.position + len(chunk) - len(held)  # stream offset of the first held byte
        relayed = bytearray()
        done = first
        for event in self._scanner.feed(chunk):
            findings += self.tap.event(event.name, event.data)
            relayed += held[done - first : event.start - first]
            relayed += self._weaver.event(event, bytes(held[event.start - first : event.end - first]))
            done = event.end
        boundary = max(self._scanner.boundary, done)
        relayed += held[done - first : boundary - first]
        del held[: boundary - first]
        if self._scanner.oversized:
            raise BadResponse(f"the provider sent an event of more than {EVENT_BYTES} bytes")
        if not self._count_held(2 * len(held) + self._weaver.held_bytes):
            raise Overloaded("the gateway is at capacity: answers fill the memory that it has for them")
        now = self._time()
        if not relayed and now - self._told_at >= PING_S:
            relayed += self._weaver.ping
        if relayed:
            self._told_at = now
        return bytes(relayed), findings

    def _finish(self) -> tuple[bytes, list[Finding]]:
        findings: list[Finding] = []
        relayed = b""
        for event in self._scanner.finish():
            findings += self.tap.event(event.name, event.data)
            relayed += self._weaver.event(event, bytes(self._held).rstrip(b"\r\n") + b"\n\n")
            self._held.clear()
        return relayed + bytes(self._held), findings


async def read_whole(connection: Connection, guard: Guard, timeouts: Timeouts) -> bytes:
    """Return the body of an answer that is one document. Raises BadResponse if it breaks off or is too long."""
    pieces: list[bytes] = []
    size = 0
    while not connection.complete or connection.has_bytes:
        if not connection.has_bytes:
            guard.expect(timeouts.upstream_s, timeouts.upstream_error)
            try:
                await connection.wait()
            except (ConnectionError, ValueError) as exc:
                raise BadResponse(f"the provider's answer broke off: {exc}") from exc
            continue
        piece = connection.take()
        size += len(piece)
        if size > BODY_BYTES:
            raise BadResponse(f"the provider's answer is longer than {BODY_BYTES} bytes, with which tools end")
        pieces.append(piece)
    return b"".join(pieces)


class KeptAlive:
    """A context in which *ping* is sent again and again inside of an answer that has begun."""

    def __init__(self, reply: Reply, ping: bytes) -> None:
        self._reply = reply
        self._ping = ping
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        if self._reply.status:
            self._wait()

    def __exit__(self, *_exc_info: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PING_S, self._send)

    def _send(self) -> None:
        if not self._reply.is_full:
            self._reply.write(self._ping, more=True)
        self._wait()


def _attributes(call: Call, shown: int) -> dict[str, str]:
    return {
        "mcp_input": call.arguments[: min(100, shown)],
        "mcp_tool_name": call.tool.name,
        "mcp_server_name": call.tool.server,
        "mcp_server_url": call.tool.server_url,
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.tool.name,
        "gen_ai.tool.call.id": call.id,
        "gen_ai.tool.type": "function",
    }
