"""From the body that a client sent to the one that its provider gets: the same bytes, but for what is named here.

A Chat stream is asked for its usage. The caller's tools are woven in. A response from which a client goes on is named
as the provider knows it. And a provider with a wire format of its own gets the body in that.
"""

import re
from typing import NamedTuple

import structlog

from bridgecore import Request
from bridgeserver.bridge import RequestBridge
from bridgeserver.content import decode
from bridgeserver.headers import Pairs
from bridgeserver.ownership import Ownership
from bridgeserver.protocols import Facts, Protocol, Splice
from bridgeserver.protocols.responses import Responses
from bridgeserver.target import Target
from bridgeserver.toolloop import Tools
from bridgeserver.weaving import NotWoven, continued_from, restart, weave

log = structlog.get_logger("bridgecore")

ENCODING = b"content-encoding"


class Edited(NamedTuple):
    """What is sent, and where to."""

    body: bytes
    facts: Facts
    target: Target
    tools: Tools | None


def text_of(request: Request, body: bytes, max_bytes: int) -> bytes:
    """Return a body without its encoding. Raises BadRequest, BodyTooLarge and UnsupportedEncoding."""
    encoding = request.headers.get(ENCODING, b"").decode("latin-1").strip().lower()
    return body if encoding in {"", "identity"} else decode(body, encoding, max_bytes)


async def restarted(text: bytes, protocol: Protocol, provider_name: str, ownership: Ownership) -> bytes:
    """Return a request that goes on from the last turn of a response, where its client knows the id of the first."""
    if not isinstance(protocol, Responses):
        return text
    ids = {first: await ownership.continuation(provider_name, first) for first in continued_from(text)}
    return restart(text, {first: last for first, last in ids.items() if last is not None})


def without_encoding(fields: Pairs) -> Pairs:
    """Return the fields that travel on with a body that was edited, which is sent as it is."""
    return [(name, value) for name, value in fields if name != ENCODING]


def edited(
    request: Request,
    text: bytes,
    facts: Facts,
    protocol: Protocol,
    splice: Splice | None,
    target: Target,
    bridge: RequestBridge,
) -> Edited:
    """Return what is sent for a body with that *text*, and a *splice* where it has to ask for its usage."""
    if splice is not None:
        text = b"".join((text[: splice.start], splice.data, text[splice.end :]))
    text, tools = _woven(text, protocol, target, bridge, facts.model, drops_usage=splice is not None)
    if target.provider.translates:
        outgoing = target.provider.outgoing(facts, text, request.fields)
        text, facts, target = outgoing.body, outgoing.facts, target._replace(path=outgoing.path)
    return Edited(text, facts, target, tools)


def _woven(
    text: bytes, protocol: Protocol, target: Target, bridge: RequestBridge, model: str, *, drops_usage: bool
) -> tuple[bytes, Tools | None]:
    toolbox, config = bridge.tools, target.generation.tools
    if toolbox is None or not target.route.takes_tools or not toolbox.catalog.tools:
        return text, None
    if config.skip_models and re.search(config.skip_models, model):
        return text, None
    try:
        weaver = weave(protocol, text, toolbox.catalog, bridge.memories.by_call, drops_usage=drops_usage)
    except NotWoven as reason:
        log.warning("tools_not_injected", user=bridge.caller.user_name, reason=str(reason))
        return text, None
    return weaver.body, Tools(weaver, toolbox, bridge.memories, config)
