"""The reference of the exports names all that there is."""

import json as stdlib_json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from busyhour import openslo
from busyhour.exporting.counting import all_families
from busyhour.exporting.families import Family, Kind
from busyhour.exporting.rows import TABLES, Table
from busyhour.gates import AtMost
from busyhour.indicators import response_latency
from busyhour.reports import json

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "exports.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]


def told_of(family: Family) -> str:
    return family.name if family.kind is Kind.HISTOGRAM else family.lines[0]


@pytest.mark.parametrize("family", all_families(), ids=lambda family: family.name)
def test_every_figure_is_told_with_its_kind_and_labels(family: Family) -> None:
    (row,) = [row for row in rows() if f"`{told_of(family)}`" in row[0]]
    assert row[1:3] == [family.kind.value, ", ".join(family.labels)]


def test_no_figure_is_told_that_there_is_not() -> None:
    told = {name for row in rows() for name in re.findall(r"`(busyhour_\w+)`", row[0])}
    assert told == {told_of(family) for family in all_families()}


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_every_column_is_told_with_its_type(table: Table) -> None:
    first = next(n for n, row in enumerate(rows()) if row[0] == table.name)
    told = []
    for name, kind, _ in rows()[first + 2 :]:
        told += [(column, kind) for column in re.findall(r"`(\w+)`", name)]
        if len(told) >= len(table.columns):
            break
    assert tuple(told) == table.columns


@pytest.mark.parametrize("table", [openslo.LATENCIES, openslo.GOOD, openslo.BAD], ids=["latencies", "good", "bad"])
def test_every_indicator_of_openslo_is_told(table: dict[str, object]) -> None:
    assert [row[0] for row in rows()].count(" ".join(f"`{name}`" for name in table)) == 1


def test_the_example_of_json_is_one() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    Draft202012Validator(stdlib_json.loads(json.schema())).validate(stdlib_json.loads(example))


def test_the_example_of_openslo_becomes_the_gate_beside_it(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(apiVersion.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "slo.yaml"
    path.write_text(example, encoding="utf-8")
    assert openslo.gates(path, phase="steady") == [AtMost(response_latency("steady", 0.95), 800, "ms")]
