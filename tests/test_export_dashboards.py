"""The dashboard and the alerts that are shipped ask for figures that there are, by labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from busyhour.exporting.counting import all_families
from busyhour.exporting.families import Family, Kind

DEPLOY = Path(__file__).parents[1] / "deploy"
SCRAPED = {"instance", "job"}  # which Prometheus adds
FAMILIES = {line: family for family in all_families() for line in family.lines}
WORD = re.compile(r"[a-zA-Z_:][\w:]*")
OURS = re.compile(r"\b(busyhour_\w+)\s*(?:\{([^}]*)\})?")
MATCHER = re.compile(r"\s*([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*\"(?:[^\"\\]|\\.)*\"\s*(?:,|$)")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
FUNCTIONS = {
    *("sum", "rate", "increase", "deriv", "histogram_quantile", "label_values"),
    *("by", "on", "and", "unless", "instance", "job", "le"),
}


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DEPLOY / "grafana" / "busyhour.json").read_text(encoding="utf-8"))
    return read


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def asked() -> Iterator[tuple[str, str]]:
    """Where an expression stands, and the expression."""
    for panel in panels():
        yield from ((f"panel {panel['title']}", target["expr"]) for target in panel["targets"])
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["definition"]
    for annotation in dashboard()["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    yield from ((f"alert {rule['alert']}", rule["expr"]) for rule in rules())


EXPRESSIONS = list(asked())


def labels_of(family: Family) -> set[str]:
    return {*family.labels, *SCRAPED, *({"le"} if family.kind is Kind.HISTOGRAM else ())}


def test_there_is_something_to_check() -> None:
    assert len(EXPRESSIONS) > 40
    assert len(rules()) >= 8


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[f"{w}: {e[:40]}" for w, e in EXPRESSIONS])
def test_it_asks_for_what_there_is(where: str, expression: str) -> None:
    found = OURS.findall(expression)
    assert found, where
    labels: set[str] = set()
    for name, matchers in found:
        assert name in FAMILIES, f"{where}: {name} is not exported"
        labels |= labels_of(FAMILIES[name])
        matched = [match.group(1) for match in MATCHER.finditer(matchers)]
        assert not MATCHER.sub("", matchers).strip(), f"{where}: {matchers}"
        wrong = set(matched) - labels_of(FAMILIES[name])
        assert not wrong, f"{where}: {name} has no label {wrong}"
    for grouping in GROUPING.findall(expression):
        assert {label.strip() for label in grouping.split(",")} <= labels, f"{where}: {grouping}"
    assert expression.count("(") == expression.count(")")


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[f"{w}: {e[:40]}" for w, e in EXPRESSIONS])
def test_it_is_made_of_words_that_promql_has(where: str, expression: str) -> None:
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\d[\w.]*", "", bare)
    words = set(WORD.findall(bare)) - FAMILIES.keys()
    labels = {label for family in all_families() for label in labels_of(family)}
    assert words <= FUNCTIONS | labels, where


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[f"{w}: {e[:40]}" for w, e in EXPRESSIONS])
def test_counters_are_asked_for_as_counters(where: str, expression: str) -> None:
    for name, _ in OURS.findall(expression):
        of_time = re.search(rf"\b(?:rate|increase)\(\s*{name}\b", expression) is not None
        counts = FAMILIES[name].kind in {Kind.COUNTER, Kind.HISTOGRAM}
        assert counts or not of_time, f"{where}: a rate of {name}, which is a {FAMILIES[name].kind}"
        if FAMILIES[name].kind is Kind.HISTOGRAM:
            assert name.endswith("_bucket"), where
            assert "histogram_quantile(" in expression, where
            assert re.search(r"\bby\s*\([^)]*\ble\b", expression), where


def test_legends_and_messages_use_labels_that_are_left() -> None:
    for panel in panels():
        for target in panel["targets"]:
            told = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]))
            assert told <= _left(target["expr"]), panel["title"]
    for rule in rules():
        told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert told <= _left(rule["expr"]), rule["alert"]


def _left(expression: str) -> set[str]:
    groupings = GROUPING.findall(expression)
    if groupings:
        return {label.strip() for label in groupings[0].split(",")} - {"le"}
    if re.search(r"\bsum\s*\(", expression):
        return set()
    return {label for name, _ in OURS.findall(expression) for label in labels_of(FAMILIES[name])}


def test_the_dashboard_is_whole() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    variables = {variable["name"] for variable in dashboard()["templating"]["list"]}
    for where, expression in EXPRESSIONS:
        used = set(re.findall(r"\$\{?(\w+)\}?", expression)) - {"labels"}
        assert used <= variables | {"__rate_interval"}, where
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["description"]


def test_every_family_of_interest_is_on_the_dashboard() -> None:
    shown = {
        FAMILIES[name].name
        for panel in panels()
        for target in panel["targets"]
        for name, _ in OURS.findall(target["expr"])
    }
    unseen = {family.name for family in all_families()} - shown
    assert unseen == {"busyhour_process_count", "busyhour_process_restarts"}


def test_alerts_have_what_prometheus_wants() -> None:
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["annotations"]["summary"]
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
