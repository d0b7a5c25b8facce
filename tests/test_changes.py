"""Changes in a history: found where they are, and hardly ever where there are none."""

from math import inf
from random import Random

import numpy as np
import pytest
from scipy import stats

from busyhour.statistics.changes import LEAST_RUNS, Change, changes, places, smallest_seen


def test_the_energy_of_a_division_is_counted_by_hand() -> None:
    """0 0 0 | 1 1 1: n m / (n + m) (2 x 1 - 0 - 0) = 9 / 6 x 2 = 3, and less for every other division."""
    from busyhour.statistics.changes import _apart

    assert _apart(np.array([0.0, 0, 0, 1, 1, 1])).tolist() == [pytest.approx(3)]
    seven = _apart(np.array([0.0, 0, 0, 0, 1, 1, 1]))
    assert seven.tolist() == pytest.approx([12 / 7 * (2 * 3 / 4 - 0 - 1 / 2), 12 / 7 * 2])


def test_a_step_is_found_with_what_was_before_and_after_it() -> None:
    random = Random(1)
    series = [random.gauss(600, 10) for _ in range(12)] + [random.gauss(660, 10) for _ in range(8)]
    (change,) = changes(series)
    assert change.at == 12
    assert change.before == pytest.approx(np.mean(series[:12]))
    assert change.after == pytest.approx(np.mean(series[12:]))
    assert change.p == pytest.approx(stats.ttest_ind(series[:12], series[12:]).pvalue)


def test_a_rise_that_is_followed_by_a_fall_is_two_changes() -> None:
    random = Random(3)
    series = [random.gauss(700 if 10 <= n < 18 else 600, 10) for n in range(28)]
    assert [change.at for change in changes(series)] == [10, 18]


def test_the_answer_is_the_same_every_time_and_does_not_hang_on_the_unit() -> None:
    random = Random(5)
    series = [random.gauss(600 + 80 * (n // 10), 8) for n in range(30)]
    found = changes(series)
    assert found == changes(series)
    assert [c.at for c in found] == [c.at for c in changes([one / 1000 - 7 for one in series])] == [10, 20]


def test_three_runs_on_either_side_are_the_least() -> None:
    assert (places(5), places(6), places(20)) == (0, 1, 15)
    step = [600.0, 601, 602, 700, 701, 702]
    assert [change.at for change in changes(step)] == [LEAST_RUNS]
    assert changes(step[1:]) == []
    assert changes([]) == []


def test_the_more_series_are_looked_at_the_more_a_change_must_show() -> None:
    series = [600.0, 604, 608, 596, 620, 624, 628, 616]
    assert changes(series)
    assert changes(series, of_series=1000) == []


@pytest.mark.parametrize("series", [[5.0] * 30, [0.0] * 20 + [1.0] + [0.0] * 20])
def test_nothing_is_found_where_next_to_nothing_varies(series: list[float]) -> None:
    assert changes(series) == []


@pytest.mark.parametrize(("reading", "runs"), [(0.1, 20), (0.1, 300), (0.7, 60), (612.7, 100), (1 / 3, 1000)])
def test_a_mean_that_is_rounded_is_no_change(reading: float, runs: int) -> None:
    """Of so many equal runs the mean of some is off by a bit: beside a spread of as little it looked like a change."""
    assert changes([reading] * runs) == []
    assert smallest_seen([reading] * runs) is None


def test_counts_that_never_varied_before_or_after_need_enough_runs() -> None:
    """Three zeros and three ones are one of the two most extreme of 20 orders; ten and ten of 184,756."""
    assert changes([0.0] * 3 + [1.0] * 3) == []
    assert changes([0.0] * 10 + [1.0] * 10) == [Change(10, 0.0, 1.0, pytest.approx(2 / 184756))]


def test_runs_that_were_never_answered_are_searched_by_ranks() -> None:
    random = Random(9)
    series = [random.gauss(600, 10) for _ in range(10)] + [inf] * 8
    (change,) = changes(series)
    assert (change.at, change.after) == (10, inf)
    assert change.before == pytest.approx(np.mean(series[:10]))
    assert smallest_seen(series) is None


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        changes([1.0, float("nan")] * 5)


def test_flat_histories_show_a_change_in_at_most_one_in_twenty() -> None:
    """Of normal and of long-tailed runs; benchmarks/comparing.py has more of them."""
    random = np.random.default_rng(11)
    for draw in (random.normal, lambda size: random.lognormal(0, 0.5, size)):
        found = sum(bool(changes(draw(size=24).tolist())) for _ in range(300))
        assert found <= 25  # 15 are expected at 5 %; more than 25 have the chance .005


def test_a_change_as_large_as_said_is_seen_in_about_half_of_all_cases() -> None:
    random = np.random.default_rng(12)
    seen = smallest_seen(random.normal(600, 20, 2000)[:24].tolist())
    assert seen is not None
    found = 0
    for _ in range(200):
        flat = random.normal(600, 20, 24)
        size = smallest_seen(flat.tolist())
        assert size is not None
        flat[12:] += size
        found += bool(changes(flat.tolist()))
    assert 70 <= found <= 140
