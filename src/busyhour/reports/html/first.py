"""The first screen: what the run came to, what was run against what, and each gate's sentence with its drawing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from busyhour.columns import operations_of, samples_of
from busyhour.gates import Judgement
from busyhour.indicators.stages import Diagnosis
from busyhour.model import JSON, Outcome, Verdict
from busyhour.reports.html.gauge import Gauge, gauge
from busyhour.reports.html.scene import Scene
from busyhour.reports.html.words import duration
from busyhour.statistics.wording import number

INKS = 6
_UNKNOWN = "not in the journal"
_NO_COMMIT = "none that git could tell"
WORST_FIRST = [Outcome.INVALID, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.NOT_RUN, Outcome.PASS]
_ABOUT = {
    Outcome.PASS: "All that was demanded was shown to hold.",
    Outcome.FAIL: "At least one demand was shown to be broken.",
    Outcome.INCONCLUSIVE: "Nothing was shown to be broken, but not all was shown to hold.",
    Outcome.NOT_RUN: "Not all that was demanded was measured.",
    Outcome.INVALID: "The harness did not do its part, so nothing is said of the target.",
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stage of a latency as a piece of a bar of 1000: where it begins, how wide it is, and in which ink."""

    x: float
    width: float
    ink: int


@dataclass(frozen=True, slots=True)
class Where:
    """Which stage owns a latency: the sentence, and the stages of the slowest and of typical turns, drawn alike."""

    because: str
    slowest: Sequence[Stretch]
    typical: Sequence[Stretch]
    names: Sequence[tuple[int, str, str]]  # ink, stage, how long


@dataclass(frozen=True, slots=True)
class Line:
    """A verdict as it is shown: its sentence, the drawing beside it, and what else is to be said of it."""

    verdict: Verdict
    gauge: Gauge | None
    diagnoses: Sequence[Where]
    href: str = ""

    @property
    def mark(self) -> str:
        return mark_of(self.verdict.outcome)


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    text: str
    more: str = ""


def mark_of(outcome: Outcome) -> str:
    """The name of its colour and of its shape: "is-not-run"."""
    return f"is-{outcome.value.replace(' ', '-')}"


@dataclass(frozen=True, kw_only=True)
class First:
    """`broken` did not pass, worst first; `kept` did. `harness` is what was asked of ourselves, apart."""

    outcome: Outcome
    about: str
    counted: str
    broken: Sequence[Line]
    kept: Sequence[Line]
    harness: Sequence[Line]
    harness_told: str
    facts: Sequence[Fact]
    name: str
    started: str

    @property
    def mark(self) -> str:
        return mark_of(self.outcome)

    @property
    def harness_passed(self) -> bool:
        return all(line.verdict.outcome is Outcome.PASS for line in self.harness)


def first(scene: Scene, hrefs: Mapping[str, str]) -> First:
    """hrefs: by gate, where the page has the call that shows best why."""
    judgement = scene.judgement
    lines = [_line(verdict, judgement, hrefs) for verdict in judgement.verdicts]
    harness = [_line(verdict, judgement, {}) for verdict in judgement.validity]
    broken = [line for line in lines if line.verdict.outcome is not Outcome.PASS]
    broken.sort(key=lambda line: WORST_FIRST.index(line.verdict.outcome))
    passed = sum(line.verdict.outcome is Outcome.PASS for line in harness)
    return First(
        outcome=judgement.outcome,
        about=_ABOUT[judgement.outcome],
        counted=_counted(judgement),
        broken=broken,
        kept=sorted((line for line in lines if line not in broken), key=lambda line: not line.verdict.proof),
        harness=sorted(harness, key=lambda line: WORST_FIRST.index(line.verdict.outcome)),
        harness_told=f"{passed} of {len(harness)} checks of the harness pass",
        facts=list(_facts(scene)),
        name=PurePath(_word(scene, "plan")).stem or "run",
        started=_started(scene),
    )


def _line(verdict: Verdict, judgement: Judgement, hrefs: Mapping[str, str]) -> Line:
    told = [_where(one) for one in judgement.diagnoses if one.gate == verdict.gate]
    return Line(verdict, gauge(verdict), told, hrefs.get(verdict.gate, ""))


