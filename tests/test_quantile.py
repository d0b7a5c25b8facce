from itertools import pairwise
from math import ceil, comb, floor, inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.model import Outcome
from busyhour.statistics.clusters import design_effect, numbered
from busyhour.statistics.quantile import Quantile, coverage, order_interval, rank
from busyhour.statistics.rate import compare, needed
from busyhour.statistics.tails import binomial_above, binomial_below

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


def exact_below(k: int, n: int, p: float) -> float:
    return sum(comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k + 1))


# ---------------------------------------------------------------- the tables


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.9, [29, 46, 61, 76]),
        (0.95, [59, 93, 124, 153]),
        (0.99, [299, 473, 628, 773]),
        (0.999, [2995, 4742, 6294, 7752]),
    ],
)
def test_the_samples_that_a_percentile_needs(q: float, expected: list[int]) -> None:
    assert [needed(k, 1 - q) for k in range(4)] == expected
    for k, n in enumerate(expected):
        assert compare(k, n, 1 - q, 0.05) is PASS
        assert compare(k, n - 1, 1 - q, 0.05) is INCONCLUSIVE


@pytest.mark.parametrize(("n", "k"), [(50, 3), (100, 4), (300, 7), (1000, 16)])
def test_the_late_ones_that_fail_a_p99(n: int, k: int) -> None:
    assert compare(k, n, 0.01, 0.05) is FAIL
    assert compare(k - 1, n, 0.01, 0.05) is INCONCLUSIVE


