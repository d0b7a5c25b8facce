"""The plan's own tables, and what a search for capacity found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite

from busyhour.gates import Judgement, Tabled
from busyhour.model import JSON, Estimate
from busyhour.reports.html.body import Body, Cell, Chart, Grid, section
from busyhour.reports.html.gauge import figure
from busyhour.reports.html.section import Section
from busyhour.reports.html.series import apart, told
from busyhour.statistics.wording import number

ROWS_MOST = 120
CURVE_POINTS = 80


def tables(judgement: Judgement) -> Section | None:
    """The tables of the plan; None where it has none, or the run is INVALID."""
    if not judgement.tables:
        return None
    grids = [_grid(table) for table in judgement.tables]
    return section("tables", "Tables of the plan", Body(lead="Nothing is judged by these.", grids=grids))


def _grid(table: Tabled) -> Grid:
    rows = [[Cell(name), *map(_cell, cells)] for name, cells in table.rows[:ROWS_MOST]]
    left = len(table.rows) - ROWS_MOST
    note = f"{left:,} more rows are not shown; they are in the JSON." if left > 0 else ""
    return Grid(head=("", *table.columns), rows=rows, title=table.title, note=note)


def _cell(estimate: Estimate | None) -> Cell:
    never = estimate is not None and estimate.value == inf
    return Cell(figure(estimate), "bad" if never else "")


# ---------------------------------------------------------------- capacity


def capacity(document: Mapping[str, JSON]) -> Section:
    """What `busyhour capacity --json` wrote: its sentence, the curve with the Universal Scalability Law, the levels.

    Raises ValueError for a document of another kind.
    """
    if document.get("format") != "busyhour.capacity" or document.get("version") != 1:
        raise ValueError(f"it is no result of a capacity search of version 1, but {document.get('format')!r}")
    levels = [level for level in _sequence(document.get("levels")) if isinstance(level, Mapping)]
    points = [
        (float(n), float(x), str(level.get("outcome")))
        for level in levels
        if isinstance(n := level.get("in_progress"), int | float)
        and isinstance(x := level.get("per_second"), int | float)
    ]
    law = document.get("law")
    charts = [_curve(points, law if isinstance(law, Mapping) else None, document)] if points else []
    notes = [str(note) for note in _sequence(document.get("notes"))]
    body = Body(lead=str(document.get("sentence", "")), charts=charts, grids=[_levels(levels)], notes=notes)
    return section("capacity", "Capacity", body)


def _curve(
    points: Sequence[tuple[float, float, str]], law: Mapping[str, JSON] | None, document: Mapping[str, JSON]
) -> Chart:
    tables: list[JSON] = []
    shapes = ((3, "pass", "disc"), (2, "fail", "cross"), (5, "inconclusive", "ring"), (4, "invalid", "square"))
    for ink, outcome, shape in shapes:
        some = sorted((n, x) for n, x, came_to in points if came_to == outcome)
        if some:
            values = told(x for _, x in some)
            line: JSON = {"label": outcome, "values": values, "ink": ink, "style": "dots", "shape": shape, "unit": "/s"}
            tables.append({"xs": told(apart([n for n, _ in some])), "series": [line]})
    caption = "Each level of the search: a disc passed, a cross failed, a ring was inconclusive, a square invalid."
    if law is not None:
        most = 1.25 * max(n for n, _, _ in points)
        xs = [1 + (most - 1) * i / (CURVE_POINTS - 1) for i in range(CURVE_POINTS)]
        curve = [_throughput(law, x) for x in xs]
        fit: JSON = {
            "label": "Universal Scalability Law",
            "values": told(curve),
            "ink": 1,
            "style": "line",
            "unit": "/s",
        }
        tables.append({"xs": told(xs), "series": [fit]})
        shares = (f"{name} {_interval(law, name, 100)} %" for name in ("contention", "coherency"))
        caption += f" The law: {', '.join(shares)}, "
        caption += f"knee at {_interval(law, 'knee', 1)} calls."
    passed = document.get("passed")
    marks: list[JSON] = [{"x": passed, "label": f"{passed} pass"}] if isinstance(passed, int) and passed else []
    drawn: dict[str, JSON] = {
        "x": "number",
        "xlabel": "calls in progress",
        "y": {"label": "calls ended per second (1/s)"},
        "tables": tables,
        "uprights": marks,
    }
    return Chart(id="capacity-curve", title="Throughput against concurrency", drawn=drawn, caption=caption)


def _throughput(law: Mapping[str, JSON], at_once: float) -> float:
    rate, sigma, kappa = (_value(law, key) for key in ("rate_per_second", "contention", "coherency"))
    return rate * at_once / (1 + sigma * (at_once - 1) + kappa * at_once * (at_once - 1))


def _value(law: Mapping[str, JSON], key: str) -> float:
    interval = law.get(key)
    value = interval.get("value") if isinstance(interval, Mapping) else None
    return inf if value == "infinity" else float(value) if isinstance(value, int | float) else 0.0


def _interval(law: Mapping[str, JSON], key: str, factor: float) -> str:
    interval = law.get(key)
    ends = [interval.get(end) for end in ("value", "low", "high")] if isinstance(interval, Mapping) else []
    value, *bounds = (inf if end == "infinity" else end for end in ends)
    if not isinstance(value, int | float):
        return "\u2013"
    words = number(factor * value)
    known = [factor * end for end in bounds if isinstance(end, int | float)]
    if len(known) < 2:
        return words
    high = number(known[1]) if isfinite(known[1]) else "more"
    return f"{words} ({number(known[0])}\u2013{high})"


def _levels(levels: Sequence[Mapping[str, JSON]]) -> Grid:
    rows = []
    for level in levels[:ROWS_MOST]:
        outcome = str(level.get("outcome", ""))
        figures = [_figure(level.get(key)) for key in ("at_once", "in_progress", "calls", "per_second", "call_seconds")]
        because = str(level.get("because") or "")
        rows.append([Cell(outcome.upper(), f"is-{outcome.replace(' ', '-')}"), *map(Cell, figures), Cell(because)])
    head = ("outcome", "at once", "in progress", "calls", "calls/s", "s each", "what broke")
    return Grid(head=head, rows=rows, title="Levels", words=(6,))


def _figure(value: JSON) -> str:
    return number(value) if isinstance(value, int | float) else "\u2013"


def _sequence(value: JSON) -> Sequence[JSON]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else []
