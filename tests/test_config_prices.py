"""Prices in the configuration."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bridgeserver.config import Config, PriceConfig, load, render
from bridgeserver.errors import ConfigError

Read = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Load a configuration from the text of a file, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def read(text: str = "", environ: Mapping[str, str] | None = None) -> Config:
        Path("bridgecore.toml").write_text(text)
        return load(None, environ or {}, {})

    return read


def test_prices_are_read_in_their_order(read: Read) -> None:
    """What is left out costs nothing, and whole dollars may be written whole; `check --print` shows them again."""
    config = read(
        '[[prices]]\nmodel = "m-*"\nprovider = "local"\ninput = 1\noutput = 2.5\n'
        '[[prices]]\nmodel = "n"\ncache_read = 0\n'
    )
    assert config.prices == (PriceConfig(model="m-*", provider="local", input=1, output=2.5), PriceConfig(model="n"))
    assert read(render(config)) == config


@pytest.mark.parametrize(
    ("members", "mistake"),
    [
        ("input = 1", "model: found nothing, expected the name of a model, in which * stands for any text"),
        ("model = 'm'", "input: found nothing, expected at least one of input, output, cache_read and cache_write"),
        ("model = ''\ninput = 1", 'model: found "", expected the name of a model'),
        ("model = 'm'\ninput = -1", "input: found -1, expected dollars for a million tokens, from 0 to 1000000"),
        ("model = 'm'\ninput = nan", "input: found NaN, expected dollars"),
        ("model = 'm'\ninput = inf", "input: found Infinity, expected dollars"),
        ("model = 'm'\ninput = '1'", 'input: found "1", expected dollars'),
        ("model = 'm'\ninput = 1\nprovider = 'A'", 'provider: found "A", expected the name of a provider, or nothing'),
        ("model = 'm'\ninputs = 1", "inputs: found an unknown name, expected input (the nearest name)"),
    ],
)
def test_mistakes_in_prices(read: Read, members: str, mistake: str) -> None:
    """Each is named with its place, what was found and what was expected."""
    with pytest.raises(ConfigError) as caught:
        read(f"[[prices]]\n{members}\n")
    assert any(f"prices[0].{mistake}" in line for line in caught.value.mistakes)


def test_variables_reach_no_price(read: Read) -> None:
    """A price has no name by which a variable could mean it."""
    with pytest.raises(ConfigError, match="BRIDGECORE_PRICES__M__INPUT: found an unknown name"):
        read("", {"BRIDGECORE_PRICES__M__INPUT": "1"})
