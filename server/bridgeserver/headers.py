"""Header fields: which ones travel on, in both directions."""

from collections.abc import Collection
from urllib.parse import quote

from bridgecore import write_lines

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
FIELD_CHARACTERS = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"
"""What stands for itself in a field's value, beside letters, digits and `_.-~`; a percent sign does not."""
NOT_BACK = HOP_BY_HOP | {b"set-cookie", b"alt-svc"}
NOT_BACK_WITH_LENGTH = NOT_BACK | {b"content-length"}


def held_back(*, is_central: bool, replaced: Collection[bytes] = ()) -> frozenset[bytes]:
    """Return which of a client's fields do not travel on to a provider; those that it is given anew among them."""
    return NOT_UPSTREAM | (NOT_WITH_CENTRAL_KEY if is_central else frozenset[bytes]()) | frozenset(replaced)


def request_lines(pairs: Pairs, held_back: frozenset[bytes]) -> bytes:
    """Return a client's fields that travel on, as the lines of a head."""
    return write_lines(pairs, held_back, NOT_UPSTREAM_PREFIXES)


def actor_lines(user_id: str, user_name: str) -> bytes:
    """Return the lines that tell a provider who is asking; what no field may hold is percent-encoded."""
    return b"x-ai-bridge-actor-id: %b\r\nx-ai-bridge-actor-metadata-username: %b\r\n" % (
        quote(user_id, safe=FIELD_CHARACTERS).encode(),
        quote(user_name, safe=FIELD_CHARACTERS).encode(),
    )


def answer_lines(pairs: Pairs, *, drop_length: bool = False) -> bytes:
    """Return a provider's fields that travel back; *drop_length* where the body will be another one."""
    return write_lines(pairs, NOT_BACK_WITH_LENGTH if drop_length else NOT_BACK)
