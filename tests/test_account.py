"""Reading along with a response: what is relayed, whatever the chunks, and what is learnt."""

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgeserver.account import HELD_BYTES, Account, read_along
from bridgeserver.headers import Pairs
from bridgeserver.limits import Budget
from bridgeserver.protocols.chat import Chat
from bridgeserver.protocols.messages import Messages

STREAM: Pairs = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON: Pairs = [(b"content-type", b"application/json")]

CHUNK = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}\n\n'
USAGE = b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}\n\n'
FINISH = b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
DONE = b"data: [DONE]\n\n"


def relay(account: Account, body: bytes, size: int) -> bytes:
    """Feed *body* in chunks of *size* bytes and return what would be relayed."""
    relayed = b"".join(account.feed(body[at : at + size])[0] for at in range(0, len(body), size))
    return relayed + account.finish()[0]


@given(
    st.lists(st.sampled_from([CHUNK, USAGE, FINISH, DONE, b": comment\n\n", b"\r\n", b"data: {\n\n"]), max_size=12),
    st.integers(1, 200),
)
def test_takes_out_the_extra_usage_and_nothing_else(parts: list[bytes], size: int) -> None:
    """Wherever the stream is cut, what is relayed is the stream without its usage chunks."""
    account = read_along(Chat().tap(), 200, STREAM, Budget(1 << 30), drop_extra_usage=True)
    relayed = relay(account, b"".join(parts), size)
    # A line end before the chunk belongs to it or to its neighbour: a blank line more or less is no event.
    expected = b"".join(part for part in parts if part != USAGE)
    assert relayed.replace(b"\r\n", b"") == expected.replace(b"\r\n", b"")
    assert (account.tap.usage is not None) == (USAGE in parts)


@given(st.binary(max_size=300), st.integers(1, 50), st.sampled_from([STREAM, JSON]), st.integers(200, 599))
def test_relays_any_bytes_untouched(body: bytes, size: int, headers: Pairs, status: int) -> None:
    """Whatever a provider sends is relayed as it came, and accounting never raises."""
    account = read_along(Messages().tap(), status, headers, Budget(1 << 30), drop_extra_usage=False)
    assert relay(account, body, size) == body
    account.failure()


def test_relays_whole_events_at_once_when_it_edits() -> None:
    """An event is held until it is whole and not longer."""
    account = read_along(Chat().tap(), 200, STREAM, Budget(1 << 30), drop_extra_usage=True)
    assert account.feed(CHUNK[:20])[0] == b""
    assert account.feed(CHUNK[20:] + CHUNK[:5])[0] == CHUNK
    assert account.is_between_events


def test_holds_no_more_than_its_limit() -> None:
    """An event too large to be held is relayed as it comes."""
    account = read_along(Chat().tap(), 200, STREAM, Budget(1 << 30), drop_extra_usage=True)
    body = b"data: " + b"x" * (HELD_BYTES + (1 << 20)) + b"\n\n" + CHUNK + USAGE + DONE
    assert relay(account, body, 1 << 16) == body.replace(USAGE, b"")
    assert account.is_partial


@pytest.mark.parametrize("encoding", [b"gzip", b"identity"])
def test_reads_bodies_and_says_what_failed(encoding: bytes) -> None:
    """Usage is found in plain and in compressed bodies, which may be several streams in a row."""
    answer: dict[str, Any] = {
        "id": "m",
        "type": "message",
        "content": [],
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }
    plain = json.dumps(answer).encode()
    body = gzip.compress(plain[:20]) + gzip.compress(plain[20:]) if encoding == b"gzip" else plain
    account = read_along(
        Messages().tap(), 200, [*JSON, (b"content-encoding", encoding)], Budget(1 << 30), drop_extra_usage=False
    )
    assert relay(account, body, 10) == body
    assert account.tap.usage is not None
    assert (account.tap.usage.input, account.tap.usage.output) == (3, 4)
    assert account.failure() is None


def test_an_unknown_encoding_is_relayed_and_partial() -> None:
    """What cannot be decoded is not accounted for, and is not a failure of the provider."""
    account = read_along(
        Messages().tap(), 200, [*JSON, (b"content-encoding", b"br")], Budget(1 << 30), drop_extra_usage=False
    )
    assert relay(account, b"\x00\x01", 1) == b"\x00\x01"
    assert account.is_partial
    assert account.failure() is None


def test_finishing_twice_learns_nothing_twice() -> None:
    """A client that leaves with the last byte does not double what was learnt."""
    answer: dict[str, Any] = {
        "id": "m",
        "type": "message",
        "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {}}],
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }
    account = read_along(Messages().tap(), 200, JSON, Budget(1 << 30), drop_extra_usage=False)
    account.feed(json.dumps(answer).encode())
    assert len(account.finish()[1]) == 1
    assert account.finish() == (b"", [])


@pytest.mark.parametrize("headers", [STREAM, JSON])
@pytest.mark.parametrize("edits", [True, False])
def test_all_responses_share_what_they_may_hold(headers: Pairs, edits: bool) -> None:
    """One that finds no room is relayed as it comes and accounted for as partial; what ends makes room."""
    budget = Budget(1 << 20)
    body = b'data: {"id":"' + b"x" * 700_000
    accounts = [read_along(Chat().tap(), 200, headers, budget, drop_extra_usage=edits) for _ in range(3)]
    relayed = [
        b"".join(account.feed(body[at : at + 9999])[0] for at in range(0, len(body), 9999)) for account in accounts
    ]
    assert accounts[-1].is_partial
    assert relayed[-1] == body
    assert budget.used <= 1 << 20
    rest = [account.finish()[0] for account in accounts]
    assert [some + more for some, more in zip(relayed, rest, strict=True)] == [body] * 3
    assert budget.used == 0


def test_what_is_small_is_not_counted() -> None:
    """Ordinary answers need no room that they share with anybody."""
    account = read_along(Chat().tap(), 200, STREAM, Budget(0), drop_extra_usage=True)
    assert relay(account, CHUNK * 100 + USAGE + DONE, 100) == CHUNK * 100 + DONE
    assert not account.is_partial
