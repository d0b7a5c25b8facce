"""All the verdicts of a run, and the one outcome they come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from busyhour.gates.calls import Calls
from busyhour.gates.gaps import Watched
from busyhour.gates.health import HARNESS, TARGET, not_carried_out
from busyhour.gates.limits import AtMost, Between
from busyhour.indicators.stages import Diagnosis, Missed, diagnose
from busyhour.model import EXIT_CODE, Estimate, Gate, Outcome, Plan, Run, Table, Verdict

_BADNESS = list(Outcome)


@dataclass(frozen=True)
class Tabled:
    """A table of the plan with its estimates; None where it asks for none."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Estimate | None, ...]], ...]

    @classmethod
    def of(cls, table: Table, run: Run) -> Tabled:
        rows = (
            (name, tuple(None if indicator is None else indicator(run) for indicator in cells))
            for name, cells in table.rows.items()
        )
        return cls(table.title, tuple(table.columns), tuple(rows))


@dataclass(frozen=True)
class Judgement:
    """`validity` is what was asked of the harness, `verdicts` what was asked of the target; `tables` judge nothing, nor
    do `diagnoses`: which stage owns a latency whose gate is FAIL or INCONCLUSIVE."""

    verdicts: tuple[Verdict, ...]
    validity: tuple[Verdict, ...]
    outcome: Outcome
    tables: tuple[Tabled, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODE[self.outcome]

    @property
    def unproven(self) -> int:
        """How many of the plan's gates were never shown to be able to fail."""
        return sum(verdict.proof == "unproven" for verdict in (*self.verdicts, *self.validity))


def judge(plan: Plan, run: Run) -> Judgement:
    """Judge the harness first; if it does not pass, every verdict about the target is INVALID.

    The plan's gates judge what was watched: what overlaps a gap is left out, and their sentences say so. A plan without
    gates demands nothing, which is not a PASS: NOT_RUN.
    """
    idle, seen = not_carried_out(run), Watched.of(run)
    validity = (*(_built_in(check, run) for check in HARNESS), *(_proved(gate, seen, idle) for gate in plan.valid_if))
    asked = [*HARNESS, *(gate for gate in plan.valid_if if idle.keys().isdisjoint(gate.phases))]
    broken = [verdict for verdict in validity if verdict.outcome is not Outcome.PASS and verdict.gate in _names(asked)]
    if broken:
        return Judgement(tuple(_void(plan, run, broken)), validity, Outcome.INVALID)
    verdicts = (*(_built_in(check, run) for check in TARGET), *(_proved(gate, seen, idle) for gate in plan.gates))
    least = Outcome.PASS if plan.gates else Outcome.NOT_RUN
    tables = tuple(Tabled.of(table, seen) for table in plan.tables)
    outcome = worst([least, *(verdict.outcome for verdict in verdicts)])
    return Judgement(verdicts, validity, outcome, tables, diagnose(seen, _missed(plan.gates, verdicts[len(TARGET) :])))


def unsaid(run: Run, judgement: Judgement) -> str:
    """What stands for the target's verdicts where nothing is said of it; "" of a run whose harness did its part."""
    if all(verdict.outcome is Outcome.PASS for verdict in judgement.validity):
        return ""
    failed = Calls.of(run).all_failed
    count = len(judgement.verdicts)
    unjudged = f"nothing is said of the target: {count} gate{'' if count == 1 else 's'} not judged"
    return _clean("; ".join(filter(None, (unjudged, failed))))


def _missed(gates: Iterable[Gate], verdicts: Iterable[Verdict]) -> list[Missed]:
    """The limits from above that were not shown to be kept."""
    return [
        Missed(gate.name, gate.indicator, verdict.estimate.value)
        for gate, verdict in zip(gates, verdicts, strict=True)
        if isinstance(gate, AtMost | Between) and verdict.outcome in {Outcome.FAIL, Outcome.INCONCLUSIVE}
        if verdict.estimate is not None and verdict.estimate.value is not None
    ]


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of the outcomes, in the order in which model.Outcome lists them."""
    return max(outcomes, key=_BADNESS.index)


def _built_in(check: Gate, run: Run) -> Verdict:
    return _printable(replace(check.judge(run), proof=""))


def _proved(gate: Gate, run: Run, idle: Mapping[str, str]) -> Verdict:
    """idle: the phases that were not carried out, and why: of those no gate says anything."""
    unread = [phase for phase in gate.phases if phase in idle]
    if unread:
        because = f"{gate.name}: phase {unread[0]} was not carried out: {idle[unread[0]]}"
        return _printable(Verdict(gate.name, Outcome.NOT_RUN, because, None, _proof(gate, run)))
    verdict = replace(gate.judge(run), proof=_proof(gate, run))
    if isinstance(run, Watched) and (left_out := run.told(gate.phases)):
        verdict = replace(verdict, because=f"{verdict.because} ({left_out})")
    return _printable(verdict)


def _names(gates: Iterable[Gate]) -> set[str]:
    return {gate.name for gate in gates}


def _printable(verdict: Verdict) -> Verdict:
    """On one line and without control characters: a sentence may quote the last words of a process."""
    return replace(verdict, because=_clean(verdict.because))


def _clean(sentence: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(sentence.split()))


def _proof(gate: Gate, run: Run) -> str:
    """Only the word "proven" proves; what is not known is not proven."""
    proofs = run.meta.get("proofs")
    proven = isinstance(proofs, Mapping) and proofs.get(gate.name) == "proven"
    return "proven" if proven else "unproven"


def _void(plan: Plan, run: Run, broken: list[Verdict]) -> Iterable[Verdict]:
    """The target's gates are not even asked: a number beside INVALID would be believed."""
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    for gate in (*TARGET, *plan.gates):
        because = f"{gate.name}: the run does not say{more}, because {broken[0].because}"
        yield Verdict(gate.name, Outcome.INVALID, because, None, "" if gate in TARGET else _proof(gate, run))
