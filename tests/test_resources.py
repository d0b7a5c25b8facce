"""Means, growths and prices made of a probe's samples, and what is said where it could not read."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from busyhour.gates import AtMost, NoLeak, NothingLeft
from busyhour.indicators import (
    cpu_per_call,
    growth_per_call,
    growth_per_hour,
    kept_per_call,
    log_per_call,
    log_per_hour,
    mean_probed,
    probed,
    second_half_over_first,
)
from busyhour.model import SECOND, Indicator, Mark, Operation, Outcome, Run, Sample
from busyhour.statistics.leaks.cause import Sensor
from busyhour.testing import MemoryRun, call, whole_run


def read(name: str, values: Sequence[tuple[float, float]], source: str = "agent") -> list[Sample]:
    """At such seconds, such values."""
    return [Sample(round(at_s * SECOND), source, name, value) for at_s, value in values]


def steady(*samples: Sequence[Sample], calls: Sequence[Operation] = (), marks: Sequence[Mark] = ()) -> MemoryRun:
    """An hour."""
    return whole_run(*calls, samples=[one for some in samples for one in some], marks=marks, seconds=3600)


def value_of(indicator: Indicator, run: Run) -> float:
    value = indicator(run).value
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("rss_mb", "MB"),
        ("disk_written_mb_per_second", "MB/s"),
        ("voluntary_switches_per_second", "/s"),
        ("cpu_pct", "%"),
        ("threads", ""),
        ("mb", ""),
    ],
)
def test_the_unit_of_a_reading_is_the_end_of_its_name(name: str, unit: str) -> None:
    assert probed("agent", name).unit == unit
    assert mean_probed("agent", name, "steady").unit == unit
    assert unit == "" or name.rpartition("_")[2] not in probed("agent", name).what.split()


def test_a_mean_weighs_each_reading_by_the_time_it_speaks_for() -> None:
    run = steady(read("cpu_pct", [(1, 10), (2, 10), (3, 10), (4, 10), (4.5, 40), (5, 40)]))
    mean = mean_probed("agent", "cpu_pct", "steady")
    assert mean.what == "mean cpu of agent in steady"
    assert value_of(mean, run) == pytest.approx((4 * 10 + 40) / 5)
    verdict = AtMost(mean, 20, "%").judge(run)
    assert verdict.because == "mean cpu of agent in steady is 16 % (n=6), within 20 %"


def test_a_reading_after_a_gap_does_not_speak_for_the_gap() -> None:
    run = steady(read("cpu_pct", [(1, 10), (2, 10), (3, 10), (1003, 70)]))
    assert value_of(mean_probed("agent", "cpu_pct", "steady"), run) == pytest.approx((3 * 10 + 2 * 70) / 5)


def test_nothing_read_is_no_mean() -> None:
    assert mean_probed("agent", "cpu_pct", "steady")(steady()).value is None
    assert AtMost(log_per_hour("agent", "steady"), 1, "MB/h").judge(steady()).outcome is Outcome.NOT_RUN


def test_what_a_total_grew_by_is_told_by_the_hour_and_by_the_call() -> None:
    calls = [call(n, at_s=60 * n, seconds=30) for n in range(10)]
    run = steady(read("output_mb", [(0, 1.0), (900, 2.0), (1800, 3.0)]), calls=calls)
    assert value_of(log_per_hour("agent", "steady"), run) == pytest.approx(4.0)
    assert log_per_call("agent", "steady").what == "log of agent per call in steady"
    assert value_of(log_per_call("agent", "steady"), run) == pytest.approx(2000 / 10)
    assert value_of(growth_per_hour("agent", "output_mb", "steady"), run) == pytest.approx(4.0)
    per_call = growth_per_call("agent", "output_mb", "steady")
    assert per_call.unit == "KB"
    assert value_of(per_call, run) == pytest.approx(200)


def test_a_total_that_begins_anew_counts_from_nothing() -> None:
    run = steady(read("log_mb", [(0, 5.0), (1200, 6.0), (2400, 0.5), (3600, 1.5)]))
    assert value_of(growth_per_hour("agent", "log_mb", "steady"), run) == pytest.approx(1 + 0.5 + 1)


def busy(cpu_ms: Sequence[float], *, every_s: float = 30) -> MemoryRun:
    """A call at a time, one after the other, each of which takes so much of the processor at an even pace."""
    calls = [call(n, at_s=every_s * n, seconds=every_s) for n in range(len(cpu_ms) + 1)]
    seconds = [
        (every_s * (n + 1) + s, cpu_ms[n] / 10 / every_s)
        for n in range(len(cpu_ms))
        for s in range(1, int(every_s) + 1)
    ]
    return steady(read("cpu_pct", [(every_s, 0.0), *seconds]), calls=calls)


def test_a_call_costs_what_the_processor_did_between_the_ends_of_calls() -> None:
    run = busy([100.0 + 10 * (n % 3) for n in range(60)])
    estimate = cpu_per_call("agent", "steady")(run)
    assert estimate.value == pytest.approx(110, rel=0.01)
    assert estimate.low is not None
    assert estimate.high is not None
    assert 105 < estimate.low < 110 < estimate.high < 115
    assert AtMost(cpu_per_call("agent", "steady"), 120, "ms").judge(run).outcome is Outcome.PASS
    few = AtMost(cpu_per_call("agent", "steady"), 120, "ms").judge(busy([100.0] * 5))
    assert few.outcome is Outcome.INCONCLUSIVE
    assert "a mean needs 30 stretches of calls" in few.because


def test_calls_that_come_to_cost_more_are_seen_in_the_second_half() -> None:
    worse = second_half_over_first(cpu_per_call("agent", "steady"))
    dearer = AtMost(worse, 1.2).judge(busy([100.0 if n < 60 else 150.0 for n in range(119)]))
    assert dearer.outcome is Outcome.FAIL, dearer.because
    assert "ms (" in dearer.because.partition(", over 1.2: ")[2], "both halves are told"
    assert AtMost(worse, 1.2).judge(busy([100.0 + n % 4 for n in range(119)])).outcome is Outcome.PASS


def test_a_short_soak_says_how_little_it_could_have_seen() -> None:
    """18 minutes, a reading each 10 s and a call each 30 s, and longer: the smallest leak that is visible falls."""
    rng, told = np.random.default_rng(3), []
    for hours in (0.3, 1, 3):
        count = round(360 * hours)
        memory = 60 + rng.normal(0, 0.2, count)
        calls = [call(n, at_s=30 * n, seconds=20) for n in range(count // 3)]
        samples = read("private_mb", [(10 * n, float(memory[n])) for n in range(count)])
        verdict = NoLeak("agent", 6, settling_hours=hours / 8).judge(
            whole_run(*calls, samples=samples, seconds=3600 * hours)
        )
        pattern = r"the smallest leak this run could have seen is ([\d.]+) MB/h, [\d.]+ KB per call, a warm-up of up to"
        (smallest,) = re.findall(pattern, verdict.because)
        told.append(float(smallest))
    assert 6 < told[2] < told[1] < told[0] < 60


def test_of_a_leak_by_the_call_few_calls_say_nothing() -> None:
    samples = read("private_mb", [(10 * n, 60 + 0.2 * (n % 3)) for n in range(108)])
    calls = [call(n, at_s=300 * n, seconds=40) for n in range(3)]
    verdict = NoLeak("agent", 6, settling_hours=0.15).judge(whole_run(*calls, samples=samples, seconds=1080))
    assert "MB/h by the clock (3 calls are too few to tell of one by the call), a warm-up" in verdict.because


# ---------------------------------------------------------------- what could not be read


WHY = "/proc/812/smaps_rollup of python may not be read (Permission denied); run busyhour as the user that it runs as"


def missing(*readings: str) -> Mark:
    return Mark(SECOND, "probe.missing", "agent", {"readings": list(readings), "why": WHY})


def test_a_gate_on_what_could_not_be_read_says_why() -> None:
    run = steady(marks=[missing("private_mb", "pss_mb")])
    peak = AtMost(probed("agent", "private_mb", phase="steady"), 800, "MB").judge(run)
    assert peak.outcome is Outcome.NOT_RUN
    assert peak.because == f"highest private of agent in steady was not measured: {WHY}"
    anywhere = AtMost(probed("agent", "pss_mb"), 800, "MB").judge(run)
    assert anywhere.because.endswith(WHY)
    halves = AtMost(second_half_over_first(mean_probed("agent", "private_mb", "steady")), 1.1).judge(run)
    assert halves.because.endswith(WHY)
    other = AtMost(probed("agent", "cpu_pct", phase="steady"), 50, "%").judge(run)
    assert other.because.endswith("which gave no reading of it"), "of that nothing was said to be missing"


def test_a_gate_on_leaks_says_why_nothing_was_read_and_why_it_reads_another_sensor() -> None:
    run = steady(marks=[missing("private_mb")])
    verdict = NoLeak("agent", 6).judge(run)
    assert verdict.outcome is Outcome.NOT_RUN
    assert verdict.because == f"memory of agent was not read; {WHY}"
    resident = steady(read("rss_mb", [(10 * n, 80.0) for n in range(360)]), marks=[missing("private_mb")])
    verdict = NoLeak("agent", 6).judge(resident)
    assert verdict.because.startswith("RSS of agent: NO LEAK")
    assert verdict.because.endswith(f"private dirty memory was not read: {WHY}")


# ---------------------------------------------------------------- another process in the place of the first

BATCHES = ["warm-up", "a", "b", "c", "d", "e"]


def batches(values: Sequence[float], name: str, *, restarted_in: Sequence[int] = ()) -> MemoryRun:
    """What was read at the end of each batch of ten calls; another process is there from some of them on."""
    samples, marks, operations = [], [], []
    for i, phase in enumerate(BATCHES):
        began_ns, ended_ns = 10 * i * SECOND, 10 * (i + 1) * SECOND - 1
        marks += [Mark(began_ns, "phase.began", phase), Mark(ended_ns, "phase.ended", phase)]
        restarts = sum(i >= one for one in restarted_in)
        samples += [Sample(ended_ns - 1, "agent", name, values[i]), Sample(ended_ns - 1, "agent", "restarts", restarts)]
        operations += [
            Operation(id=f"{phase}/{n}", kind="call", phase=phase, due_ns=began_ns, ended_ns=ended_ns - 2)
            for n in range(10)
        ]
    return MemoryRun(recorded=operations, sampled=samples, marked=marks)


def test_no_batch_is_compared_with_one_of_another_process() -> None:
    """Each process keeps 1 MB a batch; what the second has less than the first would hide it."""
    kept = AtMost(kept_per_call("agent", BATCHES), 50, "KB")
    leaking = batches([60, 50, 51, 52, 53, 54], "private_mb", restarted_in=[1])
    verdict = kept.judge(leaking)
    assert verdict.outcome is Outcome.FAIL, verdict.because
    assert "from a to e: between others agent was another process" in verdict.because
    unrestarted = kept.judge(batches([60, 50, 51, 52, 53, 54], "private_mb"))
    assert unrestarted.outcome is Outcome.INCONCLUSIVE, "the same numbers of one process"


def test_of_counters_too_only_batches_of_one_process_are_judged() -> None:
    gate = NothingLeft("agent", BATCHES, [Sensor.DESCRIPTORS])
    verdict = gate.judge(batches([90, 40, 41, 42, 43, 44], "fds", restarted_in=[1]))
    assert verdict.outcome is Outcome.FAIL, verdict.because
    clean = gate.judge(batches([40, 40, 40, 40, 40, 90], "fds", restarted_in=[5]))
    assert clean.outcome is Outcome.PASS, clean.because
    assert "40 calls in 4 batches, from warm-up to d: between others agent was another process" in clean.because


def test_too_few_batches_of_one_process_do_not_tell() -> None:
    often = batches([40, 40, 40, 40, 40, 40], "fds", restarted_in=[2, 4])
    verdict = NothingLeft("agent", BATCHES, [Sensor.DESCRIPTORS]).judge(often)
    assert verdict.outcome is Outcome.INCONCLUSIVE, verdict.because
    memory = batches([40, 41, 42, 43, 44, 45], "private_mb", restarted_in=[2, 4])
    verdict = AtMost(kept_per_call("agent", BATCHES), 50, "KB").judge(memory)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "1 batches after the first; at least 3 tell" in verdict.because


# ---------------------------------------------------------------- a harness of several processes


def test_of_a_harness_of_several_processes_the_worst_is_told() -> None:
    own = read("cpu_pct", [(n, 10.0) for n in range(1, 100)], "harness")
    worker = read("cpu_pct", [(n, 60.0) for n in range(1, 100)], "harness/1")
    run = whole_run(samples=[*own, *worker], meta={"harnesses": ["harness/1"]}, seconds=3600)
    verdict = AtMost(mean_probed("harness", "cpu_pct", "steady"), 50, "%").judge(run)
    assert verdict.outcome is Outcome.FAIL
    assert "mean cpu of harness in steady is 60 %" in verdict.because
    assert "of harness/1, the worst process" in verdict.because


def test_a_worker_of_the_harness_that_leaks_is_seen_beside_the_others() -> None:
    at_s = [30 * n for n in range(480)]
    flat = read("private_mb", [(s, 80 + 0.1 * (n % 5)) for n, s in enumerate(at_s)], "harness")
    leaks = read("private_mb", [(s, 80 + 0.1 * (n % 5) + 40 * s / 3600) for n, s in enumerate(at_s)], "harness/2")
    told = {"harnesses": ["harness/1", "harness/2"]}
    run = whole_run(samples=[*flat, *leaks], meta=told, seconds=4 * 3600)
    gate = NoLeak("harness", 6, settling_hours=0.5)
    verdict = gate.judge(run)
    assert verdict.outcome is Outcome.FAIL, verdict.because
    assert verdict.because.startswith("private dirty memory of harness/2: LEAK")
    alone = whole_run(samples=flat, seconds=4 * 3600)
    assert gate.judge(alone).outcome is Outcome.PASS
