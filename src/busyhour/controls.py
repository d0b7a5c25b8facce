"""Proving that gates can fail: each against a control just past its limit and a benign one just inside.

A gate is PROVEN when its red control makes it FAIL and its benign one makes it PASS, both in valid runs. Controls that
share a variation share its run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from busyhour import __version__
from busyhour.clock import wall_time
from busyhour.conduct import PROOFS_SUFFIX, conduct
from busyhour.errors import PlanError
from busyhour.gates import judge
from busyhour.journal import open_run
from busyhour.model import Control, Outcome, Plan, Variation, Verdict
from busyhour.planfile import PlanFile, vary


@dataclass(frozen=True)
class Proof:
    """What became of one gate's control. `status` is "proven" or "unproven"; `because` says what was seen."""

    gate: str
    status: str
    because: str


@dataclass(frozen=True)
class _Trial:
    """One run of one variation, and the gates that it must turn red or leave green."""

    variation: Variation
    controls: Sequence[Control]
    phases: Sequence[str]


def prove(file: PlanFile, *, only: str, folder: Path, seed: int, console: Console) -> list[Proof]:
    """Run every control whose gate's name contains `only`; gates without a control are unproven. Raises PlanError.

    Ctrl-C ends it: only gates whose controls had both been run are then concluded, so that earlier proofs stay.
    """
    plan = file.plan
    gates = [gate.name for gate in [*plan.gates, *plan.valid_if] if only in gate.name]
    if not gates:
        raise PlanError(f"{file.path}: no gate's name contains {only!r}")
    controls = [control for control in plan.controls if control.gate.name in gates]
    seen: dict[tuple[str, str], tuple[bool, str]] = {}
    trials = list(_trials(plan, controls))
    for number, trial in enumerate(trials, start=1):
        title = f"control {number} of {len(trials)}: {trial.variation.name}"
        path = folder / f"{number:02}-{_slug(trial.variation.name)}.journal"
        varied = vary(plan, trial.variation, trial.phases)
        conducted = conduct(file, varied, journal=path, seed=seed, console=console, title=title)
        if conducted.interrupted:
            gates = [c.gate.name for c in controls if {(c.gate.name, v.name) for v in (c.red, c.benign)} <= seen.keys()]
            break
        for control in trial.controls:
            told, why = _told_apart(varied, path, control, trial.variation, conducted.stopped)
            seen[control.gate.name, trial.variation.name] = (told, why)
            mark = "[green]as it must[/]" if told else "[red]NOT as it must[/]"
            console.print(f"  {mark}: {why}", highlight=False, soft_wrap=True)
    return [_concluded(name, controls, seen) for name in gates]


def _trials(plan: Plan, controls: Sequence[Control]) -> Iterator[_Trial]:
    variations = {id(v): v for control in controls for v in (control.red, control.benign)}
    for key, variation in variations.items():
        mine = [c for c in controls if key in (id(c.red), id(c.benign))]
        read = {phase for control in mine for phase in control.gate.phases}
        # A gate on the whole run is shown its variation in the phases which that changes, or in the first.
        if any(not control.gate.phases for control in mine):
            read |= {*variation.faults, *(p.name for p in variation.phases)} or {plan.phases[0].name}
        yield _Trial(variation, mine, [phase.name for phase in plan.phases if phase.name in read])


def _told_apart(
    plan: Plan, journal: Path, control: Control, variation: Variation, stopped: str | None
) -> tuple[bool, str]:
    """Whether the gate said of this run what it must, and the sentence."""
    must = Outcome.FAIL if variation is control.red else Outcome.PASS
    if stopped is not None:
        return False, f"{control.gate.name}: the control's run was {stopped}"
    with open_run(journal) as run:
        verdict = control.gate.judge(run)
        judgement = judge(plan, run)
    harness = control.gate.name in {gate.name for gate in plan.valid_if}
    spoilt = [v for v in judgement.validity if v.outcome is not Outcome.PASS]
    if spoilt and not harness:
        return False, f"{control.gate.name}: the control's run was invalid: {spoilt[0].because}"
    return verdict.outcome is must, _sentence(verdict, must)


def _sentence(verdict: Verdict, must: Outcome) -> str:
    said = verdict.outcome.upper()
    return f"{said}: {verdict.because}" if verdict.outcome is must else f"{said}, not {must.upper()}: {verdict.because}"


def _concluded(gate: str, controls: Sequence[Control], seen: dict[tuple[str, str], tuple[bool, str]]) -> Proof:
    control = next((c for c in controls if c.gate.name == gate), None)
    if control is None:
        return Proof(gate, "unproven", "the plan has no control for it")
    trials = [seen[gate, variation.name] for variation in (control.red, control.benign)]
    status = "proven" if all(told_apart for told_apart, _ in trials) else "unproven"
    return Proof(gate, status, " / ".join(sentence for _, sentence in trials))


def keep(file: PlanFile, proofs: Sequence[Proof]) -> Path:
    """Write the proofs beside the plan, where runs and reports find them; earlier ones of other gates stay."""
    path = file.path.with_name(file.path.stem + PROOFS_SUFFIX)
    try:
        gates = dict(json.loads(path.read_text())["gates"])
    except (OSError, ValueError, KeyError, TypeError):
        gates = {}
    now = wall_time()
    for proof in proofs:
        gates[proof.gate] = {
            "status": proof.status,
            "because": proof.because,
            "proved_at": now,
            "busyhour": __version__,
        }
    path.write_text(json.dumps({"version": 1, "gates": gates}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")[:60]
