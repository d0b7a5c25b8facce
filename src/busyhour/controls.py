"""Proving that gates can fail: each against a control just past its limit and a benign one just inside.

A gate is PROVEN when each of its red controls makes it FAIL and each benign one makes it PASS, all in valid runs, and
no other variation makes it fail without cause. Controls that share a variation share its run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from busyhour.conduct import conduct
from busyhour.errors import PlanError, ServiceError
from busyhour.gates import Judgement, judge
from busyhour.journal import open_run
from busyhour.matrix import Row
from busyhour.model import Control, Outcome, Plan, Variation, Verdict
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

    def row(self, judgement: Judgement, plan: Plan) -> Row:
        """A gate on the harness that fails says that the harness was late, whatever the variation: that has a cause. So
        has a gate that is not being proven now and has this variation for its own."""
        verdicts = [*judgement.validity, *judgement.verdicts]
        others = [control.gate for control in plan.controls if control.red is self.variation]
        return Row(
            variation=self.variation.name,
            outcomes={verdict.gate: verdict.outcome for verdict in verdicts},
            red_for=frozenset(c.gate.name for c in self.controls if c.red is self.variation),
            benign_for=frozenset(c.gate.name for c in self.controls if c.benign is self.variation),
            may_redden=frozenset(gate.name for gate in (*self.variation.may_redden, *plan.valid_if, *others)),
        )


@dataclass(frozen=True)
class _Seen:
    as_it_must: bool
    sentence: str


def prove(file: PlanFile, *, only: str, folder: Path, seed: int, console: Console) -> Iterator[GateProof | Row]:
    """Run every control whose gate's name contains `only`; yields the row of each run, and each gate's proof as soon
    as it is known: a second one if a later run takes it back.

    A gate without a control is unproven, and so is one whose control could not be run. Raises PlanError when there is
    no such gate, JournalError, and Interrupted after Ctrl-C or SIGTERM.
    """
    plan = file.plan
    gates = [gate.name for gate in [*plan.gates, *plan.valid_if] if only in gate.name]
    if not gates:
        raise PlanError(f"{file.path}: no gate's name contains {only!r}")
    proofs = _Proofs({name: [c for c in plan.controls if c.gate.name == name] for name in gates})
    yield from proofs.uncontrolled()
    trials = list(_trials(plan, proofs.controls))
    for number, trial in enumerate(trials, start=1):
        title = f"control {number} of {len(trials)}: {trial.variation.name}"
        journal = folder / f"{number:02}-{_slug(trial.variation.name)}.journal"
        varied = vary(plan, trial.variation, trial.phases)
        trouble = ""
        try:
            conducted = conduct(file, varied, journal=journal, seed=seed, console=console, title=title)
        except ServiceError as error:
            trouble = f"the control's run could not be carried out: {error}"
        else:
            if conducted.interrupted:
                raise Interrupted(proofs.untried())
            if conducted.stopped is not None:
                trouble = f"the control's run was cut short: {conducted.stopped}"
        with open_run(journal) as run:
            judgement = judge(varied, run)
            verdicts = {control.gate.name: control.gate.judge(run) for control in trial.controls}
        row = trial.row(judgement, plan)
        yield row
        for control in trial.controls:
            told = (
                _Seen(False, f"{control.gate.name}: {trouble}")
                if trouble
                else _told(varied, judgement, verdicts[control.gate.name], red=trial.variation is control.red)
            )
            mark = "[green]as it must[/]" if told.as_it_must else "[red]NOT as it must[/]"
            console.print(f"  {mark}: {told.sentence}", highlight=False, soft_wrap=True)
            proofs.see(control, trial.variation, told)
        yield from proofs.news(row, judgement)


class _Proofs:
    """What has been seen of the controls so far, and the proofs that follow from it."""

    def __init__(self, by_gate: Mapping[str, Sequence[Control]]) -> None:
        self._by_gate = by_gate
        self._seen: dict[tuple[int, int], _Seen] = {}  # by identity: two variations may bear one name
        self._strays: dict[str, str] = {}
        self._told: set[str] = set()

    @property
    def controls(self) -> list[Control]:
        return [control for controls in self._by_gate.values() for control in controls]

    def uncontrolled(self) -> Iterator[GateProof]:
        for gate, controls in self._by_gate.items():
            if not controls:
                yield GateProof(gate, UNPROVEN, "the plan has no control for it")

    def see(self, control: Control, variation: Variation, told: _Seen) -> None:
        self._seen[id(control), id(variation)] = told

    def untried(self) -> list[str]:
        return [gate for gate, controls in self._by_gate.items() if controls and self._complete(controls) is None]

    def news(self, row: Row, judgement: Judgement) -> Iterator[GateProof]:
        """The proofs that are complete since the last time, and those that this run has taken back."""
        changed = set()
        for verdict in (*judgement.verdicts, *judgement.validity):
            if verdict.gate in row.without_cause and verdict.gate in self._by_gate:
                self._strays.setdefault(verdict.gate, f"failed without cause under {row.variation}: {verdict.because}")
                changed.add(verdict.gate)
        for gate, controls in self._by_gate.items():
            seen = self._complete(controls) if controls else None
            if seen is None or (gate in self._told and gate not in changed):
                continue
            self._told.add(gate)
            sentences = [one.sentence for one in seen]
            if gate in self._strays:
                yield GateProof(gate, UNPROVEN, " / ".join([self._strays[gate], *sentences]))
            else:
                status = PROVEN if all(one.as_it_must for one in seen) else UNPROVEN
                yield GateProof(gate, status, " / ".join(sentences))

    def _complete(self, controls: Sequence[Control]) -> list[_Seen] | None:
        """What was seen of all variations of a gate's controls; None while one is missing."""
        found = [self._seen.get((id(c), id(v))) for c in controls for v in (c.red, c.benign)]
        seen = [one for one in found if one is not None]
        return seen if len(seen) == len(found) else None


def _trials(plan: Plan, controls: Sequence[Control]) -> Iterator[_Trial]:
    variations = {id(v): v for control in controls for v in (control.red, control.benign)}
    for key, variation in variations.items():
        mine = [c for c in controls if key in (id(c.red), id(c.benign))]
        read = {phase for control in mine for phase in control.gate.phases}
        # A gate on the whole run is shown its variation in the phases which that changes, or in the first.
        if any(not control.gate.phases for control in mine):
            read |= {*variation.faults, *(p.name for p in variation.phases)} or {plan.phases[0].name}
        wanted = variation.only or read
        yield _Trial(variation, mine, [phase.name for phase in plan.phases if phase.name in wanted])


def _told(plan: Plan, judgement: Judgement, verdict: Verdict, *, red: bool) -> _Seen:
    """Whether the gate said of this run what it must, and the sentence.

    The run must be valid, whole and its faults effective; only of the plan's own demands on the harness may one fail,
    and only when it is such a demand that is being proven.
    """
    must = Outcome.FAIL if red else Outcome.PASS
    excused = {gate.name for gate in plan.valid_if}
    spoilt = [v for v in judgement.validity if v.outcome is not Outcome.PASS]
    if verdict.gate in excused:
        spoilt = [v for v in spoilt if v.gate not in excused]
    if spoilt:
        return _Seen(False, f"the control's run was invalid: {spoilt[0].because}")
    said = verdict.outcome.upper() if verdict.outcome is must else f"{verdict.outcome.upper()}, not {must.upper()}"
    return _Seen(verdict.outcome is must, f"{said}: {verdict.because}")


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")[:60]
