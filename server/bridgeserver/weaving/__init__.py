"""The gateway's own tools in a conversation: into the request, and out of the answers again.

A `Weaver` takes a request body, adds the tools to it, and makes of the provider's answers, one for each turn, the one
answer that the client sees: the calls of these tools are left out, what belongs together is numbered anew, and what
the turns cost is summed. Nothing here does I/O. One file for each protocol.
"""

import re
from collections.abc import Callable, Mapping
from typing import Protocol as Interface

from bridgeserver.protocols import Protocol
from bridgeserver.tools.tool import Catalog
from bridgeserver.weaving import chat, messages, responses
from bridgeserver.weaving.responses import continued_from, restart
from bridgeserver.weaving.weaver import Call, Memories, Memory, NotWoven, Outcome, Weaver

__all__ = ["Call", "Memories", "Memory", "NotWoven", "Outcome", "Weaver", "continued_from", "restart", "weave"]


class _Make(Interface):
    def __call__(self, body: bytes, catalog: Catalog, *, drops_usage: bool) -> Weaver: ...


_WEAVERS: Mapping[str, tuple[Callable[[bytes, Memories], bytes], _Make]] = {
    "messages": (messages.restore, messages.MessagesWeaver),
    "chat": (chat.restore, chat.ChatWeaver),
    "responses": (responses.restore, responses.ResponsesWeaver),
}


def weave(protocol: Protocol, body: bytes, catalog: Catalog, memories: Memories, *, drops_usage: bool) -> Weaver:
    """Return what weaves the tools of *catalog* into the conversation that the request *body* belongs to.

    *memories* are what the caller's clients do not have of earlier turns. With *drops_usage* the client gets no chunk
    that is nothing but usage. Raises NotWoven for a request in which the tools have no place.
    """
    restore, make = _WEAVERS[protocol.name]
    if memories:
        memories = _mentioned(body, memories)
    return make(restore(body, memories) if memories else body, catalog, drops_usage=drops_usage)


def _mentioned(body: bytes, memories: Memories) -> Memories:
    """Return those whose call may be in *body*: most are of other conversations, and to look at messages costs more."""
    by_text = {anchor.encode("utf-8", "replace"): memory for anchor, memory in memories.items()}
    longest_first = sorted(by_text, key=len, reverse=True)  # an id may begin like another one
    found = set(re.findall(b"|".join(map(re.escape, longest_first)), body))
    return {memory.anchor: memory for text, memory in by_text.items() if text in found}