def _where(diagnosis: Diagnosis) -> Where:
    stages = [(ink % INKS or INKS, stage) for ink, stage in enumerate(diagnosis.stages, start=1)]
    slowest = [max(0.0, stage.ms) for _, stage in stages]
    typical = [max(0.0, stage.typical_ms or 0.0) for _, stage in stages]
    most = max(sum(slowest), sum(typical)) or 1.0
    inks = [ink for ink, _ in stages]
    names = [(ink, stage.name, f"{number(stage.ms)} ms") for ink, stage in stages]
    return Where(diagnosis.because, _bar(slowest, inks, most), _bar(typical, inks, most), names)


def _bar(lengths: Sequence[float], inks: Sequence[int], most: float) -> list[Stretch]:
    found, x = [], 0.0
    for length, ink in zip(lengths, inks, strict=True):
        width = 1000 * length / most
        if width > 0:
            found.append(Stretch(round(x, 2), round(width, 2), ink))
        x += width
    return found


def _counted(judgement: Judgement) -> str:
    """Of the plan's gates and the checks of the target how many came to what, and how many were proven able to fail."""
    counts = Counter(verdict.outcome for verdict in judgement.verdicts)
    told = [f"{counts[outcome]} {outcome.value}" for outcome in WORST_FIRST if counts[outcome]]
    proofs = Counter(verdict.proof for verdict in (*judgement.validity, *judgement.verdicts))
    of = proofs["proven"] + proofs["unproven"]
    proven = f"{proofs['proven']} of {of} gates proven able to fail" if of else ""
    return "; ".join(filter(None, (", ".join(told), proven)))


# ---------------------------------------------------------------- what was run against what


def _facts(scene: Scene) -> Sequence[Fact]:
    meta = scene.run.meta
    options, libraries = meta.get("options"), meta.get("libraries")
    chosen = ", ".join(f"{k}={v}" for k, v in options.items()) if isinstance(options, Mapping) else ""
    versions = " ".join(f"{k} {v}" for k, v in libraries.items()) if isinstance(libraries, Mapping) else ""
    processes, carrier, seed = meta.get("processes", 1), _word(scene, "carrier"), meta.get("seed")
    shared = f"by {processes} processes" if isinstance(processes, int) and processes > 1 else ""
    return [
        Fact("Plan", _word(scene, "plan") or _UNKNOWN, chosen),
        Fact("Target", scene.target or _UNKNOWN, f"over {carrier}" if carrier else ""),
        Fact("Measured", _measured(scene), shared),
        Fact("Started", _started(scene) or _UNKNOWN, f"lasted {duration(scene.seconds)}"),
        Fact("Commit", _commit(scene), "" if seed is None else f"seed {seed}"),
        Fact("Machine", _word(scene, "machine") or _UNKNOWN),
        Fact("Versions", _versions(scene), versions),
    ]


def _commit(scene: Scene) -> str:
    return _NO_COMMIT if scene.run.meta.get("commit") == "" else _word(scene, "commit") or _UNKNOWN


def _measured(scene: Scene) -> str:
    calls, turns, functions = (len(operations_of(scene.run, kind)) for kind in ("call", "turn", "function"))
    requests = int(samples_of(scene.run, "requests", "latency_ms").count.sum())
    told = [(calls, "calls"), (turns, "turns of their callers"), (functions, "functions"), (requests, "requests")]
    return ", ".join(f"{count:,} {noun}" for count, noun in told if count) or "no calls"


def _versions(scene: Scene) -> str:
    version, python = _word(scene, "version"), _word(scene, "python")
    told = [version and f"busyhour {version}", python and f"Python {python}"]
    return ", ".join(filter(None, told)) or _UNKNOWN


def _started(scene: Scene) -> str:
    told = _word(scene, "started_at")
    return f"{told[:19].replace('T', ' ')} UTC" if told else ""


def _word(scene: Scene, key: str) -> str:
    value: JSON = scene.run.meta.get(key)
    return value if isinstance(value, str) else ""
