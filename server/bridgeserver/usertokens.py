"""Users' own tokens for MCP servers: which servers take them, and how a worker reads and opens them."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from bridgeserver.config import McpServerConfig, StoreConfig
from bridgeserver.errors import Conflict, NotFound, SealError
from bridgeserver.secret import Secret
from bridgeserver.status import McpServerStatus
from bridgeserver.store.reader import Reader, SealedToken
from bridgeserver.store.stored import token_place

if TYPE_CHECKING:
    from bridgeserver.sealing import Vault

log = structlog.get_logger("bridgecore")


def check_server(name: str, servers: Sequence[McpServerConfig | McpServerStatus]) -> None:
    """Raise NotFound unless *name* is that of one of the servers, Conflict unless users have tokens there."""
    server = next((server for server in servers if server.name == name), None)
    if server is None:
        there = ", ".join(server.name for server in servers)
        raise NotFound(f"no MCP server named {name!r}; there are: {there or 'none'}")
    if not server.user_token:
        raise Conflict(
            f"MCP server {name!r} takes no token of a user: set user_token = true there, "
            "and remove its Authorization header if it has one"
        )


class UserTokens:
    """Reads and opens tokens in the thread of *executor*; nothing is kept, a bridge asks once when it is made.

    Their key is that of the store, whose file, if it is one, is at *database*. It is looked for when the first token is
    to be opened.
    """

    def __init__(self, reader: Reader, executor: Executor, config: StoreConfig, database: Path | None) -> None:
        self._reader = reader
        self._executor = executor
        self._config = config
        self._database = database
        self._vault: Vault | None = None
        self._unreadable: set[tuple[str, str]] = set()

    async def of(self, user_id: str) -> Mapping[str, Secret]:
        """Return a user's tokens by the names of their servers; raises StoreError.

        One that cannot be opened is left out, and the log says why. When any of them changes, the user's bridges leave
        the pool.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, user_id)

    def _read(self, user_id: str) -> Mapping[str, Secret]:
        opened = {row.server: self._open(user_id, row) for row in self._reader.user_tokens(user_id)}
        return {server: token for server, token in opened.items() if token is not None}

    def _open(self, user_id: str, row: SealedToken) -> Secret | None:
        place = user_id, row.server
        try:
            token = Secret(self._opener().open(row.sealed, token_place(*place)))
        except SealError as exc:
            if place not in self._unreadable:  # a bridge is made again and again
                self._unreadable.add(place)
                log.warning("user_token_unreadable", user=row.user_name, server=row.server, reason=str(exc))
            return None
        self._unreadable.discard(place)
        return token

    def _opener(self) -> "Vault":
        if self._vault is None:
            from bridgeserver.sealing import open_vault  # 20 ms and 6 MB, and most gateways have no such tokens

            self._vault = open_vault(self._config, self._database)
        return self._vault
