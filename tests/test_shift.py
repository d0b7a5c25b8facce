"""The shift between the runs of two builds, against hand counts, published tables and scipy."""

from math import comb, inf, sqrt
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from busyhour.model import Estimate
from busyhour.statistics.shift import Shift, at_most, holm, runs_needed, smallest_p, within_runs


def test_the_distribution_of_u_is_counted_by_hand() -> None:
    """Two against two: of the six orders, U is 0, 1, 2, 2, 3, 4."""
    assert [at_most(u, 2, 2) for u in range(5)] == pytest.approx([1 / 6, 2 / 6, 4 / 6, 5 / 6, 1])
    assert at_most(-1, 2, 2) == 0


@pytest.mark.parametrize(
    ("m", "n", "alpha", "critical"),
    [
        # Mann and Whitney's U, the largest that is significant; one side at .05, then at .025, then at .01
        *[(5, 5, 0.05, 4), (6, 6, 0.05, 7), (8, 8, 0.05, 15), (10, 10, 0.05, 27), (4, 7, 0.05, 4), (20, 20, 0.05, 138)],
        *[(5, 5, 0.025, 2), (6, 6, 0.025, 5), (8, 8, 0.025, 13), (10, 10, 0.025, 23), (20, 20, 0.025, 127)],
        *[(5, 5, 0.01, 1), (7, 7, 0.01, 6), (10, 10, 0.01, 19)],
    ],
)
def test_published_critical_values(m: int, n: int, alpha: float, critical: int) -> None:
    assert at_most(critical, m, n) <= alpha < at_most(critical + 1, m, n)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32))
def test_without_ties_the_p_value_is_scipys_exact_one(m: int, n: int, seed: int) -> None:
    values = [float(one) for one in Random(seed).sample(range(1000), m + n)]
    before, after = values[:m], values[m:]
    shift = Shift(before, after)
    greater = stats.mannwhitneyu(after, before, alternative="greater", method="exact").pvalue
    less = stats.mannwhitneyu(after, before, alternative="less", method="exact").pvalue
    assert shift.p_above(0) == pytest.approx(greater)
    assert shift.p_below(0) == pytest.approx(less)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_of_equal_readings_each_doubt_counts_against_the_claim(before: list[int], after: list[int]) -> None:
    """However the ties are broken, the p value is not below what the order would have given."""
    shift = Shift(list(map(float, before)), list(map(float, after)))
    kindest = [one + 0.1 for one in after]  # every tie taken for a difference
    assert shift.p_above(0) >= Shift(list(map(float, before)), kindest).p_above(0) - 1e-12
    harshest = [one - 0.1 for one in after]
    assert shift.p_above(0) == pytest.approx(Shift(list(map(float, before)), harshest).p_above(0))


def test_hodges_and_lehmann_by_hand() -> None:
    shift = Shift([1.0, 2.0, 4.0], [3.0, 7.0])  # differences -1, 1, 2, 3, 5, 6
    assert shift.value == 2.5
    assert (shift.low(0.1), shift.high(0.1)) == (-1, 6)  # 3 v 2 reach p 0.1, with the outermost
    assert (shift.low(0.05), shift.high(0.05)) == (-inf, inf)


def test_the_interval_is_what_the_test_does_not_reject() -> None:
    random = Random(4)
    for _ in range(50):
        before = [random.gauss(600, 20) for _ in range(6)]
        after = [random.gauss(630, 20) for _ in range(7)]
        shift = Shift(before, after)
        low, high = shift.low(0.05), shift.high(0.05)
        assert shift.p_above(low - 1e-6) <= 0.05 < shift.p_above(low)
        assert shift.p_below(high + 1e-6) <= 0.05 < shift.p_below(high)
        assert low <= (shift.value or 0) <= high
        assert shift.value == pytest.approx(median(late - early for early in before for late in after))


