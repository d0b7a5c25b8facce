"""Latency over time, and by percentile against the targets of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from busyhour.columns import Floats, Ints, OperationColumns, operations_of, samples_of
from busyhour.model import JSON, MS, Run
from busyhour.reports.html.body import Body, Chart, section
from busyhour.reports.html.scene import Scene
from busyhour.reports.html.section import Section
from busyhour.reports.html.series import Windows, apart, highest_finite, quantiles, stepped, told, weighted_quantiles

SINGLE_MOST = 1_500
_SHOWN = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
_LOG_FROM = 40.0


@dataclass(frozen=True, eq=False, slots=True)
class Lateness:
    """What was awaited: when each was due, and how long it took; `counts`: of a histogram, how many are alike."""

    title: str
    noun: str
    at_ns: Ints
    ms: Floats
    counts: Ints | None = None

    @property
    def n(self) -> int:
        return len(self.ms) if self.counts is None else int(self.counts.sum())


def over_time(scene: Scene) -> Section | None:
    """P50, P95 and P99 in windows of time, with what never came; None for a run without any latency."""
    every = found(scene.seen)
    charts = [chart for number, one in enumerate(every) if (chart := _chart(scene, one, number)) is not None]
    if not charts:
        return None
    lead = (
        "From when each was due. What was never answered is infinitely late: it counts in every percentile, and is "
        "drawn in the lane at the top. Tinted, and hatched at the foot: a fault was in force. Crossed out: not "
        "watched, and left out of every figure."
    )
    if any((one.ms == 0).any() for one in every if one.noun == "turns"):
        lead += " An answer that began before its caller had ended counts as 0."
    return section("latency", "Latency over time", Body(lead=lead, charts=charts))


def found(run: Run) -> list[Lateness]:
    """Responses first, then what else there is."""
    kinds: Sequence[tuple[str, str, str]] = (
        ("turn", "Response latency", "turns"),
        ("greeting", "First-audio latency", "greetings"),
        ("barge_in", "Barge-in stop time", "interruptions"),
    )
    every = [_of(title, noun, operations_of(run, kind)) for kind, title, noun in kinds]
    functions = operations_of(run, "function")
    late = _late(functions, functions.ended & functions.outcome.are("ok"))
    every.append(Lateness("Function latency", "functions", functions.due_ns, late))
    requests = samples_of(run, "requests", "latency_ms")
    every.append(Lateness("Request latency", "requests", requests.at_ns, requests.value, requests.count))
    return [one for one in every if one.n]


def _of(title: str, noun: str, rows: OperationColumns) -> Lateness:
    rows = rows.taken(~rows.outcome.are("not reached"))
    return Lateness(title, noun, rows.due_ns, _late(rows, rows.ended))


def _late(rows: OperationColumns, came: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Floats:
    return np.where(came, np.maximum(0, rows.ended_ns - rows.due_ns) / MS, inf)


def _chart(scene: Scene, one: Lateness, number: int) -> Chart | None:
    windows = Windows.of(scene.began_ns, scene.ended_ns, one.n)
    counts = windows.counts(one.at_ns, one.counts)
    never = np.isinf(one.ms)
    missing = windows.counts(one.at_ns[never], None if one.counts is None else one.counts[never])
    lines: list[JSON] = []
    highest = highest_finite(one.ms.tolist() if one.n < SINGLE_MOST else [float(np.max(one.ms[~never], initial=0.0))])
    typical = 0.0
    *every, slowest = _quantiles(windows, one, [*(q for q, _ in _SHOWN), 1.0])
    for place, ((_, name), values) in enumerate(zip(_SHOWN, every, strict=True), start=1):
        if any(value is not None for value in values):
            typical = typical or highest_finite(values)
            lines.append({"label": name, "values": stepped(values), "ink": place, "style": "step", "unit": "ms"})
    lines.append({"label": one.noun, "values": stepped(counts.tolist()), "style": "told"})
    if never.any():
        lines.append({"label": "never answered", "values": stepped(missing.tolist()), "style": "told"})
    tables: list[JSON] = [{"xs": list(windows.edges_s), "series": lines}]
    tables.append(_single(scene, one, windows, slowest))
    caption = f"Windows of {windows.told}; {one.n:,} {one.noun} in all"
    caption += f", {int(missing.sum()):,} of them never answered. " if never.any() else ". "
    caption += "p95 is drawn where a window has 20 or more, p99 where it has 100 or more; "
    caption += (
        "dots: each of them." if one.counts is None and one.n <= SINGLE_MOST else "dots: the slowest of each window."
    )
    drawn: dict[str, JSON] = {
        "x": "time",
        "y": {"label": f"{one.title.lower()} (ms)", "log": _wide(highest, typical), "never": bool(never.any())},
        "tables": tables,
    }
    return Chart(id=f"latency-{number}", title=one.title, drawn=drawn, caption=caption)


def _quantiles(windows: Windows, one: Lateness, qs: Sequence[float]) -> list[list[float | None]]:
    if one.counts is None:
        return quantiles(windows, one.at_ns, one.ms, qs)
    return [weighted_quantiles(windows, one.at_ns, one.ms, one.counts, q) for q in qs]


def _single(scene: Scene, one: Lateness, windows: Windows, slowest: Sequence[float | None]) -> JSON:
    """Each by itself where there are few, the slowest of each window where there are many."""
    if one.counts is None and one.n <= SINGLE_MOST:
        order = np.argsort(one.at_ns, kind="stable")
        xs = apart([scene.at_s(at_ns) for at_ns in one.at_ns[order].tolist()])
        values = told(one.ms[order].tolist())
        label = "each"
    else:
        xs, values = list(windows.middles_s), told(slowest)
        label = "slowest"
    return {"xs": list(xs), "series": [{"label": label, "values": values, "ink": 0, "style": "dots", "unit": "ms"}]}


def _wide(highest: float, typical: float) -> bool:
    """Whether the slowest are so far from the usual that only a logarithmic axis shows both."""
    return typical > 0 and highest / typical > _LOG_FROM
