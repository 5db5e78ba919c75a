"""Signatures of requests to AWS (Signature Version 4), and the credentials for them.

botocore is imported where it is needed and not before: a gateway without Bedrock runs without it.
"""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from bridgeserver.errors import CredentialsMissing
from bridgeserver.secret import Secret

if TYPE_CHECKING:
    from botocore.credentials import Credentials as Held
    from botocore.credentials import ReadOnlyCredentials
    from botocore.session import Session

MADE_ANEW = frozenset({b"authorization", b"date", b"x-amz-content-sha256", b"x-amz-date", b"x-amz-security-token"})
"""Fields that are the signature's own; what else is there under these names must not travel on."""

SESSION_NAME = "bridgecore"
"""How the calls of an assumed role are named in CloudTrail."""

CONNECT_S = 5
READ_S = 10
ATTEMPTS = 2
"""Nothing ends a thread that loads credentials, so it ends by itself about when nobody waits for it any more."""

USABLE_S = 30
"""How long credentials must still be good to sign a request."""

_SIGNED = (b"content-type", b"host")
_ADDED = ("Authorization", "X-Amz-Date", "X-Amz-Security-Token")

_TOLD = frozenset(
    {
        "ConfigNotFound",
        "ConnectTimeoutError",
        "EndpointConnectionError",
        "InvalidConfigError",
        "InfiniteLoopConfigError",
        "NoRegionError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "ReadTimeoutError",
        "SSOTokenLoadError",
        "UnauthorizedSSOTokenError",
    },
)
"""Failures of botocore whose texts are known to hold no secret; of the others only the name is told."""


class CredentialSource(NamedTuple):
    """Where credentials come from: a pair, a profile, or else botocore's chain; then the role that is taken with them.

    The chain is the environment, the shared files, and what a container, an instance or a web identity is given.
    """

    access_key: str = ""
    access_key_secret: Secret | None = None
    session_token: Secret | None = None
    profile: str = ""
    role_arn: str = ""
    external_id: str = ""


class Credentials:
    """AWS credentials that may run out.

    `refresh` blocks and belongs in a thread, one call at a time; everything else answers at once. While `is_usable`
    a request can be signed; when no longer `is_fresh`, it is time to refresh, and nobody has to wait for it yet.
    """

    def __init__(self, held: "Held") -> None:
        from botocore.credentials import RefreshableCredentials

        self._held = held
        self._lease = held if isinstance(held, RefreshableCredentials) else None
        self._frozen: ReadOnlyCredentials | None = None

    def refresh(self) -> None:
        """Fetch new credentials if they are no longer fresh; raise CredentialsMissing if there are none to use.

        A failure while the old ones are good for some minutes is passed over: `is_fresh` stays false.
        """
        try:
            self._frozen = self._held.get_frozen_credentials()
        except Exception as exc:
            raise _missing(exc) from exc

    def is_fresh(self) -> bool:
        """Whether it is too early to refresh; what lasts for ever is always fresh."""
        return self._frozen is not None and not self._runs_out(None)

    def is_usable(self) -> bool:
        """Whether a request can be signed with what is here."""
        return self._frozen is not None and not self._runs_out(USABLE_S)

    def frozen(self) -> "ReadOnlyCredentials":
        """Return what was fetched last; raise CredentialsMissing if nothing was."""
        if self._frozen is None:
            raise CredentialsMissing("no AWS credentials found: they were not loaded yet")
        return self._frozen

    def _runs_out(self, within_s: int | None) -> bool:
        return self._lease is not None and self._lease.refresh_needed(within_s)


class Signer:
    """Signs requests to one service in one region; calls from several threads do not disturb each other."""

    def __init__(self, region: str, service: str, credentials: Credentials) -> None:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        self._region = region
        self._service = service
        self._credentials = credentials
        self._auth = SigV4Auth
        self._request = AWSRequest

    def sign(
        self, method: str, url: str, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> list[tuple[bytes, bytes]]:
        """Return the fields to add to a request, names in lower case; raise CredentialsMissing if none are loaded.

        Of *headers*, whose names are in lower case, only `host`, `content-type` and `x-amz-*` are signed; what is given
        of these must be sent as it is, and of MADE_ANEW nothing but what is returned. Costs a SHA-256 of *body*.
        """
        request = self._request(method=method, url=url, data=body)
        for name, value in headers:
            if name in _SIGNED or (name.startswith(b"x-amz-") and name not in MADE_ANEW):
                request.headers.add_header(name.decode("latin-1"), value.decode("latin-1"))
        self._auth(self._credentials.frozen(), self._service, self._region).add_auth(request)
        return [(name.lower().encode(), request.headers[name].encode()) for name in _ADDED if name in request.headers]


def load_credentials(source: CredentialSource, region: str) -> Credentials:
    """Return the credentials of *source*, ready to sign with; roles are taken in *region*.

    Blocks on files, processes and the network: call it in a thread, and wait for it no longer than 30 s. Raises
    CredentialsMissing, with one line that holds no secret.
    """
    try:
        held = _load(source, region)
    except ImportError as exc:
        raise CredentialsMissing(
            "botocore is not installed, and Bedrock needs it: install `bridgecore[bedrock]`"
        ) from exc
    except Exception as exc:
        raise _missing(exc) from exc
    if held is None:
        raise CredentialsMissing(
            "no AWS credentials found: neither keys are configured nor does the environment, a profile, "
            "a container or an instance give any; set access key and access key secret, or a role for this host"
        )
    credentials = Credentials(held)
    credentials.refresh()
    return credentials


def _load(source: CredentialSource, region: str) -> "Held | None":
    from botocore.credentials import Credentials as Pair

    session = _session(source.profile, region)
    if source.access_key and source.access_key_secret is not None:
        token = source.session_token.reveal() if source.session_token is not None else None
        held: Held | None = Pair(source.access_key, source.access_key_secret.reveal(), token)
    else:
        held = session.get_credentials()
    return _role(session, held, source) if held is not None and source.role_arn else held


def _session(profile: str, region: str) -> "Session":
    """Return a session whose calls, for roles of ours and of profiles, go to *region* and do not wait for long."""
    from botocore.config import Config
    from botocore.session import Session

    # What botocore logs are the texts that are signed and what credential processes have written.
    logging.getLogger("botocore").propagate = False
    session = Session(profile=profile or None)
    session.set_config_variable("region", region)
    session.set_default_client_config(
        Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries={"total_max_attempts": ATTEMPTS})
    )
    return session


def _role(session: "Session", held: "Held", source: CredentialSource) -> "Held":
    """Return the credentials of a role, which are fetched when they are first asked for."""
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

    arguments = {"RoleSessionName": SESSION_NAME}
    if source.external_id:
        arguments["ExternalId"] = source.external_id
    fetcher = AssumeRoleCredentialFetcher(session.create_client, held, source.role_arn, arguments)
    return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")


def _missing(failure: Exception) -> CredentialsMissing:
    """Return a failure to load as one line; texts of other places may hold what was signed, or a process's output."""
    from botocore.exceptions import ClientError

    name = type(failure).__name__
    told = name
    if isinstance(failure, ClientError):
        code = failure.response.get("Error", {}).get("Code", name)
        told = f"AWS answered {code} to {failure.operation_name}"
    elif name in _TOLD:
        told = f"{name}: {failure}"
    return CredentialsMissing(f"no AWS credentials found: {' '.join(told.split())}")
