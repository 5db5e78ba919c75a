"""Where a request goes, and with which credential; how it gets an answer from there."""

from typing import NamedTuple

from bridgecore import Connection, Guard, Request, by_name
from bridgeserver.credential import Credential
from bridgeserver.generation import Generation
from bridgeserver.headers import Pairs
from bridgeserver.keypool import REASONS, retry_after
from bridgeserver.providers import Provider, Route
from bridgeserver.relay import Timeouts
from bridgeserver.upstream import Exchange, head_of


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
    fields: Pairs | None = None
    """What there is of the client's head; None: all of it."""
    context: bytes = b""
    """The line of the head that says to which trace the request belongs."""

    @property
    def is_shared_account(self) -> bool:
        """Whether other users are the same account at the provider, so that ownership must be checked here."""
        return self.credential.kind == "centralized" and not self.provider.shared_state

    def request_head(self, request: Request, body: bytes) -> bytes:
        """Return the head of the upstream request."""
        fields = request.fields if self.fields is None else self.fields
        return self.provider.request_head(
            request.method, self.path, request.query, fields, self.credential, body, self.further + self.context
        )

    def exchange(self) -> Exchange:
        """Return a context in which the request can be sent."""
        return self.generation.upstream(self.provider.origin).exchange()

    def is_refused(self, connection: Connection) -> bool:
        """Whether the answer says that a central key was refused or has reached its limit."""
        return (
            head_of(connection).status in REASONS
            and self.credential.kind == "centralized"
            and bool(self.credential.name)
        )

    def served_first(self) -> None:
        """Note that the answer that came to the first key is the client's."""
        keys = self.provider.keys
        if keys is not None and self.credential.kind == "centralized":
            keys.tried(1)

    async def answer(
        self, exchange: Exchange, request: Request, body: bytes, guard: Guard, timeouts: Timeouts
    ) -> tuple[Connection, "Target"]:
        """Return the connection that holds the head of the answer to what was sent, and the target that gave it."""
        guard.expect(timeouts.upstream_s, timeouts.upstream_error)
        connection = await exchange.answered()
        if not self.is_refused(connection):
            self.served_first()
            return connection, self
        return await self.fall_back(connection, exchange, request, body, guard, timeouts)

    async def fall_back(
        self,
        connection: Connection,
        exchange: Exchange,
        request: Request,
        body: bytes,
        guard: Guard,
        timeouts: Timeouts,
    ) -> tuple[Connection, "Target"]:
        """Return the same after a refusal: the next key is tried, before the client has seen anything.

        Raises KeysRateLimited or KeysRefused after the last, and what the exchange raises.
        """
        target: Target = self
        keys = target.provider.keys
        tries = 1
        try:
            while target.is_refused(connection) and keys is not None:
                head = head_of(connection)
                key = keys.fall_back(target.credential, head.status, retry_after(by_name(head.headers)))
                if key is None:
                    break
                target = target._replace(credential=key)
                tries += 1
                guard.expect(timeouts.upstream_s, timeouts.upstream_error)
                connection = await exchange.again(target.request_head(request, body), body)
        finally:
            if keys is not None:
                keys.tried(tries)
        return connection, target
