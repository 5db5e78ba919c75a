"""The text that Prometheus scrapes, read back with the library's own parser."""

import re
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from bridgeserver.counting import SEPARATOR, SUM, join
from bridgeserver.families import FAMILIES
from bridgeserver.metrics import render
from bridgeserver.status import ProviderStatus, ReloadStatus, WorkerStatus

OPERATIONS = Path(__file__).parent.parent / "docs/operations.md"


def provider(name: str, status: str = "enabled") -> ProviderStatus:
    """Return a provider of the configuration in force."""
    assert status in {"enabled", "disabled", "error"}
    return ProviderStatus(name, "anthropic", status, "", "file", "https://a.example", 1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def state(*providers: ProviderStatus, reload_at: float | None = None, success_at: float | None = None) -> ReloadStatus:
    """Return a state with one ready worker of two."""
    return ReloadStatus(
        number=7,
        published_at=success_at,
        last_reload_at=reload_at,
        last_success_at=success_at,
        last_error=None,
        restart_needed=(),
        store_error=None,
        providers=providers,
        workers=(WorkerStatus(11, 7, ready=True, reason=""), WorkerStatus(12, 6, ready=False, reason="draining")),
    )


def scrape(status: ReloadStatus, counters: dict[str, int] | None = None) -> dict[str, Metric]:
    """Return the families of one scrape by name."""
    text = render(status, Counter(counters or {})).decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def value(families: dict[str, Metric], name: str, /, **labels: str) -> float:
    """Return the value of one sample."""
    samples = [sample for family in families.values() for sample in family.samples]
    found = [sample.value for sample in samples if (sample.name, sample.labels) == (f"bridgecore_{name}", labels)]
    assert len(found) == 1, name
    return float(found[0])


def test_the_time_of_a_reload_and_of_its_success() -> None:
    """The two diverge when a reload fails, and both are exact to a fraction of a second."""
    families = scrape(state(reload_at=1_764_000_002.25, success_at=1_764_000_000.5))
    assert value(families, "providers_last_reload_timestamp_seconds") == 1_764_000_002.25
    assert value(families, "providers_last_reload_success_timestamp_seconds") == 1_764_000_000.5
    assert value(families, "generation") == 7
    assert (value(families, "workers"), value(families, "workers_ready")) == (2, 1)


def test_a_reload_that_never_was_is_at_zero() -> None:
    """An alert on the age of the last success then fires too."""
    families = scrape(state())
    assert value(families, "providers_last_reload_timestamp_seconds") == 0
    assert value(families, "providers_last_reload_success_timestamp_seconds") == 0


def test_providers_are_those_of_the_configuration_in_force() -> None:
    """Each has one sample with its status; one that is gone leaves none behind."""
    families = scrape(state(provider("a"), provider("b", "disabled"), provider("c", "error")))
    for name, status in (("a", "enabled"), ("b", "disabled"), ("c", "error")):
        assert value(families, "provider_info", provider_name=name, provider_type="anthropic", status=status) == 1
    families = scrape(state(provider("a", "disabled")))
    labels = [sample.labels for sample in families["bridgecore_provider_info"].samples]
    assert labels == [{"provider_name": "a", "provider_type": "anthropic", "status": "disabled"}]


@pytest.mark.parametrize("name", ['quo"te', "new\nline", "back\\slash", "\\n", "é✓", "}", ""])
def test_a_label_is_escaped(name: str) -> None:
    """A name comes back as it was, and adds no line of its own."""
    text = render(state(provider(name)), {f"pool_evicted.{name}": 3, f"unheard.{name}": 1}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert value(families, "provider_info", provider_name=name, provider_type="anthropic", status="enabled") == 1
    assert value(families, "pool_evicted_total", cause=name) == 3
    assert value(families, "other", name=f"unheard.{name}") == 1
    assert text.count("\n") == render(state(provider("x")), {"pool_evicted.x": 3, "unheard.x": 1}).count(b"\n")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_a_type_a_help_and_a_unit(name: str) -> None:
    """Each is exposed once, under its own name, with all labels, in the unit that the name says."""
    family = FAMILIES[name]
    values = dict.fromkeys(family.labels, "x")
    base = join(name, tuple(values.values()))
    if family.kind == "histogram":
        base += SEPARATOR if values else "."
        families = scrape(
            state(), {base + "0": 2, base + "2": 3, base + str(len(family.bounds)): 4, base + SUM: 2_500_000}
        )
        assert value(families, family.name + "_count", **values) == 9
        assert value(families, family.name + "_sum", **values) == 2.5
        counts = [value(families, family.name + "_bucket", **values, le=str(float(bound))) for bound in family.bounds]
        assert counts == [2, 2, *[5] * (len(family.bounds) - 2)]
        assert value(families, family.name + "_bucket", **values, le="+Inf") == 9
    else:
        families = scrape(state(), {base: 2_500_000})
        sample = family.name + ("_total" if family.kind == "counter" else "")
        assert value(families, sample, **values) == pytest.approx(2_500_000 * family.scale)
    found = families[f"bridgecore_{family.name}"]
    assert (found.type, found.documentation) == (family.kind, family.help)
    assert not families["bridgecore_other"].samples


def test_what_has_not_counted_yet_is_zero() -> None:
    """Rather than absent, so that a rate has a first value; where there are labels, nobody knows which."""
    empty = scrape(state())
    assert value(empty, "pool_hits_total") == value(empty, "pool_live") == value(empty, "loop_lag_seconds_count") == 0
    assert not empty["bridgecore_interceptions"].samples


def test_users_are_a_label_where_there_are_any() -> None:
    """Without one the label is left out, and not shown as empty."""
    name, with_user = (join("prompts", ("p", "m", "Codex", user)) for user in ("", "ann"))
    labels = {"provider": "p", "model": "m", "client": "Codex"}
    assert value(scrape(state(), {name: 2}), "prompts_total", **labels) == 2
    families = scrape(state(), {name: 2, with_user: 3})
    assert value(families, "prompts_total", **labels, user="ann") == 3
    assert value(families, "prompts_total", **labels, user="") == 2


def test_other_parts_add_families_of_their_own() -> None:
    """Asked at each scrape."""
    counts = iter((1, 2))
    further = [lambda: [GaugeMetricFamily("bridgecore_more", "More.", value=next(counts))]]
    for expected in (1, 2):
        assert f"bridgecore_more {expected}.0" in render(state(), {}, further).decode()


def test_causes_are_a_label() -> None:
    """What stands after the dot tells the samples of one counter apart."""
    families = scrape(state(), {"pool_evicted.cost": 2, "pool_evicted.expired": 3})
    assert value(families, "pool_evicted_total", cause="cost") == 2
    assert value(families, "pool_evicted_total", cause="expired") == 3


def test_an_unknown_counter_is_not_lost() -> None:
    """It shows under its own name in one family for all of them, and so does a known one in a strange form."""
    families = scrape(state(), {"brand_new": 5, "pool_evicted": 1, "pool_hits.x": 2, ".": 3})
    for name, count in {"brand_new": 5, "pool_evicted": 1, "pool_hits.x": 2, ".": 3}.items():
        assert value(families, "other", name=name) == count
    assert families["bridgecore_other"].type == "unknown"
    assert value(families, "pool_hits_total") == 0


def test_large_counters_stay_exact() -> None:
    """A counter of years is not rounded."""
    assert value(scrape(state(), {"pool_hits": 2**53 - 1}), "pool_hits_total") == 2**53 - 1


def test_the_names_follow_the_conventions() -> None:
    """Counters end in `_total`, nothing else does, and no name has a unit that is not a base unit."""
    text = render(state(provider("a", "enabled")), {}).decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name, kind in kinds.items():
        assert name.startswith("bridgecore_")
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(ms|us|minutes|hours)(_|$)", name)


def test_every_metric_is_documented() -> None:
    """docs/operations.md lists the metrics by the names that they are scraped under."""
    text = render(state(), {}).decode()
    documented = OPERATIONS.read_text()
    names = [name for name, _ in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)]
    assert [name for name in names if f"`{name}" not in documented] == []


def test_nothing_is_collected_for_good() -> None:
    """Scraping leaves nothing in the library's global registry, and nothing of one scrape in the next."""
    before = scrape(state(provider("a")), {"brand_new": 1})
    after = scrape(state())
    assert before["bridgecore_other"].samples
    assert not after["bridgecore_other"].samples
    assert not after["bridgecore_provider_info"].samples
