"""A scripted upstream that speaks Anthropic Messages, OpenAI Chat Completions and OpenAI Responses.

It answers like the real ones, blocking and streaming, and misbehaves on request: errors, cut and stalled
connections, answers that are no HTTP. A `Script` says what an answer is. Which one a request gets:

1. the next that was pushed: `provider.push(Script(...))`;
2. else `provider.script`, when it is set;
3. else, where a model answers, the one of its name: `scripts` (or `--script FILE`), then `catalogue.SCRIPTS`;
4. else a friendly default.

Ids are made from the conversation that a request brings, and times from a fixed clock, so that the same request
always gets the same bytes, whichever way it came.
"""

from bridgeserver.fakeprovider.catalogue import SCRIPTS
from bridgeserver.fakeprovider.received import Received
from bridgeserver.fakeprovider.running import running, serve
from bridgeserver.fakeprovider.script import Fault, Script, ToolCall, load_scripts
from bridgeserver.fakeprovider.server import FakeProvider

__all__ = ["SCRIPTS", "FakeProvider", "Fault", "Received", "Script", "ToolCall", "load_scripts", "running", "serve"]
