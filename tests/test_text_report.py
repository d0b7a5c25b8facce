"""The report on a terminal, to the letter: a table of 80 columns, plain lines, and lines that are wrapped.

What is meant to change is written anew by

    BUSYHOUR_GOLDEN=write pytest tests/test_text_report.py

and read before it is committed: `git diff tests/golden`.
"""

from __future__ import annotations

import io
import os
import re
from math import inf
from pathlib import Path

import pytest

from busyhour.gates import Judgement, Tabled
from busyhour.indicators.stages import Diagnosis
from busyhour.model import Estimate, Outcome, Verdict
from busyhour.reports import text
from busyhour.testing import whole_run

GOLDEN = Path(__file__).parent / "golden"
RUN = whole_run(meta={"plan": "plans/telephone.py", "started_at": "2026-11-20T10:15:00.000+00:00", "version": "0.1.0"})
LONG_WORD = "x" * 90
VERDICTS = (
    Verdict("up", Outcome.PASS, "the target stayed up", None, ""),
    Verdict(
        "p50", Outcome.PASS, "p50 response latency in steady is 564 ms (552-571, n=138), within 650 ms", proof="proven"
    ),
    Verdict(
        "p95",
        Outcome.FAIL,
        "p95 response latency in steady is 1912 ms (1840-2004, n=138), over 800 ms: 14 of 138 turns are over it, turns "
        "of one call are alike (correlation 0.31), so that 138 weigh as 52",
    ),
    Verdict(
        "p90", Outcome.NOT_RUN, "p90 barge-in stop time in barge-in was not measured: phase barge-in did not begin"
    ),
    Verdict("odd", Outcome.INCONCLUSIVE, f"count of ✗ [/bold] :smile: in Größe 電話 is {LONG_WORD}", proof="proven"),
)
VALIDITY = (Verdict("late", Outcome.PASS, "p99 send lateness is 1.15 ms (n=62915), within 5 ms", proof="proven"),)
DIAGNOSES = (
    Diagnosis(
        "p95",
        "p95 response latency in steady: of 1967 ms in the 7 slowest of 138 turns, LLM first token took 1204 ms (61 %; "
        "1180-1228 ms), end-pointing 310 ms (16 %), all else 453 ms (23 %); typical ones take 520 ms, LLM first token "
        "171 ms (33 %)",
        7,
        7,
        (),
    ),
    Diagnosis("odd", "no stage can be named", 0, 3, ()),
)


def estimate(value: float | None, unit: str) -> Estimate:
    return Estimate("it", unit, 12, value, value, value)


TABLE = Tabled(
    "what the caller heard",
    ("worst dead air", "p95 dead air", "turns lost", "calls survived", "failover", "recovery", "sensible"),
    (
        ("llm path cut in mid-stream", tuple(estimate(v, u) for v, u in zip(
            (1.992, 0.563, 0, 100, 1.448, 26.4, 98.75), ("s", "s", "%", "%", "s", "s", "%"), strict=True))),
        ("tts", (estimate(inf, "s"), estimate(None, "s"), None, None, None, None, None)),
    ),
)  # fmt: skip
JUDGEMENT = Judgement(VERDICTS, VALIDITY, Outcome.FAIL, (TABLE, Tabled("empty", (), ())), DIAGNOSES)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(out: io.StringIO, judgement: Judgement = JUDGEMENT) -> str:
    text.report(RUN, judgement, out)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return int(request.param)


def is_as_it_was(name: str, told: str) -> None:
    path = GOLDEN / name
    if os.environ.get("BUSYHOUR_GOLDEN") == "write":
        path.write_text(told, encoding="utf-8")
    assert told == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("columns", [80], indirect=True)
def test_on_a_terminal(columns: int) -> None:
    is_as_it_was("judgement.terminal.txt", written(Terminal()))


@pytest.mark.parametrize("columns", [80], indirect=True)
def test_on_a_terminal_without_colours(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    is_as_it_was("judgement.wrapped.txt", written(out))
    assert "\x1b" not in out.getvalue()


def test_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")  # which says nothing of a file
    out = io.StringIO()
    is_as_it_was("judgement.txt", written(out))
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("columns", [40, 80, 120, 300], indirect=True)
def test_no_line_is_longer_than_the_terminal_and_no_word_is_lost(
    columns: int, colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not colours:
        monkeypatch.setenv("NO_COLOR", "1")
    told = written(Terminal())
    assert max(map(len, told.splitlines())) <= columns
    told = re.sub(r"[│┃]", " ", told)
    sentences = [*(verdict.because for verdict in (*VERDICTS, *VALIDITY)), *(one.because for one in DIAGNOSES)]
    cells = [TABLE.title, *TABLE.columns, *(name for name, _ in TABLE.rows), "26.4 s", "98.8 %", "never"]
    missing = {word for sentence in (*sentences, *cells) for word in sentence.split()} - set(told.split())
    assert missing <= {LONG_WORD}
    assert told.count("x") >= 90


def test_a_table_with_more_columns_than_there_is_room_for_goes_on_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    wide = Tabled("by fault", tuple(f"column {n}" for n in range(30)), (("llm", (estimate(712, "ms"),) * 30),))
    told = written(Terminal(), Judgement((), (), Outcome.PASS, (wide,)))
    lines = told.splitlines()
    assert max(map(len, lines)) <= 80
    assert told.count("712 ms") == 30
    assert [int(n) for n in re.findall(r"(?<!\S)\d+(?!\S| ms)", told)] == list(range(30))
    assert sum(line.startswith("llm") for line in lines) > 1
