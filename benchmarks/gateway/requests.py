"""The requests of the benchmark, with the heads that SDKs and Claude Code send."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

from benchmarks.gateway.bodies import chat_request, claude_request

OPENAI_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "accept": "application/json",
        # SDKs ask for compressed answers too. Who compresses would pay for it here, and others would not.
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": "OpenAI/Python 2.8.0",
        "x-stainless-lang": "python",
        "x-stainless-package-version": "2.8.0",
        "x-stainless-os": "Linux",
        "x-stainless-arch": "x64",
        "x-stainless-runtime": "CPython",
        "x-stainless-runtime-version": "3.12.7",
        "x-stainless-async": "async:asyncio",
        "x-stainless-retry-count": "0",
        "x-stainless-read-timeout": "600",
    }
)

CLAUDE_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "accept": "application/json",
        "accept-encoding": "identity",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
        "anthropic-dangerous-direct-browser-access": "true",
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
        "user-agent": "claude-cli/2.0.67 (external, cli)",
        "x-app": "cli",
        "x-stainless-arch": "x64",
        "x-stainless-helper-method": "stream",
        "x-stainless-lang": "js",
        "x-stainless-os": "Linux",
        "x-stainless-package-version": "0.60.0",
        "x-stainless-retry-count": "0",
        "x-stainless-runtime": "node",
        "x-stainless-runtime-version": "v22.11.0",
        "x-stainless-timeout": "600",
    }
)


class Kind(StrEnum):
    """What is asked."""

    CHAT = "short chat"
    CLAUDE_100K = "100 KB body"
    CLAUDE_1M = "1 MB body"
    STREAM = "stream"

    @property
    def is_claude(self) -> bool:
        """Whether the request is one of the Messages protocol."""
        return self in {Kind.CLAUDE_100K, Kind.CLAUDE_1M}


_MAKERS: Mapping[Kind, Callable[[], bytes]] = {
    Kind.CHAT: chat_request,
    Kind.CLAUDE_100K: lambda: claude_request(100_000),
    Kind.CLAUDE_1M: lambda: claude_request(1_000_000),
    Kind.STREAM: lambda: chat_request(stream=True),
}

BODIES: Mapping[Kind, bytes] = {kind: make() for kind, make in _MAKERS.items()}
