"""What other programs read of a judgement: the JSON by its published schema, the XML by the rules of Jenkins's."""

from __future__ import annotations

import io
import json as stdlib_json
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any, TextIO
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator

from busyhour import __version__
from busyhour.gates import AtMost, Judgement, Tabled, judge
from busyhour.indicators import missed_turns, response_latency
from busyhour.indicators.stages import Diagnosis, Stage
from busyhour.model import JSON, Estimate, Outcome, Plan, Run, Table, Verdict
from busyhour.reports import json, junit, summary
from busyhour.testing import MemoryRun, MemoryService, answered, whole_run

GOLDEN = Path(__file__).parent / "golden"
META: dict[str, JSON] = {
    "plan": "plans/telephone.py",
    "options": {"scale": "2"},
    "seed": 7,
    "processes": 1,
    "recording": {"all": False, "sample": 5, "seconds_max": 600.0},
    "boot": "a-b",
    "version": __version__,
    "started_at": "2026-11-20T10:15:00.000+00:00",
    "commit": "0123456789ab+",
    "machine": "Linux x86_64, 2 cores",
    "python": "3.11.7",
    "libraries": {"aiohttp": "3.14.0"},
    "carrier": "telnyx",
    "harnesses": ["worker 1"],
    "proofs": {"x": "proven"},
    "source": "import x",
}
ESTIMATES = (
    Estimate("p95", "ms", 40, 712.5, 698.0, inf),
    Estimate("dead air", "s", 9, inf, -inf, None),
    Estimate("count", "", 0, None, None, None),
    Estimate("count", "", 3, 3, 3, 3),
)
VERDICTS = tuple(
    Verdict(outcome.value, outcome, f"it was {outcome.value} <&> \u20ac \U0001f600", estimate, proof)
    for outcome, estimate, proof in zip(
        Outcome, (*ESTIMATES, None), ("proven", "unproven", "", "unproven", ""), strict=True
    )
)
TABLES = (
    Tabled(
        "by fault", ("p95", "dead air"), (("llm hang", (ESTIMATES[1], None)), ("none", (ESTIMATES[2], ESTIMATES[0])))
    ),
    Tabled("empty", (), ()),
)
DIAGNOSES = (
    Diagnosis(
        "inconclusive",
        "of 912 ms, the language model took 500 ms <&>",
        9,
        12,
        (Stage("llm", 500.5, 0.55, 480.0, 520.0, 300.0), Stage("tts", 411.5, 0.45, None, None, None)),
        (("llm", 2),),
    ),
    Diagnosis("fail", "no stage can be named", 0, 3, ()),
)
EVERYTHING = Judgement(VERDICTS, VERDICTS[:1], Outcome.INVALID, TABLES, DIAGNOSES)


def schema() -> dict[str, Any]:
    read: dict[str, Any] = stdlib_json.loads(json.schema())
    return read


def closed(part: Any) -> Any:
    """The schema in which nothing may be that is not described."""
    if isinstance(part, list):
        return [closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    described = part.get("type") == "object" and "properties" in part
    return {key: closed(value) for key, value in part.items()} | ({"additionalProperties": False} if described else {})


def written(judgement: Judgement, run: Any = None) -> Any:
    out = io.StringIO()
    json.report(run or whole_run(meta=META), judgement, out)
    return stdlib_json.loads(out.getvalue(), parse_constant=pytest.fail)


def of_a_run(latencies_ms: list[float | None], *, calls: int = 60) -> Judgement:
    gates = [AtMost(response_latency("steady", 0.95), 800, "ms"), AtMost(missed_turns("steady"), 5, "%")]
    rows = {"steady": [response_latency("steady", 0.5), None], "never": [response_latency("never"), None]}
    table = Table(title="latency", columns=["p50", "nothing"], rows=rows)
    plan = Plan(target=MemoryService("agent"), phases=(), gates=gates, tables=[table])
    return judge(plan, whole_run(*(answered(latencies_ms, number=n) for n in range(calls)), meta=META))


JUDGEMENTS = {
    "everything there is": EVERYTHING,
    "nothing at all": Judgement((), (), Outcome.NOT_RUN),
    "passed": of_a_run([300.0, 400.0]),
    "failed": of_a_run([900.0, 900.0]),
    "never answered": of_a_run([300.0, None]),
    "no calls": of_a_run([], calls=0),
    "not begun": judge(Plan(target=MemoryService("agent"), phases=(), gates=()), MemoryRun()),
}


def test_the_schema_is_one_and_is_of_this_version() -> None:
    Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema()["properties"]["version"] == {"const": json.VERSION}
    assert schema()["properties"]["format"] == {"const": json.FORMAT}
    assert schema()["$id"].endswith(f":{json.VERSION}")


@pytest.mark.parametrize("name", JUDGEMENTS)
def test_a_judgement_is_as_the_schema_says_and_nothing_is_in_it_that_the_schema_does_not_say(name: str) -> None:
    told = written(JUDGEMENTS[name])
    Draft202012Validator(schema()).validate(told)
    Draft202012Validator(closed(schema())).validate(told)


def test_the_outcomes_of_the_schema_are_those_there_are() -> None:
    assert schema()["$defs"]["outcome"]["enum"] == [outcome.value for outcome in Outcome]


def test_a_verdict_says_what_its_estimate_was_set_against() -> None:
    limits = [verdict["limits"] for verdict in written(JUDGEMENTS["failed"])["verdicts"] if verdict["estimate"]]
    assert limits == [{"at_least": None, "at_most": 800}, {"at_least": None, "at_most": 5}]


def test_a_diagnosis_has_its_stages_and_is_told_beside_its_gate() -> None:
    first, second = written(EVERYTHING)["diagnoses"]
    assert (first["gate"], first["owner"], first["n"], first["of"]) == ("inconclusive", "llm", 9, 12)
    assert first["stages"][1] == {
        "name": "tts",
        "ms": 411.5,
        "share": 0.45,
        "low": None,
        "high": None,
        "typical_ms": None,
    }
    assert first["unanswered"] == [{"stage": "llm", "count": 2}]
    assert (second["owner"], second["stages"]) == ("", [])
    out = io.StringIO()
    junit.report(whole_run(meta=META), EVERYTHING, out)
    texts = {case.get("name"): case[0].text for case in ElementTree.fromstring(out.getvalue()).iter("testcase")}
    assert str(texts["inconclusive"]).endswith(f"\n{DIAGNOSES[0].because}")
    assert DIAGNOSES[0].because not in str(texts["pass"])


def broken(change: Mapping[str, Any]) -> dict[str, Any]:
    return written(EVERYTHING) | dict(change)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"outcome": "passed"},
        {"exit_code": 4},
        {"verdicts": [{"gate": "x"}]},
        {"verdicts": [VERDICTS[0].__class__.__name__]},
        {"validity": None},
        {"tables": [{"title": "x", "columns": ["a"], "rows": [{"name": "n", "cells": [12]}]}]},
    ],
    ids=str,
)
def test_the_schema_refuses_what_is_none(change: Mapping[str, Any]) -> None:
    assert not Draft202012Validator(schema()).is_valid(broken(change))


