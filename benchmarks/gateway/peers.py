"""Which other gateways are measured, and in which versions."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple


class Pin(NamedTuple):
    """One of them."""

    title: str
    installer: str
    """`pip` or `npm`."""
    package: str
    version: str
    missing: str
    """What it does not do that the gateway under test does, as it is configured here."""
    overrides: Mapping[str, str] = MappingProxyType({})
    """Versions of packages that it needs, where not any will do; npm only."""


def _read() -> dict[str, Pin]:
    with (Path(__file__).parent / "peers.toml").open("rb") as file:
        return {name: Pin(**members) for name, members in tomllib.load(file).items()}


PINS = _read()
