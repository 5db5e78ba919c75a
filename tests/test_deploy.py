"""The dashboard and the alerts of deploy/: every query is one, and names what the gateway exports."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import pytest
import yaml

from bridgeserver.families import FAMILIES
from bridgeserver.metrics import PREFIX, journal_limit, render
from bridgeserver.shipping_metrics import families
from bridgeserver.status import ProviderStatus, ReloadStatus, ShippingStatus

ROOT = Path(__file__).parent.parent
OPERATIONS = (ROOT / "docs/operations.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/bridgecore.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]

GIVEN_BY_PROMETHEUS = {"job", "instance"}
VARIABLE = re.compile(r"\$\{?(\w+)\}?")
VALUES = {"__rate_interval": "5m", "datasource": "prometheus"}


def series(name: str, kind: str, labels: set[str]) -> Iterator[tuple[str, set[str]]]:
    """Yield the names under which a family is stored, with their labels."""
    if kind == "histogram":
        yield name + "_bucket", labels | {"le"}
        yield name + "_count", labels
        yield name + "_sum", labels
    else:
        yield name, labels


@cache
def exported() -> Mapping[str, set[str]]:
    """Return the names of everything that can be scraped, with the labels of each."""
    found: dict[str, set[str]] = {}
    for family in FAMILIES.values():
        name = f"{PREFIX}{family.name}" + ("_total" if family.kind == "counter" else "")
        found.update(series(name, family.kind, set(family.labels)))
    provider = ProviderStatus("a", "anthropic", "enabled", "", "file", "https://a.example", 1)
    status = ReloadStatus(1, None, None, None, None, (), None, (provider,), ())
    further = [lambda: journal_limit(1), lambda: families(ShippingStatus())]
    for line in render(status, {}, further).decode().splitlines():
        name, _, labels = line.partition("{")
        if not line.startswith("#"):
            found.setdefault(name.split()[0], set(re.findall(r'(\w+)="', labels)))
    return found


class Query(NamedTuple):
    """A query, where it stands, and the labels that its result is shown with."""

    place: str
    text: str
    shown: frozenset[str]

    @property
    def expression(self) -> Any:
        """Return it as Prometheus understands it, with values for the variables."""
        return promql_parser.parse(VARIABLE.sub(lambda found: VALUES.get(found[1], "x"), self.text))


def legend(text: str) -> frozenset[str]:
    """Return the labels that a template shows."""
    return frozenset(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text))


def of_dashboard() -> Iterator[Query]:
    """Yield the queries of all panels and annotations."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield Query(panel["title"], target["expr"], legend(target["legendFormat"]))
    for note in DASHBOARD["annotations"]["list"]:
        yield Query(note["name"], note["expr"], legend(note["textFormat"]))


def of_alerts() -> Iterator[Query]:
    """Yield the queries of all alerts."""
    for rule in RULES:
        shown = frozenset(re.findall(r"\$labels\.(\w+)", "".join(rule["annotations"].values())))
        yield Query(rule["alert"], rule["expr"], shown)


QUERIES = [*of_dashboard(), *of_alerts()]
EACH_QUERY = pytest.mark.parametrize("query", [pytest.param(query, id=query.place) for query in QUERIES])


def parts(expression: Any) -> list[Any]:
    """Return an expression and everything in it."""
    found: list[Any] = []
    promql_parser.walk(expression, found.append)
    return found


def selectors(expression: Any) -> list[Any]:
    """Return what an expression reads."""
    return [part for part in parts(expression) if isinstance(part, promql_parser.VectorSelector)]


def labels_of(expression: Any) -> set[str]:
    """Return the labels of all that an expression reads."""
    found = set(GIVEN_BY_PROMETHEUS)
    for selector in selectors(expression):
        found |= exported()[selector.name]
    return found


@EACH_QUERY
def test_a_query_reads_what_is_exported(query: Query) -> None:
    """Metrics by their names, and labels that they have."""
    found = selectors(query.expression)
    assert found
    for selector in found:
        assert selector.name in exported()
        labels = exported()[selector.name] | GIVEN_BY_PROMETHEUS
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels


@EACH_QUERY
def test_a_query_groups_by_labels_that_there_are(query: Query) -> None:
    """And what is shown of its result is among them."""
    kept: set[str] | None = None
    for part in parts(query.expression):
        if isinstance(part, promql_parser.AggregateExpr):
            by = set[str]() if part.modifier is None else set(part.modifier.labels)
            if part.modifier is not None:
                assert part.modifier.type == promql_parser.AggModifierType.By
                assert by <= labels_of(part)
            if not str(part.op).endswith(("Topk", "topk")):
                kept = by if kept is None else kept & by
    assert query.shown <= (labels_of(query.expression) if kept is None else kept)


@EACH_QUERY
def test_a_rate_is_that_of_a_counter(query: Query) -> None:
    """And a counter is never shown as it is; buckets are told apart by their bounds."""
    text = re.sub(r"\s+", "", query.text)
    for selector in selectors(query.expression):
        is_counter = selector.name.endswith(("_total", "_bucket", "_count", "_sum"))
        before = text[: text.index(selector.name)].endswith(("rate(", "increase("))
        assert is_counter == before, selector.name
        if selector.name.endswith("_bucket"):
            assert re.search(r"by\([^)]*\ble\b", text)


def test_the_panels_have_places_of_their_own() -> None:
    """Ids and names are unique, nothing overlaps, and each says what it shows."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert columns.stop <= 24
        assert not cells & taken
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


def test_the_variables_of_the_dashboard() -> None:
    """Each that is used is there, and each that is there reads what is exported; the data source is one of them."""
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "job", "instance", "provider", "model"]
    assert {found for found in VARIABLE.findall(json.dumps(DASHBOARD)) if not found.startswith("__")} == set(names)
    for variable in DASHBOARD["templating"]["list"][1:]:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
        assert label in labels_of(Query("", selector, frozenset()).expression)
    sources = re.findall(r'"uid": "([^"]*)"', json.dumps(DASHBOARD["panels"]))
    assert set(sources) == {"${datasource}"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """In a summary, a description, and a part of the runbook that is there."""
    assert rule["labels"]["severity"] in {"warning", "critical"}
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook"}
    assert annotations["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert f"\n### {rule['alert']}\n" in OPERATIONS


def test_the_runbook_knows_no_other_alert() -> None:
    """None that was renamed or removed."""
    assert re.findall(r"^### (Bridgecore\w+)$", OPERATIONS, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_every_metric_is_documented() -> None:
    """By the name that it is stored under, whether it has counted or not."""
    for name in exported():
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        assert f"`{family}" in OPERATIONS, name