@pytest.mark.parametrize("value", ["Infinity", "nan", True, [1]], ids=str)
def test_a_number_is_a_number_or_infinite_or_null(value: Any) -> None:
    told = written(EVERYTHING)
    told["verdicts"][0]["estimate"]["value"] = value
    assert not Draft202012Validator(schema()).is_valid(told)


def test_what_is_added_within_a_version_breaks_no_reader() -> None:
    told = written(EVERYTHING) | {"later": 1}
    told["verdicts"][0]["later"] = told["run"]["later"] = {"x": 1}
    Draft202012Validator(schema()).validate(told)


def test_a_run_of_an_older_busyhour_is_one_too() -> None:
    Draft202012Validator(schema()).validate(written(EVERYTHING, whole_run(meta={})))


# ---------------------------------------------------------------- golden


@pytest.mark.parametrize(
    ("name", "report"),
    [("judgement.json", json.report), ("judgement.xml", junit.report), ("judgement.md", summary.report)],
)
def test_every_letter_is_as_it_was(name: str, report: Callable[[Run, Judgement, TextIO], None]) -> None:
    """Whoever reads these files may rely on more than a schema says. A change that is meant is written there too."""
    out = io.StringIO()
    report(whole_run(meta={**META, "version": "0.1.0"}), EVERYTHING, out)
    assert out.getvalue() == (GOLDEN / name).read_text(encoding="utf-8")


# ---------------------------------------------------------------- junit

# The rules of junit-10.xsd of Jenkins's xUnit plugin: what may be in what, and which attributes it has, those that it
# must have first.
ELEMENTS = {
    "testsuites": ({"testsuite"}, set(), {"name", "time", "tests", "failures", "errors"}),
    "testsuite": (
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        {"name", "tests", "failures", "errors"},
        {"group", "time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url"},
    ),
    "testcase": (
        {"skipped", "error", "failure", "system-out", "system-err"},
        {"name"},
        {"time", "classname", "group"},
    ),
    "failure": (set(), set(), {"type", "message"}),
    "error": (set(), set(), {"type", "message"}),
    "system-out": (set(), set(), set()),
}


@pytest.mark.parametrize("name", JUDGEMENTS)
def test_the_xml_keeps_to_the_schema_of_jenkins(name: str) -> None:
    out = io.StringIO()
    junit.report(whole_run(meta=META), JUDGEMENTS[name], out)
    root = ElementTree.fromstring(out.getvalue())
    assert root.tag == "testsuites"
    for element in root.iter():
        children, needed, optional = ELEMENTS[element.tag]
        assert {child.tag for child in element} <= children
        assert needed <= set(element.attrib) <= needed | optional, element.tag
    for suite in root:
        cases = list(suite)
        assert suite.get("tests") == str(len(cases))
        assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
        assert suite.get("errors") == str(len(suite.findall("testcase/error")))
        assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
