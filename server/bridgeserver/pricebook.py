"""The prices that the package `genai-prices` ships: which of its providers is meant, and what a model costs there when.

Only prices are taken from it. Nothing is fetched: its data is as old as its version.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

SERVED_BY = {"bedrock": "aws", "copilot": "github-copilot"}
"""Types of providers whose base URL does not tell whose prices hold."""

MICROS = 1_000_000
MINUTE_US = 60 * MICROS


class Prices(NamedTuple):
    """Micro-dollars for a million tokens."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    long_cache_write: int
    """Of what is written to a cache for an hour and not for five minutes."""


class Rates(NamedTuple):
    """The prices of a model at one time: of long requests all tokens cost more with some."""

    base: Prices
    tiers: tuple[tuple[int, Prices], ...] = ()
    """Beyond how many tokens of context, and the prices there; the highest first."""

    def at(self, context: int) -> Prices:
        """Return the prices of a request with so many tokens of context."""
        for start, prices in self.tiers:
            if context > start:
                return prices
        return self.base


class Dated:
    """The prices of a model that change: some have a first day, some an hour. One thread at a time may use it."""

    def __init__(self, model: "ModelInfo", context: dict[str, str]) -> None:
        self._model = model
        self._context = context
        self._minute = -1
        self._rates: Rates | None = None

    def rates(self, at_us: int) -> Rates | None:
        """Return what held at that time."""
        minute = at_us // MINUTE_US
        if minute != self._minute:
            self._rates = _rates(self._model.get_prices(datetime.fromtimestamp(minute * 60, UTC), self._context))
            self._minute = minute
        return self._rates


def find(provider: str, base_url: str | None, model: str, service_tier: str) -> Rates | Dated | None:
    """Return a model's prices by a provider's type and address; none if the package does not know it there."""
    from genai_prices import data_snapshot  # 0.2 s and 25 MB

    snapshot = data_snapshot.get_snapshot()
    place = _place(snapshot, provider, base_url)
    if place is None:
        return None
    found = place.find_model(model, all_providers=snapshot.providers)
    if found is None:
        return None
    is_its_own = any(found is each for each in place.models)
    context = {"service_tier": service_tier} if service_tier and is_its_own else {}
    if isinstance(found.prices, list) or (context and found.price_variants):
        return Dated(found, context)
    return _rates(found.prices)


def _place(snapshot: "DataSnapshot", provider: str, base_url: str | None) -> "Provider | None":
    """Return the provider with that address; one that is not known is taken for a proxy of the type's vendor."""
    try:
        if provider not in SERVED_BY and base_url is not None:
            return snapshot.find_provider(None, None, base_url)
    except LookupError:
        pass
    try:
        return snapshot.find_provider(None, SERVED_BY.get(provider, provider), None)
    except LookupError:
        return None


def _rates(price: "ModelPrice") -> Rates | None:
    if price.input_mtok is None and price.output_mtok is None:
        return None  # a flat rate, or a model that does not count tokens
    starts = sorted(set(_starts(price)), reverse=True)
    return Rates(_prices(price, 0), tuple((start, _prices(price, start + 1)) for start in starts))


def _starts(price: "ModelPrice") -> Iterator[int]:
    from genai_prices.types import TieredPrices

    for value in vars(price).values():
        if isinstance(value, TieredPrices):
            yield from (tier.start for tier in value.tiers)


def _prices(price: "ModelPrice", context: int) -> Prices:
    """Return the prices with so much context; cached tokens without a price of their own cost what input does."""
    input_ = _micros(price.input_mtok, context) or 0
    write = _micros(price.cache_write_mtok, context)
    write = input_ if write is None else write
    long_write = _micros(price.cache_write_1h_mtok, context)
    read = _micros(price.cache_read_mtok, context)
    return Prices(
        input_,
        _micros(price.output_mtok, context) or 0,
        input_ if read is None else read,
        write,
        write if long_write is None else long_write,
    )


def _micros(price: "Decimal | TieredPrices | None", context: int) -> int | None:
    if price is None:
        return None
    if not isinstance(price, Decimal):
        tiers = [tier.price for tier in price.tiers if context > tier.start]
        price = tiers[-1] if tiers else price.base
    return int(price * MICROS)
