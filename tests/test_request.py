"""What is read off a request's head: the raw path, and the client's address."""

from ipaddress import ip_network
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgecore import Request
from bridgeserver.errors import BadRequest
from bridgeserver.request import check_path, client_address, provider_name

SEGMENTS = st.lists(
    st.one_of(
        st.sampled_from([".", "..", "", "/", "\\", "..a", ".well-known", "v1", "a b", "é", "\0"]), st.text(max_size=4)
    ),
    max_size=5,
)


@given(SEGMENTS, st.sampled_from(["", "/", "%", "/%"]), st.booleans())
def test_a_path_that_passes_cannot_be_read_in_two_ways(segments: list[str], end: str, encode: bool) -> None:
    """Decoding what was accepted changes no boundary between segments, and adds nothing that climbs."""
    written = [quote(segment, safe="") if encode else segment for segment in segments]
    path = ("/" + "/".join(written) + end).encode("utf-8", "replace").decode("latin-1")
    try:
        check_path(path)
    except BadRequest:
        return
    decoded = unquote(path, "latin-1")
    assert path == "/" or (decoded.count("/") == path.count("/") and "\\" not in decoded)
    assert path == "/" or not {"", ".", ".."} & set(decoded.split("/")[1:])
    assert all(ord(character) >= 0x20 and ord(character) != 0x7F for character in decoded)


@pytest.mark.parametrize(
    "path", ["/", "/openai/v1/models", "/copilot/.well-known/x", "/a/%C3%A9", "/a/ft:gpt%3A1", "/a/b~c"]
)
def test_ordinary_paths_pass(path: str) -> None:
    """Nothing that a client needs is refused."""
    check_path(path)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "198.51.100.1, 192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "192.0.2.7, 10.0.0.2", "192.0.2.7"),
        ("203.0.113.9", "192.0.2.7", "203.0.113.9"),
        ("10.0.0.1", "nonsense", "nonsense"),
    ],
    ids=["none", "one", "forged", "chain", "untrusted", "nonsense"],
)
def test_forwarded_addresses_are_believed_of_trusted_proxies_only(peer: str, forwarded: str, expected: str) -> None:
    """What a client wrote itself stands before what the trusted proxy added, and is not reached."""
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    assert client_address(Request("GET", b"/", headers, peer), [ip_network("10.0.0.0/8")]) == expected


def test_without_trusted_proxies_the_peer_counts() -> None:
    """By default nobody is believed."""
    request = Request("GET", b"/", [(b"x-forwarded-for", b"192.0.2.7")], "10.0.0.1")
    assert client_address(request, []) == "10.0.0.1"


@pytest.mark.parametrize(
    ("target", "path", "query", "name"),
    [
        (b"/a/b?c=d?e", "/a/b", b"c=d?e", "a"),
        (b"http://host:1/a%2fb?", "/a%2fb", b"", "a%2fb"),
        (b"/?a=http://host/b", "/", b"a=http://host/b", ""),
        (b"//a/b", "//a/b", b"", ""),
        (b"/\xe9", "/\xe9", b"", "\xe9"),
    ],
)
def test_a_target_is_taken_as_it_was_sent(target: bytes, path: str, query: bytes, name: str) -> None:
    """Path and query are what the client wrote, and an absolute target is its path."""
    request = Request("GET", target, [])
    assert (request.path, request.query, provider_name(request.path)) == (path, query, name)


@pytest.mark.parametrize("target", [b"", b"*", b"host:443", b"a/b", b"http://host", b"?a"])
def test_a_target_without_a_path_is_none(target: bytes) -> None:
    """What CONNECT, `OPTIONS *` and mistaken clients ask for is refused."""
    with pytest.raises(ValueError, match="neither a path"):
        Request("GET", target, [])
