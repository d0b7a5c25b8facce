import io
import json as stdlib_json
import re
from dataclasses import replace
from math import inf
from typing import Any, TextIO, cast
from xml.etree import ElementTree

import pytest

from busyhour.gates import AtMost, Holds, Judgement, judge
from busyhour.indicators import response_latency
from busyhour.model import JSON, Comparison, Estimate, Mark, Operation, Outcome, Plan, Run, Verdict
from busyhour.reports import json, junit, text
from busyhour.testing import answered, call, whole_run

META: dict[str, JSON] = {
    "plan": "plans/telephone.py",
    "started_at": "2026-11-20T10:15:00.000+00:00",
    "proofs": {},
    "source": "import x",
}
LONG = (
    "p95 response latency in steady is 712 ms (698 or more, n=40), not shown to be within 800 ms: 0 of 40 turns are "
    "over it, which certifies p92.7 at most; at least 19 more turns are needed [/bold] :smile: [1]"
)
VERDICTS = (
    Verdict("the target stayed up", Outcome.PASS, "the target stayed up", None, ""),
    Verdict("latency <= 800 ms", Outcome.INCONCLUSIVE, LONG, Estimate("latency", "ms", 40, 712.0, 698.0, inf)),
    Verdict(
        "dead air <= 3 s", Outcome.FAIL, "dead air is 4 s", Estimate("dead air", "s", 9, inf, -inf, None), "proven"
    ),
    Verdict("barge-in <= 1 s", Outcome.NOT_RUN, "barge-in was not measured: phase x did not begin"),
    Verdict("other", Outcome.INVALID, "agent said <&>"),
)
JUDGEMENT = Judgement(VERDICTS, (Verdict("whole", Outcome.PASS, "it is whole", None, "proven"),), Outcome.INVALID)
RUN = whole_run(meta=META)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(report: Any, out: TextIO | None = None, judgement: Judgement = JUDGEMENT) -> str:
    out = out or io.StringIO()
    report.report(RUN, judgement, out)
    return cast(io.StringIO, out).getvalue()


# ---------------------------------------------------------------- text


