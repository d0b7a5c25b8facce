"""What a comparison came to: for people, and for programs as JSON of a stable shape.

    {
      "format": "busyhour.comparison", "version": 1,
      "outcome": "equivalent" | "improvement" | "no worse" | "inconclusive" | "regression",
      "exit_code": 0 | 1 | 2,
      "alpha": 0.05,                                       of each end of an interval, and of all regressions told
      "plan": "plans/telephone.py", "options": {...},      which judged the runs
      "a": [RUN, ...], "b": [RUN, ...],
      "differs": [...], "notes": [...],                    sentences: what forbade the comparison; what else to know
      "metrics": [{"metric", "unit", "worse": "larger" | "smaller" | "either", "outcome", "because",
                   "runs": [A, B], "median": [NUMBER | null, NUMBER | null],
                   "shift": NUMBER | null, "low": NUMBER | null, "high": NUMBER | null,
                   "tolerance": NUMBER, "shift_unit": "%" | "pp" | the metric's unit,
                   "p": NUMBER | null, "of_calls": whether the interval is of calls, not of runs},
                  ...]
    }
    RUN    = {"journal", "started_at", "commit", "seed", "left_out": "" or why, "values": {METRIC: NUMBER | null, ...}}
    NUMBER = a JSON number, "infinity" or "-infinity", which JSON has no numbers for

Shift, interval and tolerance are in `shift_unit`: "%" is of A, "pp" are points of a percentage. Fields may be added
within a version; none is removed or given another meaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from textwrap import wrap
from typing import TextIO

from rich.console import Console
from rich.text import Text

from busyhour.comparing.metrics import LARGER, SMALLER
from busyhour.comparing.reading import Origin, Reading
from busyhour.comparing.weighing import ALPHA, EXIT_CODE, Row, Word, summary, worst
from busyhour.model import JSON
from busyhour.planfile import PlanFile

FORMAT, VERSION = "busyhour.comparison", 1
WIDTH = 80
_STYLE = {
    Word.EQUIVALENT: "bold green",
    Word.IMPROVEMENT: "bold green",
    Word.NO_WORSE: "bold green",
    Word.INCONCLUSIVE: "bold yellow",
    Word.REGRESSION: "bold red",
}
_INDENT = max(len(word) for word in Word) + 2


@dataclass(frozen=True)
class Compared:
    """All that is told of a comparison."""

    plan: PlanFile
    sides: tuple[Sequence[Reading], Sequence[Reading]]
    rows: Sequence[Row]
    differs: Sequence[str]
    notes: Sequence[str]

    @property
    def outcome(self) -> Word:
        return worst([row.word for row in self.rows])

    @property
    def exit_code(self) -> int:
        return EXIT_CODE[self.outcome]


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence, what stands before it in a style, and how far its further lines are indented."""

    text: str = ""
    head: str = ""
    style: str = ""
    indent: int = 3


def print_lines(lines: Iterable[Line], out: TextIO) -> None:
    """Wrapped within 80 columns on a terminal, a sentence a line elsewhere; no colours there, nor with NO_COLOR."""
    console = Console(file=out, highlight=False, markup=False, emoji=False, soft_wrap=True)
    for line in lines:
        text = f"{line.head}{line.text}"
        further = " " * line.indent
        folded = wrap(text, WIDTH, subsequent_indent=further, break_on_hyphens=False) if out.isatty() else [text]
        for number, part in enumerate(folded or [""]):
            head = len(line.head) if number == 0 else 0
            console.print(Text.assemble((part[:head], line.style), part[head:]))


def tell(found: Compared, out: TextIO) -> None:
    """The two sides, what differs, a line for each metric, and what it all came to."""
    print_lines(_lines(found), out)


def _lines(found: Compared) -> Iterator[Line]:
    for name, side in zip("AB", found.sides, strict=True):
        yield Line(_described([one.origin for one in side if not one.left_out]), f"{name}  ")
        for reading in side:
            if reading.left_out:
                yield Line(f"left out: {reading.origin.path}: {reading.left_out}", "   ", indent=6)
    yield from (Line(sentence, "different: ") for sentence in found.differs)
    yield from (Line(sentence, "note: ") for sentence in found.notes)
    yield Line()
    for row in found.rows:
        yield Line(row.because, f"{row.word.value.upper():{_INDENT}}", _STYLE[row.word], _INDENT)
    yield Line("", summary(found.rows), _STYLE[found.outcome])


def _described(origins: Sequence[Origin]) -> str:
    """ "5 runs of telephone.py, 2026-11-20 10:15 UTC to 2026-11-20 11:40 UTC, commit 3f2a, busyhour 0.1.0" """
    if not origins:
        return "no run that counts"
    times = sorted(origin.when for origin in origins)
    when = times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
    commits = list(dict.fromkeys(origin.commit for origin in origins if origin.commit))
    versions = dict.fromkeys(origin.version for origin in origins if origin.version)
    told = [
        f"{len(origins)} run{'' if len(origins) == 1 else 's'} of {origins[0].plan_name}",
        when,
        f"commit {commits[0]}" if len(commits) == 1 else f"{len(commits)} commits" if commits else "",
        *(f"busyhour {version}" for version in versions),
    ]
    return ", ".join(filter(None, told))


# ---------------------------------------------------------------- JSON


def report(found: Compared, out: TextIO) -> None:
    """Write one JSON object and a newline to `out`."""
    json.dump(_comparison(found), out, indent=2, allow_nan=False)
    out.write("\n")


def _comparison(found: Compared) -> Mapping[str, JSON]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "outcome": found.outcome.value,
        "exit_code": found.exit_code,
        "alpha": ALPHA,
        "plan": str(found.plan.path),
        "options": dict(found.plan.options),
        "a": [run(reading) for reading in found.sides[0]],
        "b": [run(reading) for reading in found.sides[1]],
        "differs": list(found.differs),
        "notes": list(found.notes),
        "metrics": [_row(row) for row in found.rows],
    }


def run(reading: Reading) -> Mapping[str, JSON]:
    origin = reading.origin
    return {
        "journal": str(origin.path),
        "started_at": origin.started_at,
        "commit": origin.commit,
        "seed": origin.seeds,
        "left_out": reading.left_out,
        "values": {metric.what: as_number(one.value) for metric, one in reading.estimates.items()},
    }


def _row(row: Row) -> Mapping[str, JSON]:
    return {
        "metric": row.metric.what,
        "unit": row.metric.unit,
        "worse": {LARGER: "larger", SMALLER: "smaller"}.get(row.metric.worse, "either"),
        "outcome": row.word.value,
        "because": row.because,
        "runs": list(row.runs),
        "median": [as_number(value) for value in row.usual],
        "shift": as_number(row.shift),
        "low": as_number(row.low),
        "high": as_number(row.high),
        "tolerance": row.scale.tolerance,
        "shift_unit": row.scale.unit,
        "p": row.p,
        "of_calls": row.of_calls,
    }


def as_number(value: float | None) -> float | str | None:
    return {inf: "infinity", -inf: "-infinity"}.get(value, value) if value is not None else None
