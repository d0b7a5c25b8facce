"""What a history came to: for people, and for programs as JSON of a stable shape.

{
  "format": "busyhour.history", "version": 1, "folder": ..., "unread": [...],
  "groups": [{"plan", "options": {...}, "machine", "processes",
              "runs": [RUN, ...],                      in order of time, those that were left out at the end
              "series": [{"metric", "unit", "values": [NUMBER | null, ...],   one for each run that counts
                          "smallest_seen": NUMBER | null,
                          "changes": [{"at", "journal", "before": NUMBER, "after": NUMBER, "percent": NUMBER | null,
                                       "p"}, ...]}, ...]}, ...]
}
RUN, NUMBER as in a comparison. `at` is the place, from 0, of the first run after the change; before and after are
means of the stretches beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import inf, isfinite
from typing import TextIO

from busyhour.comparing.past import LEAST, Group, History, Series
from busyhour.comparing.telling import Line, as_number, print_lines, run
from busyhour.model import JSON
from busyhour.statistics.changes import Change
from busyhour.statistics.wording import number, with_unit

FORMAT, VERSION = "busyhour.history", 1
_RUNS_SHOWN = 60
_BLOCKS, _PLAIN = "▁▂▃▄▅▆▇█", "_.-~=+*#"
_NEVER, _UNMEASURED, _BAR = "!", " ", "|"
_LEGEND = (
    f"a block is a run, from the lowest of its series to the highest; {_BAR} a change, {_NEVER} never came, blank: not "
    "measured"
)


def tell(found: History, out: TextIO) -> None:
    """Each group of runs, each of its series with its changes; within 80 columns on a terminal."""
    blocks = _BLOCKS if _writes(out, _BLOCKS) else _PLAIN
    print_lines((line for group in found.groups for line in _group(group, blocks)), out)
    print_lines((Line(sentence, "not read: ") for sentence in found.unread), out)
    print_lines([Line(_LEGEND)], out)


def _writes(out: TextIO, text: str) -> bool:
    try:
        text.encode(out.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _group(group: Group, blocks: str) -> Iterator[Line]:
    origin = group.origin
    options = ", ".join(f"{name}={value}" for name, value in sorted(origin.options.items()))
    where = ", ".join(filter(None, (origin.plan_name, options, origin.machine)))
    count = len(group.readings)
    span = f", {group.readings[0].origin.when} to {group.readings[-1].origin.when}" if count else ""
    yield Line(f": {count} run{'' if count == 1 else 's'}{span}", where, "bold")
    for reading in group.left_out:
        yield Line(f"left out: {reading.origin.path.name}: {reading.left_out}", "  ", indent=4)
    for place, reading in enumerate(group.readings):
        if reading.died:
            yield Line(f"the target died in {_named(group, place)}", "  ", indent=4)
    if count < LEAST:
        yield Line(f"a change is looked for from {LEAST} runs on: {LEAST - count} more", "  ", indent=4)
    for series in group.series:
        yield from _series(group, series, blocks)
    yield Line()


def _series(group: Group, series: Series, blocks: str) -> Iterator[Line]:
    yield Line()
    measured = [value for value in series.values if value is not None]
    finite = [value for value in measured if isfinite(value)]
    usual = sum(finite) / len(finite) if finite else inf
    levels = [change.before for change in series.changes[:1]] + [change.after for change in series.changes]
    told = ", then ".join(_value(level, series) for level in levels or [usual])
    if len(set(finite)) > 1:
        told = f"mean {told}"
    if not levels and finite and len(finite) < len(measured):
        told += f", but infinite in {len(measured) - len(finite)} of {len(measured)} runs"
    yield Line(f": {told}", series.metric.what, "bold", 2)
    shown = min(_RUNS_SHOWN, len(series.values))
    of_all = f"  (the last {shown} of {len(series.values)} runs)" if shown < len(series.values) else ""
    yield Line(f"{_drawn(series, blocks)}{of_all}", "  ")
    for change in series.changes:
        yield Line(f"{_change(change, series)} from {_named(group, change.at)} on", "  ", indent=4)
    if not series.changes and series.runs >= LEAST:
        yield Line(_flat(series, usual), "  ", indent=4)


def _value(value: float, series: Series) -> str:
    unit = series.metric.unit
    return number(value) if value == inf else with_unit(number(value, unit), unit)


def _change(change: Change, series: Series) -> str:
    percent = _percent(change)
    beside = "" if percent is None else f" ({'+' if percent > 0 else ''}{number(percent)} %)"
    if series.metric.unit == "%":
        beside = f" ({series.metric.difference(change.after - change.before)})"
    return f"{_value(change.before, series)} before, {_value(change.after, series)} after{beside},"


def _percent(change: Change) -> float | None:
    if change.before == 0 or not (isfinite(change.before) and isfinite(change.after)):
        return None
    return 100 * (change.after - change.before) / abs(change.before)


def _flat(series: Series, usual: float) -> str:
    seen = series.smallest_seen
    if seen is None:
        return "no change"
    share = f" ({number(100 * seen / abs(usual))} %)" if usual and series.metric.unit != "%" else ""
    return (
        f"no change; one of {series.metric.difference(seen).removeprefix('+')}{share} would show in half of all cases"
    )


def _named(group: Group, place: int) -> str:
    """ "run 14 of 23, x.journal (2026-11-20 10:15 UTC, commit 3f2a; the plan was edited before it)" """
    origin = group.readings[place].origin
    edited = place > 0 and group.readings[place - 1].origin.source != origin.source
    facts = ", ".join(filter(None, (origin.when, f"commit {origin.commit}" if origin.commit else "")))
    note = "; the plan was edited before it" if edited else ""
    return f"run {place + 1} of {len(group.readings)}, {origin.path.name} ({facts}{note})"


def _drawn(series: Series, blocks: str) -> str:
    """A block for each run, as high as its value among all; a bar before a change, "!" for what never came."""
    values = series.values[-_RUNS_SHOWN:]
    first = len(series.values) - len(values)
    finite = [value for value in values if value is not None and isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    bars = {change.at for change in series.changes}
    return "".join(
        (_BAR if first + place in bars else "") + _block(value, low, high, blocks) for place, value in enumerate(values)
    )


def _block(value: float | None, low: float, high: float, blocks: str) -> str:
    if value is None:
        return _UNMEASURED
    if not isfinite(value):
        return _NEVER
    share = (value - low) / (high - low) if high > low else 0.5
    return blocks[min(len(blocks) - 1, int(share * len(blocks)))]


# ---------------------------------------------------------------- JSON


def report(found: History, out: TextIO) -> None:
    """Write one JSON object and a newline to `out`."""
    told: Mapping[str, JSON] = {
        "format": FORMAT,
        "version": VERSION,
        "folder": str(found.folder),
        "unread": list(found.unread),
        "groups": [_as_json(group) for group in found.groups],
    }
    json.dump(told, out, indent=2, allow_nan=False)
    out.write("\n")


def _as_json(group: Group) -> Mapping[str, JSON]:
    origin = group.origin
    series: Sequence[JSON] = [
        {
            "metric": one.metric.what,
            "unit": one.metric.unit,
            "values": [as_number(value) for value in one.values],
            "smallest_seen": as_number(one.smallest_seen),
            "changes": [
                {
                    "at": change.at,
                    "journal": str(group.readings[change.at].origin.path),
                    "before": as_number(change.before),
                    "after": as_number(change.after),
                    "percent": _percent(change),
                    "p": change.p,
                }
                for change in one.changes
            ],
        }
        for one in group.series
    ]
    return {
        "plan": str(group.plan.path),
        "options": dict(origin.options),
        "machine": origin.machine,
        "processes": origin.processes,
        "runs": [run(reading) for reading in (*group.readings, *group.left_out)],
        "series": series,
    }
