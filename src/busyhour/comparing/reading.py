"""Journals, one after the other: what each says of itself, and the number that it gives for each metric.

Of a run only these are kept, so that any number of journals is judged in the memory that one takes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from busyhour.comparing.metrics import DEATHS, Metric, measured
from busyhour.errors import JournalError, PlanError
from busyhour.gates import Judgement, judge
from busyhour.journal import open_run
from busyhour.model import JSON, Estimate, Outcome, Plan, Run
from busyhour.planfile import PlanFile, load

STAYED_UP, ENDED = "the target stayed up", "the run came to its end"
_SEED = "seed"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a journal says of how it was made; "" where it does not say (it is older than that, or made by hand)."""

    path: Path
    plan: str = ""
    source: str = field(default="", repr=False)
    given: Mapping[str, str] = field(default_factory=dict)  # all options of the plan
    options: Mapping[str, str] = field(default_factory=dict)  # those that must not differ
    seeds: str = ""  # of the callers' choices, and the plan's own: "0", "0/7"
    machine: str = ""
    processes: int = 1
    version: str = ""
    python: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    boot: str = ""
    started_at: str = ""  # ISO 8601, UTC
    phases: tuple[str, ...] = ()  # that began

    @classmethod
    def of(cls, path: Path, builds: Collection[str] = ()) -> Origin:
        """builds: the plan's options that name the build. Raises JournalError."""
        with open_run(path) as run:
            meta = run.meta
            phases = tuple(dict.fromkeys(mark.name for mark in run.marks("phase.began")))
        given = _texts(meta.get("options"))
        own = given.get(_SEED, "")
        seed = _text(meta.get("seed"))
        processes = meta.get("processes")
        return cls(
            path,
            plan=_text(meta.get("plan")),
            source=_text(meta.get("source")),
            given=given,
            options={name: value for name, value in given.items() if name not in {_SEED, *builds}},
            seeds=f"{seed}/{own}" if own else seed,
            machine=_text(meta.get("machine")),
            processes=processes if isinstance(processes, int) else 1,
            version=_text(meta.get("version")),
            python=_text(meta.get("python")),
            libraries=_texts(meta.get("libraries")),
            commit=_text(meta.get("commit")),
            boot=_text(meta.get("boot")),
            started_at=_text(meta.get("started_at")),
            phases=phases,
        )

    @property
    def plan_name(self) -> str:
        return Path(self.plan).name or "a plan that is not named"

    @property
    def when(self) -> str:
        """To the minute."""
        return f"{self.started_at[:16].replace('T', ' ')} UTC" if self.started_at else "at a time that is not told"


def _text(value: JSON) -> str:
    return "" if value is None else str(value)


def _texts(value: JSON) -> dict[str, str]:
    return {str(key): str(one) for key, one in value.items()} if isinstance(value, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Reading:
    """A run's estimates by metric; none where the run is `left_out` (a clause that says why)."""

    origin: Origin
    estimates: Mapping[Metric, Estimate] = field(default_factory=dict)
    left_out: str = ""

    def value(self, metric: Metric) -> float | None:
        estimate = self.estimates.get(metric)
        return None if estimate is None else estimate.value

    @property
    def died(self) -> bool:
        return self.value(DEATHS) == 1


def read(origin: Origin, plan: Plan) -> Reading:
    """Judge it. A run that says nothing of the target, or was cut short, is left out; of one whose target died only
    that is kept. Raises JournalError."""
    with open_run(origin.path) as run:
        judgement = judge(replace(plan, tables=()), run)
        return _reading(origin, plan, judgement, run)


def _reading(origin: Origin, plan: Plan, judgement: Judgement, run: Run) -> Reading:
    told = {verdict.gate: verdict for verdict in (*judgement.validity, *judgement.verdicts)}
    if judgement.outcome is Outcome.INVALID:
        broken = [one.because for one in judgement.validity if one.outcome is not Outcome.PASS]
        return Reading(origin, left_out=f"it is INVALID: {broken[0]}")
    died = told[STAYED_UP].outcome is Outcome.FAIL
    deaths = Estimate(DEATHS.what, DEATHS.unit, 1, float(died), float(died), float(died))
    if died:
        return Reading(origin, {DEATHS: deaths})
    if told[ENDED].outcome is Outcome.INCONCLUSIVE:
        return Reading(origin, left_out=f"it was cut short: {told[ENDED].because.removeprefix(f'{ENDED}: ')}")
    estimates = {metric: replace(one, evidence=None) for metric, one in measured(plan, judgement).items()}
    return Reading(origin, {**estimates, DEATHS: deaths})


# ---------------------------------------------------------------- finding them


def journals(places: Iterable[str]) -> list[Path]:
    """The journals named, and those directly in the folders named. Raises JournalError for a folder without any."""
    found: list[Path] = []
    for place in map(Path, places):
        if not place.is_dir():
            found.append(place)
            continue
        inside = sorted(place.glob("*.journal"))
        if not inside:
            raise JournalError(f"{place}: there is no journal in this folder (a file named *.journal)")
        found += inside
    return found


def plan_for(origins: Sequence[Origin], plan: str | None, options: Mapping[str, str]) -> PlanFile:
    """The plan that judges them: the one named, or the one by which they were made, where it still is.

    Raises PlanError where neither is there, or it is no plan.
    """
    chosen = dict(options) or dict(origins[0].given)
    if plan is not None:
        return load(Path(plan), chosen)
    recorded = list(dict.fromkeys(origin.plan for origin in origins if origin.plan))
    if not recorded:
        raise PlanError(f"{origins[0].path}: it does not say which plan made it; give the plan with --plan")
    there = [path for path in recorded if Path(path).exists()]
    if not there:
        raise PlanError(f"{recorded[0]}: the plan that made {origins[0].path} is no longer there; give it with --plan")
    return load(Path(there[0]), chosen)
