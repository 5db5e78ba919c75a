"""Where a request goes, and with which credential; how it gets an answer from there."""

from typing import NamedTuple

from bridgecore import Connection, Guard, Request, by_name
from bridgecore.http1 import Head
from bridgeserver.credential import Credential
from bridgeserver.generation import Generation
from bridgeserver.keypool import REASONS, retry_after
from bridgeserver.providers import Provider, Route
from bridgeserver.relay import Timeouts
from bridgeserver.upstream import Exchange


class Target(NamedTuple):
    """A route of a provider in one generation, and what the provider is shown."""

    generation: Generation
    provider: Provider
    route: Route
    credential: Credential
    path: str
    """Below the provider's base URL."""
    further: bytes = b""
    """Lines of the head that are about the caller."""

    @property
    def is_shared_account(self) -> bool:
        """Whether other users are the same account at the provider, so that ownership must be checked here."""
        return self.credential.kind == "centralized" and not self.provider.shared_state

    def request_head(self, request: Request, body: bytes) -> bytes:
        """Return the head of the upstream request."""
        return self.provider.request_head(
            request.method, self.path, request.query, request.fields, self.credential, body, self.further
        )

    def exchange(self) -> Exchange:
        """Return a context in which the request can be sent."""
        return self.generation.upstream(self.provider.origin).exchange()

    async def answer(
        self, exchange: Exchange, request: Request, body: bytes, guard: Guard, timeouts: Timeouts
    ) -> tuple[Connection, "Target"]:
        """Return the connection that holds the head of the answer to what was sent, and the target that gave it.

        That is another one if a central key was refused: then the next one is tried, before the client has seen
        anything. Raises KeysRateLimited or KeysRefused after the last, and what the exchange raises.
        """
        target = self
        guard.expect(timeouts.upstream_s, timeouts.upstream_error)
        connection = await exchange.answered()
        while (key := target._next_key(connection.head)) is not None:
            target = target._replace(credential=key)
            guard.expect(timeouts.upstream_s, timeouts.upstream_error)
            connection = await exchange.again(target.request_head(request, body), body)
        return connection, target

    def _next_key(self, head: Head | None) -> Credential | None:
        assert head is not None  # noqa: S101 - the request was sent, so the head is here
        keys, key = self.provider.keys, self.credential
        if head.status not in REASONS or keys is None or key.kind != "centralized" or not key.name:
            return None
        return keys.fall_back(key, head.status, retry_after(by_name(head.headers)))
