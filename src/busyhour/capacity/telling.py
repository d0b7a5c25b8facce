"""The words and the JSON of a capacity search. The sentence is composed here, once.

    {
      "format": "busyhour.capacity", "version": 1,
      "outcome": "pass" | "fail" | "inconclusive" | "invalid", "exit_code": 0 | 1 | 2 | 3,
      "sentence": ..., "phase": ..., "target": ..., "journals": FOLDER,
      "passed": the largest concurrency that passed, 0 if none did,
      "bound": the smallest above it that did not, or null, "failed": the smallest that failed, or null,
      "limit": "target" | "harness" | "evidence" | "asked" | "unfinished",
      "shaky": [concurrencies that both passed and failed],
      "calls_at_slo_per_core": INTERVAL | null, "cores": of the target there, or null,
      "cpu_pct_per_call": NUMBER | null, "memory_mb_per_call": NUMBER | null,
      "law": {"rate_per_second", "contention", "coherency", "knee": INTERVAL, "n", "reached"} | null,
      "notes": [...], "levels": [{"at_once", "open_loop", "outcome", "gate", "because", "on", "journal", ...}, ...]
    }
    INTERVAL = {"value", "low", "high"}; NUMBER = a JSON number or "infinity"

Fields may be added within a version; none is removed or given another meaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import inf, isinf
from typing import TextIO

import numpy as np

from busyhour.capacity.finding import Capacity, Seen
from busyhour.model import EXIT_CODE, JSON, Outcome
from busyhour.statistics.capacity import Limit
from busyhour.statistics.scalability import Interval, Scalability
from busyhour.statistics.wording import number

FORMAT, VERSION = "busyhour.capacity", 1
_WIDTH = max(len(outcome.value) for outcome in Outcome)


# ---------------------------------------------------------------- one level


def told(seen: Seen, target: str) -> Iterator[str]:
    """A line of a level, and one more of what broke."""
    reading = seen.reading
    parts = [f"{number(reading.in_progress)} in progress, {_counted(reading.calls, 'call')} measured"]
    if reading.call_seconds is not None:
        parts.append(f"{number(reading.call_seconds)} s each")
    if (cores := reading.cores.get(target)) is not None:
        share = f", {number(100 * cores / reading.in_progress)} % of a core a call" if reading.in_progress else ""
        parts.append(f"{target} {number(cores)} cores{share}")
    if (memory := reading.memory_mb.get(target)) is not None:
        parts.append(f"{number(memory)} MB")
    if reading.lateness_ms is not None:
        parts.append(f"frames sent p99 {number(reading.lateness_ms)} ms late")
    yield f"{seen.outcome.value.upper():{_WIDTH}}  {seen.level.name:<10}  {'; '.join(parts)}"
    steers = seen.level.first or seen.level.open_loop  # of those it is no news that they decide little
    if seen.broke is not None and (seen.on or not steers):
        on = f" (on {seen.on})" if seen.on else ""
        yield f"{'':{_WIDTH}}  {seen.broke.because}{on}"


# ---------------------------------------------------------------- all of it


def lines_of(capacity: Capacity) -> Iterator[str]:
    """The end of the search, for people."""
    yield sentence(capacity)
    if (a_call := _memory_a_call(capacity)) is not None:
        cost = f"{number(a_call)} MB" if a_call > 0 else "no memory that could be seen"
        yield f"Each further call costs {capacity.target} {cost}."
    if capacity.law is not None:
        yield _law(capacity.law)
    if capacity.answer.shaky:
        levels = ", ".join(map(str, capacity.answer.shaky))
        yield f"Near the limit it does both: {levels} at once passed and failed."
    yield from capacity.notes


def sentence(capacity: Capacity) -> str:
    """Largest PASS, smallest FAIL, calls per core, and whose limit it is."""
    answer = capacity.answer
    if not answer.passed:
        return f"{capacity.phase}: {_without(capacity)}"
    times = sum(one.outcome is Outcome.PASS for one in capacity.at(answer.passed))
    gates = capacity.at(answer.passed)[0].gates
    passed = f"{answer.passed} at once pass all {gates} gates ({_counted(times, 'run')})"
    return f"{capacity.phase}: {passed}, {_bound(capacity)}; {_a_core(capacity)}"


def _without(capacity: Capacity) -> str:
    answer = capacity.answer
    why = _why(capacity, answer.bound)
    if answer.limit is Limit.TARGET and answer.bound == 1:
        return f"gates fail at one call, so there is no capacity to look for{why}"
    if answer.limit is Limit.HARNESS:
        return f"the harness is the limit, at {answer.bound} already, so nothing is said of the target{why}"
    if answer.limit is Limit.UNFINISHED:
        return "stopped before any level had passed; nothing is known yet"
    return f"no level was shown to pass{why}; gather more evidence at each: --calls, --seconds"


def _bound(capacity: Capacity) -> str:
    answer = capacity.answer
    why = _why(capacity, answer.bound)
    match answer.limit:
        case Limit.TARGET:
            return f"{answer.bound} fail{why}"
        case Limit.HARNESS:
            return (
                f"and {answer.bound} are more than the harness can place{why}: "
                "the limit is the harness's, the target's lies higher"
            )
        case Limit.EVIDENCE:
            failed = f", {answer.failed} fail{_why(capacity, answer.failed)}" if answer.failed else ""
            return f"{answer.bound} could not be decided{why}{failed}"
        case Limit.ASKED:
            if capacity.room is not None:
                return f"and more than {capacity.most} were not tried: {capacity.room.because}"
            return f"and more than {capacity.most} were not asked for: the target's limit lies higher"
        case Limit.UNFINISHED:
            failed = f"; {answer.failed} fail{_why(capacity, answer.failed)}" if answer.failed else ""
            return f"and the search was not finished{failed}"


def _why(capacity: Capacity, at_once: int | None) -> str:
    """What broke first at a level, and on what: of the run that says what the level came to."""
    if at_once is None:
        return ""
    told_by = [one for one in capacity.at(at_once) if one.broke is not None]
    worst = [one for one in told_by if one.outcome in {Outcome.FAIL, Outcome.INVALID}] or told_by
    if not worst or worst[0].broke is None:
        return ""
    on = f"; on {worst[0].on}" if worst[0].on else ""
    return f" ({worst[0].broke.because}{on})"


def _a_core(capacity: Capacity) -> str:
    a_core = calls_a_core(capacity)
    cores = _cores(capacity)
    if a_core is None or not cores:
        return (
            f"Calls@SLO per core cannot be told: {capacity.target} has no processes here whose CPU could be read"
            if not cores
            else f"Calls@SLO per core cannot be told: {capacity.target} used no CPU that could be measured"
        )
    interval = f" ({number(a_core.low or 0)}-{number(a_core.high or 0)})" if a_core.low != a_core.high else ""
    used = number(sum(cores) / len(cores))
    return f"Calls@SLO: {number(a_core.value)}{interval} per core of {capacity.target}, which used {used} of them there"


def calls_a_core(capacity: Capacity) -> Interval | None:
    """The largest level that passed over the cores that the target used there; low and high: by the runs at it."""
    cores = _cores(capacity)
    if not cores or min(cores) <= 0:
        return None
    passed = capacity.answer.passed
    return Interval(passed * len(cores) / sum(cores), passed / max(cores), passed / min(cores))


def _cores(capacity: Capacity) -> list[float]:
    """Of the target in each run that passed at the largest level that did."""
    return [
        one.reading.cores[capacity.target]
        for one in capacity.at(capacity.answer.passed)
        if one.outcome is Outcome.PASS and capacity.target in one.reading.cores
    ]


def _memory_a_call(capacity: Capacity) -> float | None:
    """By how much the target's memory grew with the level: the slope by least squares over what was held."""
    points = [
        (one.level.at_once, one.reading.memory_mb[capacity.target])
        for one in capacity.held
        if capacity.target in one.reading.memory_mb
    ]
    if len({n for n, _ in points}) < 2:
        return None
    n, memory = (np.asarray(column, dtype=np.float64) for column in zip(*points, strict=True))
    n -= n.mean()
    return float(n @ memory / (n @ n))


