"""What a level's journal tells beside its verdicts: throughput, what was used of the machine, and what it broke on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from busyhour.capacity.level import Level
from busyhour.gates import Judgement
from busyhour.model import SECOND, Operation, Outcome, Run, Sample, Verdict
from busyhour.statistics.wording import number

HARNESS = "harness"
_SATURATED = 0.85  # of what there is: beyond it, queues are longer than what is in them
_SPENT = 0.95  # of the files it may have open: they are counted but once a second
_REASONS_TOLD = 3
_TURNED_AWAY = {"busy", "media refused", "rejected"}  # outcomes of calls that the target said no to


@dataclass(frozen=True, slots=True)
class Files:
    """How many files the process nearest to its limit had open, and that limit."""

    open: float
    limit: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Of one level's window. Cores and memory by service, the harness among them; only of those with processes.

    in_progress: calls, on average. per_second: calls that went well. failed: calls by why they did not.
    """

    calls: int
    in_progress: float
    call_seconds: float | None
    per_second: float
    failed: Mapping[str, int] = field(default_factory=dict)
    cores: Mapping[str, float] = field(default_factory=dict)
    memory_mb: Mapping[str, float] = field(default_factory=dict)
    processes: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, Files] = field(default_factory=dict)
    lateness_ms: float | None = None


def read(run: Run, phase: str, level: Level, services: Sequence[str]) -> Reading:
    """Raises JournalError."""
    began_ns, until_ns = _window(run, phase, level)
    calls = run.operations("call", phase)
    everybody = [call for part in (phase, f"{phase}: warm-up", f"{phase}: cool-down") for call in _calls(run, part)]
    lengths = [(call.ended_ns - call.due_ns) / SECOND for call in calls if call.ended_ns is not None]
    length = sum(lengths) / len(lengths) if lengths else None
    in_progress = _overlap_ns(everybody, began_ns, until_ns) / max(1, until_ns - began_ns)
    well = sum(call.outcome == "ok" for call in calls) / len(calls) if calls else 0.0

    def each(name: str, of: str = "mean") -> dict[str, float]:
        found = {
            service: _averaged(run.samples(service, name, phase), began_ns, until_ns, of=of)
            for service in (HARNESS, *services)
        }
        return {service: value for service, value in found.items() if value is not None}

    limits = each("fullest_fds_limit", of="most")
    return Reading(
        calls=len(calls),
        in_progress=in_progress,
        call_seconds=length,
        # Little's law: of what is in progress, each for so long. It has less noise than counting ends in a window.
        per_second=well * in_progress / length if length else 0.0,
        failed=Counter(call.outcome for call in calls if call.outcome != "ok"),
        cores={service: percent / 100 for service, percent in each("cpu_pct").items()},
        memory_mb=each("rss_mb", of="most"),
        processes=each("processes", of="most"),
        files={service: Files(opened, limits[service]) for service, opened in each("fullest_fds", of="most").items()},
        lateness_ms=_p99(run.samples(HARNESS, "send_lateness_ms", phase)),
    )


def _calls(run: Run, phase: str) -> Sequence[Operation]:
    return run.operations("call", phase)


def _window(run: Run, phase: str, level: Level) -> tuple[int, int]:
    """The measured part of the phase, in ns; what the phase lasted, where that is shorter."""
    began_ns = next((mark.at_ns for mark in run.marks("phase.began") if mark.name == phase), 0)
    ends = [mark.at_ns for kind in ("phase.ended", "run.stopped", "run.failed") for mark in run.marks(kind)]
    began_ns += round(level.warm_up_seconds * SECOND)
    until_ns = began_ns + round(level.window_seconds * SECOND)
    return began_ns, max(began_ns, min([until_ns, *ends]))


def _overlap_ns(calls: Sequence[Operation], began_ns: int, until_ns: int) -> int:
    return sum(
        max(0, min(until_ns, call.ended_ns) - max(began_ns, call.began_ns or call.due_ns))
        for call in calls
        if call.ended_ns is not None
    )


def _averaged(samples: Sequence[Sample], began_ns: int, until_ns: int, *, of: str) -> float | None:
    """The mean over time, each reading being of the time since the one before it, or the most; within the window, or of
    what there is when the window was too short for any."""
    spans = [
        (one.value, max(1, one.at_ns - (samples[i - 1].at_ns if i else one.at_ns - SECOND)), one.at_ns)
        for i, one in enumerate(samples)
    ]
    within = [span for span in spans if began_ns <= span[2] <= until_ns] or spans
    if not within:
        return None
    if of == "most":
        return max(value for value, _, _ in within)
    return sum(value * span for value, span, _ in within) / sum(span for _, span, _ in within)


