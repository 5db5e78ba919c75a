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


class AwsSession:
    """What a provider signs its requests with."""

    def __init__(self, source: CredentialSource, region: str, service: str) -> None:
        self._source = source
        self._region = region
        self._service = service
        self._credentials: Credentials | None = None
        self._signer: Signer | None = None
        self._fetching: asyncio.Future[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a request can be signed, and need not see to the next ones."""
        return self._credentials is not None and self._credentials.is_fresh()

    async def ready(self) -> None:
        """Return once a request can be signed; fetch credentials if it is time to. Raises CredentialsMissing."""
        fetching = self._fetching
        if fetching is None or fetching.done():
            loop = asyncio.get_running_loop()
            fetching = self._fetching = loop.run_in_executor(None, self._fetch)
            fetching.add_done_callback(_log_failure)
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

    def _fetch(self) -> None:
        """Load or refresh; runs in a thread, one at a time."""
        if self._credentials is None:
            credentials = load_credentials(self._source, self._region)
            self._signer = Signer(self._region, self._service, credentials)
            self._credentials = credentials
        else:
            self._credentials.refresh()


def _log_failure(fetching: "asyncio.Future[None]") -> None:
    error = None if fetching.cancelled() else fetching.exception()
    if error is not None:
        log.warning("aws_credentials_missing", reason=str(error) if isinstance(error, BridgeError) else repr(error))
