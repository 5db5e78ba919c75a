"""Keys of the shape that a gateway asks for: "user|api-key", 49 characters of ASCII."""

import itertools
import random
from collections.abc import Iterable


def pair(number: int) -> tuple[str, str]:
    """Return a user of 36 characters and an API key of 12, both of them new objects."""
    return f"{number * 2654435761 % 2**32:08x}-5a1e-4c0d-9f3b-{number:012x}", f"key{number:09d}"


def joined(number: int) -> str:
    """Return a key of 49 characters, a new object whose hash nobody has asked for."""
    return "|".join(pair(number))


def hashed(numbers: Iterable[int]) -> list[str]:
    """Return keys that know their hash, as keys do that were looked up before."""
    keys = [joined(number) for number in numbers]
    for key in keys:
        hash(key)
    return keys


def zipf(universe: int, exponent: float, requests: int, seed: int = 1) -> list[int]:
    """Return numbers below *universe* whose popularity falls as rank ** -exponent."""
    weights = list(itertools.accumulate(rank**-exponent for rank in range(1, universe + 1)))
    return random.Random(seed).choices(range(universe), cum_weights=weights, k=requests)
