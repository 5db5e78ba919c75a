"""Whether a text is what an option takes: hosts, networks, URLs, sealing keys and header names."""

import base64
import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from bridgeserver.headers import NOT_UPSTREAM

HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
BROKEN_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
VISIBLE = re.compile(r"[\x21-\x7e]+")
HEADER_TEXT = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
SEALING_KEY_BYTES = 32
TOKEN_CHARACTERS = 16
NOT_TO_MCP = frozenset(
    {
        "accept",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "mcp-protocol-version",
        "mcp-session-id",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that the client of an MCP server sets itself."""

METADATA_HOSTS = frozenset({"metadata.google.internal"})
METADATA_ADDRESSES = frozenset({ip_address("169.254.169.254"), ip_address("fd00:ec2::254")})

Address = IPv4Address | IPv6Address


def is_host(text: str) -> bool:
    """Whether *text* is an address or a host name that a server can listen on."""
    return address_of(text) is not None or HOST_NAME.fullmatch(text) is not None


def is_place(text: str) -> bool:
    """Whether *text* is a host and a port to listen on; an empty one is none."""
    if not text:
        return True
    host, port = host_and_port(text)
    return is_host(host) and (":" in host) == text.startswith("[") and 0 <= port < 1 << 16


def host_and_port(text: str) -> tuple[str, int]:
    """Return the two, the host without brackets; the port is -1 where it is no number."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, int(port) if re.fullmatch("[0-9]{1,5}", port) else -1


def is_token(text: str) -> bool:
    """Whether *text* is long enough not to be guessed, and can stand in a header."""
    return len(text) >= TOKEN_CHARACTERS and VISIBLE.fullmatch(text) is not None


def is_network(text: str) -> bool:
    """Whether *text* is an address, or a network without host bits."""
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def is_sealing_key(text: str) -> bool:
    """Whether *text* is a key for AES-256."""
    try:
        return len(base64.b64decode(text, validate=True)) == SEALING_KEY_BYTES
    except ValueError:
        return False


def is_base_url(text: str) -> bool:
    """Whether requests can be sent below *text*."""
    # urlsplit silently drops some control characters, so they are looked for first.
    if not VISIBLE.fullmatch(text) or set(text) & set("?#\\"):
        return False
    try:
        url = urlsplit(text)
        if BROKEN_ESCAPE.search(url.path):
            return False
        return url.scheme in {"http", "https"} and _has_good_place(url)
    except ValueError:
        return False


def is_collector_url(text: str) -> bool:
    """Whether spans can be sent below *text*; nothing is good too, where nothing is sent."""
    return not text or is_base_url(text)


def _has_good_place(url: SplitResult) -> bool:
    host = url.hostname or ""
    is_bracketed = url.netloc.startswith("[")
    is_good = ":" in host and is_host(host) if is_bracketed else HOST_NAME.fullmatch(host) is not None
    return is_good and "@" not in url.netloc and not url.netloc.endswith(":") and url.port != 0


def is_extra_header(name: str) -> bool:
    """Whether *name* is a header that an operator may add: the gateway sets the others itself."""
    return TOKEN.fullmatch(name) is not None and name.lower().encode() not in NOT_UPSTREAM


def is_mcp_url(text: str) -> bool:
    """Whether *text* is where an MCP server can be reached; unlike a base URL it may have a query."""
    place, _, query = text.partition("?")
    return is_base_url(place) and (not query or (VISIBLE.fullmatch(query) is not None and "#" not in query))


def is_mcp_header(name: str) -> bool:
    """Whether *name* is a header that requests to an MCP server may carry; credentials are welcome there."""
    return TOKEN.fullmatch(name) is not None and name.lower() not in NOT_TO_MCP


def is_header_text(text: str) -> bool:
    """Whether *text* can stand as the value of a header; spaces within it are good, at its ends they would be lost."""
    return HEADER_TEXT.fullmatch(text) is not None


def is_pattern(text: str) -> bool:
    """Whether *text* is a regular expression; an empty one is none."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches *host*."""
    address = address_of(host)
    return host.lower().rstrip(".") == "localhost" if address is None else address.is_loopback


def is_link_local(base_url: str) -> bool:
    """Whether *base_url* leads to a link-local address or to a cloud's metadata service, by its spelling."""
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    address = address_of(host)
    if address is None:
        return host in METADATA_HOSTS
    return address.is_link_local or address in METADATA_ADDRESSES


def address_of(host: str) -> Address | None:
    """Return the address that *host* spells, or None for a name.

    The old spellings that the system's resolver still takes (one number, octal, hexadecimal) count too, and an
    IPv4 address inside IPv6 is taken out.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return _old_address(host)
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _old_address(host: str) -> IPv4Address | None:
    try:
        return IPv4Address(socket.inet_aton(host)) if VISIBLE.fullmatch(host) else None
    except OSError:
        return None
