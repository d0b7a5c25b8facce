"""What happened, in order: phases, faults and whether they took effect, gaps, deaths; and how callers got over them."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import numpy as np

from busyhour.columns import operations_of, samples_of
from busyhour.gates.gaps import segments, unwatched
from busyhour.gates.health import not_carried_out
from busyhour.indicators.vendors import Recovery
from busyhour.model import JSON, SECOND, Mark, Run
from busyhour.reports.html.body import Body, Cell, Grid, section
from busyhour.reports.html.scene import BANDS_MOST, Scene, Stretch
from busyhour.reports.html.section import Section
from busyhour.reports.html.words import clock, duration
from busyhour.statistics.wording import number

PHASES_MOST = 60
EVENTS_MOST = 40
FAULTS_MOST = 60
_REQUESTS = ("llm", "tts", "stt", "vector")  # the kinds that twins witness
_NOTABLE = {
    "run.resumed": "the run was taken up again",
    "run.stopped": "the run was stopped",
    "run.failed": "the run could not go on",
    "service.died": "a service died",
    "machine.suspended": "the machine was suspended",
    "harness.stopped": "the harness stood still",
    "clocks.disagree": "clocks disagreed",
    "witness.silent": "a twin did not tell the last",
    "probe.missing": "a probe could not read",
    "fault.unavailable": "a fault could not be injected",
    "arrival.dropped": "arrivals found no place",
}


def timeline(scene: Scene) -> Section | None:
    """The phases of a run and what happened in them; None for a run that never began one."""
    events = _events(scene)
    if not scene.phases and not events:
        return None
    grids = [grid for grid in (_phases(scene), events) if grid is not None]
    notes = [*segments(scene.run), *unwatched(scene.run)]
    undrawn = max(len(scene.phases), len(scene.faults)) - BANDS_MOST
    if undrawn > 0:
        notes.append(
            f"In the pictures only the first {BANDS_MOST} phases and faults are shaded, {undrawn:,} more are not."
        )
    body = Body(lead=_lead(scene), grids=grids, notes=notes, strip=_strip(scene))
    return section("timeline", "What happened when", body)


def _lead(scene: Scene) -> str:
    told = [_counted(len(scene.phases), "phase"), _counted(len(scene.faults), "fault")]
    if scene.gaps:
        told.append(f"{_counted(len(scene.gaps), 'gap')} in which nothing was watched")
    return f"{duration(scene.seconds)} in all: {', '.join(told)}."


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _strip(scene: Scene) -> Mapping[str, JSON]:
    """The whole run on one line, of 1000 units: where phases, faults and gaps lie."""

    def along(from_ns: int, until_ns: int, name: str) -> JSON:
        first, beyond = (1000 * (at - scene.began_ns) / (scene.ended_ns - scene.began_ns) for at in (from_ns, until_ns))
        first = min(1000.0, max(0.0, first))
        return {"x": round(first, 2), "width": round(max(1.5, min(1000.0, beyond) - first), 2), "name": name}

    return {
        "phases": [along(one.from_ns, one.until_ns, one.name) for one in scene.phases[:BANDS_MOST]],
        "faults": [along(one.from_ns, one.until_ns, one.name) for one in scene.faults[:BANDS_MOST]],
        "gaps": [along(gap.from_ns, gap.until_ns, gap.why) for gap in scene.gaps[:BANDS_MOST]],
        "ends": ["0", duration(scene.seconds)],
    }


def _phases(scene: Scene) -> Grid | None:
    """A row for each phase; of thousands those in which something was harmed or failed, and the first."""
    if not scene.phases:
        return None
    idle, arrived, ok = not_carried_out(scene.run), *_arrivals(scene.seen)
    faults: dict[str, list[str]] = {}
    for fault in scene.faults:
        faults.setdefault(fault.phase, []).append(fault.name)

    def trouble(phase: Stretch) -> bool:
        name = phase.name
        return bool(faults.get(name)) or name in idle or phase.cut or arrived.get(name, 0) > ok.get(name, 0)

    order = sorted(range(len(scene.phases)), key=lambda i: (not trouble(scene.phases[i]), i))
    shown = sorted(order[:PHASES_MOST])
    rows = []
    for phase in (scene.phases[i] for i in shown):
        n, well = arrived.get(phase.name, 0), ok.get(phase.name, 0)
        told = f"not carried out: {idle[phase.name]}" if phase.name in idle else ", ".join(faults.get(phase.name, []))
        length = duration((phase.until_ns - phase.from_ns) / SECOND) + (" (cut)" if phase.cut else "")
        share = f"{number(100 * well / n, '%')} %" if n else "\u2013"
        mark = "fault" if faults.get(phase.name) else ""
        rows.append(
            [
                Cell(phase.name),
                Cell(clock((phase.from_ns - scene.began_ns) / SECOND)),
                Cell(length),
                Cell(f"{n:,}"),
                Cell(share, "bad" if n > well else ""),
                Cell(told, mark),
            ]
        )
    left = len(scene.phases) - PHASES_MOST
    note = f"{left:,} more phases are not shown: without faults, without failures." if left > 0 else ""
    head = ("phase", "began", "lasted", "arrived", "succeeded", "faults")
    return Grid(head=head, rows=rows, title="Phases", words=(5,), note=note)


def _arrivals(run: Run) -> tuple[dict[str, int], dict[str, int]]:
    """How many arrived in each phase, and how many of those went well."""
    arrived: dict[str, int] = {}
    ok: dict[str, int] = {}
    for kind in ("call", "function"):
        rows = operations_of(run, kind)
        well = rows.taken(rows.outcome.are("ok"))
        for into, some in ((arrived, rows), (ok, well)):
            for phase, count in some.phase.counts():
                into[phase] = into.get(phase, 0) + count
    if arrived:
        return arrived, ok
    for phase in dict.fromkeys(mark.name for mark in run.marks("phase.began")):
        requests = samples_of(run, "requests", "latency_ms", phase)
        if len(requests):
            arrived[phase] = int(requests.count.sum())
            ok[phase] = int(requests.count[~np.isinf(requests.value)].sum())
    return arrived, ok


def _events(scene: Scene) -> Grid | None:
    marks = sorted((mark for kind in _NOTABLE for mark in scene.run.marks(kind)), key=lambda mark: mark.at_ns)
    if not marks:
        return None
    rows = [
        [Cell(clock((mark.at_ns - scene.began_ns) / SECOND)), Cell(_NOTABLE[mark.kind], "bad"), Cell(_said(mark))]
        for mark in marks[:EVENTS_MOST]
    ]
    left = len(marks) - EVENTS_MOST
    note = f"{left:,} more are not shown." if left > 0 else ""
    return Grid(head=("at", "what", "of what"), rows=rows, title="Out of the ordinary", words=(1, 2), note=note)


def _said(mark: Mark) -> str:
    shown = ("obituary", "why", "readings", "count", "seconds", "phase", "segment")
    told = []
    for key in shown:
        value = mark.detail.get(key)
        if value not in (None, ""):
            words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            told.append(words if key in {"obituary", "why"} else f"{key} {words}")
    return ": ".join(filter(None, (mark.name, "; ".join(told))))


# ---------------------------------------------------------------- after faults


def recovery(scene: Scene) -> Section | None:
    """How long it took after each fault until what was harmed served again, and until callers were answered again."""
    if not scene.faults:
        return None
    proofs = [(mark.name, mark.detail) for mark in scene.run.marks("fault.proof")]
    turns = operations_of(scene.seen, "turn")
    answered = turns.taken(turns.ended)
    rows = []
    for fault in scene.faults[:FAULTS_MOST]:
        proof = next((d for name, d in proofs if name == fault.name and d.get("phase") == fault.phase), None)
        effect, mark = _effect(proof)
        later = answered.ended_ns[answered.due_ns >= fault.until_ns]
        again = (int(later.min()) - fault.until_ns) / SECOND if len(later) else None
        rows.append(
            [
                Cell(fault.name, "fault"),
                Cell(fault.service or "\u2013"),
                Cell(duration((fault.until_ns - fault.from_ns) / SECOND)),
                _served_again(scene.seen, fault),
                Cell("\u2013" if again is None else _after(again)),
                Cell(effect, mark),
            ]
        )
    left = len(scene.faults) - FAULTS_MOST
    grid = Grid(
        head=("fault", "harmed", "lasted", "served again after", "turn answered after", "effect"),
        rows=rows,
        words=(1, 5),
        note=f"{left:,} more faults are not shown." if left > 0 else "",
    )
    lead = (
        "Served again: from the end of the fault to the next request that the harmed service answered, once somebody "
        "asked it; a path and a carrier answer none. Turn answered: to the first answer to a turn that came after the "
        "fault."
    )
    return section("recovery", "After the faults", Body(lead=lead, grids=[grid]))


def _served_again(run: Run, fault: Stretch) -> Cell:
    """Says "never" only of a service that was asked again: one that nobody asks has no chance to serve."""
    found = Recovery(fault.service)(run, fault.phase) if fault.service else []
    if not found:
        return Cell("\u2013")
    if found[0].value < inf:
        return Cell(_after(found[0].value))
    rows = [operations_of(run, kind) for kind in _REQUESTS]
    asked_ns = np.concatenate([one.due_ns[one.who.are(fault.service)] for one in rows])
    if not len(asked_ns):
        return Cell("\u2013")
    return Cell("never", "bad") if (asked_ns >= fault.until_ns).any() else Cell("not asked")


def _after(seconds: float) -> str:
    return f"{number(seconds)} s"


def _effect(proof: Mapping[str, JSON] | None) -> tuple[str, str]:
    if proof is None:
        return "no proof of its effect", "bad"
    because = str(proof.get("because", ""))
    return (because, "") if proof.get("effective") is True else (f"no effect: {because}", "bad")
