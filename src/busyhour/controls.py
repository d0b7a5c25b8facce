"""Proving that gates can fail: each against a control just past its limit and a benign one just inside.

A gate is PROVEN when its red control makes it FAIL and its benign one makes it PASS, both in valid runs. Controls that
share a variation share its run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from busyhour.conduct import conduct
from busyhour.errors import PlanError, ServiceError
from busyhour.gates import judge
from busyhour.journal import open_run
from busyhour.model import Control, Outcome, Plan, Variation
from busyhour.planfile import PlanFile, vary
from busyhour.proofs import PROVEN, UNPROVEN, GateProof


class Interrupted(Exception):
    """Proving was stopped; `untried` gates had not had both their controls."""

    def __init__(self, untried: Sequence[str]) -> None:
        self.untried = untried
        super().__init__(f"interrupted; {len(untried)} gates were not tried to the end")


@dataclass(frozen=True)
class _Trial:
    """One run of one variation, and the controls that it is red or benign for."""

    variation: Variation
    controls: Sequence[Control]
    phases: Sequence[str]


@dataclass(frozen=True)
class _Seen:
    as_it_must: bool
    sentence: str


def prove(file: PlanFile, *, only: str, folder: Path, seed: int, console: Console) -> Iterator[GateProof]:
    """Run every control whose gate's name contains `only`; yields each gate's proof as soon as it is known.

    A gate without a control is unproven, and so is one whose control could not be run. Raises PlanError when there is
    no such gate, JournalError, and Interrupted after Ctrl-C or SIGTERM.
    """
    plan = file.plan
    gates = [gate.name for gate in [*plan.gates, *plan.valid_if] if only in gate.name]
    if not gates:
        raise PlanError(f"{file.path}: no gate's name contains {only!r}")
    controls = {control.gate.name: control for control in plan.controls if control.gate.name in gates}
    for name in gates:
        if name not in controls:
            yield GateProof(name, UNPROVEN, "the plan has no control for it")
    seen: dict[tuple[str, int], _Seen] = {}  # by gate and identity of the variation: two may bear one name
    trials = list(_trials(plan, list(controls.values())))
    for number, trial in enumerate(trials, start=1):
        title = f"control {number} of {len(trials)}: {trial.variation.name}"
        journal = folder / f"{number:02}-{_slug(trial.variation.name)}.journal"
        varied = vary(plan, trial.variation, trial.phases)
        trouble: str | None
        try:
            conducted = conduct(file, varied, journal=journal, seed=seed, console=console, title=title)
        except ServiceError as error:
            trouble = f"the control's run could not be carried out: {error}"
        else:
            if conducted.interrupted:
                raise Interrupted([name for name in controls if not _both(controls[name], seen)])
            trouble = None if conducted.stopped is None else f"the control's run was cut short: {conducted.stopped}"
        for control in trial.controls:
            told = (
                _Seen(False, f"{control.gate.name}: {trouble}") if trouble else _told(varied, journal, control, trial)
            )
            seen[control.gate.name, id(trial.variation)] = told
            mark = "[green]as it must[/]" if told.as_it_must else "[red]NOT as it must[/]"
            console.print(f"  {mark}: {told.sentence}", highlight=False, soft_wrap=True)
            if both := _both(control, seen):
                status = PROVEN if all(one.as_it_must for one in both) else UNPROVEN
                yield GateProof(control.gate.name, status, " / ".join(one.sentence for one in both))


def _trials(plan: Plan, controls: Sequence[Control]) -> Iterator[_Trial]:
    variations = {id(v): v for control in controls for v in (control.red, control.benign)}
    for key, variation in variations.items():
        mine = [c for c in controls if key in (id(c.red), id(c.benign))]
        read = {phase for control in mine for phase in control.gate.phases}
        # A gate on the whole run is shown its variation in the phases which that changes, or in the first.
        if any(not control.gate.phases for control in mine):
            read |= {*variation.faults, *(p.name for p in variation.phases)} or {plan.phases[0].name}
        yield _Trial(variation, mine, [phase.name for phase in plan.phases if phase.name in read])


def _told(plan: Plan, journal: Path, control: Control, trial: _Trial) -> _Seen:
    """Whether the gate said of this run what it must, and the sentence.

    The run must be valid, whole and its faults effective; only of the plan's own demands on the harness may one fail,
    and only when it is such a demand that is being proven.
    """
    must = Outcome.FAIL if trial.variation is control.red else Outcome.PASS
    with open_run(journal) as run:
        verdict = control.gate.judge(run)
        validity = judge(plan, run).validity
    excused = {gate.name for gate in plan.valid_if}
    spoilt = [v for v in validity if v.outcome is not Outcome.PASS]
    if control.gate.name in excused:
        spoilt = [v for v in spoilt if v.gate not in excused]
    if spoilt:
        return _Seen(False, f"{control.gate.name}: the control's run was invalid: {spoilt[0].because}")
    said = verdict.outcome.upper() if verdict.outcome is must else f"{verdict.outcome.upper()}, not {must.upper()}"
    return _Seen(verdict.outcome is must, f"{said}: {verdict.because}")


def _both(control: Control, seen: dict[tuple[str, int], _Seen]) -> list[_Seen]:
    """What was seen of both its variations; empty while one of them is missing."""
    found = [seen.get((control.gate.name, id(v))) for v in (control.red, control.benign)]
    return [one for one in found if one is not None] if None not in found else []


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")[:60]
