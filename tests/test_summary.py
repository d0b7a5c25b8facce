"""The summary on the page of a CI job, read back by a Markdown parser."""

import io
import re
from html.parser import HTMLParser
from math import inf
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from busyhour.gates import Judgement, Tabled
from busyhour.indicators.stages import Diagnosis, Stage
from busyhour.model import Estimate, Outcome, Verdict
from busyhour.reports import summary
from busyhour.testing import whole_run

META = {"plan": "plans/tele_phone.py", "started_at": "2026-11-20T10:15:00.000+00:00"}
RUN = whole_run(meta=META)
NASTY = (
    "agent said `x` | <script>alert(1)</script> **bold** _it_ [a](http://b) $x$ \\| &amp; @somebody "
    ":smile: ~~no~~ # 1 https://c.example www.d.example"
)
PASSED = Verdict("up", Outcome.PASS, "the target stayed up", None, "")


class _Cells(HTMLParser):
    """The rows of all tables, and the tags there are."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        self._in_cell = self._in_cell or tag in {"td", "th"}
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def shown(text: str) -> _Cells:
    cells = _Cells()
    cells.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))
    return cells


def written(judgement: Judgement) -> str:
    out = io.StringIO()
    summary.report(RUN, judgement, out)
    return out.getvalue()


def test_a_sentence_is_shown_verbatim_and_none_of_it_is_markup() -> None:
    verdict = Verdict("gate", Outcome.FAIL, NASTY, None, "proven")
    cells = shown(written(Judgement((verdict,), (PASSED,), Outcome.FAIL)))
    assert ["\u274c FAIL", NASTY] in cells.rows
    raw = written(Judgement((verdict,), (PASSED,), Outcome.FAIL))
    assert not re.search(r"[$@]|://|www\.", raw)  # which GitHub makes something of, though no parser does
    assert cells.tags <= {"h2", "p", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}


def test_lines_and_control_characters_do_not_break_the_table() -> None:
    verdict = Verdict("gate", Outcome.FAIL, "one\ntwo\r\n| x |\x1b[31m\x00", None, "proven")
    rows = shown(written(Judgement((verdict,), (), Outcome.FAIL))).rows
    assert rows[1] == ["\u274c FAIL", "one two | x |\ufffd[31m\ufffd"]


def test_what_did_not_pass_comes_first_and_the_worst_of_it_before_the_rest() -> None:
    outcomes = (Outcome.PASS, Outcome.NOT_RUN, Outcome.INCONCLUSIVE, Outcome.FAIL)
    verdicts = tuple(Verdict(o.value, o, f"it was {o.value}") for o in outcomes)
    text = written(Judgement(verdicts, (PASSED,), Outcome.FAIL))
    rows = [row for row in shown(text).rows if row != ["verdict", "because"]]
    assert [row[1].removesuffix(" UNPROVEN") for row in rows] == [
        "it was fail",
        "it was inconclusive",
        "it was not run",
        "the target stayed up",
        "it was pass",
    ]
    assert "<details><summary>2 passed</summary>" in text
    assert text.startswith("\n## \u274c FAIL: tele\\_phone, 2026-11-20 10:15:00 UTC\n")
    assert "\n2 pass, 1 not run, 1 inconclusive, 1 fail; 4 not proven able to fail\n" in text


def test_of_an_invalid_run_only_the_reason_is_told() -> None:
    late = Verdict("lateness", Outcome.FAIL, "p99 send lateness is 9 ms, over 5 ms", None, "proven")
    void = tuple(Verdict(f"gate {n}", Outcome.INVALID, f"gate {n}: {late.because}") for n in range(9))
    text = written(Judgement(void, (late,), Outcome.INVALID))
    assert text.count("9 ms, over 5 ms") == 1
    assert "Nothing is said of the target: 9 gates not judged." in text


def test_tables_have_their_units() -> None:
    cells = (Estimate("p95", "ms", 9, 712.04, None, None), Estimate("dead air", "s", 1, inf, None, None), None)
    table = Tabled("fault | harm", ("p95", "dead air", "calls"), (("llm <hang>", cells),))
    rows = shown(written(Judgement((), (), Outcome.PASS, (table,)))).rows
    assert rows == [["fault | harm", "p95", "dead air", "calls"], ["llm <hang>", "712 ms", "never", "-"]]


def test_a_diagnosis_is_told_below_what_did_not_pass() -> None:
    told = Diagnosis("gate", "p95 response latency: of 912 ms, llm | took 500 ms", 3, 3, (Stage("llm", 1, 1, 1, 1, 1),))
    verdict = Verdict("gate", Outcome.FAIL, "it was slow", None, "proven")
    rows = shown(written(Judgement((verdict,), (PASSED,), Outcome.FAIL, (), (told,)))).rows
    assert [row[-1] for row in rows[1:4]] == ["it was slow", "where the time goes", told.because]


@pytest.mark.parametrize("taken", [0, 400_000])
def test_it_is_cut_in_whole_rows_below_the_limit_and_says_so(tmp_path: Path, taken: int) -> None:
    path = tmp_path / "summary.md"
    path.write_text("x" * taken)
    verdicts = tuple(Verdict(f"gate {n}", Outcome.FAIL, f"{n}: {'äö|' * 400}", None, "proven") for n in range(600))
    with path.open("a", encoding="utf-8") as out:
        summary.report(RUN, Judgement(verdicts, (PASSED,), Outcome.FAIL), out)
    text = path.read_bytes()
    assert summary.BYTES_MAX - 5_000 < len(text) <= summary.BYTES_MAX
    told = [row for row in shown(text.decode()[taken:]).rows if row[0].endswith("FAIL")]
    left_out = len(verdicts) - len(told) + (0 if b"the target stayed up" in text else 1)
    assert f"\n{left_out} more rows are left out here".encode() in text
    assert all(row[1].startswith(f"{n}: ") and row[1].endswith("äö|") for n, row in enumerate(told))


def test_one_row_that_is_too_large_does_not_hide_the_others() -> None:
    verdicts = tuple(
        Verdict(f"gate {n}", Outcome.FAIL, "x" * (2_000_000 if n == 0 else 10), None, "proven") for n in range(3)
    )
    text = written(Judgement(verdicts, (), Outcome.FAIL))
    assert len(text) < 2_000
    assert len([row for row in shown(text).rows if row[0].endswith("FAIL")]) == 2
    assert "1 more row is left out here" in text


def test_it_is_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    for _ in range(2):
        with path.open("a", encoding="utf-8") as out:
            summary.report(RUN, Judgement((PASSED,), (), Outcome.PASS), out)
    assert path.read_text().count("## \u2705 PASS") == 2
