"""The word for a metric follows from its interval and its tolerance, and Holm's correction from how many there are."""

from collections.abc import Sequence
from math import inf, nan
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.comparing.metrics import EITHER, LARGER, SMALLER, Limit, Metric, Tolerance, limit_of, measured
from busyhour.comparing.reading import Origin, Reading
from busyhour.comparing.weighing import Row, Word, summary, weighed, worst
from busyhour.gates import AtLeast, AtMost, Between, Judgement, NoLeak
from busyhour.indicators import response_latency
from busyhour.model import Estimate, Gate, Outcome, Plan, Verdict
from busyhour.statistics.shift import smallest_p

UNITS = st.sampled_from(["ms", "%", ""])
VALUES = st.lists(st.one_of(st.floats(0, 1000), st.just(inf), st.just(0.0)), min_size=5, max_size=8)


def runs(metric: Metric, values: Sequence[float]) -> list[Reading]:
    return [Reading(Origin(Path("run.journal")), {metric: _exactly(metric, one)}) for one in values]


def row(metric: Metric, before: Sequence[float], after: Sequence[float], *tolerances: Tolerance) -> Row:
    (found,) = weighed([metric], (runs(metric, before), runs(metric, after)), tolerances)
    return found


@given(VALUES, VALUES, UNITS, st.sampled_from([LARGER, SMALLER]), st.sampled_from([0.0, 5.0, 50.0]))
def test_the_word_is_what_the_interval_says(
    before: list[float], after: list[float], unit: str, worse: int, percent: float
) -> None:
    found = row(Metric("x", unit, worse), before, after, Tolerance(percent, "%", "x"))
    assert found.low is not None
    assert found.high is not None
    best, most = (found.low, found.high) if worse == LARGER else (-found.high, -found.low)
    # from the interval that is shown: to one part in 10^9, for logarithms are not to and fro the same
    limit, slack = found.scale.tolerance, 1e-9 * max(1.0, found.scale.tolerance)
    expected = {
        Word.REGRESSION: best > limit - slack,
        Word.EQUIVALENT: best >= -limit - slack and most <= limit + slack,
        Word.IMPROVEMENT: most < -limit + slack,
        Word.NO_WORSE: best < -limit + slack and most <= limit + slack,
        Word.INCONCLUSIVE: most > limit - slack and best <= limit + slack,
    }
    assert expected[found.word], (found, best, most)


@given(VALUES, VALUES)
def test_the_sides_exchanged_give_the_opposite(before: list[float], after: list[float]) -> None:
    metric, tolerance = Metric("x", "ms", LARGER), Tolerance(50, "ms")
    opposite = Metric("x", "ms", SMALLER)
    assert row(metric, before, after, tolerance).word == row(opposite, after, before, tolerance).word


def test_either_way_is_worse_and_costs_a_factor_of_two() -> None:
    metric = Metric("x", "ms", EITHER)
    up, down = row(metric, [100.0] * 5, [200.0] * 5), row(metric, [200.0] * 5, [100.0] * 5)
    assert (up.word, down.word) == (Word.REGRESSION, Word.REGRESSION)
    assert up.p == down.p == 2 * smallest_p(5, 5)


@pytest.mark.parametrize(
    ("late", "count", "word"),
    [
        (100, 12, Word.REGRESSION),  # 5 v 5 runs can single out one of 12
        (100, 13, Word.INCONCLUSIVE),  # and of 13 they cannot
        (-80, 12, Word.IMPROVEMENT),
        (-80, 13, Word.NO_WORSE),
    ],
)
def test_holm_lets_many_metrics_have_their_share_of_chance(late: float, count: int, word: Word) -> None:
    metrics = [Metric(f"x{n}", "ms", LARGER) for n in range(count)]

    def side(shift: float) -> list[Reading]:
        return [
            Reading(Origin(Path("r")), {m: _exactly(m, ms + (shift if m == metrics[0] else 0)) for m in metrics})
            for ms in (100.0, 101, 102, 103, 104)
        ]

    found = weighed(metrics, (side(0), side(late)), [])
    assert [one.word for one in found] == [word] + [Word.EQUIVALENT] * (count - 1)


def _exactly(metric: Metric, value: float) -> Estimate:
    return Estimate(metric.what, metric.unit, 1, value, value, value)


def test_ratios_are_of_a_and_do_not_hang_on_the_unit() -> None:
    before, after = [100.0, 101, 102, 103, 104], [120.0, 121, 122, 123, 124]
    in_ms = row(Metric("x", "ms", LARGER), before, after)
    in_s = row(Metric("x", "s", LARGER), [one / 1000 for one in before], [one / 1000 for one in after])
    assert in_ms.shift == pytest.approx(19.6, abs=0.1)
    assert (in_s.shift, in_s.low, in_s.high, in_s.p) == pytest.approx((in_ms.shift, in_ms.low, in_ms.high, in_ms.p))