@given(n=st.integers(1, 120), p=st.floats(0.01, 0.99), data=st.data())
def test_the_tails_are_those_of_the_binomial_distribution(n: int, p: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    assert binomial_below(k, n, p) == pytest.approx(exact_below(k, n, p), abs=1e-9)
    assert binomial_above(k, n, p) == pytest.approx(1 - exact_below(k - 1, n, p), abs=1e-9)


def test_one_of_one_late_fails_a_p95_in_spite_of_rounding() -> None:
    assert compare(1, 1, 1 - 0.95, 0.05) is FAIL
    assert compare(0, 1, 0.95, 0.05) is PASS


def test_a_discount_shrinks_the_late_ones_and_all_alike() -> None:
    for factor in (1, 7, 7.5):
        assert compare(1 * factor, 93 * factor, 0.05, 0.05, factor=factor) is PASS
        assert compare(1 * factor, 92 * factor, 0.05, 0.05, factor=factor) is INCONCLUSIVE
        assert compare(3 * factor, 50 * factor, 0.01, 0.05, factor=factor) is FAIL
        assert compare(2 * factor, 50 * factor, 0.01, 0.05, factor=factor) is INCONCLUSIVE


@pytest.mark.parametrize(("n", "q"), [(59, 0.95), (100, 0.5), (140, 0.95), (300, 0.99), (1000, 0.99)])
def test_the_coverage_is_exact_and_at_least_what_is_promised(n: int, q: float) -> None:
    lower, upper = order_interval(n, q)
    assert coverage(n, q, lower, upper) == pytest.approx(exact_below(upper - 1, n, q) - exact_below(lower - 1, n, q))
    assert coverage(n, q, lower, upper) >= 0.9
    assert 1 - exact_below(upper - 1, n, q) <= 0.05 < 1 - exact_below(upper - 2, n, q)
    assert exact_below(lower - 1, n, q) <= 0.05 < exact_below(lower, n, q)


def test_a_small_sample_bounds_one_side_or_none() -> None:
    assert order_interval(40, 0.95)[1] == 41
    assert order_interval(3, 0.5) == (0, 4)
    assert coverage(3, 0.5, 0, 4) == 1
    assert (Quantile.of([1.0, 2, 3], 0.5).low, Quantile.of([1.0, 2, 3], 0.5).high) == (-inf, inf)


# ---------------------------------------------------------------- the estimate


def test_the_quantile_is_a_sample_and_never_beyond_the_largest() -> None:
    values = [float(v) for v in range(351, 401)]
    assert Quantile.of(values, 0.99).value == 400
    assert Quantile.of(values, 0.5).value == 375
    assert [rank(100, 0.99), rank(100, 0.95), rank(1, 0.01), rank(140, 0.95)] == [99, 95, 1, 133]


def test_of_nothing_there_is_no_quantile() -> None:
    nothing = Quantile.of([], 0.95)
    assert (nothing.n, nothing.value, nothing.low, nothing.high) == (0, None, None, None)
    assert nothing.at_most(800, 0.05).outcome is INCONCLUSIVE
    assert nothing.at_least(800, 0.05).outcome is INCONCLUSIVE


def test_an_unanswered_turn_is_late_for_every_limit() -> None:
    samples = Quantile.of([100.0] * 56 + [inf] * 4, 0.95)
    assert samples.value == inf
    assert samples.high == inf
    assert samples.low == 100
    assert samples.at_most(1e300, 0.05).outcome is INCONCLUSIVE
    assert Quantile.of([100.0] * 50 + [inf] * 10, 0.95).at_most(1e300, 0.05).outcome is FAIL


def test_what_is_not_a_number_is_a_bug() -> None:
    with pytest.raises(ValueError, match="not a number"):
        Quantile.of([1.0, float("nan")], 0.95)


def test_a_sample_at_the_limit_is_within_it() -> None:
    at_it = Quantile.of([800.0] * 59, 0.95)
    assert at_it.at_most(800, 0.05).outcome is PASS
    assert at_it.at_most(799.999, 0.05).outcome is FAIL
    assert at_it.at_least(800, 0.05).outcome is PASS
    assert at_it.at_least(800.001, 0.05).outcome is FAIL


def test_the_clauses_say_what_was_seen_and_what_is_missing() -> None:
    fast = Quantile.of([float(v) for v in range(1, 41)], 0.95, noun="turns")
    assert fast.at_most(100, 0.05).because == (
        "0 of 40 turns are over it, which certifies p92.7 at most; at least 19 more turns are needed"
    )
    assert floor(1000 * 0.05 ** (1 / 40)) == 927
    assert fast.at_most(37.5, 0.05).because == (
        "3 of 40 turns are over it, which certifies p81.7 at most; "
        "chance may explain it: about 230 more turns would tell"
    )
    assert fast.at_most(30, 0.05).because == "10 of 40 turns are over it"
    assert fast.at_least(39, 0.05).because.startswith("38 of 40 turns are below it; ")
    assert Quantile.of([1.0] * 59, 0.95).at_most(1, 0.05).because == ""


samples = st.lists(st.one_of(st.floats(0, 5000), st.just(inf)), min_size=1, max_size=150)
quantiles = st.sampled_from([0.5, 0.9, 0.95])


@given(values=samples, q=quantiles, limit=st.floats(0, 5000))
def test_the_interval_shown_and_the_verdict_given_agree(values: list[float], q: float, limit: float) -> None:
    quantile = Quantile.of(values, q)
    assert quantile.low is not None
    assert quantile.high is not None
    expected = PASS if quantile.high <= limit else FAIL if quantile.low > limit else INCONCLUSIVE
    assert quantile.at_most(limit, 0.05).outcome is expected


@given(values=samples, q=quantiles, limit=st.floats(0, 5000), late=st.integers(1, 200))
def test_more_late_samples_never_mend_a_verdict(values: list[float], q: float, limit: float, late: int) -> None:
    order = [FAIL, INCONCLUSIVE, PASS]
    before = Quantile.of(values, q).at_most(limit, 0.05).outcome
    after = Quantile.of([*values, *[inf] * late], q).at_most(limit, 0.05).outcome
    assert not (before is FAIL and after is not FAIL)
    assert order.index(after) <= order.index(before)


@given(values=samples, q=quantiles, calls=st.integers(2, 12), limit=st.floats(0, 5000))
def test_with_calls_that_are_alike_a_late_sample_never_turns_fail_into_pass(
    values: list[float], q: float, calls: int, limit: float
) -> None:
    groups = [n % calls for n in range(len(values))]
    before = Quantile.of(values, q, groups).at_most(limit, 0.05).outcome
    after = Quantile.of([*values, inf], q, [*groups, 0]).at_most(limit, 0.05).outcome
    assert not (before is FAIL and after is PASS)


@given(values=samples, q=quantiles, calls=st.integers(1, 12))
def test_a_later_limit_never_worsens_a_verdict(values: list[float], q: float, calls: int) -> None:
    quantile = Quantile.of(values, q, [n % calls for n in range(len(values))])
    order = [FAIL, INCONCLUSIVE, PASS]
    verdicts = [order.index(quantile.at_most(limit, 0.05).outcome) for limit in (0, 100, 500, 2000, 5000)]
    assert all(a <= b for a, b in pairwise(verdicts))


# ---------------------------------------------------------------- turns of one call


def test_turns_of_calls_that_are_all_late_or_all_in_time_weigh_as_their_calls() -> None:
    over = np.repeat([True] * 4 + [False] * 16, 7)
    alike = design_effect(over, numbered([n // 7 for n in range(140)], 140))
    assert alike.icc == pytest.approx(1)
    assert alike.factor == pytest.approx(7)


def test_the_correlation_is_that_of_the_analysis_of_variance() -> None:
    over = np.array([1] * 8 + [0] * 2 + [0] * 9 + [1] + [1] * 3 + [0] * 7, dtype=np.bool_)
    groups = np.repeat([0, 1, 2], 10)
    between = 10 * ((0.8 - 0.4) ** 2 + (0.1 - 0.4) ** 2 + (0.3 - 0.4) ** 2) / 2
    within = 10 * (0.8 * 0.2 + 0.1 * 0.9 + 0.3 * 0.7) / 27
    icc = (between - within) / (between + 9 * within)
    alike = design_effect(over, groups)
    assert alike.icc == pytest.approx(icc)
    assert alike.factor == pytest.approx(1 + 9 * icc)


def test_calls_of_unlike_length_are_weighed_by_what_a_turn_finds_itself_in() -> None:
    over = np.array([True] * 20 + [False] * 10 + [False] * 10 + [False] * 5)
    groups = numbered(["a"] * 20 + ["b"] * 10 + ["c"] * 10 + ["d"] * 5, 45)
    assert design_effect(over, groups).factor == pytest.approx((400 + 100 + 100 + 25) / 45)


def test_unlike_turns_in_every_call_alike_are_not_credited() -> None:
    over = np.tile([True, False, False, False, False, False, False], 20)  # the first turn of each call is slow
    assert design_effect(over, np.repeat(np.arange(20), 7)).factor == 1


def test_a_single_call_says_nothing_of_other_calls() -> None:
    one_call = Quantile.of([100.0] * 200, 0.95, ["steady/1"] * 200, noun="turns").at_most(800, 0.05)
    assert one_call.outcome is INCONCLUSIVE
    assert "200 weigh as 1.0" in one_call.because
    two_calls_alike = Quantile.of([100.0] * 200, 0.95, ["a"] * 100 + ["b"] * 100).at_most(800, 0.05)
    assert two_calls_alike.outcome is PASS


def test_the_sentence_says_when_the_discount_bit() -> None:
    late_calls = [900.0] * 7 * 3 + [300.0 + n % 7 for n in range(7 * 17)]
    calls = [n // 7 for n in range(140)]
    discounted = Quantile.of(late_calls, 0.95, calls, noun="turns").at_most(800, 0.05)
    assert Quantile.of(late_calls, 0.95).at_most(800, 0.05).outcome is FAIL
    assert discounted.outcome is INCONCLUSIVE
    assert "turns of one call are alike (correlation 1.00), so that 140 weigh as 20" in discounted.because
    passed = Quantile.of([500.0 + 10 * (n // 20) for n in range(1000)], 0.95, [n // 20 for n in range(1000)])
    verdict = passed.at_most(2000, 0.05)
    assert verdict.outcome is INCONCLUSIVE  # 50 calls, each of one latency: 59 are needed
    assert "1000 weigh as 50" in verdict.because


def test_the_correlation_of_a_high_percentile_is_taken_from_enough_of_the_slowest() -> None:
    values = [float(1000 * (n // 7 == 4) + n % 7) for n in range(140)]  # one call of 20 is slow throughout
    assert Quantile.of(values, 0.99, [n // 7 for n in range(140)]).alike.factor > 1.5


def test_groups_must_be_as_many_as_samples() -> None:
    with pytest.raises(ValueError, match="3 readings, but 2 groups"):
        Quantile.of([1.0, 2, 3], 0.9, ["a", "b"])


# ---------------------------------------------------------------- error rates, by seeded simulation


def judged(
    *, calls: int, turns: int, correlation: float, q: float, over: float, runs: int, seed: int, by_call: bool = True
) -> dict[Outcome, float]:
    """The verdicts on a system with a share of `over` turns over the limit, in shares of the runs."""
    random = np.random.default_rng(seed)
    limit = float(np.quantile(random.standard_normal(2_000_000), 1 - over))
    groups = [n // turns for n in range(calls * turns)] if by_call else None
    outcomes = []
    for _ in range(runs):
        of_call = np.repeat(random.standard_normal(calls), turns) * correlation**0.5
        of_turn = random.standard_normal(calls * turns) * (1 - correlation) ** 0.5
        outcomes.append(Quantile.of((of_call + of_turn).tolist(), q, groups).at_most(limit, 0.05).outcome)
    return {outcome: outcomes.count(outcome) / runs for outcome in (PASS, FAIL, INCONCLUSIVE)}


@pytest.mark.parametrize(("n", "q"), [(60, 0.95), (300, 0.99), (1000, 0.99)])
def test_a_system_just_at_its_limit_is_seldom_passed_or_failed(n: int, q: float) -> None:
    verdicts = judged(calls=n, turns=1, correlation=0, q=q, over=1 - q, runs=500, seed=1)
    assert verdicts[PASS] <= 0.075
    assert verdicts[FAIL] <= 0.075


def test_a_system_well_over_its_limit_is_never_passed() -> None:
    assert judged(calls=300, turns=1, correlation=0, q=0.99, over=0.04, runs=300, seed=2)[PASS] == 0


@pytest.mark.parametrize(("calls", "turns", "correlation", "q"), [(50, 20, 0.3, 0.95), (20, 7, 0.7, 0.95)])
def test_the_discount_keeps_the_error_rates_of_correlated_turns(
    calls: int, turns: int, correlation: float, q: float
) -> None:
    arguments = {"calls": calls, "turns": turns, "correlation": correlation, "q": q, "over": 1 - q, "seed": 3}
    ignored = judged(**arguments, runs=400, by_call=False)  # type: ignore[arg-type]  # of one type each
    discounted = judged(**arguments, runs=400)  # type: ignore[arg-type]  # of one type each
    assert ignored[PASS] > 0.1
    assert ignored[FAIL] > 0.1
    assert discounted[PASS] <= 0.085
    assert discounted[FAIL] <= 0.085


def test_a_clean_system_of_140_turns_is_not_made_inconclusive_by_noise() -> None:
    for over, passes in ((0.002, 0.98), (0.01, 0.8)):
        clean = {"calls": 20, "turns": 7, "correlation": 0.0, "q": 0.95, "over": over, "runs": 600, "seed": 4}
        apart = judged(**clean, by_call=False)  # type: ignore[arg-type]  # of one type each
        together = judged(**clean)  # type: ignore[arg-type]  # of one type each
        assert apart[PASS] > passes
        assert together[PASS] >= apart[PASS] - 0.03


def test_the_interval_covers_what_it_promises() -> None:
    random = np.random.default_rng(5)
    truth, inside = -np.log(0.05), 0
    for _ in range(400):
        quantile = Quantile.of(random.exponential(size=140).tolist(), 0.95)
        assert quantile.low is not None
        assert quantile.high is not None
        inside += quantile.low <= truth <= quantile.high
    assert inside / 400 >= 0.88


def test_ranks_are_those_of_the_inverse_distribution_function() -> None:
    for n in range(1, 400):
        assert rank(n, 0.95) == max(1, ceil(round(n * 95) / 100))
