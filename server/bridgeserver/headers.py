"""Header fields: which ones travel on, in both directions, and how a request's are looked up."""

from collections.abc import Collection, Iterable

Pairs = list[tuple[bytes, bytes]]
"""Header fields in their order, names in lower case."""

Headers = dict[bytes, bytes]
"""Header fields by name; of several values of one name the first."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    },
)
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})

# `expect` was answered when the body was read; the rest is set anew or is nobody's business upstream.
NOT_UPSTREAM = (
    HOP_BY_HOP
    | CREDENTIALS
    | {
        b"accept-encoding",
        b"content-length",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
    }
)
NOT_UPSTREAM_PREFIXES = (b"x-bridge-", b"x-coder-", b"x-ai-bridge-", b"x-forwarded-")
NOT_WITH_CENTRAL_KEY = frozenset({b"openai-organization", b"openai-project"})
NOT_BACK = HOP_BY_HOP | {b"set-cookie", b"alt-svc"}


def by_name(pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the fields by name; the first of several values counts."""
    headers: Headers = {}
    for name, value in pairs:
        headers.setdefault(name, value)
    return headers


def for_upstream(pairs: Pairs, *, is_central: bool, replaced: Collection[bytes] = ()) -> Pairs:
    """Return the client's fields that travel on; the credential is added by the provider."""
    nominated = _nominated(pairs)
    return [
        (name, value)
        for name, value in pairs
        if name not in NOT_UPSTREAM
        and not name.startswith(NOT_UPSTREAM_PREFIXES)
        and not (is_central and name in NOT_WITH_CENTRAL_KEY)
        and name not in nominated
        and name not in replaced
    ]


def for_client(pairs: Pairs, *, drop_length: bool = False) -> Pairs:
    """Return the upstream's fields that travel back; *drop_length* where the body will be another one."""
    nominated = _nominated(pairs)
    return [
        (name, value)
        for name, value in pairs
        if name not in NOT_BACK and name not in nominated and not (drop_length and name == b"content-length")
    ]


def lines(pairs: Pairs) -> bytes:
    """Return the fields as they are written, each with its CRLF."""
    return b"".join([b"%b: %b\r\n" % pair for pair in pairs])


def answer_lines(pairs: Pairs, *, drop_length: bool = False) -> bytes:
    """Return the upstream's fields that travel back, as `lines`."""
    return lines(for_client(pairs, drop_length=drop_length))


def _nominated(pairs: Pairs) -> frozenset[bytes]:
    """Return the fields that `Connection` names as meant for the next hop only."""
    values = [value for name, value in pairs if name == b"connection"]
    return frozenset(field.strip().lower() for value in values for field in value.split(b","))
