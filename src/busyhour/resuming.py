"""From a journal to where its run is taken up again: which plan, how far it was, and what was in progress.

A schedule is pure, so how far it was is a number: of the arrivals that were due when the run was cut. None of them is
performed again, and none gets the name of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from busyhour.clock import boot_id, wall_time
from busyhour.errors import JournalError, PlanError
from busyhour.holding import demand_free
from busyhour.journal import StoredRun, open_run
from busyhour.model import SECOND, Arrivals, Due, Mark, Operation, Phase, Plan
from busyhour.planfile import PlanFile, load
from busyhour.recording import Recording
from busyhour.segments import Continuation, Resumption
from busyhour.workloads.idle import Idle

EXAMPLE = "busyhour resume runs/soak-20261120T201500.journal"


@dataclass(frozen=True)
class Cut:
    """A run that was cut: its plan, its seed, and how it is continued."""

    file: PlanFile
    seed: int
    resumption: Resumption

    @property
    def told(self) -> str:
        """For who resumes it."""
        at, cut_off = self.resumption.continuation, len(self.resumption.cut_off)
        where = f"{at.elapsed_ns / SECOND:.0f} s into the phase {at.phase!r}" if at.phase else "between two phases"
        left = f"{cut_off} calls that were in progress stay cut off; " if cut_off else ""
        again = any(phase.faults for phase in self.file.plan.phases if phase.name == at.phase)
        faults = "its faults begin anew; " if again else ""
        return f"Segment {at.segment} goes on {where}; {left}{faults}services are started anew"


def cut_run(path: Path, now_ns: int, *, changed_plan: bool = False) -> Cut:
    """What is needed to continue the run of this journal; now_ns: of the machine's clock.

    Raises JournalError when there is nothing to continue, PlanError when the plan is not the one that it was made by
    (unless `changed_plan`), and what loading it raises.
    """
    with open_run(path) as run:
        _demand_unfinished(path, run)
        demand_free(path)
        _demand_alone(path, run)
        file = _plan_of(path, run, changed_plan=changed_plan)
        continuation = _continuation(run, file.plan, now_ns)
        ended_ns = continuation.cut_ns
        cut_off = [_cut_off(call, ended_ns, continuation.moved_ns) for call in run.unfinished()]
    seed = run.meta.get("seed")
    return Cut(file, seed if isinstance(seed, int) else 0, Resumption(continuation=continuation, cut_off=cut_off))


def _demand_unfinished(path: Path, run: StoredRun) -> None:
    begins = [mark.at_ns for kind in ("run.began", "run.resumed") for mark in run.marks(kind)]
    if not begins:
        raise JournalError(f"{path}: its run never began; make it again with `busyhour run`")
    if any(mark.at_ns >= max(begins) for mark in run.marks("run.ended")):
        raise JournalError(f"{path}: its run came to its end, nothing is left to continue; judge it, or make another")


def _demand_alone(path: Path, run: StoredRun) -> None:
    processes = run.meta.get("processes", 1)
    if processes != 1:
        raise JournalError(
            f"{path}: its run was shared by {processes} processes, whose shares cannot be taken up again yet; "
            "make the run again, or make it with --processes 1"
        )


def _plan_of(path: Path, run: StoredRun, *, changed_plan: bool) -> PlanFile:
    plan, options, source = (run.meta.get(key) for key in ("plan", "options", "source"))
    if not isinstance(plan, str):
        raise JournalError(
            f"{path}: it does not say which plan made it; only what `busyhour run` wrote can be continued"
        )
    if not Path(plan).exists():
        raise PlanError(f"{plan}: the plan that made {path} is no longer there; put it back")
    file = load(Path(plan), {str(k): str(v) for k, v in options.items()} if isinstance(options, Mapping) else {})
    if file.source != source and not changed_plan:
        raise PlanError(
            f"{plan}: it has changed since {path} was begun, and the two parts would not be one run; "
            "put it back, or continue by the plan as it is now with --changed-plan"
        )
    recording: Any = run.meta.get("recording")
    if isinstance(recording, Mapping):  # what was asked for on the command line
        file = replace(file, plan=replace(file.plan, recording=Recording(**recording)))
    return file


def _continuation(run: StoredRun, plan: Plan, now_ns: int) -> Continuation:
    last_ns = run.last_ns()
    moved_ns = _moved_ns(run, now_ns, last_ns)
    done = frozenset(mark.name for mark in run.marks("phase.ended"))
    begun = [mark for kind in ("phase.began", "phase.resumed") for mark in run.marks(kind) if mark.name not in done]
    last = max(begun, key=lambda mark: mark.at_ns, default=None)
    known = {phase.name: phase for phase in plan.phases}
    if last is not None and last.name not in known:
        raise PlanError(f"the plan has no phase {last.name!r} any more, in which its run was cut; put it back")
    cut_ns = _cut_ns(run, last, last_ns)
    elapsed_ns, after = (0, 0) if last is None else _reached(run, known[last.name], last, cut_ns)
    return Continuation(
        segment=2 + len(run.marks("run.resumed")),
        cut_ns=cut_ns - moved_ns,
        done=done,
        phase="" if last is None else last.name,
        elapsed_ns=elapsed_ns,
        after=after,
        moved_ns=moved_ns,
        why=_why(run),
        at=wall_time(),
        boot=boot_id(),
    )


def _moved_ns(run: StoredRun, now_ns: int, last_ns: int) -> int:
    """What is to be added to the machine's clock. When it was started anew since, nobody knows how long it was off: the
    journal goes on a second later."""
    before: Sequence[Mark] = run.marks("run.resumed")
    boot = before[-1].detail.get("boot") if before else run.meta.get("boot")
    moved = before[-1].detail.get("moved") if before else 0
    if boot and boot == boot_id() and isinstance(moved, int) and now_ns + moved > last_ns:
        return moved
    return last_ns + SECOND - now_ns


def _cut_ns(run: StoredRun, begun: Mark | None, last_ns: int) -> int:
    """Since when nothing more arrived: of a run that was killed that is the end of it, of one that was stopped, or
    failed, when its calls were cut off; winding it up took a while then. `begun`: the phase it happened in."""
    since_ns = max(mark.at_ns for kind in ("run.began", "run.resumed") for mark in run.marks(kind))
    ends = [last_ns, *(mark.at_ns for mark in run.marks("run.stopping") if mark.at_ns >= since_ns)]
    cut_off_ns = None if begun is None else run.first_cut_off(begun.name, begun.at_ns)
    return min([*ends, *([] if cut_off_ns is None else [cut_off_ns])])


def _why(run: StoredRun) -> str:
    """Why the last segment ended, if it says so."""
    begun_ns = max(mark.at_ns for kind in ("run.began", "run.resumed") for mark in run.marks(kind))
    told = [mark for kind in ("run.stopped", "run.failed") for mark in run.marks(kind) if mark.at_ns >= begun_ns]
    return str(told[-1].detail.get("why", "")) if told else ""


def _reached(run: StoredRun, phase: Phase, begun: Mark, cut_ns: int) -> tuple[int, int]:
    """How much of the phase's schedule had passed: time, and arrivals. `begun`: when it last began, or went on."""
    elapsed, over = begun.detail.get("elapsed_seconds", 0.0), begun.detail.get("after", 0)
    assert isinstance(elapsed, int | float)
    assert isinstance(over, int)
    base_ns = round(elapsed * SECOND)
    faults = [
        mark.at_ns
        for mark in run.marks("fault.began")
        if mark.detail.get("phase") == phase.name and mark.at_ns >= begun.at_ns
    ]
    if len(faults) < len(phase.faults):
        return base_ns, over  # it was cut before anything was due
    elapsed_ns = base_ns + max(0, cut_ns - max([begun.at_ns, *faults]))
    if isinstance(phase.workload, Idle):
        return elapsed_ns, 0  # what waits and leaves nothing behind waits for the rest of its time
    return elapsed_ns, _arrivals_by(phase.arrivals, elapsed_ns, at_least=max(over, run.highest_number(phase.name)))


def _arrivals_by(arrivals: Arrivals, elapsed_ns: int, *, at_least: int) -> int:
    """How many were due: the first that was not is the next. One that waits for others to finish had come `at_least`
    so often."""
    number = at_least
    while not isinstance(due := arrivals.due_ns(number, number, elapsed_ns), Due) and due < elapsed_ns:
        number += 1
    return number


def _cut_off(call: Operation, ended_ns: int, moved_ns: int) -> Operation:
    """On the clock of now: when it is written, it is moved to the journal's."""
    began_ns = call.due_ns - moved_ns
    return replace(
        call,
        due_ns=began_ns,
        began_ns=began_ns,
        ended_ns=ended_ns,
        outcome="cut off",
        detail={"ended_by": "harness", "why": "the run was cut"},
    )
