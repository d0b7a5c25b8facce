"""The second half of a phase against the first: what is in which, and how often the interval is right."""

from __future__ import annotations

import random
from math import inf

import pytest

from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import call_success, dropped, missed_turns, response_latency, second_half_over_first
from busyhour.indicators.halves import Part, Ratio
from busyhour.model import SECOND, Estimate, Mark, Outcome
from busyhour.statistics.rate import Rate
from busyhour.testing import MemoryRun, answered, call, turn, whole_run

HOUR_S = 3600


def soak(*, calls: int = 60, second_times: float = 1.0, alike: float = 0.0, seed: int = 1, turns: int = 4) -> MemoryRun:
    """Calls evenly over an hour, each with so many turns; those of the second half take so many times as long. alike:
    by how much calls differ from one another, as a deviation of the logarithm."""
    rng = random.Random(seed)
    operations = []
    for number in range(calls):
        at_s = HOUR_S * number / calls
        times = (second_times if at_s >= HOUR_S / 2 else 1.0) * rng.lognormvariate(0, alike)
        latencies = [500 * times * rng.lognormvariate(0, 0.15) for _ in range(turns)]
        operations += answered(latencies, number=number, at_s=at_s)
    return whole_run(*operations, seconds=HOUR_S)


WORSE = second_half_over_first(response_latency("steady", q=0.5))


def test_a_soak_that_gets_slower_fails_and_one_that_does_not_passes() -> None:
    gate = AtMost(WORSE, 1.1)
    assert gate.name == "p50 response latency in steady (second half over first) <= 1.1"
    slower = gate.judge(soak(calls=200, second_times=1.3))
    assert slower.outcome is Outcome.FAIL, slower.because
    assert slower.because.count("n=400") == 2
    assert "in the first half" in slower.because
    same = gate.judge(soak(calls=200))
    assert same.outcome is Outcome.PASS, same.because
    little = gate.judge(soak(calls=4))
    assert little.outcome is Outcome.INCONCLUSIVE
    assert "the interval holds the limit" in little.because


def test_calls_that_are_lost_more_and_more_are_seen_too() -> None:
    kept = second_half_over_first(call_success("steady"))
    calls = [
        call(n, at_s=HOUR_S * n / 400, outcome="timed out" if n >= 200 and n % 5 == 0 else "ok", seconds=8)
        for n in range(400)
    ]
    lost = AtLeast(kept, 0.95).judge(whole_run(*calls, seconds=HOUR_S))
    assert lost.outcome is Outcome.FAIL, lost.because
    assert "100 % (98.5-100, n=200) in the first half, 80 %" in lost.because
    well = [call(n, at_s=HOUR_S * n / 400, seconds=8) for n in range(400)]
    assert AtLeast(kept, 0.95).judge(whole_run(*well, seconds=HOUR_S)).outcome is Outcome.PASS


def test_a_call_is_in_the_half_in_which_it_was_due_with_all_its_turns() -> None:
    straddling = [call(1, at_s=1790, seconds=60), turn(500, call="steady/1", at_s=1830)]
    run = whole_run(straddling, answered([400], number=2, at_s=1801), seconds=HOUR_S)
    first, second = Part(run, "steady", 0, 1800 * SECOND), Part(run, "steady", 1800 * SECOND, HOUR_S * SECOND)
    assert [one.id for one in first.operations("call")] == ["steady/1"]
    assert [one.parent for one in first.operations("turn", "steady")] == ["steady/1"]
    assert [one.parent for one in second.operations("turn")] == ["steady/2"]
    (began,) = (mark for mark in second.marks("phase.began") if mark.name == "steady")
    assert began.at_ns == 1800 * SECOND


def test_who_was_due_a_little_before_the_phase_was_marked_as_begun_is_in_its_first_half() -> None:
    operations = [*answered([400], number=1, at_s=99.999), *answered([400], number=2, at_s=150)]
    marks = [Mark(100 * SECOND, "phase.began", "steady"), Mark(200 * SECOND, "phase.ended", "steady")]
    assert WORSE(MemoryRun(recorded=operations, marked=marks)).n == 2


def test_what_is_of_other_phases_is_whole_in_either_half() -> None:
    run = whole_run(answered([400], phase="other", at_s=2000), phases=("steady", "other"), seconds=HOUR_S)
    assert len(Part(run, "steady", 0, 1).operations("turn", "other")) == 1


