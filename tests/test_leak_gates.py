"""The gates that a leak breaks, on runs whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from busyhour.errors import PlanError
from busyhour.gates import AtMost, NoLeak, NothingLeft
from busyhour.gates.gaps import Gap, Watched
from busyhour.indicators import kept_per_call
from busyhour.model import SECOND, Mark, Operation, Outcome, Sample
from busyhour.statistics.leaks.cause import Sensor
from busyhour.testing import MemoryRun

BATCHES = ["warm-up", "first", "second", "third", "fourth"]


def hours(mb: np.ndarray, *, every_seconds: int = 30, marks: Sequence[Mark] = (), **others: np.ndarray) -> MemoryRun:
    """A run in which the agent's memory was read so."""
    readings = {"private_mb": mb, **others}
    samples = [
        Sample(i * every_seconds * SECOND, "agent", name, float(value))
        for name, values in readings.items()
        for i, value in enumerate(values)
    ]
    return MemoryRun(sampled=samples, marked=marks)


def noisy(count: int, *, mb_per_hour: float = 0.0, every_seconds: int = 30) -> np.ndarray:
    rng = np.random.default_rng(5)
    return 200 + rng.normal(0, 0.5, count) + mb_per_hour * np.arange(count) * every_seconds / 3600


def test_memory_that_grows_for_hours_is_a_leak_and_memory_that_does_not_is_none() -> None:
    gate = NoLeak("agent", 6)
    assert gate.name == "memory of agent grows by <= 6 MB/h"
    grows = gate.judge(hours(noisy(960, mb_per_hour=20)))
    assert grows.outcome is Outcome.FAIL
    assert "private dirty memory of agent: LEAK" in grows.because
    assert "in 7.99 h; limit 6 MB/h" in grows.because
    assert grows.estimate is not None
    assert grows.estimate.low is not None
    assert grows.estimate.high is not None
    assert 6 < grows.estimate.low < 20 < grows.estimate.high
    stays = gate.judge(hours(noisy(960)))
    assert stays.outcome is Outcome.PASS
    assert "NO LEAK" in stays.because
    assert "the smallest leak this run could have seen is" in stays.because


@pytest.mark.parametrize(("step_mb", "seconds"), [(0.128, 20), (0.128, 60), (4.0, 1100)])
def test_a_leak_that_comes_in_steps_is_not_cleared_by_minutes(step_mb: float, seconds: int) -> None:
    """12 MB an hour, of which so short a run sees no step, or one."""
    stairs = 300 + step_mb * np.floor(12 * np.arange(seconds) / 3600 / step_mb)
    brief = NoLeak("agent", 2).judge(hours(stairs, every_seconds=1))
    assert brief.outcome is Outcome.INCONCLUSIVE, brief.because
    assert "are too few to show it, 3 would" in brief.because


def test_a_slope_is_not_rounded_to_the_limit_that_it_breaks() -> None:
    exact = 200 + 6.003 * np.arange(960) * 30 / 3600
    leaks = NoLeak("agent", 6).judge(hours(exact))
    assert leaks.outcome is Outcome.FAIL
    assert "LEAK, 6.003 (6.003-6.003) MB/h" in leaks.because


def test_what_it_is_that_grows_is_named() -> None:
    mb = noisy(960, mb_per_hour=20)
    flat, rising = np.full(960, 5e5) + np.arange(960) % 7, 5e5 + 200 * np.arange(960.0)
    python = NoLeak("agent", 6).judge(hours(mb, process_python_blocks=rising, process_heap_bytes=1e6 * mb))
    assert "what grows: Python objects" in python.because
    native = NoLeak("agent", 6).judge(hours(mb, process_python_blocks=flat, process_heap_bytes=1e6 * mb))
    assert "what grows: native heap" in native.because
    kept = NoLeak("agent", 6).judge(hours(mb, process_python_blocks=flat, process_heap_bytes=5e7 + flat))
    assert kept.outcome is Outcome.INCONCLUSIVE
    assert "RETENTION" in kept.because


