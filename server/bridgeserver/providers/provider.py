"""What a provider is, whatever its type."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple
from typing import Protocol as Interface
from urllib.parse import unquote, urlencode, urlsplit

from bridgecore import write_lines
from bridgeserver.breaker import Breaker, Rules
from bridgeserver.config import ProviderConfig
from bridgeserver.credential import CREDENTIAL_HEADERS, Credential, bearer_token
from bridgeserver.errors import BadResponse, NotFound, ProviderDisabled, Unauthorized
from bridgeserver.headers import Headers, Pairs, held_back, request_lines
from bridgeserver.keypool import KeyPool
from bridgeserver.protocols import Facts, Protocol
from bridgeserver.secret import hint
from bridgeserver.upstream import Origin

READ = frozenset({"GET", "HEAD"})
MAKE = frozenset({"POST"})
NOTHING: frozenset[str] = frozenset()
MANAGE = frozenset({"GET", "HEAD", "POST", "DELETE"})
ANY = MANAGE | {"PUT", "PATCH"}


class ProviderType(NamedTuple):
    """The routes of one kind of provider, below its prefix."""

    name: str
    prefix: str
    bridged: dict[str, Protocol]
    passthrough: dict[str, frozenset[str]]
    """Methods by route. The central key may be an administrator's, so what nobody needs is not let through."""
    subtrees: dict[str, frozenset[str]]
    """The same for everything that begins with a prefix."""
    error_protocol: Protocol
    owned: tuple[str, ...] = ()
    """Subtrees whose next segment is the id of an object that belongs to one user."""
    creates: frozenset[str] = frozenset()
    """Passthrough routes whose answer to a POST is an object of that kind."""
    held_back: frozenset[bytes] = frozenset()
    """Fields that do not travel on beside the usual ones."""


class Route(NamedTuple):
    """Where a request goes: `protocol` is None for a passthrough."""

    path: str
    protocol: Protocol | None
    object_id: str | None
    creates_object: bool
    pattern: str = ""
    """What the path of a passthrough has met; ids in it are a `*`."""

    @property
    def takes_tools(self) -> bool:
        """Whether a model answers there, who may call tools."""
        return self.protocol is not None and not self.path.endswith("/compact")


class Outgoing(NamedTuple):
    """A request in a wire format of the provider's own."""

    path: str
    body: bytes
    facts: Facts


class Translation(Interface):
    """An answer in a wire format of the provider's own, on its way into the protocol's."""

    fields: Pairs
    """The header fields that the answer has then."""
    failure: BadResponse | None
    """Why nothing can be made of the rest."""

    def feed(self, chunk: bytes, is_last: bool) -> bytes:
        """Return what the next bytes of the body become."""
        ...


class Session(Interface):
    """What has to be there before a request can be signed."""

    @property
    def is_ready(self) -> bool:
        """Whether it is."""
        ...

    async def ready(self) -> None:
        """Return once it is there."""
        ...


