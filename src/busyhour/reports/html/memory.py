"""Memory over time: as it was read, its floor, the shape that fits it best, and what a leak gate made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from busyhour.columns import Floats, samples_of
from busyhour.indicators.growth import READ_AS, Growing
from busyhour.model import JSON, SECOND, Run, Verdict
from busyhour.reports.html.body import Body, Chart, section
from busyhour.reports.html.scene import Scene
from busyhour.reports.html.section import Section
from busyhour.reports.html.series import thinned, told
from busyhour.statistics.leaks.cause import Sensor

SERVICES_MOST = 6
_SENSORS = (Sensor.PRIVATE_DIRTY, Sensor.RSS)


def over_time(scene: Scene) -> Section | None:
    """A chart of each process whose memory was read; None where none was."""
    judged = _judged(scene.judgement.verdicts)
    watched = [service for service in services(scene) if any(_read(scene.run, service, sensor) for sensor in _SENSORS)]
    if not watched:
        return None
    watched.sort(key=lambda service: (service not in {name for name, _, _ in judged}, service != scene.target))
    charts = [_chart(scene, service, number) for number, service in enumerate(watched[:SERVICES_MOST])]
    for number, (service, verdict, growing) in enumerate(judged):
        charts.insert(number, _trend(scene, service, verdict, growing, number))
    lead = "MB are 10\u2076 bytes. RSS counts what is shared with others, private memory what the process alone holds."
    left = len(watched) - SERVICES_MOST
    notes = [f"{left} more processes are not drawn."] if left > 0 else []
    return section("memory", "Memory", Body(lead=lead, charts=charts, notes=notes))


def services(scene: Scene) -> list[str]:
    """Whoever may have been watched: all that was started, the harness, and its workers."""
    told_of = scene.run.meta.get("harnesses", [])
    workers = [name for name in told_of if isinstance(name, str)] if isinstance(told_of, Sequence) else []
    return list(dict.fromkeys([*(mark.name for mark in scene.run.marks("service.started")), "harness", *workers]))


def _judged(verdicts: Sequence[Verdict]) -> list[tuple[str, Verdict, Growing]]:
    return [
        (verdict.estimate.what.rpartition(" of ")[2], verdict, growing)
        for verdict in verdicts
        if verdict.estimate is not None and isinstance(growing := verdict.estimate.evidence, Growing)
    ]


def _read(run: Run, service: str, sensor: Sensor) -> str:
    """The name of its samples, "" if there are none."""
    return next((name for name, _ in READ_AS[sensor] if len(samples_of(run, service, name))), "")


def _chart(scene: Scene, service: str, number: int) -> Chart:
    tables: list[JSON] = []
    for ink, sensor in enumerate(_SENSORS, start=1):
        if name := _read(scene.run, service, sensor):
            samples = samples_of(scene.run, service, name)
            rows = thinned(samples.at_ns, samples.value)
            xs = [scene.at_s(at_ns) for at_ns in samples.at_ns[rows].tolist()]
            line: JSON = {
                "label": "RSS" if sensor is Sensor.RSS else "private",
                "values": told(samples.value[rows].tolist()),
                "ink": ink,
                "style": "line",
                "unit": "MB",
            }
            tables.append({"xs": list(xs), "series": [line]})
    picture: dict[str, JSON] = {"x": "time", "y": {"label": f"memory of {service} (MB)"}, "tables": tables}
    title = f"Memory of {'the harness' if service == 'harness' else service}"
    return Chart(id=f"memory-{number}", title=title, drawn=picture, small=True)


def _trend(scene: Scene, service: str, verdict: Verdict, growing: Growing, number: int) -> Chart:
    """What the gate saw. The interval is drawn as two slopes through the middle of the floor."""
    trace, trend = growing.life.traces[growing.sensor], growing.trend
    seconds, values = (np.asarray(column, dtype=np.float64) for column in (trace.at_seconds, trace.value))
    began_s = (growing.life.since_ns - scene.began_ns) / SECOND
    rows = thinned((seconds * SECOND).astype(np.int64), values)
    raw: JSON = {"label": "read", "values": told(values[rows].tolist()), "ink": 0, "style": "dots", "unit": "MB"}
    tables: list[JSON] = [{"xs": told((seconds[rows] + began_s).tolist()), "series": [raw]}]
    if trend.hours is not None and trend.floor is not None and len(trend.hours):
        tables.append(_fitted(trend.hours, trend.floor, growing, began_s + float(seconds[0])))
    picture: dict[str, JSON] = {
        "x": "time",
        "y": {"label": f"{growing.sensor} of {service} (MB)", "near": True},
        "tables": tables,
    }
    floor = "The floor is what was judged: of blocks of time, less what follows the load. The axis does not begin at 0."
    caption = f"{verdict.because}. {floor}"
    return Chart(id=f"growth-{number}", title=f"Growth of {service}", drawn=picture, caption=caption)


def _fitted(hours: Floats, floor: Floats, growing: Growing, began_s: float) -> JSON:
    lines: list[JSON] = [{"label": "floor", "values": told(floor.tolist()), "ink": 1, "style": "line", "unit": "MB"}]
    trend = growing.trend
    if trend.kept:
        best = trend.kept[0]
        lines.append(
            {"label": best.name, "values": told(best.curve.tolist()), "ink": 2, "style": "dashed", "unit": "MB"}
        )
    if trend.slope is not None:
        middle, level = float(hours.mean()), float(np.median(floor))
        for end, name in ((trend.slope.low, "lowest slope"), (trend.slope.high, "highest slope")):
            values = (level + end * (hours - middle)).tolist()
            lines.append({"label": name, "values": told(values), "style": "edge", "unit": "MB"})
    return {"xs": told((began_s + 3600 * hours).tolist()), "series": lines}
