"""The AWS credentials of one provider in one worker: loaded once, fetched anew in time, never on the event loop."""

import asyncio
from collections.abc import Iterable

import structlog

from bridgecore import write_lines
from bridgeserver.bedrock.signing import Credentials, CredentialSource, Signer, load_credentials
from bridgeserver.errors import BridgeError, CredentialsMissing

log = structlog.get_logger("bridgecore")

LOAD_S = 30.0
"""How long a request waits for credentials."""

PAUSE_S = 5.0
"""How long after an attempt the next one is made: what cannot be had should not be asked for all the time."""


class AwsSession:
    """What a provider signs its requests with."""

    def __init__(self, source: CredentialSource, region: str, service: str) -> None:
        self._source = source
        self._region = region
        self._service = service
        self._credentials: Credentials | None = None
        self._signer: Signer | None = None
        self._fetching: asyncio.Future[None] | None = None
        self._fetched_at = -PAUSE_S

    @property
    def is_ready(self) -> bool:
        """Whether a request can be signed, and need not see to the next ones."""
        return self._credentials is not None and self._credentials.is_fresh()

    async def ready(self) -> None:
        """Return once a request can be signed; fetch credentials if it is time to. Raises CredentialsMissing."""
        fetching, loop = self._fetching, asyncio.get_running_loop()
        if fetching is None or (fetching.done() and loop.time() - self._fetched_at >= PAUSE_S):
            fetching = self._fetching = loop.run_in_executor(None, self._fetch)
            fetching.add_done_callback(self._note)
        if self._credentials is not None and self._credentials.is_usable():
            return  # those that are here are good for a while; whoever comes then finds the new ones
        try:
            await asyncio.wait_for(asyncio.shield(fetching), LOAD_S)
        except TimeoutError as exc:
            raise CredentialsMissing(f"no AWS credentials found: none came within {LOAD_S:g} s") from exc

    def sign(self, method: str, url: str, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
        """Return the lines that a request gets; *headers* are those among the signed ones that it has already."""
        if self._signer is None:
            raise CredentialsMissing("no AWS credentials found: they were not loaded yet")
        return write_lines(self._signer.sign(method, url, headers, body))

    def _note(self, fetching: "asyncio.Future[None]") -> None:
        self._fetched_at = fetching.get_loop().time()
        error = None if fetching.cancelled() else fetching.exception()
        if error is not None:
            log.warning("aws_credentials_missing", reason=str(error) if isinstance(error, BridgeError) else repr(error))

    def _fetch(self) -> None:
        """Load or refresh; runs in a thread, one at a time."""
        if self._credentials is None:
            credentials = load_credentials(self._source, self._region)
            self._signer = Signer(self._region, self._service, credentials)
            self._credentials = credentials
        else:
            self._credentials.refresh()
