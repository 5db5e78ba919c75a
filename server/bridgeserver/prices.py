"""What tokens cost: the configuration's prices, then those of the price book; both as they are when a record is stored.

Amounts are whole micro-dollars. Each category is cut to whole ones by itself and then added, so that the sum over any
report is the sum of its rows.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bridgeserver import pricebook
from bridgeserver.config import PriceConfig, ProviderConfig
from bridgeserver.counting import Counters
from bridgeserver.pricebook import MICROS, Dated, Prices, Rates
from bridgeserver.records import TokenUsage

MAX_TOKENS = 10**12
"""Of one category of one response. What claims more is cut to it, so that no sum can overflow, and has no cost."""

MAX_COST = 10_000_000 * MICROS
MODELS = 4096
"""Whose prices are remembered; clients choose the names."""

LONG_CACHE_WRITES = "cache_ephemeral_1h_input"
UNPRICED = "unpriced_token_usages"


class Source(NamedTuple):
    """Who answered: type and name of the provider, and the model."""

    provider: str
    provider_name: str
    model: str


class Cost(NamedTuple):
    """What is stored beside the counts of a response, in the order of its columns."""

    input_price: int | None = None
    output_price: int | None = None
    cache_read_price: int | None = None
    cache_write_price: int | None = None
    cost_micros: int | None = None


UNKNOWN = Cost()


class PriceList:
    """Prices that can be replaced while they are asked for: one thread asks, another may replace them."""

    def __init__(self, custom: Sequence[PriceConfig] = ()) -> None:
        self._book = _Book(custom, {})
        self._unpriced = Counters()

    def configure(self, custom: Sequence[PriceConfig], providers: Iterable[ProviderConfig]) -> None:
        """Go by these prices, and by where these providers are, from now on."""
        self._book = _Book(custom, {provider.name: provider.base_url for provider in providers})

    def cost(self, usage: TokenUsage, source: Source) -> Cost:
        """Return what a response cost; without a known price, or with counts that cannot be, nothing is known."""
        rates = self._book.rates(source, usage.service_tier, usage.created_at)
        if rates is None:
            return UNKNOWN
        fresh, read, written = usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens
        base, tiers = rates
        input_, output, cache_read, cache_write, long_write = rates.at(fresh + read + written) if tiers else base
        cost: int | None = None
        if is_countable(usage):
            cost = fresh * input_ // MICROS + usage.output_tokens * output // MICROS + read * cache_read // MICROS
            if written:
                for_long = min(max(usage.extra.get(LONG_CACHE_WRITES, 0), 0), written)
                cost += (written - for_long) * cache_write // MICROS + for_long * long_write // MICROS
            if cost > MAX_COST:
                cost = None
        return Cost(input_, output, cache_read, cache_write, cost)

    def count_unpriced(self, sources: Iterable[Source]) -> None:
        """Count responses whose cost is not known."""
        for source in sources:
            self._unpriced.add(UNPRICED, source.provider_name, source.provider, source.model)

    def unpriced(self) -> dict[str, int]:
        """Return how many there were, in the form of a worker's counters."""
        return dict(self._unpriced)


def is_countable(usage: TokenUsage) -> bool:
    """Whether all counts are such as a response can have."""
    return (
        0 <= usage.input_tokens <= MAX_TOKENS
        and 0 <= usage.output_tokens <= MAX_TOKENS
        and 0 <= usage.cache_read_tokens <= MAX_TOKENS
        and 0 <= usage.cache_write_tokens <= MAX_TOKENS
    )


class _Book:
    """The prices of one configuration, and those that were found by it."""

    def __init__(self, custom: Sequence[PriceConfig], base_urls: dict[str, str]) -> None:
        self._custom = [(_pattern(price.model), price.provider, _rates(price)) for price in custom]
        self._base_urls = base_urls
        self._found: dict[tuple[Source, str], Rates | Dated | None] = {}

    def rates(self, source: Source, service_tier: str, at_us: int) -> Rates | None:
        key = source, service_tier
        try:
            found = self._found[key]
        except KeyError:
            if len(self._found) >= MODELS:
                self._found.clear()
            found = self._found[key] = self._find(source, service_tier)
        return found.rates(at_us) if isinstance(found, Dated) else found

    def _find(self, source: Source, service_tier: str) -> Rates | Dated | None:
        for pattern, provider, rates in self._custom:
            if provider in {"", source.provider_name} and pattern.fullmatch(source.model):
                return rates
        return pricebook.find(source.provider, self._base_urls.get(source.provider_name), source.model, service_tier)


def _pattern(model: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, model.split("*"))), re.DOTALL)


def _rates(price: PriceConfig) -> Rates:
    input_, output, read, write = (
        round(dollars * MICROS) for dollars in (price.input, price.output, price.cache_read, price.cache_write)
    )
    return Rates(Prices(input_, output, read, write, write))