def _law(law: Scalability) -> str:
    told = (
        f"contention {number(100 * law.contention.value)} %, coherency {number(100 * law.coherency.value)} %, "
        f"n={law.n} up to {number(law.reached)} in progress"
    )
    low, high = law.knee.low, law.knee.high
    if low is None or high is None or (low <= 1 and isinf(high)):
        return f"Universal Scalability Law: too few levels, or too near to each other, to tell a knee ({told})."
    if isinf(law.knee.value):
        shown = f"none below {number(low)} calls"
        return f"Universal Scalability Law: no knee, {shown}: throughput rises with every call ({told})."
    interval = f"{number(low)} or more" if isinf(high) else f"{number(low)}-{number(high)}"
    beyond = ", beyond what was measured" if law.knee.value > law.reached else ""
    return f"Universal Scalability Law: the knee is at {number(law.knee.value)} calls ({interval}){beyond}; {told}."


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# ---------------------------------------------------------------- for programs


def report(capacity: Capacity, out: TextIO) -> None:
    """Write one JSON object and a newline to `out`."""
    json.dump(document(capacity), out, indent=2, allow_nan=False)
    out.write("\n")


def document(capacity: Capacity) -> Mapping[str, JSON]:
    """What there is to tell of it, for programs and pages."""
    answer, cores, a_core = capacity.answer, _cores(capacity), calls_a_core(capacity)
    mean = sum(cores) / len(cores) if cores else None
    return {
        "format": FORMAT,
        "version": VERSION,
        "outcome": capacity.outcome.value,
        "exit_code": EXIT_CODE[capacity.outcome],
        "sentence": sentence(capacity),
        "phase": capacity.phase,
        "target": capacity.target,
        "journals": str(capacity.folder),
        "passed": answer.passed,
        "bound": answer.bound,
        "failed": answer.failed,
        "limit": answer.limit.value,
        "shaky": list(answer.shaky),
        "calls_at_slo_per_core": None if a_core is None else _interval(a_core),
        "cores": mean,
        "cpu_pct_per_call": None if mean is None else 100 * mean / answer.passed,
        "memory_mb_per_call": _memory_a_call(capacity),
        "law": None if capacity.law is None else _law_object(capacity.law),
        "notes": list(capacity.notes),
        "levels": [_level(one) for one in capacity.seen],
    }


