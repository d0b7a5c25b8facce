"""The verdicts for people: a table on a terminal; plain lines in a file or a pipe, or where NO_COLOR is set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from textwrap import wrap
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from busyhour.gates import Judgement, Tabled, unsaid
from busyhour.gates.calls import Calls
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
_DIAGNOSIS = "where the time goes"


def report(run: Run, judgement: Judgement, out: TextIO) -> None:
    """Write the report to `out`. Every sentence is there whole: wrapped on a terminal, on one line without."""
    console = Console(file=out, highlight=False, markup=False, emoji=False)
    if not out.isatty():
        out.writelines(f"{line}\n" for line in _lines(run, judgement))
    elif console.no_color:
        out.writelines(f"{line}\n" for line in _lines(run, judgement, console.width))
    else:
        _table(run, judgement, console)


def _lines(run: Run, judgement: Judgement, columns: int | None = None) -> Iterator[str]:
    """All of it, in lines of at most so many columns (None: however long)."""
    if title := _title(run):
        yield from _sentence(title, columns)
    for verdict in (*judgement.validity, *_said_of_target(run, judgement)):
        yield from _sentence(f"{verdict.outcome.value.upper():{_WIDTH}}  {verdict.because}{_marker(verdict)}", columns)
    for diagnosis in judgement.diagnoses:
        yield from _sentence(f"{'':{_WIDTH}}  {_DIAGNOSIS}: {diagnosis.because}", columns)
    if where := _where_it_told(run, judgement):
        yield from _sentence(f"{'':{_WIDTH}}  {where}", columns)
    for table in judgement.tables:
        yield from ("", *_aligned(table, columns), "")
    yield from _sentence(_summary(judgement), columns)


def _sentence(line: str, columns: int | None) -> list[str]:
    """It goes on below where it began. No word is lost, be it longer than a line."""
    if columns is None:
        return [line]
    indent = " " * (_WIDTH + 2) if columns > 3 * _WIDTH else ""
    return wrap(line, columns, subsequent_indent=indent, break_on_hyphens=False)


def _said_of_target(run: Run, judgement: Judgement) -> Sequence[Verdict]:
    """The target's verdicts; of an invalid run only how many there would have been: the reasons stand above."""
    instead = unsaid(run, judgement)
    return [Verdict("the target", Outcome.INVALID, instead, None, "")] if instead else judgement.verdicts


def _where_it_told(run: Run, judgement: Judgement) -> str:
    """Where to look for what the target itself said, if we started it and half of the calls failed or more: of fewer,
    the verdicts have the reasons, and some plans have them fail on purpose. When it died, its verdict quotes it."""
    started = run.marks("service.started")  # the target last
    if judgement.outcome is Outcome.PASS or not started or not started[-1].detail.get("pids"):
        return ""
    name, calls = started[-1].name, Calls.of(run)
    if 2 * calls.failed < max(calls.count, 1) or any(mark.name == name for mark in run.marks("service.died")):
        return ""
    told = f"{calls.failed} of {calls.count} calls failed"
    return f'{told}: what {name} printed is in its log, if its Command has one, like log=Path("{name}.log")'


def _table(run: Run, judgement: Judgement, console: Console) -> None:
    table = Table(title=_title(run) or None, title_justify="left", show_lines=False, expand=False)
    table.add_column("verdict", no_wrap=True)
    table.add_column("because", overflow="fold")
    for part in (judgement.validity, _said_of_target(run, judgement)):
        for verdict in part:
            outcome = Text(verdict.outcome.value.upper(), _STYLE[verdict.outcome])
            table.add_row(outcome, _told(verdict))
        table.add_section()
    console.print(table)
    if judgement.diagnoses:
        times = Table(show_lines=False, expand=False)
        times.add_column(_DIAGNOSIS, overflow="fold")
        for diagnosis in judgement.diagnoses:
            times.add_row(Text(diagnosis.because))
        console.print(times)
    if where := _where_it_told(run, judgement):
        console.print(Text(where))
    for tabled in judgement.tables:
        lines = list(_aligned(tabled, console.width))
        console.print(Text("\n".join(["", *lines, ""])), soft_wrap=True)
    console.print(Text(_summary(judgement), _STYLE[judgement.outcome]))


def _aligned(table: Tabled, columns: int | None = None) -> Iterator[str]:
    """The table as lines: names to the left, values to the right. Where there are not so many columns, headings and
    names are wrapped; where that is not enough, the rest of the table follows below."""
    rows = [(name, [_cell(cell) for cell in cells]) for name, cells in table.rows]
    heads = list(table.columns)
    values = [max([1, *(len(cells[i]) for _, cells in rows)]) for i in range(len(heads))]
    name = max([len(table.title), *(len(name) for name, _ in rows)])
    widths = [max(value, len(head)) for value, head in zip(values, heads, strict=True)]
    if columns is not None and name + sum(2 + width for width in widths) > columns:
        widths = [min(columns // 3, max(v, _longest_word(head))) for v, head in zip(values, heads, strict=True)]
        least = min(columns // 3, max(_longest_word(text) for text in (table.title, *(name for name, _ in rows))))
        name = min(name, max(least, columns - sum(2 + width for width in widths)))
    for begin, end in _blocks(widths, None if columns is None else columns - name):
        yield from _row(table.title, heads[begin:end], name, widths[begin:end])
        for named, cells in rows:
            yield from _row(named, cells[begin:end], name, widths[begin:end])


def _blocks(widths: Sequence[int], room: int | None) -> Iterator[tuple[int, int]]:
    """From which column to which there is room for them, one at least."""
    begin = 0
    while begin < len(widths) or begin == 0:
        end = begin + 1
        while end < len(widths) and (room is None or sum(2 + width for width in widths[begin : end + 1]) <= room):
            end += 1
        yield begin, end
        begin = end


def _row(name: str, cells: Sequence[str], name_width: int, widths: Sequence[int]) -> Iterator[str]:
    """One row, on several lines if a cell is longer than its column."""
    left = _words(name, name_width)
    right = [_words(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for i in range(max(map(len, (left, *right)))):
        shown = (f"{cell[i] if i < len(cell) else '':>{width}}" for cell, width in zip(right, widths, strict=True))
        yield "  ".join([f"{left[i] if i < len(left) else '':{name_width}}", *shown]).rstrip()


def _longest_word(text: str) -> int:
    return max([1, *map(len, text.split())])


def _words(text: str, width: int) -> list[str]:
    return wrap(text, max(1, width), break_on_hyphens=False) or [""]


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
