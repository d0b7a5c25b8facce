"""What arrived and what became of it over time: throughput, concurrency, failures by their reason."""

from __future__ import annotations

import numpy as np

from busyhour.columns import OperationColumns, operations_of, samples_of
from busyhour.model import JSON, Run
from busyhour.reports.html.body import Body, Cell, Chart, Grid, section
from busyhour.reports.html.scene import Scene
from busyhour.reports.html.section import Section
from busyhour.reports.html.series import Windows, in_progress, stepped, told
from busyhour.statistics.wording import number, with_unit

REASONS_MOST = 5


def over_time(scene: Scene) -> Section | None:
    """Of the calls of a run, or of its functions, or of its requests; None without any of them."""
    for kind, noun in (("call", "calls"), ("function", "functions")):
        rows = operations_of(scene.seen, kind)
        if len(rows):
            return _of_operations(scene, rows, noun)
    return _of_requests(scene)


def _of_operations(scene: Scene, rows: OperationColumns, noun: str) -> Section:
    windows = Windows.of(scene.began_ns, scene.ended_ns, len(rows), each=4)
    finest = Windows.of(scene.began_ns, scene.ended_ns, len(rows), each=1)
    ended_ns = np.where(rows.ended, rows.ended_ns, scene.ended_ns)
    at_once = in_progress(finest, rows.since_ns, np.maximum(ended_ns, rows.since_ns))
    arrived = windows.counts(rows.due_ns) / windows.width_s
    completed = windows.counts(ended_ns[rows.ended]) / windows.width_s
    pace: list[JSON] = [
        _line(f"{noun} arrived", arrived.tolist(), 1, "/s"),
        _line(f"{noun} ended", completed.tolist(), 2, "/s"),
    ]
    charts = [
        _chart("traffic-rate", "Throughput", f"{noun} per second (1/s)", windows, pace, f"Windows of {windows.told}."),
        _chart(
            "traffic-at-once",
            "Concurrency",
            f"{noun} in progress",
            finest,
            [_line("most in progress at once", at_once, 1, "")],
            f"The most in windows of {finest.told}.",
        ),
    ]
    failed = rows.taken(~rows.outcome.are("ok"))
    grids = []
    if len(failed):
        reasons = failed.outcome.counts()
        charts.append(_failures(windows, failed, reasons, noun))
        grids.append(_reasons(failed, reasons, len(rows), noun))
    ok = len(rows) - len(failed)
    lead = f"{len(rows):,} {noun} arrived; {ok:,} went through to their end, {len(failed):,} did not."
    return section("traffic", "Throughput, concurrency and failures", Body(lead=lead, charts=charts, grids=grids))


def _failures(windows: Windows, failed: OperationColumns, reasons: list[tuple[str, int]], noun: str) -> Chart:
    at_ns = np.where(failed.ended, failed.ended_ns, failed.due_ns)
    lines: list[JSON] = []
    for ink, (reason, _) in enumerate(reasons[:REASONS_MOST], start=1):
        lines.append(_line(reason, windows.counts(at_ns[failed.outcome.are(reason)]).tolist(), ink, "", style="bars"))
    if len(reasons) > REASONS_MOST:
        named = np.any([failed.outcome.are(reason) for reason, _ in reasons[:REASONS_MOST]], axis=0)
        lines.append(_line("other reasons", windows.counts(at_ns[~named]).tolist(), 0, "", style="bars"))
    caption = f"Failed {noun} by reason in windows of {windows.told}, one above the other."
    return _chart("traffic-failed", "Failures by reason", f"failed {noun}", windows, lines, caption, stacked=True)


def _reasons(failed: OperationColumns, reasons: list[tuple[str, int]], of: int, noun: str) -> Grid:
    rows = []
    for reason, count in reasons[: 2 * REASONS_MOST]:
        first = failed.call[failed.outcome.first(reason)]
        rows.append([Cell(reason), Cell(f"{count:,}"), Cell(_share(count, of)), Cell(first)])
    more = len(reasons) - 2 * REASONS_MOST
    note = f"{more} more reasons are not shown." if more > 0 else ""
    return Grid(head=("reason", noun, "share", "the first"), rows=rows, note=note)


def _of_requests(scene: Scene) -> Section | None:
    requests = samples_of(scene.seen, "requests", "latency_ms")
    if not len(requests):
        return None
    total = int(requests.count.sum())
    windows = Windows.of(scene.began_ns, scene.ended_ns, total)
    right = ~np.isinf(requests.value)
    answered = windows.counts(requests.at_ns[right], requests.count[right]) / windows.width_s
    failed = windows.counts(requests.at_ns[~right], requests.count[~right]) / windows.width_s
    lines = [_line("right answers", answered.tolist(), 1, "/s"), _line("failed", failed.tolist(), 2, "/s")]
    wrong = int(requests.count[~right].sum())
    reasons = _failed_requests(scene.seen)
    rows = [[Cell(reason), Cell(f"{count:,}"), Cell(_share(count, total))] for reason, count in reasons]
    grids = [Grid(head=("reason", "requests", "share"), rows=rows)] if rows else []
    chart = _chart(
        "traffic-rate", "Throughput", "requests per second (1/s)", windows, lines, f"Windows of {windows.told}."
    )
    lead = f"{total:,} requests; {total - wrong:,} were answered right, {wrong:,} were not."
    return section("traffic", "Throughput and failures", Body(lead=lead, charts=[chart], grids=grids))


def _failed_requests(run: Run) -> list[tuple[str, int]]:
    reasons: dict[str, int] = {}
    for mark in run.marks("requests.failed"):
        for reason, count in mark.detail.items():
            if isinstance(count, int):
                reasons[reason] = reasons.get(reason, 0) + count
    return sorted(reasons.items(), key=lambda pair: -pair[1])[: 2 * REASONS_MOST]


def _share(count: int, of: int) -> str:
    return with_unit(number(100 * count / of, "%"), "%")


def _line(label: str, values: list[float] | list[float | None], ink: int, unit: str, *, style: str = "step") -> JSON:
    points = stepped(values) if style == "step" else told(values)
    return {"label": label, "values": points, "ink": ink, "style": style, "unit": unit}


def _chart(
    id: str,  # noqa: A002  (as in `Chart`)
    title: str,
    label: str,
    windows: Windows,
    lines: list[JSON],
    caption: str,
    *,
    stacked: bool = False,
) -> Chart:
    drawn: dict[str, JSON] = {
        "x": "time",
        "y": {"label": label, "whole": not label.endswith("(1/s)")},
        "tables": [{"xs": list(windows.middles_s if stacked else windows.edges_s), "series": lines}],
        "stacked": stacked,
        "width": windows.width_s,
    }
    return Chart(id=id, title=title, drawn=drawn, caption=caption, small=True)