class Provider:
    """One configured provider; nothing of it changes but what its keys and its breaker have met with."""

    def __init__(
        self,
        config: ProviderConfig,
        kind: ProviderType,
        counters: Counter[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        url = urlsplit(config.base_url)
        self.config = config
        self.name = config.name
        self.type = kind.name
        self.enabled = config.enabled
        self.shared_state = config.shared_state
        self.actor_headers = config.actor_headers
        self.dumps = config.dumps
        self.error_protocol = kind.error_protocol
        self.origin = Origin(url.scheme, url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
        self._kind = kind
        self._prefix = f"/{config.name}{kind.prefix}"
        self._base_path = url.path.rstrip("/").encode()
        self.query = urlencode(list(config.query.items())).encode()
        """What every query begins with; may hold secrets, as `extra_fields` may."""
        self.host = url.netloc
        self._extra_headers: Pairs = [
            (name.lower().encode(), value.encode()) for name, value in config.extra_headers.items()
        ]
        self._auth = config.auth
        central = _central_credentials(config)
        self.keys = KeyPool(config.name, central, counters, clock) if central else None
        self.breaker: Breaker | None = None
        if config.breaker_failures:
            rules = Rules(
                config.breaker_failures, config.breaker_interval_s, config.breaker_timeout_s, config.breaker_probes
            )
            self.breaker = Breaker(config.name, rules, counters, clock)
        self.session: Session | None = None
        self.translates = False
        """Whether the provider has a wire format of its own, so that `outgoing` and `translation` matter."""
        replaced = [*self.extra_fields, *kind.held_back]
        self._held_back = held_back(is_central=True, replaced=replaced)
        self._held_back_from_byok = held_back(is_central=False, replaced=replaced)
        # A head of the routes that matter differs from the next one in little; that part is written once.
        self._openings = {
            (path, key.value): self._opening("POST", path, b"", key) for path in kind.bridged for key in central
        }

    @property
    def extra_fields(self) -> list[bytes]:
        """The names of the fields that the configuration adds, whose values may be secrets."""
        return [name for name, _value in self._extra_headers]

    def check_enabled(self) -> None:
        """Raise ProviderDisabled if this provider is switched off."""
        if not self.enabled:
            raise ProviderDisabled(f'provider_disabled: AI provider "{self.name}" is disabled')

    def bridged_routes(self) -> Iterator[tuple[str, Route]]:
        """Yield the whole path of each bridged route, which are met with POST, and the route."""
        for below, protocol in self._kind.bridged.items():
            yield self._prefix + below, Route(below, protocol, None, creates_object=False)

    def route(self, method: str, path: str) -> Route:
        """Return the route of a raw request path that names this provider, or raise NotFound."""
        below = path.removeprefix(self._prefix) if path.startswith(f"{self._prefix}/") else ""
        protocol = self._kind.bridged.get(below)
        if protocol is not None and method == "POST":
            return Route(below, protocol, None, creates_object=False)
        pattern, methods = self._passthrough(below)
        if protocol is None and method in methods:
            creates = method == "POST" and below in self._kind.creates
            return Route(below, None, self._object_id(below), creates, pattern)
        raise NotFound(f"route not supported: {method} {path}")

    def credential(self, headers: Headers, *, is_byok: bool) -> Credential:
        """Return what to show upstream: the caller's own credential in a BYOK call, else a central key.

        Raises Unauthorized where there is neither, and where the caller's own cannot be read: it must not be
        the central key that pays for a mistyped one. Raises KeysRateLimited or KeysRefused while all keys rest.
        """
        own = self._own_credential(headers) if is_byok else None
        if is_byok and own is None and any(headers.get(name) for name in CREDENTIAL_HEADERS.values()):
            raise Unauthorized(
                "beside X-Bridge-Token your own provider key was expected, and what was found is none: send it as "
                + ("`X-Api-Key: …` or " if self.type == "anthropic" else "")
                + "`Authorization: Bearer …`",
            )
        if own is not None:
            return own
        if self.keys is None:
            raise Unauthorized(
                f'AI provider "{self.name}" has no central key: send the gateway key as X-Bridge-Token '
                "and your own provider key beside it",
            )
        return self.keys.first()

    def request_head(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Pairs,
        credential: Credential,
        body: bytes,
        further: bytes = b"",
    ) -> bytes:
        """Return the head of the upstream request to *path* below the base, with *further* lines and its blank line."""
        is_central = credential.kind == "centralized"
        opening = None if query or not is_central else self._openings.get((path, credential.value))
        if opening is None:
            opening = self._opening(method, path, query, credential)
        lines = request_lines(headers, self._held_back if is_central else self._held_back_from_byok) + further
        if body or method not in {"GET", "HEAD", "DELETE", "OPTIONS"}:
            return b"%b%bcontent-length: %d\r\n\r\n" % (opening, lines, len(body))
        return opening + lines + b"\r\n"

    def outgoing(self, facts: Facts, body: bytes, fields: Pairs) -> Outgoing:
        """Return what a bridged request becomes in the provider's own wire format."""
        del fields
        return Outgoing("", body, facts)

    def translation(self, status: int, fields: Pairs) -> Translation | None:
        """Return how an answer with that head becomes one of the protocol, None where it is one."""
        del status, fields
        return None

    def _opening(self, method: str, path: str, query: bytes, credential: Credential) -> bytes:
        """Return what a head begins with: all that is not the client's."""
        target = self.target(path, query)
        fields = [(b"host", self.host.encode()), (b"accept-encoding", b"identity"), *self._extra_headers]
        if credential.name:
            fields.append((credential.name, credential.value))
        return b"%b %b HTTP/1.1\r\n%b" % (method.encode(), target, write_lines(fields))

    def target(self, path: str, query: bytes) -> bytes:
        """Return path and query as they go upstream."""
        target = self._base_path + path.encode()
        return target + b"?" + b"&".join(filter(None, (self.query, query))) if self.query or query else target

    def url(self, path: str) -> str:
        """Return where *path* leads to, without the query, which may hold secrets."""
        return f"{self.origin.scheme}://{self.host}{self._base_path.decode()}{path}"

    def _passthrough(self, below: str) -> tuple[str, frozenset[str]]:
        """Return the pattern that a path meets, and the methods that are let through there."""
        methods = self._kind.passthrough.get(below)
        if methods is not None:
            return below, methods
        for prefix, found in self._kind.subtrees.items():
            if below.startswith(prefix):
                return f"{prefix}*", found
        return "", NOTHING

    def _own_credential(self, headers: Headers) -> Credential | None:
        accepted = {b"x-api-key": self.type == "anthropic", b"api-key": self._auth == "api-key"}
        for name, is_accepted in accepted.items():
            if is_accepted and (key := headers.get(name)):
                return Credential(name, key, "byok", hint(key.decode("latin-1")))
        value = headers.get(b"authorization")
        token = bearer_token(value) if value else None
        if token is not None and value is not None:
            return Credential(b"authorization", value, "byok", hint(token))
        return None

    def _object_id(self, below: str) -> str | None:
        for subtree in self._kind.owned:
            if below.startswith(subtree):
                return unquote(below.removeprefix(subtree).partition("/")[0])
        return None


def _central_credentials(config: ProviderConfig) -> list[Credential]:
    if config.auth in {"none", "aws"}:
        return [Credential(b"", b"", "centralized", hint(config.keys[0].reveal()) if config.keys else "")]
    secrets = [key.reveal() for key in config.keys]
    name, scheme = CREDENTIAL_HEADERS[config.auth], "Bearer " if config.auth == "bearer" else ""
    return [Credential(name, f"{scheme}{secret}".encode(), "centralized", hint(secret)) for secret in secrets]
