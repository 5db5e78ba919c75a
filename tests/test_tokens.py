"""Gateway keys: their form, and what is kept of them."""

import hashlib

import pytest

from bridgeserver import tokens
from bridgeserver.tokens import TOKEN_PATTERN, Token

TOKEN = Token("a" * 12, "B" * 43)


def test_made_tokens_are_parsed_back() -> None:
    """A token survives being written down and read again."""
    token = tokens.make()
    assert tokens.parse(token.text) == token
    assert (len(token.id), len(token.secret)) == (12, 43)


def test_made_tokens_differ() -> None:
    """No two tokens share an id or a secret."""
    made = [tokens.make() for _ in range(50)]
    assert len({token.id for token in made}) == len({token.secret for token in made}) == 50


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bc_",
        TOKEN.text + "x",
        TOKEN.text + "\n",
        " " + TOKEN.text,
        TOKEN.text[:-1],
        TOKEN.text.replace("bc_", "BC_"),
        TOKEN.text[:-1] + "é",
        TOKEN.text[:-1] + "-",
        TOKEN.text.replace("_", "-"),
    ],
)
def test_other_texts_are_no_tokens(text: str) -> None:
    """Only the exact form is a token."""
    assert tokens.parse(text) is None


@pytest.mark.parametrize("text", ["{}", "a=1; session={}; b=2", "Bearer {}", "x{}y"])
def test_a_token_is_found_anywhere(text: str) -> None:
    """The pattern finds a token in the midst of other text, even where it touches other letters."""
    match = TOKEN_PATTERN.search(text.format(TOKEN.text))
    assert match is not None
    assert match[0] == TOKEN.text


def test_the_hash_is_of_the_secret() -> None:
    """What is stored is SHA-256 of the secret, which keys already given out depend on."""
    assert tokens.secret_hash("secret") == hashlib.sha256(b"secret").digest()


def test_a_token_hides_its_secret() -> None:
    """A token that ends up in a log or a traceback shows its id alone."""
    assert repr(TOKEN) == "Token(id='aaaaaaaaaaaa')"
    assert str(TOKEN) == repr(TOKEN)


def test_redacting_leaves_the_id_and_takes_the_secret() -> None:
    """A text that is logged keeps what finds the key, and loses what proves it."""
    token = tokens.make()
    assert tokens.redact(f"/a/{token.text}/b") == f"/a/bc_{token.id}_…/b"
    assert tokens.redact("nothing in it") == "nothing in it"
