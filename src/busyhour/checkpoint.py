"""Judges a run that is going on, in a process of its own: `python -m busyhour.checkpoint JOURNAL`.

It is judged as if it had been stopped just now, by the plan that made it. Printed is a line of JSON: of each gate the
outcome, the sentence, and whether all that it reads is over, so that it will not say anything else later. Hours of
samples take a second to judge: not in the process that paces audio, and at the lowest priority.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from busyhour.columns import OperationColumns, SampleColumns
from busyhour.errors import BusyhourError, JournalError
from busyhour.gates import judge
from busyhour.journal import StoredRun, open_run
from busyhour.model import JSON, Gate, Mark, Operation, Plan, Sample
from busyhour.planfile import load

_WHY = "this is a checkpoint"


class SoFar:
    """A run that goes on, as if it had been stopped at the last instant that is known of it."""

    def __init__(self, run: StoredRun) -> None:
        self._run = run
        self._stopped = Mark(run.last_ns(), "run.stopped", "", {"why": _WHY})

    @property
    def meta(self) -> Mapping[str, JSON]:
        return self._run.meta

    def operations(self, kind: str, phase: str | None = None) -> Sequence[Operation]:
        return self._run.operations(kind, phase)

    def samples(self, source: str, name: str, phase: str | None = None) -> Sequence[Sample]:
        return self._run.samples(source, name, phase)

    def operation_columns(
        self, kind: str, phase: str | None = None, *, instants: Sequence[str] = (), texts: Sequence[str] = ()
    ) -> OperationColumns:
        return self._run.operation_columns(kind, phase, instants=instants, texts=texts)

    def sample_columns(self, source: str, name: str, phase: str | None = None) -> SampleColumns:
        return self._run.sample_columns(source, name, phase)

    def marks(self, kind: str) -> Sequence[Mark]:
        marks = self._run.marks(kind)
        return [*marks, self._stopped] if kind == "run.stopped" else marks


def judged_so_far(path: Path) -> list[dict[str, JSON]]:
    """Of each gate of the plan: "gate", "outcome", "because", "over". Raises JournalError, PlanError."""
    with open_run(path) as run:
        options, plan_path = run.meta.get("options"), run.meta.get("plan")
        if not isinstance(plan_path, str):
            raise JournalError(f"{path}: it does not say which plan made it")
        words = {str(k): str(v) for k, v in options.items()} if isinstance(options, Mapping) else {}
        plan = load(Path(plan_path), words).plan
        ended = {mark.name for mark in run.marks("phase.ended")}
        gates = {gate.name: gate for gate in (*plan.gates, *plan.valid_if)}
        judgement = judge(plan, SoFar(run))
        return [
            {
                "gate": verdict.gate,
                "outcome": verdict.outcome.value,
                "because": verdict.because,
                "over": _over(gates[verdict.gate], plan, ended),
            }
            for verdict in (*judgement.validity, *judgement.verdicts)
            if verdict.gate in gates
        ]


def _over(gate: Gate, plan: Plan, ended: set[str]) -> bool:
    read = gate.phases or [phase.name for phase in plan.phases]
    return ended.issuperset(read)


def main(arguments: Sequence[str]) -> int:
    os.nice(19)
    try:
        sys.stdout.write(json.dumps(judged_so_far(Path(arguments[0]))) + "\n")
    except BusyhourError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
