"""The Universal Scalability Law: parameters that are known are found again, with intervals that hold them."""

from math import inf, sqrt
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busyhour.statistics.scalability import fit

LEVELS = [1, 2, 4, 8, 16, 24, 32, 48]


def law(n: float, rate: float, sigma: float, kappa: float) -> float:
    return rate * n / (1 + sigma * (n - 1) + kappa * n * (n - 1))


@settings(deadline=None, max_examples=60)
@given(rate=st.floats(0.01, 100), sigma=st.floats(0, 0.4), kappa=st.floats(1e-5, 0.01))
def test_what_follows_the_law_exactly_is_found_exactly(rate: float, sigma: float, kappa: float) -> None:
    found = fit(LEVELS, [law(n, rate, sigma, kappa) for n in LEVELS])
    assert found is not None
    assert found.rate.value == pytest.approx(rate, rel=1e-4)
    assert found.contention.value == pytest.approx(sigma, abs=1e-4)
    assert found.knee.value == pytest.approx(sqrt((1 - sigma) / kappa), rel=1e-3)


def test_the_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = [0, 0, 0, 0]
    truth = (2.0, 0.03, 0.0008, sqrt(0.97 / 0.0008))
    for seed in range(100):
        random = Random(seed)
        found = fit(LEVELS, [law(n, *truth[:3]) * random.gauss(1, 0.03) for n in LEVELS])
        assert found is not None
        for i, interval in enumerate((found.rate, found.contention, found.coherency, found.knee)):
            assert interval.low is not None
            assert interval.high is not None
            held[i] += interval.low <= truth[i] <= interval.high
    assert all(88 <= count <= 100 for count in held), held


def test_a_system_in_which_nothing_waits_has_no_knee() -> None:
    found = fit(LEVELS, [3.0 * n for n in LEVELS])
    assert found is not None
    assert found.knee.value == inf
    assert found.contention.value == 0
    assert found.throughput(100) == pytest.approx(300)


def test_no_parameter_is_ever_negative_be_the_throughput_more_than_linear() -> None:
    found = fit([1, 2, 3, 4, 5], [1, 2.3, 3.6, 5.1, 6.7])
    assert found is not None
    assert min(found.contention.value, found.coherency.value) >= 0
    assert found.contention.low is not None
    assert found.contention.low >= 0


@pytest.mark.parametrize("points", [[], [(1, 1.0)], [(1, 1.0), (2, 2.0)], [(2, 1.0), (2, 1.1), (2, 1.2), (4, 2.0)]])
def test_too_few_points_fit_nothing(points: list[tuple[float, float]]) -> None:
    assert fit([n for n, _ in points], [x for _, x in points]) is None


def test_three_points_have_a_fit_but_no_interval() -> None:
    found = fit([1, 10, 20], [1.0, 8.0, 11.0])
    assert found is not None
    assert found.knee.low is None
    assert [found.throughput(n) for n in (1, 10, 20)] == pytest.approx([1.0, 8.0, 11.0], rel=1e-3)


def test_points_in_any_order_and_those_without_throughput_do_not_matter() -> None:
    values = [law(n, 1.0, 0.05, 0.001) for n in LEVELS]
    mixed = list(reversed(list(zip(LEVELS, values, strict=True))))
    assert fit(LEVELS, values) == fit([*(n for n, _ in mixed), 60], [*(x for _, x in mixed), 0.0])


def test_contention_is_never_said_to_be_more_than_all_there_is() -> None:
    """One thing at a time, measured badly: the share that waits is 1, and cannot be shown to be less."""
    found = fit([1, 2, 3, 4], [1.0, 1.3, 0.8, 1.1])
    assert found is not None
    assert found.contention.high == 1


def test_what_stops_growing_bends_at_its_capacity() -> None:
    """A target that refuses whatever is beyond 20: the knee is said to lie where the throughput is greatest."""
    found = fit([1, 5, 10, 15, 20, 30, 40], [1, 5, 10, 15, 20, 20, 20])
    assert found is not None
    assert 20 <= found.knee.value <= 60
    assert found.reached == 40
