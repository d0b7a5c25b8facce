"""Tables of indicators: measured once, shown in each report, judged by nothing."""

import io
import json as stdlib_json
from dataclasses import replace

from tests.plans import memory

from busyhour.gates import AtMost, Tabled, judge
from busyhour.indicators import dead_air, missed_turns, response_latency
from busyhour.model import Mark, Outcome, Plan, Table
from busyhour.planfile import check, vary
from busyhour.reports import json, text
from busyhour.testing import MemoryRun, answered, whole_run

TABLE = Table(
    title="what the caller heard",
    columns=["worst dead air", "turns lost"],
    rows={
        "steady": [dead_air("steady"), missed_turns("steady")],
        "never answered": [response_latency("other"), None],
        "not run": [response_latency("nothing"), None],
    },
)


def run() -> MemoryRun:
    silent = answered([None] * 3, number=1, phase="other", at_s=500)
    return whole_run(answered([700.0, 900.0]), silent, phases=("steady", "other"))


def plan(table: Table = TABLE) -> Plan:
    return replace(memory.plan(), gates=[AtMost(dead_air("steady"), 10, "s")], valid_if=[], controls=[], tables=[table])


def test_each_cell_is_measured_and_none_stays_none() -> None:
    tabled = Tabled.of(TABLE, run())
    (name, (worst, lost)), *_, (_, (latency, none)) = tabled.rows
    assert name == "steady"
    assert worst is not None
    assert worst.value == 0.9
    assert lost is not None
    assert lost.value == 0
    assert latency is not None
    assert latency.value is None
    assert none is None


def test_the_table_stands_in_the_text_aligned_and_in_the_json() -> None:
    judgement = judge(plan(), run())
    out = io.StringIO()
    text.report(run(), judgement, out)
    lines = out.getvalue().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("what the caller heard"))
    assert [line.split("  ")[0] for line in lines[at : at + 4]] == [
        "what the caller heard", "steady", "never answered", "not run",
    ]  # fmt: skip
    assert lines[at].endswith("worst dead air  turns lost")
    assert lines[at + 1].split()[-4:] == ["0.9", "s", "0", "%"]
    assert lines[at + 2].split()[-2:] == ["never", "-"]
    assert lines[at + 3].split()[-2:] == ["-", "-"]
    assert {len(line) for line in lines[at : at + 2]} == {len(lines[at])}
    out = io.StringIO()
    json.report(run(), judgement, out)
    table = stdlib_json.loads(out.getvalue())["tables"][0]
    assert table["columns"] == ["worst dead air", "turns lost"]
    assert table["rows"][0]["cells"][0]["value"] == 0.9
    assert table["rows"][1]["cells"][0]["value"] == "infinity"
    assert table["rows"][2]["cells"][1] is None


def test_of_an_invalid_run_there_is_no_table() -> None:
    failed = whole_run(answered([700.0]), marks=[Mark(5, "run.failed", detail={"why": "no room"})])
    judgement = judge(plan(), failed)
    assert judgement.outcome is Outcome.INVALID
    assert judgement.tables == ()


def test_a_row_of_another_length_is_a_problem_of_the_plan() -> None:
    short = Table(title="t", columns=["a", "b"], rows={"row": [None]})
    assert "the table 't' has 2 columns, and 1 indicators in 'row'" in check(plan(short))


def test_a_control_has_no_tables() -> None:
    fine = memory.plan().controls[0].benign
    assert vary(plan(), fine).tables == ()
