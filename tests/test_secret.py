import pickle

import msgspec
import pytest

from bridgeserver.secret import Secret, hint


@pytest.mark.parametrize(
    ("secret", "masked"),
    [
        ("", ""),
        ("x", "..."),
        ("ab", "..."),
        ("abcd", "..."),
        ("short", "s...t"),
        ("veryshort", "v...t"),
        ("hélloworld🌍!", "hé...🌍!"),
        ("thisisquitelong", "th...ng"),
        ("sk-ant-api03-abcdefgh", "sk-a...efgh"),
        ("user-api-key", "us...ey"),
        ("test-key", "t...y"),
        ("centralized-key", "ce...ey"),
        ("a" * 19, "aa...aa"),
        ("a" * 20, "aaaa...aaaa"),
    ],
)
def test_gw_u1_hint(secret: str, masked: str) -> None:
    """The longer a secret, the more of its ends is shown, and never more than half."""
    assert hint(secret) == masked


def test_secret_hides_itself() -> None:
    """No usual way to show a value shows a secret."""
    secret = Secret("sk-ant-api03-abcdefgh")
    assert [str(secret), f"{secret}", f"{secret!r}", repr([secret])] == [
        "sk-a...efgh",
        "sk-a...efgh",
        "Secret('sk-a...efgh')",
        "[Secret('sk-a...efgh')]",
    ]


def test_secret_is_not_encoded() -> None:
    """A secret does not slip into JSON."""
    with pytest.raises(TypeError, match="Secret"):
        msgspec.json.encode({"key": Secret("sk-ant-api03-abcdefgh")})


def test_secret_survives_pickling() -> None:
    """A worker gets the text that its parent had."""
    assert pickle.loads(pickle.dumps(Secret("text"))).reveal() == "text"


def test_secrets_compare_by_their_text() -> None:
    """Two secrets are equal when their texts are, and a text is no secret."""
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
