"""The verdicts for people: a table on a terminal, plain lines in a file or a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from busyhour.gates import Judgement, Tabled
from busyhour.model import Estimate, Outcome, Run, Verdict
from busyhour.statistics.wording import number, with_unit

_STYLE = {
    Outcome.PASS: "bold green",
    Outcome.NOT_RUN: "bold yellow",
    Outcome.INCONCLUSIVE: "bold yellow",
    Outcome.FAIL: "bold red",
    Outcome.INVALID: "bold magenta",
}
_WIDTH = max(len(outcome.value) for outcome in Outcome)


def report(run: Run, judgement: Judgement, out: TextIO) -> None:
    """Write the report to `out`. Every sentence is there whole: wrapped in a table, on one line without a terminal."""
    if out.isatty():
        _table(run, judgement, out)
    else:
        out.writelines(f"{line}\n" for line in _lines(run, judgement))


def _lines(run: Run, judgement: Judgement) -> Iterator[str]:
    if title := _title(run):
        yield title
    for verdict in (*judgement.validity, *_said_of_target(judgement)):
        yield f"{verdict.outcome.value.upper():{_WIDTH}}  {verdict.because}{_marker(verdict)}"
    for table in judgement.tables:
        yield from ("", *_aligned(table), "")
    yield _summary(judgement)


def _said_of_target(judgement: Judgement) -> Sequence[Verdict]:
    """The target's verdicts; of an invalid run only how many there would have been: the reasons stand above."""
    if all(verdict.outcome is Outcome.PASS for verdict in judgement.validity):
        return judgement.verdicts
    count = len(judgement.verdicts)
    return [
        Verdict("the target", Outcome.INVALID, f"nothing is said of the target: {count} gates not judged", None, "")
    ]


def _table(run: Run, judgement: Judgement, out: TextIO) -> None:
    console = Console(file=out, highlight=False, markup=False, emoji=False)
    table = Table(title=_title(run) or None, title_justify="left", show_lines=False, expand=False)
    table.add_column("verdict", no_wrap=True)
    table.add_column("because", overflow="fold")
    for part in (judgement.validity, _said_of_target(judgement)):
        for verdict in part:
            outcome = Text(verdict.outcome.value.upper(), _STYLE[verdict.outcome])
            table.add_row(outcome, _told(verdict))
        table.add_section()
    console.print(table)
    for tabled in judgement.tables:
        console.print(_shown(tabled))
    console.print(Text(_summary(judgement), _STYLE[judgement.outcome]))


def _aligned(table: Tabled) -> Iterator[str]:
    """The table as plain lines: the first column to the left, the others to the right."""
    grid = [(table.title, *table.columns), *((name, *map(_cell, cells)) for name, cells in table.rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    for first, *others in grid:
        right = (f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True))
        yield "  ".join([f"{first:{widths[0]}}", *right]).rstrip()


def _shown(table: Tabled) -> Table:
    shown = Table(show_lines=False, expand=False)
    shown.add_column(table.title, overflow="fold")
    for column in table.columns:
        shown.add_column(column, justify="right", overflow="fold")
    for name, cells in table.rows:
        shown.add_row(Text(name), *(Text(_cell(cell)) for cell in cells))
    return shown


def _cell(estimate: Estimate | None) -> str:
    """A value with its unit; "never" for what did not come, "-" for what was not measured."""
    if estimate is None or estimate.value is None:
        return "-"
    return "never" if estimate.value == inf else with_unit(number(estimate.value, estimate.unit), estimate.unit)


def _told(verdict: Verdict) -> Text:
    return Text.assemble(verdict.because, (_marker(verdict), "bold yellow"))


def _marker(verdict: Verdict) -> str:
    return "  [UNPROVEN]" if verdict.proof == "unproven" else ""


def _title(run: Run) -> str:
    """Which plan, when, by what: "telephone, 2026-11-20 20:23:06 UTC, busyhour 0.1.0"."""
    plan, started_at, version = (str(run.meta.get(key) or "") for key in ("plan", "started_at", "version"))
    name = plan.rpartition("/")[2].removesuffix(".py")
    when = started_at[:19].replace("T", " ") + " UTC" if started_at else ""
    return ", ".join(filter(None, (name, when, version and f"busyhour {version}")))


def _summary(judgement: Judgement) -> str:
    verdicts = (*judgement.validity, *judgement.verdicts)
    counts = {outcome: sum(verdict.outcome is outcome for verdict in verdicts) for outcome in Outcome}
    told = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count)
    unproven = f"; {judgement.unproven} not proven able to fail" if judgement.unproven else ""
    return f"{judgement.outcome.value.upper()} ({told}{unproven})"
