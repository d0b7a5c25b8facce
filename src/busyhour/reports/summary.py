"""The verdicts for the page of a CI job: GitHub-flavoured Markdown, to be appended to `$GITHUB_STEP_SUMMARY`.

What did not pass comes first, then the plan's tables, then what passed, folded. A step's summary that is larger than
1 MiB is not shown at all (docs.github.com, "Adding a job summary"): what does not fit is left out, in whole rows, and a
sentence says how many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TextIO

from busyhour.gates import Judgement, Tabled
from busyhour.model import Estimate, Outcome, Run, Verdict
from busyhour.statistics.wording import number, with_unit

BYTES_MAX = 1_000_000
"""Of a step's summary; GitHub's own limit is 1024 * 1024, for all that a step has written."""

_CLOSING_BYTES = 500  # for what is said of the rows that are left out
_SIGN = {
    Outcome.PASS: "\u2705",
    Outcome.NOT_RUN: "\u26aa",
    Outcome.INCONCLUSIVE: "\u2754",
    Outcome.FAIL: "\u274c",
    Outcome.INVALID: "\u26d4",
}
_WORST_FIRST = list(reversed(Outcome))
# A backslash makes any ASCII punctuation itself (GFM 6.1). Where it does not help: on GitHub `$` begins mathematics,
# and `@`, `://` and `www.` a link.
_MEANT = re.compile(r"[\\`*_\[\]|~#]")
_ENTITY = re.compile(r"[&<>$@]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def report(run: Run, judgement: Judgement, out: TextIO) -> None:
    """Append Markdown to `out`; with what stands there already, at most `BYTES_MAX` bytes of it."""
    page = _Page(BYTES_MAX - _CLOSING_BYTES - (out.tell() if out.seekable() else 0))
    for section in _sections(run, judgement):
        page.add(section)
    out.write(page.text())


@dataclass(frozen=True)
class _Section:
    """A heading with its rows; nothing of it is written where not even one row fits."""

    head: str
    rows: Sequence[str]
    foot: str = ""


@dataclass
class _Page:
    room: int
    parts: list[str] = field(default_factory=list)
    left_out: int = 0

    def add(self, section: _Section) -> None:
        room = self.room - _size(section.head) - _size(section.foot)
        fitting = []
        for row in section.rows:
            if _size(row) <= room:
                room -= _size(row)
                fitting.append(row)
            else:
                self.left_out += 1
        if fitting or not section.rows:
            self.room = room
            self.parts += [section.head, *fitting, section.foot]

    def text(self) -> str:
        if self.left_out:
            rows, are = ("row", "is") if self.left_out == 1 else ("rows", "are")
            self.parts.append(
                f"\n{self.left_out} more {rows} {are} left out here, because GitHub shows no summary of more than "
                "1 MiB; they are in the reports as text, JSON and JUnit.\n"
            )
        return "".join(self.parts)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _sections(run: Run, judgement: Judgement) -> Iterator[_Section]:
    harness_passed = all(verdict.outcome is Outcome.PASS for verdict in judgement.validity)
    asked = (*judgement.validity, *(judgement.verdicts if harness_passed else ()))
    wrong = sorted((v for v in asked if v.outcome is not Outcome.PASS), key=lambda v: _WORST_FIRST.index(v.outcome))
    passed = [verdict for verdict in asked if verdict.outcome is Outcome.PASS]
    heads = [f"\n## {_SIGN[judgement.outcome]} {_clean(_title(run, judgement))}\n", f"\n{_clean(_counts(judgement))}\n"]
    yield _Section("".join(heads), ())
    if not harness_passed:
        count = len(judgement.verdicts)
        yield _Section(f"\nNothing is said of the target: {count} gates not judged.\n", ())
    if wrong:
        yield _Section(_header("verdict", "because"), [_row(verdict) for verdict in wrong])
    if judgement.diagnoses:
        diagnoses = [f"| {_clean(diagnosis.because)} |\n" for diagnosis in judgement.diagnoses]
        yield _Section(_header("where the time goes"), diagnoses)
    yield from map(_table, judgement.tables)
    if passed:
        fold = f"\n<details><summary>{len(passed)} passed</summary>\n{_header('verdict', 'because')}"
        yield _Section(fold, [_row(verdict) for verdict in passed], "\n</details>\n")


def _title(run: Run, judgement: Judgement) -> str:
    """ "FAIL: telephone, 2026-11-20 20:23:06 UTC"."""
    plan, started_at = (str(run.meta.get(key) or "") for key in ("plan", "started_at"))
    name = plan.rpartition("/")[2].removesuffix(".py")
    when = started_at[:19].replace("T", " ") + " UTC" if started_at else ""
    told = ", ".join(filter(None, (name, when)))
    return f"{judgement.outcome.value.upper()}{': ' if told else ''}{told}"


def _counts(judgement: Judgement) -> str:
    verdicts = (*judgement.validity, *judgement.verdicts)
    counts = {outcome: sum(verdict.outcome is outcome for verdict in verdicts) for outcome in Outcome}
    told = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count)
    return told + (f"; {judgement.unproven} not proven able to fail" if judgement.unproven else "")


def _header(*columns: str) -> str:
    """A table's own; GFM wants an empty line before it."""
    return f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}\n"


def _row(verdict: Verdict) -> str:
    unproven = " **UNPROVEN**" if verdict.proof == "unproven" else ""
    outcome = f"{_SIGN[verdict.outcome]} {verdict.outcome.value.upper()}"
    return f"| {outcome} | {_clean(verdict.because)}{unproven} |\n"


def _table(table: Tabled) -> _Section:
    head = f"\n| {' | '.join(map(_clean, (table.title, *table.columns)))} |\n| --- |{' ---: |' * len(table.columns)}\n"
    rows = [f"| {' | '.join((_clean(name), *map(_cell, cells)))} |\n" for name, cells in table.rows]
    return _Section(head, rows)


def _cell(estimate: Estimate | None) -> str:
    """A value with its unit; "never" for what did not come, "-" for what was not measured."""
    if estimate is None or estimate.value is None:
        return "-"
    shown = "never" if estimate.value == inf else with_unit(number(estimate.value, estimate.unit), estimate.unit)
    return _clean(shown)


def _clean(text: str) -> str:
    """On one line, and nothing of it Markdown or HTML: a sentence may quote what a process, or a caller, has said."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return _ENTITY.sub(lambda found: f"&#{ord(found[0])};", _MEANT.sub(r"\\\g<0>", line))
