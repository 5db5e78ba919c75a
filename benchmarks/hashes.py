"""Nanoseconds of SipHash-1-3 as bridgecore calls it, against BLAKE2b of the same length of answer.

A call from Python costs more than the hash. The row with no data is the call alone; the difference is the hash.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b

from keys import pair
from rounds import Row, own, timed

from bridgecore import hash2, siphash13

CALLS = 1_000
KEY = bytes(range(16))
DATA = bytes(range(73))
"""As long as two user names of 36 characters with a sign between them."""


def _each(call: Callable[[bytes, bytes], object], messages: Sequence[bytes], key: bytes) -> None:
    for message in messages:
        call(message, key)


def _each_two(call: Callable[[str, str, bytes], object], parts: Sequence[tuple[str, str]], key: bytes) -> None:
    for a, b in parts:
        call(a, b, key)


def _each_blake2b(messages: Sequence[bytes], key: bytes) -> None:
    for message in messages:
        blake2b(message, digest_size=8, key=key).digest()


def siphash() -> Row:
    data, nothing = [DATA] * CALLS, [b""] * CALLS
    parts = [(pair(number)[0], pair(number + CALLS)[0]) for number in range(CALLS)]
    each, each_empty, each_two, each_blake2b = own(_each), own(_each), own(_each_two), own(_each_blake2b)
    ways = {
        "siphash13, no data": lambda: timed(each_empty, siphash13, nothing, KEY) / CALLS,
        "siphash13": lambda: timed(each, siphash13, data, KEY) / CALLS,
        "hash2, two parts of 36": lambda: timed(each_two, hash2, parts, KEY) / CALLS,
        "hashlib.blake2b": lambda: timed(each_blake2b, data, KEY) / CALLS,
    }
    return Row("SipHash-1-3, 73 bytes", ways)


ROWS = (siphash,)