def test_plain_text_has_every_sentence_on_its_line() -> None:
    lines = written(text).splitlines()
    assert lines[0] == "telephone, 2026-11-20 10:15:00 UTC"
    assert lines[1:] == [
        "PASS          it is whole",
        "PASS          the target stayed up",
        f"INCONCLUSIVE  {LONG}  [UNPROVEN]",
        "FAIL          dead air is 4 s",
        "NOT RUN       barge-in was not measured: phase x did not begin  [UNPROVEN]",
        f"INVALID       {VERDICTS[4].because}  [UNPROVEN]",
        "INVALID (2 pass, 1 not run, 1 inconclusive, 1 fail, 1 invalid; 3 not proven able to fail)",
    ]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_shows_every_sentence_whole(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", written(text, Terminal())).splitlines()
    assert max(len(line) for line in shown) <= columns
    cells = [line.split("│")[2].strip() for line in shown if line.count("│") == 3]
    assert LONG in " ".join(cells)
    assert "dead air is 4 s" in cells
    assert any(line.startswith("INVALID (2 pass") for line in shown)


def test_of_an_invalid_run_the_reasons_are_told_once() -> None:
    late = Verdict("lateness", Outcome.FAIL, "p99 send lateness is 9 ms, over 5 ms", None, "proven")
    void = tuple(Verdict(f"gate {n}", Outcome.INVALID, f"gate {n}: {late.because}") for n in range(9))
    out = io.StringIO()
    text.report(RUN, Judgement(void, (late,), Outcome.INVALID), out)
    assert out.getvalue().count(late.because) == 1
    assert "nothing is said of the target: 9 gates not judged" in out.getvalue()


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()])
def test_of_an_invalid_run_whose_calls_all_failed_it_is_told_why(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run = whole_run([call(n, outcome="webhook refused", why="404 Not Found") for n in range(4)])
    void = Verdict("gate", Outcome.INVALID, "gate: late")
    text.report(run, Judgement((void,), (replace(void, because="late"),), Outcome.INVALID), out)
    assert "1 gate not judged; all 4 calls failed: webhook refused (404 Not Found)" in out.getvalue()


LOST = [call(1), call(2, outcome="lost"), call(3, outcome="lost")]
STARTED = [Mark(0, "service.started", name, {"pids": [7]}) for name in ("llm", "agent")]
THEIRS = Mark(0, "service.started", "agent", {"pids": []})
DIED = Mark(9, "service.died", "agent", {"role": "target"})


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    ("calls", "marks", "outcome", "told"),
    [
        (LOST, STARTED, Outcome.FAIL, True),
        (LOST, STARTED, Outcome.INVALID, True),
        (LOST, STARTED, Outcome.PASS, False),
        (LOST, [*STARTED, DIED], Outcome.FAIL, False),  # its last lines are in the verdict
        (LOST, [*STARTED, THEIRS], Outcome.FAIL, False),
        (LOST[:1], STARTED, Outcome.FAIL, False),
        ([*LOST, call(4), call(5)], STARTED, Outcome.FAIL, False),  # a plan that has some fail, missed by another gate
        (LOST, [], Outcome.FAIL, False),
    ],
)
def test_where_the_target_itself_told_of_calls_that_failed(
    terminal: bool,
    calls: list[Operation],
    marks: list[Mark],
    outcome: Outcome,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = Terminal() if terminal else io.StringIO()
    text.report(whole_run(calls, marks=marks), Judgement((), (), outcome), out)
    where = '2 of 3 calls failed: what agent printed is in its log, if its Command has one, like log=Path("agent.log")'
    assert (where in out.getvalue()) is told


def test_a_terminal_marks_what_is_unproven_and_does_not_repeat_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = written(text, Terminal())
    assert shown.count("[UNPROVEN]") == 3
    assert shown.count("the target stayed up") == 1


# ---------------------------------------------------------------- json


def test_json_has_its_documented_shape() -> None:
    told = stdlib_json.loads(written(json), parse_constant=pytest.fail)
    assert list(told) == [
        "format",
        "version",
        "outcome",
        "exit_code",
        "run",
        "validity",
        "verdicts",
        "tables",
        "diagnoses",
    ]
    assert (told["format"], told["version"], told["outcome"], told["exit_code"]) == (
        "busyhour.judgement",
        1,
        "invalid",
        3,
    )
    assert told["run"] == {"plan": META["plan"], "started_at": META["started_at"]}
    assert told["validity"][0]["proof"] == "proven"
    assert told["verdicts"][1] == {
        "gate": "latency <= 800 ms",
        "outcome": "inconclusive",
        "because": LONG,
        "proof": "unproven",
        "estimate": {"what": "latency", "unit": "ms", "n": 40, "value": 712.0, "low": 698.0, "high": "infinity"},
        "limits": {"at_least": None, "at_most": None},
    }
    assert told["verdicts"][2]["estimate"] == {
        "what": "dead air",
        "unit": "s",
        "n": 9,
        "value": "infinity",
        "low": "-infinity",
        "high": None,
    }
    assert told["verdicts"][3]["estimate"] is None
    assert [verdict["outcome"] for verdict in told["verdicts"]] == [
        "pass",
        "inconclusive",
        "fail",
        "not run",
        "invalid",
    ]


# ---------------------------------------------------------------- junit


def test_junit_makes_errors_of_what_shows_nothing() -> None:
    root = ElementTree.fromstring(written(junit))
    assert root.tag == "testsuites"
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6",
        "failures": "1",
        "errors": "3",
        "skipped": None,  # which Jenkins's schema has for a suite, and not for all suites
    }
    assert [suite.get("skipped") for suite in root] == ["0", "0"]
    assert [suite.get("name") for suite in root] == ["busyhour.harness", "busyhour.target"]
    cases = {case.get("name"): case for case in root.iter("testcase")}
    found = {name: [(child.tag, child.get("type")) for child in case] for name, case in cases.items()}
    assert found == {
        "whole": [("system-out", None)],
        "the target stayed up": [("system-out", None)],
        "latency <= 800 ms": [("error", "inconclusive")],
        "dead air <= 3 s": [("failure", "fail")],
        "barge-in <= 1 s": [("error", "not run")],
        "other": [("error", "invalid")],
    }
    assert not list(root.iter("skipped"))
    assert cases["latency <= 800 ms"][0].get("message") == LONG
    assert cases["latency <= 800 ms"][0].text == f"{LONG} [UNPROVEN]"
    assert cases["dead air <= 3 s"][0].text == "dead air is 4 s"


def test_junit_is_xml_whatever_a_process_said() -> None:
    raw = Judgement((Verdict("\x01", Outcome.INVALID, "agent said \x00\x1b[31m<&>\ud800"),), (), Outcome.INVALID)
    out = written(junit, judgement=raw)
    (case,) = ElementTree.fromstring(out).iter("testcase")
    assert case.get("name") == "\ufffd"
    assert case[0].get("message") == "agent said \ufffd\ufffd[31m<&>\ufffd"
    assert out.encode("utf-8")


# ---------------------------------------------------------------- from a run to a report


def test_the_sentence_of_a_gate_is_printed_verbatim_by_all() -> None:
    gate = AtMost(response_latency("steady", 0.95), 800, "ms")
    plan = Plan(
        target=cast(Any, None),
        carrier=cast(Any, None),
        phases=(),
        gates=[gate, Holds("x", lambda run: Comparison(Outcome.PASS, "y"))],
    )
    run: Run = whole_run(*(answered([100.0 + n], number=n) for n in range(60)), marks=[Mark(1, "other")], meta=META)
    judgement = judge(plan, run)
    sentence = gate.judge(run).because
    assert judgement.outcome is Outcome.PASS
    for report in (text, json, junit):
        out = io.StringIO()
        report.report(run, judgement, out)
        assert sentence in out.getvalue()
