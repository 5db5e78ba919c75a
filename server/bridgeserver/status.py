"""What the gateway says about itself: its configuration in force, its providers, MCP servers and workers."""

from typing import Literal

import msgspec


class ProviderStatus(msgspec.Struct, frozen=True):
    """One provider of the generation in force, or one that could not be built."""

    name: str
    type: str
    status: Literal["enabled", "disabled", "error"]
    reason: str
    """Why it is not enabled; empty where it is, or where nothing is to be said."""
    source: Literal["file", "store"]
    base_url: str
    key_count: int


class McpServerStatus(msgspec.Struct, frozen=True):
    """One MCP server of the generation in force, or one of the store that cannot be used."""

    name: str
    url: str
    """Without its query, which may hold a secret."""
    status: Literal["enabled", "disabled", "error"]
    reason: str
    """Why it is not enabled; empty where it is, or where nothing is to be said."""
    source: Literal["file", "store"]
    user_token: bool
    """Whether each user has a token of his own there."""
    allow: str = ""
    deny: str = ""


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker process."""

    pid: int
    generation: int
    """The number of the generation that its new requests get; 0 as long as it has none."""
    ready: bool
    reason: str
    """Why it is not ready; empty where it is."""


class ReloadStatus(msgspec.Struct, frozen=True):
    """The generation in force and the last attempts to replace it; times are Unix seconds, None for never."""

    number: int
    published_at: float | None
    last_reload_at: float | None
    last_success_at: float | None
    last_error: str | None
    """Why the last attempt failed; None if it did not."""
    restart_needed: tuple[str, ...]
    """Sections of the configuration, like `server`, whose change waits for a restart."""
    store_error: str | None
    """Why the store cannot be read; None while it can."""
    providers: tuple[ProviderStatus, ...]
    workers: tuple[WorkerStatus, ...]
    mcp_servers: tuple[McpServerStatus, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether any worker may be sent a request: there is one, and all of them are ready."""
        return bool(self.workers) and all(worker.ready for worker in self.workers)


class ShippingStatus(msgspec.Struct, frozen=True):
    """How far the records are on their way to the store; what is counted is since the start of the gateway."""

    lag_s: float = 0.0
    """For how long the store has not taken all that waits; 0 while it does."""
    journal_bytes: int = 0
    """Written and not in the store yet, of all workers."""
    segments: int = 0
    """Files that hold it, those allocated ahead included."""
    records: int = 0
    """Taken to the store."""
    batches: int = 0
    batch_s: float = 0.0
    """Time spent in the batches that the store took."""
    refused: int = 0
    """Records that the store refused for what they are, and that were kept aside."""
    damaged: int = 0
    """Frames, and records in them, that could not be read, and that were kept aside."""
    failures: int = 0
    """Passes in which the store, or a journal, failed."""