def _law_object(law: Scalability) -> Mapping[str, JSON]:
    return {
        "rate_per_second": _interval(law.rate),
        "contention": _interval(law.contention),
        "coherency": _interval(law.coherency),
        "knee": _interval(law.knee),
        "n": law.n,
        "reached": law.reached,
    }


def _level(seen: Seen) -> Mapping[str, JSON]:
    reading = seen.reading
    return {
        "at_once": seen.level.at_once,
        "open_loop": seen.level.open_loop,
        "outcome": seen.outcome.value,
        "gate": None if seen.broke is None else seen.broke.gate,
        "because": None if seen.broke is None else seen.broke.because,
        "on": seen.on,
        "journal": str(seen.journal),
        "window_seconds": None if seen.level.first else seen.level.window_seconds,
        "calls": reading.calls,
        "in_progress": reading.in_progress,
        "call_seconds": reading.call_seconds,
        "per_second": reading.per_second,
        "failed": dict(reading.failed),
        "cores": dict(reading.cores),
        "memory_mb": dict(reading.memory_mb),
        "send_lateness_p99_ms": reading.lateness_ms,
    }


def _interval(interval: Interval) -> Mapping[str, JSON]:
    values: Sequence[float | None] = (interval.value, interval.low, interval.high)
    told = ["infinity" if value == inf else value for value in values]
    return dict(zip(("value", "low", "high"), told, strict=True))
