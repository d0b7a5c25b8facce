"""What the processes took: CPU, how late their loops ran, and what they hold of descriptors, threads and the like."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from busyhour.columns import Ints, SampleColumns, operations_of, samples_of
from busyhour.indicators.growth import READ_AS
from busyhour.model import JSON, Run
from busyhour.reports.html.body import Body, Cell, Chart, Grid, section
from busyhour.reports.html.memory import services
from busyhour.reports.html.scene import Sampled, Scene, Stretch
from busyhour.reports.html.section import Section
from busyhour.reports.html.series import Windows, stepped, thinned, told, weighted_quantiles
from busyhour.statistics.exact import weighted_quantile
from busyhour.statistics.leaks.cause import Sensor
from busyhour.statistics.wording import number

LINES_MOST = 6
PHASES_MOST = 24
READINGS_MOST = 250
_COUNTERS = (Sensor.DESCRIPTORS, Sensor.SOCKETS, Sensor.THREADS, Sensor.TASKS, Sensor.CHILDREN)
_LAGS = (("loop_lag_ms", "event loop"), ("send_lateness_ms", "frames sent"), ("proxy_lag_ms", "proxy"))


def processor(scene: Scene) -> Section | None:
    """CPU, and how late the loops were; None where neither was read."""
    every = services(scene)
    every.sort(key=lambda service: (service != scene.target, service != "harness"))
    cpu = [_readings(scene, service, "cpu_pct", "%") for service in every]
    charts = []
    if lines := [line for line in cpu if line is not None][:LINES_MOST]:
        charts.append(_chart("processor-cpu", "CPU", "% of one core", _inked(lines), "Of all its processes together."))
    windows = Windows.of(scene.began_ns, scene.ended_ns, 10**9)
    late = [line for service in every for name, what in _LAGS if (line := _lag(scene, windows, service, name, what))]
    if late:
        caption = f"p99 in windows of {windows.told}. Of the harness it is what makes a run INVALID."
        charts.append(_chart("processor-lag", "Lateness", "late by (ms)", _inked(late[:LINES_MOST]), caption))
    if not charts:
        return None
    lead = "A harness that is late measures itself: its own lateness is judged before anything is said of the target."
    return section("processor", "CPU and loop lag", Body(lead=lead, charts=charts))


def readings(scene: Scene) -> Section | None:
    """Every reading of every probe in figures, folded; None of a run that cannot tell which it has."""
    known = scene.run.sources() if isinstance(scene.run, Sampled) else []
    if not known:
        return None
    rows = []
    for source, name in known[:READINGS_MOST]:
        samples = samples_of(scene.run, source, name)
        samples = samples.taken(~np.isnan(samples.value))
        if len(samples):
            figures = [weighted_quantile(samples.value, samples.count, q) for q in (1e-12, 0.5, 0.99, 1.0)]
            told_of = [Cell("\u2013" if value is None else number(value)) for value in figures]
            last = Cell(number(float(samples.value[-1])))
            rows.append([Cell(source), Cell(name), Cell(f"{int(samples.count.sum()):,}"), *told_of, last])
    left = len(known) - READINGS_MOST
    grid = Grid(
        head=("of", "reading", "read", "lowest", "median", "p99", "highest", "last"),
        rows=rows,
        title=f"{len(rows)} readings, their units last in their names",
        words=(1,),
        note=f"{left:,} more are not shown." if left > 0 else "",
        folded=True,
    )
    return section("readings", "All readings", Body(grids=[grid]))


def counters(scene: Scene) -> Section | None:
    """What the target holds, over time and after each phase of calls; None where nothing was counted."""
    held = {sensor: samples for sensor in _COUNTERS if len(samples := _counted(scene.run, scene.target, sensor))}
    if not held:
        return None
    tables: list[JSON] = []
    for ink, (sensor, samples) in enumerate(held.items(), start=1):
        rows = thinned(samples.at_ns, samples.value)
        line: JSON = {
            "label": str(sensor),
            "values": told(samples.value[rows].tolist()),
            "ink": ink,
            "style": "line",
            "unit": "",
        }
        tables.append({"xs": [scene.at_s(at) for at in samples.at_ns[rows].tolist()], "series": [line]})
    chart = Chart(
        id="counters-held",
        title=f"Held by {scene.target}",
        drawn={"x": "time", "y": {"label": "count", "whole": True}, "tables": tables},
    )
    grids = [grid] if (grid := _left(scene, held)) is not None else []
    return section("counters", "Counters", Body(charts=[chart], grids=grids))


def _left(scene: Scene, held: dict[Sensor, SampleColumns]) -> Grid | None:
    """What was there when the calls of each phase were over, and by how much a call has made it grow."""
    calls = operations_of(scene.run, "call")
    ended = [phase for phase in scene.phases if not phase.cut]
    rows: list[list[Cell]] = []
    before: dict[Sensor, float] = {}
    dues = np.sort(calls.due_ns)
    for phase in ended:
        n = int(calls.phase.are(phase.name).sum())
        if not n:
            continue
        cells = [Cell(phase.name), Cell(f"{n:,}")]
        for sensor, samples in held.items():
            left = _rested(samples, phase, dues)
            cells.append(Cell("\u2013" if left is None else _grown(left, before.get(sensor), n)))
            if left is not None:
                before[sensor] = left
        rows.append(cells)
    if len(rows) < 2:
        return None
    more = len(rows) - PHASES_MOST
    note = f"{more} more phases are not shown. " if more > 0 else ""
    note += "In brackets: how much more than after the phase before, for each of its calls."
    head = ("after the calls of", "calls", *map(str, held))
    return Grid(head=head, rows=rows[:PHASES_MOST], title="When the calls of a phase were over", note=note)


def _rested(samples: SampleColumns, phase: Stretch, dues: Ints) -> float | None:
    """The last reading before any call came again, as `indicators.growth.left_after` takes it."""
    inside = (samples.at_ns >= phase.from_ns) & (samples.at_ns <= phase.until_ns)
    later = dues[np.searchsorted(dues, phase.until_ns, side="right") :]
    rested = samples.value[samples.at_ns < (later[0] if len(later) else inf)]
    return float(rested[-1]) if len(rested) and inside.any() else None


def _grown(left: float, before: float | None, calls: int) -> str:
    if before is None:
        return number(left)
    each = (left - before) / calls
    return f"{number(left)} ({'+' if each > 0 else ''}{number(each)})"


def _counted(run: Run, service: str, sensor: Sensor) -> SampleColumns:
    """Under the first of its names that there is."""
    found = (samples_of(run, service, name) for name, _ in READ_AS[sensor])
    empty = SampleColumns(np.empty(0, np.int64), np.empty(0, np.float64), np.empty(0, np.int64))
    return next((samples for samples in found if len(samples)), empty)


def _readings(scene: Scene, service: str, name: str, unit: str) -> JSON:
    samples = samples_of(scene.run, service, name)
    rows = thinned(samples.at_ns, samples.value)
    if not len(rows):
        return None
    line: JSON = {"label": service, "values": told(samples.value[rows].tolist()), "style": "line", "unit": unit}
    return {"xs": [scene.at_s(at) for at in samples.at_ns[rows].tolist()], "series": [line]}


def _lag(scene: Scene, windows: Windows, service: str, name: str, what: str) -> JSON:
    samples = samples_of(scene.run, service, name)
    samples = samples.taken(~np.isnan(samples.value))
    if not len(samples):
        return None
    values = weighted_quantiles(windows, samples.at_ns, samples.value, samples.count, 0.99)
    line: JSON = {"label": f"{service}: {what}", "values": stepped(values), "style": "step", "unit": "ms"}
    return {"xs": list(windows.edges_s), "series": [line]}


def _inked(tables: Sequence[JSON]) -> list[JSON]:
    """Each with a colour and a dash of its own."""
    inked: list[JSON] = []
    for ink, table in enumerate(tables, start=1):
        assert isinstance(table, dict)
        inked.append({**table, "series": [{**line, "ink": ink} for line in table["series"]]})
    return inked


def _chart(id: str, title: str, label: str, tables: list[JSON], caption: str) -> Chart:  # noqa: A002  (as in `Chart`)
    drawn: dict[str, JSON] = {"x": "time", "y": {"label": label}, "tables": tables}
    return Chart(id=id, title=title, drawn=drawn, caption=caption, small=True)
