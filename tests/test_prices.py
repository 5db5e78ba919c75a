"""What tokens cost: the price book beside its own arithmetic, prices of the configuration, and what has no price."""

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from genai_prices import Usage, data_snapshot
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, StartDateConstraint
from hypothesis import given
from hypothesis import strategies as st

import samples
from bridgeserver import metrics, pricebook, prices
from bridgeserver.config import PriceConfig, ProviderConfig
from bridgeserver.errors import StoreError
from bridgeserver.prices import MAX_TOKENS, Cost, PriceList, Source
from bridgeserver.records import TokenUsage
from bridgeserver.status import ReloadStatus
from bridgeserver.store import Store

NOW_US = 1_796_000_000_000_000


@pytest.fixture
def store(emptied_store: Store) -> Store:
    """An empty store of either engine."""
    return emptied_store


def usage(
    *tokens: int, extra: dict[str, int] | None = None, tier: str = "", at: int = NOW_US, number: int = 1
) -> TokenUsage:
    """Return a response's usage: input, output, cache reads, cache writes."""
    fresh, output, read, written = (*tokens, 0, 0, 0, 0)[:4]
    made = samples.usage(number, tokens=(fresh, output, read, written))
    return msgspec.structs.replace(made, extra=extra or {}, service_tier=tier, created_at=at)


def source(provider: str, model: str, name: str = "main") -> Source:
    """Return who answered."""
    return Source(provider, name, model)


def provider(type_: str, base_url: str) -> ProviderConfig:
    """Return the provider `main`."""
    return ProviderConfig(name="main", type=type_, base_url=base_url, auth="bearer")  # type: ignore[arg-type]