@pytest.mark.parametrize("usual", [20.0, 50.0, 100.0, 200.0, 700.0])
def test_what_is_worse_by_the_tolerance_itself_is_within_it(usual: float) -> None:
    """log(220) - log(200) is a little more than log(1.1)."""
    found = row(Metric("x", "ms", LARGER), [usual] * 5, [1.1 * usual] * 5)
    assert found.word is Word.EQUIVALENT, found.because
    assert "+10 %, within 10 % either way" in found.because


def test_a_shift_is_not_rounded_to_the_tolerance_that_it_breaks() -> None:
    found = row(Metric("x", "ms", LARGER), [1000.0] * 5, [1100.2] * 5)
    assert "+10.02 %, worse by more than 10 %" in found.because


def test_more_runs_are_asked_for_by_the_width_of_the_interval() -> None:
    wide = row(Metric("x", "ms", LARGER), [500.0, 600, 700, 800, 900], [510.0, 590, 720, 790, 910])
    assert wide.word is Word.INCONCLUSIVE
    assert " runs a side would" in wide.because
    near = row(Metric("x", "ms", LARGER), [100.0] * 5, [110.0, 90, 111, 109, 110.5], Tolerance(10, "ms"))
    assert "its shift is so near the tolerance that more than 100 runs a side" in near.because
    none = row(Metric("x", "/min", LARGER), [0.0] * 5, [0.0, 0, 0, 1, 2])
    assert "give a --tolerance in /min" in none.because


def test_all_metrics_come_to_the_worst() -> None:
    assert worst([]) is Word.INCONCLUSIVE
    assert worst([Word.EQUIVALENT, Word.IMPROVEMENT]) is Word.IMPROVEMENT
    assert worst([Word.INCONCLUSIVE, Word.REGRESSION, Word.NO_WORSE]) is Word.REGRESSION
    same = row(Metric("x", "ms", LARGER), [1.0] * 5, [1.0] * 5)
    worse = row(Metric("x", "ms", LARGER), [1.0] * 5, [2.0] * 5)
    assert summary([same, worse, same]) == "REGRESSION (1 regression, 2 equivalent)"


# ---------------------------------------------------------------- metrics and tolerances


@pytest.mark.parametrize(
    ("tolerances", "unit", "limit"),
    [
        ([], "ms", Limit(0.1, is_share=True)),
        ([], "%", Limit(1)),
        ([Tolerance.parsed("5%")], "ms", Limit(0.05, is_share=True)),
        ([Tolerance.parsed("5%")], "%", Limit(1)),  # of percentages only by name
        ([Tolerance.parsed("lat=5%")], "%", Limit(0.05, is_share=True)),
        ([Tolerance.parsed("2pp")], "%", Limit(2)),
        ([Tolerance.parsed("2pp")], "ms", Limit(0.1, is_share=True)),
        ([Tolerance.parsed("0.05 s")], "ms", Limit(50)),
        ([Tolerance.parsed("0.5/min")], "/min", Limit(0.5)),
        ([Tolerance.parsed("3")], "", Limit(3)),
        ([Tolerance.parsed("LATENCY=1ms"), Tolerance.parsed("9ms")], "ms", Limit(1)),  # a name before none
        ([Tolerance.parsed("1ms"), Tolerance.parsed("9ms")], "ms", Limit(9)),  # the last of its like
        ([Tolerance.parsed("p95=steady=1ms")], "ms", Limit(0.1, is_share=True)),
    ],
)
def test_which_tolerance_counts(tolerances: list[Tolerance], unit: str, limit: Limit) -> None:
    assert limit_of(Metric("p95 latency in steady", unit, LARGER), tolerances) == limit


def test_which_way_is_worse_is_known_from_the_gate() -> None:
    p50, p95, p99 = (response_latency("steady", q) for q in (0.5, 0.95, 0.99))
    gates: list[Gate] = [AtMost(p95, 800, "ms"), AtMost(p50, 800, "ms"), AtLeast(p50, 100, "ms"), NoLeak("agent", 2)]
    gates += [Between(p99, 1, 2, "s")]
    verdicts = [Verdict(gate.name, Outcome.PASS, "", _estimate(gate)) for gate in gates]
    plan = Plan(target=cast(Any, None), phases=(), gates=gates)
    found = {one.what: one.worse for one in measured(plan, Judgement(tuple(verdicts), (), Outcome.PASS))}
    assert found == {p95.what: LARGER, p50.what: EITHER, "growth": LARGER, p99.what: EITHER}


def _estimate(gate: Gate) -> Estimate | None:
    """As its gate gives it; of one gate none, and of one no number."""
    if isinstance(gate, NoLeak):
        return Estimate("growth", "MB/h", 1, nan, None, None)
    return None if isinstance(gate, Between) else Estimate(cast(Any, gate).indicator.what, "ms", 1, 1.0, 1.0, 1.0)


def test_what_is_no_number_was_not_measured() -> None:
    gate = NoLeak("agent", 2)
    judgement = Judgement((Verdict(gate.name, Outcome.PASS, "", _estimate(gate)),), (), Outcome.PASS)
    (estimate,) = measured(Plan(target=cast(Any, None), phases=(), gates=[gate]), judgement).values()
    assert estimate.value is None
