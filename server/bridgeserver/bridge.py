"""What one caller reaches in one generation."""

from collections.abc import Awaitable, Callable

from bridgeserver.generation import Generation
from bridgeserver.identity import Caller
from bridgeserver.toolloop import Memories
from bridgeserver.tools.tool import Toolbox

Connect = Callable[[Caller, Generation], Awaitable[Toolbox | None]]


class RequestBridge:
    """Ready to serve one caller: whatever is the same for all of the caller's requests is made once, with it."""

    def __init__(
        self, caller: Caller, generation: Generation, tools: Toolbox | None = None, *, is_degraded: bool = False
    ) -> None:
        self.caller = caller
        self.generation = generation
        self.tools = tools
        self.memories = Memories()
        self.is_degraded = is_degraded or (tools is not None and tools.is_degraded)

    @property
    def cost(self) -> int:
        """What it takes of the pool: one, and one for each session."""
        return 1 if self.tools is None else 1 + self.tools.sessions

    async def close(self) -> None:
        """End its sessions; a second time does nothing."""
        tools, self.tools = self.tools, None
        if tools is not None:
            await tools.close()