MODELS = [
    ("anthropic", "anthropic", "claude-sonnet-4-5-20250929"),
    ("anthropic", "anthropic", "claude-3-5-haiku-latest"),
    ("anthropic", "anthropic", "claude-opus-4-1"),
    ("openai", "openai", "gpt-5-mini"),
    ("openai", "openai", "gpt-4o-2024-08-06"),
    ("openai", "openai", "gpt-3.5-turbo"),
    ("bedrock", "aws", "global.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("bedrock", "aws", "eu.anthropic.claude-sonnet-4-20250514-v1:0"),
]
USAGES = [(12, 9, 0, 0), (1_000, 50, 20_000, 3_000), (150_000, 4_000, 40_000, 20_000), (999_999, 1, 1, 1)]


@pytest.mark.parametrize("tokens", USAGES)
@pytest.mark.parametrize(("kind", "place", "model"), MODELS)
def test_costs_are_those_of_the_package(kind: str, place: str, model: str, tokens: tuple[int, int, int, int]) -> None:
    """The package's own total for the same tokens, long contexts included, but for what each category is cut by."""
    fresh, output, read, written = tokens
    calculated = data_snapshot.get_snapshot().calc(
        Usage(
            input_tokens=fresh + read + written,
            output_tokens=output,
            cache_read_tokens=read,
            cache_write_tokens=written,
        ),
        model,
        place,
        None,
        datetime.fromtimestamp(NOW_US / 1e6, UTC),
    )
    cost = PriceList().cost(usage(*tokens), source(kind, model)).cost_micros
    assert cost is not None
    assert 0 <= calculated.total_price * 1_000_000 - cost < 4


def test_each_category_is_cut_by_itself() -> None:
    """Fractions of micro-dollars are dropped before the sum, and not carried from one category to another."""
    prices_ = PriceList([PriceConfig(model="m", input=0.5, output=0.9, cache_read=0.000001, cache_write=1.5)])
    assert prices_.cost(usage(3, 1, 999_999, 1), source("openai", "m")) == Cost(500_000, 900_000, 1, 1_500_000, 1 + 1)


def test_writes_for_an_hour_cost_more() -> None:
    """What Anthropic keeps for an hour has a price of its own; more of it than was written is not believed."""
    for written, for_long, expected in ((100, 40, 60 * 375 // 100 + 40 * 6), (100, 1000, 600), (100, -5, 375)):
        cost = PriceList().cost(
            usage(0, 0, 0, written, extra={"cache_ephemeral_1h_input": for_long}),
            source("anthropic", "claude-sonnet-4-5"),
        )
        assert (cost.cache_write_price, cost.cost_micros) == (3_750_000, expected)


def test_a_service_tier_may_have_prices_of_its_own() -> None:
    """A response that says it was served with priority costs what that does."""
    list_ = PriceList()
    plain, default, priority = (
        list_.cost(usage(1_000_000, 0, tier=tier), source("openai", "gpt-5")).cost_micros
        for tier in ("", "auto", "priority")
    )
    assert plain == default == 1_250_000
    assert priority == 2_500_000


def test_prices_are_those_of_the_records_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A price with a first day holds from that day on, in UTC."""
    model = ModelInfo(
        id="m",
        match=None,  # type: ignore[arg-type]
        prices=[
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1))),
            ConditionalPrice(
                StartDateConstraint(datetime(2026, 1, 2, tzinfo=UTC).date()), prices=ModelPrice(input_mtok=Decimal(2))
            ),
        ],
    )

    def find(*_place: object) -> pricebook.Dated:
        return pricebook.Dated(model, {})

    monkeypatch.setattr(pricebook, "find", find)
    list_ = PriceList()
    midnight = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp()) * 1_000_000
    costs = [
        list_.cost(usage(10, at=at), source("openai", "m")).cost_micros for at in (midnight - 1, midnight, midnight - 1)
    ]
    assert costs == [10, 20, 10]


@pytest.mark.parametrize(
    ("type_", "base_url", "model", "expected"),
    [
        ("openai", "https://openrouter.ai/api/v1", "openai/gpt-4o", 2_500_000),
        ("openai", "https://team.openai.azure.com/openai/v1", "gpt-4o", 2_500_000),
        ("openai", "http://127.0.0.1:9", "gpt-4o", 2_500_000),
        ("openai", "http://127.0.0.1:9", "llama-of-ours", None),
        ("openai", "https://api.groq.com/openai/v1", "gpt-4o", None),
        ("copilot", "https://api.individual.githubcopilot.com", "gpt-4o", None),
    ],
)
def test_an_address_says_whose_prices_hold(type_: str, base_url: str, model: str, expected: int | None) -> None:
    """A known address means its provider, an unknown one the vendor of the protocol, a flat rate no price."""
    list_ = PriceList()
    list_.configure([], [provider(type_, base_url)])
    assert list_.cost(usage(1_000_000), source(type_, model)).cost_micros == expected


def test_prices_of_the_configuration_come_first() -> None:
    """The first that fits in the order of the file; what it leaves out costs nothing; others cost what they did."""
    list_ = PriceList(
        [
            PriceConfig(model="gpt-*-mini", provider="other", input=9),
            PriceConfig(model="gpt-*-mini", input=7),
            PriceConfig(model="a.c[1m]", output=3),
            PriceConfig(model="*-mini", input=8),
        ]
    )
    costs = [
        list_.cost(usage(1_000_000, 1_000_000), source("openai", *of)).cost_micros
        for of in [("gpt-5-mini",), ("gpt-5-mini", "other"), ("a.c[1m]",), ("abc[1m]",), ("o-mini",), ("gpt-5",)]
    ]
    assert costs == [7_000_000, 9_000_000, 3_000_000, None, 8_000_000, 11_250_000]


def test_new_prices_hold_from_now_on() -> None:
    """A list that is configured again forgets what it has found."""
    list_ = PriceList([PriceConfig(model="m", input=1)])
    assert list_.cost(usage(1_000_000), source("openai", "m")).cost_micros == 1_000_000
    list_.configure([PriceConfig(model="m", input=2)], [])
    assert list_.cost(usage(1_000_000), source("openai", "m")).cost_micros == 2_000_000


def test_names_of_models_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever clients call their models, so many are remembered and no more."""
    monkeypatch.setattr(prices, "MODELS", 3)
    list_ = PriceList([PriceConfig(model="*", input=1)])
    for number in range(10):
        assert list_.cost(usage(1_000_000), source("openai", str(number))).cost_micros == 1_000_000
        assert len(list_._book._found) <= 3  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("count", [-1, MAX_TOKENS + 1, 1 << 70])
@pytest.mark.parametrize("place", range(4))
def test_counts_that_cannot_be_are_cut_and_cost_nothing_known(store: Store, count: int, place: int) -> None:
    """A provider's absurd count is stored as the nearest that can be; its cost is unknown, and that is counted."""
    tokens = [1, 1, 1, 1]
    tokens[place] = count
    store.prices.configure([PriceConfig(model="m", input=1)], [])
    store.apply([samples.interception(), usage(*tokens)])
    (row,) = samples.tables(store)["token_usages"]
    found = [row[f"{name}_tokens"] for name in ("input", "output", "cache_read", "cache_write")]
    tokens[place] = min(max(count, 0), MAX_TOKENS)
    assert (found, row["input_price"], row["cost_micros"]) == (tokens, 1_000_000, None)
    assert sum(store.prices.unpriced().values()) == 1


def test_a_cost_that_cannot_be_is_not_known() -> None:
    """Ten million dollars for one response is the most that is believed."""
    list_ = PriceList([PriceConfig(model="m", input=10)])
    assert list_.cost(usage(MAX_TOKENS), source("openai", "m")).cost_micros == 10_000_000_000_000
    assert list_.cost(usage(MAX_TOKENS, 0, 0, 0), source("openai", "m")).input_price == 10_000_000
    list_.configure([PriceConfig(model="m", input=10.000001)], [])
    assert list_.cost(usage(MAX_TOKENS), source("openai", "m")).cost_micros is None


def test_costs_are_stored_with_their_prices(store: Store) -> None:
    """In the batch of the interception and in a later one; a later change of prices leaves them as they are."""
    store.prices.configure([PriceConfig(model="m", input=1, output=2, cache_read=3, cache_write=4)], [])
    store.apply([samples.interception(), usage(10, 10, 10, 10)])
    store.prices.configure([PriceConfig(model="m", input=5)], [])
    late = msgspec.structs.replace(usage(10, 10), seq=9)
    store.apply([late])
    store.apply([samples.interception(), usage(10, 10, 10, 10), late])
    rows = samples.tables(store)["token_usages"]
    assert [[row[name] for name in Cost._fields] for row in rows] == [
        [1_000_000, 2_000_000, 3_000_000, 4_000_000, 100],
        [5_000_000, 0, 0, 0, 50],
    ]
    assert store.prices.unpriced() == {}


def test_models_without_a_price_are_counted(store: Store) -> None:
    """By provider, type and model, in a form that the metrics know; the rows have no price."""
    store.apply([samples.interception(1), samples.interception(2), usage(1, number=1), usage(1, number=2)])
    status = ReloadStatus(
        number=1,
        published_at=None,
        last_reload_at=None,
        last_success_at=None,
        last_error=None,
        restart_needed=(),
        store_error=None,
        providers=(),
        workers=(),
    )
    line = (
        "bridgecore_cost_control_unpriced_token_usage_records_total"
        '{model="m",provider="main",provider_type="openai"} 2.0\n'
    )
    assert line in metrics.render(status, store.prices.unpriced()).decode()
    assert [row["cost_micros"] for row in samples.tables(store)["token_usages"]] == [None, None]


def test_a_batch_that_failed_counts_nothing(store: Store) -> None:
    """It comes again, and is counted then."""
    broken = msgspec.structs.replace(samples.prompt(), seq=None)
    with pytest.raises(StoreError, match=r"(?i)not.null"):
        store.apply([samples.interception(), usage(1), broken])
    assert store.prices.unpriced() == {}


@given(st.tuples(*[st.integers(0, MAX_TOKENS)] * 4), st.tuples(*[st.integers(0, 10_000)] * 4))
def test_a_cost_is_the_sum_of_its_categories(tokens: tuple[int, ...], cents: tuple[int, ...]) -> None:
    """Tokens times price, cut to whole micro-dollars for each category, by exact arithmetic."""
    names = ("input", "output", "cache_read", "cache_write")
    custom = msgspec.convert({"model": "m", **{n: c / 100 for n, c in zip(names, cents, strict=True)}}, PriceConfig)
    expected = sum(int(Decimal(t) * Decimal(c) / 100) for t, c in zip(tokens, cents, strict=True))
    cost = PriceList([custom]).cost(usage(*tokens), source("openai", "m")).cost_micros
    assert cost == (expected if expected <= 10**13 else None)


def test_the_price_book_fetches_nothing() -> None:
    """Importing and asking it starts no thread and opens no socket, and nothing of it is imported before."""
    script = (
        "import sys, socket, threading\n"
        "from bridgeserver import pricebook, prices\n"
        "assert 'genai_prices' not in sys.modules\n"
        "def refuse(*_args, **_kwargs): raise AssertionError\n"
        "socket.socket.__init__ = socket.getaddrinfo = refuse\n"
        "assert pricebook.find('openai', None, 'gpt-5', '')\n"
        "assert threading.active_count() == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