def test_five_against_five_use_the_fifth_difference_from_either_end() -> None:
    """P(U <= 4) = 12 of 252 = .048, P(U <= 5) = .075 (Hollander and Wolfe's table of the rank sum)."""
    shift = Shift([0.0, 1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0, 50.0])
    differences = sorted(late - early for early in range(5) for late in (10.0, 20.0, 30.0, 40.0, 50.0))
    assert (shift.low(0.05), shift.high(0.05)) == (differences[4], differences[20])
    assert at_most(4, 5, 5) == pytest.approx(12 / 252)


def test_what_so_many_runs_can_reach() -> None:
    assert [round(2 * smallest_p(n, n), 3) for n in (3, 4, 5)] == [0.1, 0.029, 0.008]
    assert smallest_p(5, 5) == 1 / comb(10, 5)
    assert [runs_needed(p) for p in (0.05, 0.05 / 12, 0.05 / 18, 0.05 / 46)] == [3, 5, 6, 6]


def test_what_never_came_is_beyond_everything_and_has_no_difference_to_its_like() -> None:
    lost = Shift([600.0] * 5, [inf] * 5)
    assert (lost.value, lost.low(0.05)) == (inf, inf)
    assert lost.p_above(60) == smallest_p(5, 5)
    both = Shift([inf] * 5, [inf] * 5)
    assert (both.value, both.low(0.05), both.high(0.05)) == (None, -inf, inf)
    assert both.p_above(0) == both.p_below(0) == 1
    some = Shift([600.0, 610.0, 620.0, 630.0, inf], [600.0, 610.0, 620.0, 630.0, inf])
    assert some.p_above(0) > 0.3
    assert some.value == 0


def test_equal_runs_have_no_shift_and_no_doubt() -> None:
    zeros = Shift([0.0] * 5, [0.0] * 5)
    assert (zeros.value, zeros.low(0.05), zeros.high(0.05)) == (0, 0, 0)


@pytest.mark.parametrize("sides", [([], [1.0]), ([1.0], [float("nan")]), ([1.0] * 101, [1.0])])
def test_no_readings_are_no_shift(sides: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match=r"runs|number"):
        Shift(*sides)


def test_many_runs_are_counted_exactly_too() -> None:
    assert at_most(5000, 100, 100) == pytest.approx(0.5, abs=0.001)
    spread = sqrt(100 * 100 * 201 / 12)
    assert at_most(int(5000 - 1.645 * spread), 100, 100) == pytest.approx(0.05, abs=0.001)


# ---------------------------------------------------------------- many metrics


def test_holm_by_hand() -> None:
    """Holm 1979: .01, .04, .03, .005 become .03, .06, .06, .02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# ---------------------------------------------------------------- one run a side


def estimate(value: float | None, low: float | None, high: float | None) -> Estimate:
    return Estimate("p95", "ms", 100, value, low, high)


def test_newcombes_example() -> None:
    """56 of 70 less 48 of 80, by Wilson's intervals: .2 (.0524 to .3339) in Newcombe 1998, method 10."""
    wilson = {(k, n): _wilson(k, n) for k, n in ((48, 80), (56, 70))}
    first, last = (estimate(k / n, *wilson[k, n]) for k, n in ((48, 80), (56, 70)))
    assert within_runs(first, last) == pytest.approx((0.0524, 0.3339), abs=0.0001)


def _wilson(k: int, n: int) -> tuple[float, float]:
    z, p = 1.959964, k / n
    middle, half = (p + z * z / (2 * n)), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def test_an_end_that_is_not_bounded_bounds_nothing() -> None:
    assert within_runs(estimate(500, 400, inf), estimate(600, 550, 700)) == (-inf, 300)
    assert within_runs(estimate(500, 400, 600), estimate(inf, 900, inf)) == (300, inf)
    assert within_runs(estimate(inf, inf, inf), estimate(inf, inf, inf)) == (-inf, inf)
    assert within_runs(estimate(None, None, None), estimate(1, 1, 1)) == (-inf, inf)


def test_what_was_counted_in_full_differs_by_what_it_differs() -> None:
    assert within_runs(estimate(2, 2, 2), estimate(5, 5, 5)) == (3, 3)
