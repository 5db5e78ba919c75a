"""Prompts that are hard to keep: each is served, and recorded as well as it can be."""

from collections.abc import Iterator
from typing import Any

import pytest

import gateway as gateways
from bridgeserver import fakeprovider
from bridgeserver.records import PROMPT_LIMIT
from gateway import BODIES, Gateway

ID = "x-bridge-interception-id"


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that takes bodies of 32 MiB, as it does where nothing is configured."""
    folder = tmp_path_factory.mktemp("roomy")
    with fakeprovider.running(keep_requests=4) as fake:
        gateways.write_config(folder, fake.url)
        with gateways.running(folder) as gateway:
            yield gateway


def body_with(path: str, text: bytes) -> bytes:
    """Return a body whose prompt is spelled as *text* in JSON."""
    if path.endswith("/responses"):
        return b'{"model":"m","input":"%b"}' % text
    return b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"%b"}]}' % text


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("spelled", "kept"),
    [
        pytest.param(b"a\\u0000b", "a\0b", id="nul"),
        pytest.param(b"\\u0000", "\0", id="only-nul"),
        pytest.param(b"a\\ud800b", "a?b", id="lone-high-surrogate"),
        pytest.param(b"\\udfff\\ud800", "??", id="surrogates-in-the-wrong-order"),
        pytest.param(b"\\ud83d\\ude00", "\U0001f600", id="a-pair"),
        pytest.param("\u2028\u202e\ufffe".encode(), "\u2028\u202e\ufffe", id="odd-characters"),
    ],
)
def test_a_prompt_with_odd_characters(roomy: Gateway, path: str, spelled: bytes, kept: str) -> None:
    """It reaches the provider as it came; in the record a lone surrogate, which UTF-8 has none of, is replaced."""
    answer = roomy.ask(path, body_with(path, spelled))
    is_utf8 = "?" not in kept  # the provider refuses what it cannot read, and the client is told so
    assert answer.status == (200 if is_utf8 else 400)
    record = roomy.record(answer.headers[ID])
    assert (record["status"], record["prompt"]) == ("completed" if is_utf8 else "failed", kept)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        pytest.param("/anthropic/v1/messages", b"x", id="messages"),
        pytest.param("/openai/v1/chat/completions", "é".encode(), id="chat, two bytes each"),
        pytest.param("/openai/v1/responses", b"\\u0001", id="responses, escapes"),
    ],
)
def test_a_prompt_of_20_mb(roomy: Gateway, path: str, unit: bytes) -> None:
    """It is served whole and recorded up to the limit, at a character's end, and what comes next is served too."""
    answer = roomy.ask(path, body_with(path, unit * (20_000_000 // len(unit))))
    assert answer.status == 200
    record: dict[str, Any] = roomy.record(answer.headers[ID])
    character = unit.decode().replace("\\u0001", "\x01")
    assert record["prompt"] == character * (PROMPT_LIMIT // len(character.encode()))
    assert roomy.ask(path, BODIES[path]).status == 200


def test_nothing_of_them_was_refused(roomy: Gateway) -> None:
    """All of these records were such as the journal and the store can hold."""
    assert roomy.count_recorded() > 0
    assert not list((roomy.folder / "bridgecore.db.journal").glob("*.*"))