def _p99(samples: Sequence[Sample]) -> float | None:
    ordered = sorted((sample.value, sample.count) for sample in samples)
    beyond = 0.01 * sum(count for _, count in ordered)
    while len(ordered) > 1 and ordered[-1][1] <= beyond:
        beyond -= ordered.pop()[1]
    return ordered[-1][0] if ordered else None


# ---------------------------------------------------------------- what it broke on


def broken(judgement: Judgement) -> Verdict | None:
    """The first verdict that made the level what it is: of the harness if it is invalid, else of the target."""
    asked = judgement.validity if judgement.outcome is Outcome.INVALID else judgement.verdicts
    if judgement.outcome is Outcome.PASS:
        return None
    same = [verdict for verdict in asked if verdict.outcome is judgement.outcome]
    return next(iter(same or [v for v in asked if v.outcome is not Outcome.PASS]), None)


@dataclass(frozen=True, slots=True)
class Cause:
    """On what a level broke, and whether it was on a part of the harness, which says nothing of the target."""

    words: str
    harness: bool = False


def cause(reading: Reading, target: str, *, machine_cores: int, invalid: bool = False) -> Cause:
    """As far as the probes tell: the target's limit of open files, its processor, its own refusals, the processor of a
    twin, of the machine; errors; or lateness with time to spare. Whom a slow twin holds up is late, and turns nobody
    away for it. A machine that is full of target and harness together is that of the target, too: it is said by how
    much.
    invalid: it was the harness that was late, so of the target no more is said than what it used.
    """
    saturated = [who for who, _ in _greatest(reading.cores) if _saturated(reading, who, machine_cores)]
    if reading.failed and (exhausted := _out_of_files(reading, target)) and not invalid:
        return Cause(exhausted)
    if target in saturated and not invalid:
        return Cause(f"CPU: {_used(reading, target)}" + (f", and {_refusals(reading)}" if _refusals(reading) else ""))
    if _refusals(reading) and not invalid:
        return Cause(f"refusals: {target} {_refusals(reading)}, which is a limit of its own")
    if parts := [who for who in saturated if who != target]:
        return Cause(f"CPU: {_used(reading, parts[0])}, which is of the harness and not of the target", harness=True)
    if sum(reading.cores.values()) >= _SATURATED * machine_cores:
        used = ", ".join(f"{who} {number(cores)}" for who, cores in _greatest(reading.cores))
        return Cause(f"CPU: all of the machine's {machine_cores} cores are in use ({used})")
    return _late_harness(reading, machine_cores) if invalid else _errors_or_lateness(reading, target)


def _late_harness(reading: Reading, machine_cores: int) -> Cause:
    own = f" with {number(reading.cores[HARNESS])} cores of its own" if HARNESS in reading.cores else ""
    used = number(sum(reading.cores.values()))
    return Cause(f"lateness of the harness{own}, {used} of the machine's {machine_cores} cores used by all of the run")


def _out_of_files(reading: Reading, target: str) -> str:
    files = reading.files.get(target)
    if files is None or files.open < _SPENT * files.limit:
        return ""
    return f"files: a process of {target} has {files.open:.0f} open and may have {files.limit:.0f} (`ulimit -n`)"


def _refusals(reading: Reading) -> str:
    """ "" where the most of what failed was not refused."""
    refused = {reason: count for reason, count in reading.failed.items() if reason in _TURNED_AWAY}
    total = sum(refused.values())
    if 2 * total <= sum(reading.failed.values()):
        return ""
    return f"turned {total} of {reading.calls} calls away ({_counted(refused)})"


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in Counter(reasons).most_common(_REASONS_TOLD))


def _errors_or_lateness(reading: Reading, target: str) -> Cause:
    if reading.failed:
        failed = sum(reading.failed.values())
        return Cause(f"errors: {failed} of {reading.calls} calls failed ({_counted(reading.failed)})")
    if target not in reading.cores:
        return Cause("lateness; the target's CPU is not known")
    return Cause(f"lateness, while {_used(reading, target)}: it waits, and does not compute")


def _saturated(reading: Reading, who: str, machine_cores: int) -> bool:
    """A process is taken to have one core, as one of Python or of Node has."""
    return reading.cores[who] >= _SATURATED * min(max(1.0, reading.processes.get(who, 1.0)), machine_cores)


def _used(reading: Reading, who: str) -> str:
    processes = round(max(1.0, reading.processes.get(who, 1.0)))
    return f"{who} uses {number(reading.cores[who])} cores with {processes} process{'' if processes == 1 else 'es'}"


def _greatest(cores: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(cores.items(), key=lambda item: -item[1])