def test_a_phase_that_did_not_end_is_halved_by_what_there_was_of_it() -> None:
    operations = [one for n in range(40) for one in answered([400 if n < 20 else 800], number=n, at_s=10 * n)]
    cut = MemoryRun(recorded=operations, marked=[Mark(0, "run.began"), Mark(0, "phase.began", "steady")])
    value = WORSE(cut).value
    assert value == pytest.approx(2, rel=0.01)
    assert WORSE(MemoryRun()).value is None
    assert AtMost(WORSE, 1.1).judge(MemoryRun()).outcome is Outcome.NOT_RUN


def test_only_an_indicator_of_one_phase_has_halves() -> None:
    with pytest.raises(PlanError, match="it needs an indicator of one phase, and this is of the whole run"):
        second_half_over_first(dropped())


@pytest.mark.parametrize("alike", [0.0, 0.3])
def test_the_interval_is_wrong_as_seldom_as_it_says_with_calls_that_differ_too(alike: float) -> None:
    """Of soaks exactly at the limit at most 5 % may pass, and at most 5 % fail. Of 200, 17 are a chance of 1 %."""
    gate = AtMost(WORSE, 1.1)
    outcomes = [gate.judge(soak(calls=60, second_times=1.1, alike=alike, seed=seed)).outcome for seed in range(200)]
    assert outcomes.count(Outcome.PASS) <= 17
    assert outcomes.count(Outcome.FAIL) <= 17
    assert outcomes.count(Outcome.INCONCLUSIVE) < 200


def estimate(value: float | None, low: float, high: float) -> Estimate:
    return Estimate("it", "ms", 10, value, low, high)


def test_what_never_came_or_was_nothing_has_no_ratio_that_would_be_a_guess() -> None:
    some, nothing = estimate(500, 480, 520), estimate(0.0, 0.0, 2.0)
    assert Ratio(estimate(None, 0, 0), some).value is None
    assert Ratio(estimate(inf, 500, inf), some).value is None
    never = Ratio(some, estimate(inf, 900, inf))
    assert never.value == inf
    assert never.at_most(1.1, 0.05).outcome is Outcome.FAIL
    assert Ratio(nothing, nothing).value == 1
    assert Ratio(nothing, nothing).at_most(1.1, 0.05).outcome is Outcome.INCONCLUSIVE
    assert Ratio(nothing, some).value == inf


def test_what_was_counted_and_never_came_in_either_half_is_no_worse_in_the_second() -> None:
    none = Ratio(estimate(0.0, 0.0, 0.0), estimate(0.0, 0.0, 0.0))
    assert (none.value, none.low, none.high) == (1, 1, 1)
    assert none.at_most(1.1, 0.05).outcome is Outcome.PASS
    came = Ratio(estimate(0.0, 0.0, 0.0), estimate(2.0, 2.0, 2.0))
    assert came.at_most(1.1, 0.05).outcome is Outcome.FAIL


def test_a_stricter_alpha_widens_the_interval() -> None:
    before, after = Rate.of([True] * 90 + [False] * 10), Rate.of([True] * 80 + [False] * 20)
    ratio = Ratio(
        Estimate("it", "%", 100, before.value, before.low, before.high, before),
        Estimate("it", "%", 100, after.value, after.low, after.high, after),
    )
    assert ratio.at_least(0.8, 0.05).outcome is Outcome.PASS or ratio.at_least(0.75, 0.05).outcome is Outcome.PASS
    limits = [limit / 100 for limit in range(60, 90)]
    passing = {
        alpha: max(x for x in limits if ratio.at_least(x, alpha).outcome is Outcome.PASS) for alpha in (0.2, 0.05, 0.01)
    }
    assert passing[0.2] > passing[0.05] > passing[0.01]


def test_shares_of_turns_have_halves() -> None:
    run = whole_run(
        *(answered([400, None if n >= 30 else 400], number=n, at_s=60 * n) for n in range(60)), seconds=HOUR_S
    )
    verdict = AtMost(second_half_over_first(missed_turns("steady")), 1.5).judge(run)
    assert verdict.outcome is Outcome.FAIL, verdict.because
