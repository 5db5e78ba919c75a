"""Keyed hashes: published vectors, CPython's own, and what two parts must not do."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgecore import hash2, pseudonym, siphash13

KEY = bytes(range(16))

# SipHash-1-3 of the first bytes of 00 01 02 …, under the key of the paper: the vectors of Rust's standard library.
SIPHASH13 = [0xABAC0158050FC4DC, 0xC9F49BF37D57CA93, 0x82CB9B024DC7D44D, 0x8BF80AB8E7DDF7FB]

# SipHash-2-4 with 128 bits, from the vectors of its reference implementation.
SIPHASH24_128 = ["a3817f04ba25a8e66df67214c7550293", "da87c1d86b99af44347659119b22fc45"]


@pytest.mark.parametrize(("length", "expected"), list(enumerate(SIPHASH13)))
def test_siphash13_has_the_published_values(length: int, expected: int) -> None:
    """The four shortest vectors are met."""
    assert siphash13(bytes(range(length)), KEY) == expected


@pytest.mark.parametrize(("length", "expected"), list(enumerate(SIPHASH24_128)))
def test_a_pseudonym_is_the_published_siphash(length: int, expected: str) -> None:
    """A pseudonym is SipHash-2-4 with 128 bits, in hexadecimal digits."""
    assert pseudonym("\0" * length, KEY) == expected


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this Python hashes strings in another way")
def test_siphash13_is_what_cpython_uses() -> None:
    """For every length around whole words, the value is the hash of `bytes` under CPython's key of zeros."""
    program = "for n in range(1, 90): print(hash(bytes(range(n))))"
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = [int(line) % 2**64 for line in printed.split()]
    assert [siphash13(bytes(range(n)), bytes(16)) for n in range(1, 90)] == theirs


def encoded(a: bytes, b: bytes) -> bytes:
    """Return the message that stands for two parts."""
    return len(a).to_bytes(8, "little") + a + bytes(-len(a) % 8) + b


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_two_parts_are_hashed_as_one_unambiguous_message(a: bytes, b: bytes) -> None:
    """`hash2` is SipHash-1-3 of the length of the first part, that part padded to words, and the second."""
    assert hash2(a, b, KEY) == siphash13(encoded(a, b), KEY)


@given(st.text(max_size=20), st.text(max_size=20))
def test_text_is_hashed_as_utf8(a: str, b: str) -> None:
    """Text and its UTF-8 have one hash, so that other programs can compute it."""
    assert hash2(a, b, KEY) == hash2(a.encode(), b.encode(), KEY)


def test_parts_do_not_run_into_each_other() -> None:
    """Where one part ends and the other begins makes a difference, as do empty parts and zeros."""
    splits = [("a|b", "c"), ("a", "b|c"), ("a|b|c", ""), ("", "a|b|c"), ("a|b|c\0", ""), ("a|b|c", "\0")]
    assert len({hash2(a, b, KEY) for a, b in splits}) == len(splits)


def test_another_key_gives_other_values() -> None:
    """All three depend on the key."""
    other = bytes(16)
    assert siphash13(b"text", KEY) != siphash13(b"text", other)
    assert hash2("a", "b", KEY) != hash2("a", "b", other)
    assert pseudonym("ann", KEY) != pseudonym("ann", other)


def test_a_pseudonym_is_the_same_in_every_process() -> None:
    """A pseudonym can be frozen: it depends on the text and the key alone."""
    assert pseudonym("ann@example.com", KEY) == pseudonym("ann@example.com", KEY)
    # As `openssl mac -macopt hexkey:000102…0f -macopt size:16 -in FILE SIPHASH` prints it.
    assert pseudonym("a longer text, of more than two words", KEY) == "aedfd3953a004f6ef986e0aee799a2bb"


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    """The message says how long a key is and how long this one was, and shows nothing of it."""
    calls: list[Callable[[bytes], object]] = [
        partial(siphash13, b""),
        partial(hash2, "", ""),
        partial(pseudonym, ""),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"^key must be 16 bytes, got {size}$"):
            call(b"s" * size)


def test_a_part_of_another_type_is_refused() -> None:
    """A number is not hashed by accident as something else."""
    with pytest.raises(TypeError, match="a part must be str or bytes, got int"):
        hash2("a", 1, KEY)  # type: ignore[arg-type]