def test_too_short_a_run_does_not_decide_and_says_what_it_could_have_seen() -> None:
    verdict = NoLeak("agent", 6).judge(hours(noisy(60)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    nothing = NoLeak("agent", 6).judge(MemoryRun())
    assert nothing.outcome is Outcome.NOT_RUN
    assert "give the plan a probe of it" in nothing.because


def test_what_grows_in_less_time_than_a_warm_up_may_take_is_only_suspect() -> None:
    grows = hours(noisy(240, mb_per_hour=200))
    young = NoLeak("agent", 6, settling_hours=3).judge(grows)
    assert young.outcome is Outcome.INCONCLUSIVE
    assert "SUSPECT" in young.because
    assert "1.99 h may all have been warming up" in young.because
    grown = NoLeak("agent", 6, settling_hours=0.5).judge(grows)
    assert grown.outcome is Outcome.FAIL, grown.because


def test_a_restart_begins_another_life_and_no_slope_is_taken_across_it() -> None:
    """Each life is flat; together they look like growth."""
    mb = noisy(960) + 60 * (np.arange(960) >= 600)
    restarts = (np.arange(960) >= 600).astype(float)
    verdict = NoLeak("agent", 6).judge(hours(mb, restarts=restarts))
    assert verdict.outcome is Outcome.PASS, verdict.because
    assert "in 4.99 h, the longest of 2 lives" in verdict.because
    started = [Mark(0, "service.started", "agent"), Mark(600 * 30 * SECOND, "service.started", "agent")]
    assert NoLeak("agent", 6).judge(hours(mb, marks=started)).because == verdict.because


@pytest.mark.parametrize(("mb_per_hour", "alpha"), [(-1, 0.01), (float("nan"), 0.01), (6, 0.5), (6, 0)])
def test_a_limit_that_cannot_be_is_refused(mb_per_hour: float, alpha: float) -> None:
    with pytest.raises(PlanError, match="memory of agent grows"):
        NoLeak("agent", mb_per_hour, alpha=alpha)


# ---------------------------------------------------------------- batches


def batches(after: Mapping[str, Sequence[float]], *, ending: Sequence[str] = (), calls: int = 10) -> MemoryRun:
    """Batches of calls of ten seconds each, and what was read at the end of each."""
    samples, marks, operations = [], [], []
    for i, phase in enumerate(BATCHES):
        began_ns, ended_ns = i * 10 * SECOND, (i + 1) * 10 * SECOND - 1
        marks += [Mark(began_ns, "phase.began", phase), Mark(ended_ns, "phase.ended", phase)]
        samples += [Sample(began_ns + 1, "agent", name, values[i] + 50) for name, values in after.items()]
        samples += [Sample(ended_ns - 1, "agent", name, values[i]) for name, values in after.items()]
        why = ending[i] if ending else "hung up"
        operations += [
            Operation(
                id=f"{phase}/{n}", kind="call", phase=phase, due_ns=began_ns, ended_ns=ended_ns, detail={"why": why}
            )
            for n in range(calls)
        ]
    return MemoryRun(recorded=operations, sampled=samples, marked=marks)


def test_what_grows_batch_after_batch_is_left_by_calls() -> None:
    gate = NothingLeft("agent", BATCHES, [Sensor.DESCRIPTORS, Sensor.THREADS])
    left = gate.judge(batches({"fds": [40, 50, 60, 70, 80], "threads": [3, 3, 3, 3, 3]}))
    assert left.outcome is Outcome.FAIL
    assert "descriptors: it grew in 4 batches in a row (+10, +20, +30, +40 after each; 1 per call" in left.because
    clean = gate.judge(batches({"fds": [40, 41, 41, 40, 40], "threads": [3, 3, 3, 3, 3]}))
    assert clean.outcome is Outcome.PASS, clean.because
    assert "40 calls in 4 batches" in clean.because


def test_a_leak_of_one_ending_among_others_is_found() -> None:
    ending = ["hung up", "refused", "hung up", "refused", "refused"]
    left = NothingLeft("agent", BATCHES, [Sensor.TASKS]).judge(
        batches({"process_asyncio_tasks": [5, 15, 14, 24, 34]}, ending=ending)
    )
    assert left.outcome is Outcome.FAIL
    assert "whose calls ended by refused" in left.because


def test_a_batch_whose_end_was_not_watched_is_no_baseline() -> None:
    """The last that was read of it is of calls in progress: 50 more, beside which what the others leave is nothing."""
    run = batches({"fds": [40, 41, 42, 43, 44]})
    gate = NothingLeft("agent", BATCHES[:4], [Sensor.DESCRIPTORS])
    assert gate.judge(run).outcome is Outcome.FAIL
    away = Watched(run, [Gap(8 * SECOND, 10 * SECOND - 2, "the harness stood still")])
    assert gate.judge(away).outcome is Outcome.NOT_RUN
    beyond = Watched(run, [Gap(8 * SECOND, 10 * SECOND, "the harness stood still")])
    assert gate.judge(beyond).outcome is Outcome.NOT_RUN, "when calls came again was not watched either"


def test_what_was_not_read_is_said_and_nothing_read_is_not_run() -> None:
    gate = NothingLeft("agent", BATCHES)
    some = gate.judge(batches({"fds": [40, 40, 40, 40, 40]}))
    assert some.outcome is Outcome.PASS
    assert some.because.endswith("(threads, tasks, sockets, children: not read)")
    assert gate.judge(batches({})).outcome is Outcome.NOT_RUN
    assert gate.judge(batches({"fds": [1, 1, 1, 1, 1]}, calls=0)).outcome is Outcome.NOT_RUN
    with pytest.raises(PlanError, match="3 batches; give it four or more"):
        NothingLeft("agent", BATCHES[:3])


def test_memory_kept_per_call_is_what_each_batch_adds_after_the_first() -> None:
    gate = AtMost(kept_per_call("agent", BATCHES), 20, "KB")
    leak = gate.judge(batches({"private_mb": [100, 100.5, 101, 101.52, 102]}))
    assert leak.outcome is Outcome.FAIL
    assert "private dirty memory kept per call by agent from warm-up to fourth is 50 KB" in leak.because
    assert leak.because.endswith("over 20 KB: it grew so in 4 batches")
    warm = gate.judge(batches({"private_mb": [100, 100.01, 100, 100.02, 100]}))
    assert warm.outcome is Outcome.PASS
    unsure = gate.judge(batches({"private_mb": [100, 101, 99, 101.5, 100.2]}))
    assert unsure.outcome is Outcome.INCONCLUSIVE
    assert gate.judge(batches({})).outcome is Outcome.NOT_RUN
