from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.model import Outcome
from busyhour.statistics.events import Events
from busyhour.statistics.exact import Exact, Worst, weighted_quantile
from busyhour.statistics.mean import Mean
from busyhour.statistics.rate import Rate
from busyhour.statistics.wording import certified, number, percentile, spread

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


# ---------------------------------------------------------------- rates


def test_clopper_pearson() -> None:
    clean = Rate.of([False] * 96)
    assert clean.value == 0
    assert clean.low == 0
    assert clean.high == pytest.approx(3.07, abs=0.01)
    # Clopper and Pearson's own kind of table: 10 of 100, 5 % a side
    ten = Rate(10, 100)
    assert ten.low == pytest.approx(5.526, abs=0.001)
    assert ten.high == pytest.approx(16.372, abs=0.001)
    assert Rate(100, 100).high == 100


@pytest.mark.parametrize(
    ("hits", "n", "outcome"), [(0, 299, PASS), (0, 298, INCONCLUSIVE), (3, 50, FAIL), (2, 50, INCONCLUSIVE)]
)
def test_at_most_one_percent(hits: int, n: int, outcome: Outcome) -> None:
    assert Rate(hits, n).at_most(1, 0.05).outcome is outcome


@pytest.mark.parametrize(
    ("hits", "n", "outcome"), [(299, 299, PASS), (298, 298, INCONCLUSIVE), (47, 50, FAIL), (48, 50, INCONCLUSIVE)]
)
def test_at_least_ninety_nine_percent(hits: int, n: int, outcome: Outcome) -> None:
    assert Rate(hits, n).at_least(99, 0.05).outcome is outcome


def test_no_number_of_readings_shows_nought_or_all() -> None:
    clean = Rate(0, 10_000, "turns").at_most(0, 0.05)
    assert clean.outcome is INCONCLUSIVE
    assert clean.because == "0 of 10000 turns; no number of turns can show 0 %"
    assert Rate(1, 10_000).at_most(0, 0.05).outcome is FAIL
    assert Rate(10, 10, "calls").at_least(100, 0.05).because == "10 of 10 calls; no number of calls can show 100 %"
    assert Rate(9, 10).at_least(100, 0.05).outcome is FAIL
    assert Rate(10, 10).at_most(100, 0.05).outcome is PASS
    assert Rate(0, 10).at_least(0, 0.05).outcome is PASS


def test_it_says_how_many_more_are_needed() -> None:
    assert Rate(96, 96, "calls").at_least(99, 0.05).because == "96 of 96 calls; at least 203 more calls are needed"
    assert "chance may explain it: about" in Rate(2, 50, "calls").at_most(1, 0.05).because
    assert "many more calls would tell" in Rate(1, 100, "calls").at_most(1, 0.05).because


def test_of_nothing_there_is_no_rate() -> None:
    nothing = Rate.of([])
    assert (nothing.n, nothing.value, nothing.low, nothing.high) == (0, None, None, None)


@given(hits=st.lists(st.booleans(), min_size=1, max_size=200), limit=st.floats(0.5, 99.5))
def test_the_interval_shown_and_the_verdict_given_agree(hits: list[bool], limit: float) -> None:
    rate = Rate.of(hits)
    assert rate.low is not None
    assert rate.high is not None
    expected = PASS if rate.high <= limit else FAIL if rate.low > limit else INCONCLUSIVE
    if min(abs(rate.high - limit), abs(rate.low - limit)) > 1e-6:
        assert rate.at_most(limit, 0.05).outcome is expected


def test_a_dead_call_is_one_piece_of_evidence() -> None:
    hits = [True] * 7 + [False] * 133
    apart, together = Rate.of(hits, noun="turns"), Rate.of(hits, [n // 7 for n in range(140)], noun="turns")
    assert apart.at_most(2, 0.05).outcome is FAIL
    assert together.at_most(2, 0.05).outcome is INCONCLUSIVE
    assert "140 weigh as 20" in together.at_most(2, 0.05).because


@pytest.mark.parametrize(
    ("hits", "pattern"),
    [({3, 4}, False), ({3, 4, 100}, False), ({3, 4, 5}, True), ({3, 4, 100, 101}, True), ({3, 40, 100, 200}, False)],
)
def test_few_hits_are_alike_only_where_chance_would_not_put_them_together(hits: set[int], pattern: bool) -> None:
    calls = [n // 7 for n in range(315)]
    assert (Rate.of([n in hits for n in range(315)], calls).alike.factor > 1) is pattern
    assert (Rate.of([n not in hits for n in range(315)], calls).alike.factor > 1) is pattern
    counts = [sum(n // 7 == call for n in hits) for call in range(45)]
    assert (Events.of(counts, [7.0] * 45, range(45)).alike.factor > 1) is pattern


def test_two_hits_in_one_call_are_not_yet_a_pattern() -> None:
    hits = [n in {3, 4} for n in range(315)]
    assert Rate.of(hits, [n // 7 for n in range(315)]).alike.factor == 1


# ---------------------------------------------------------------- events


def test_no_event_bounds_the_rate_by_three_per_exposure() -> None:
    none = Events.of([0, 0], [5.0, 5.0], noun="minutes", what="gaps")
    assert none.value == 0
    assert none.low == 0
    assert none.high == pytest.approx(0.29957, abs=1e-4)
    assert none.at_most(0.3, 0.05).outcome is PASS
    undecided = none.at_most(0.2, 0.05)
    assert undecided.outcome is INCONCLUSIVE
    assert undecided.because == "0 gaps in 10 minutes; at least 5 more minutes are needed"
    assert none.at_most(0, 0.05).because == "0 gaps in 10 minutes; no number of minutes can show 0"
    assert none.at_least(0, 0.05).outcome is PASS, "no rate is below 0, not even that of a target without any gap"
    assert Events.of([], []).at_least(0, 0.05).outcome is INCONCLUSIVE


def test_ten_events_have_garwoods_interval() -> None:
    ten = Events.of([10], [1.0])
    assert ten.low == pytest.approx(5.425, abs=0.001)
    assert ten.high == pytest.approx(16.962, abs=0.001)
    assert ten.at_most(17, 0.05).outcome is PASS
    assert ten.at_most(5, 0.05).outcome is FAIL
    assert ten.at_most(9, 0.05).outcome is INCONCLUSIVE
    assert "chance may explain it" in ten.at_most(9, 0.05).because
    assert ten.at_least(5, 0.05).outcome is PASS
    assert ten.at_least(17, 0.05).outcome is FAIL
    assert ten.at_least(9, 0.05).outcome is INCONCLUSIVE


def test_percent_of_events_may_exceed_a_hundred() -> None:
    assert Events.of([3, 3], [1, 1], per=100).value == 300


def test_events_in_bunches_weigh_less() -> None:
    spread_out = Events.of([1] * 40, [1.0] * 40, range(40), what="errors")
    bunched = Events.of([20, 20] + [0] * 38, [1.0] * 40, range(40), what="errors")
    assert spread_out.alike.factor == 1
    assert Events.of([4, 1, 1, 3, 1, 2, 4, 0], [1.0] * 8, range(8)).alike.factor == 1  # as uneven as chance is
    assert bunched.value == spread_out.value == 1
    assert bunched.alike.factor == pytest.approx(760 / 39)
    assert spread_out.at_most(1.5, 0.05).outcome is PASS
    assert bunched.at_most(1.5, 0.05).outcome is INCONCLUSIVE
    assert "errors come in bunches, so that 40 weigh as 2.1" in bunched.at_most(1.5, 0.05).because


def test_events_without_exposure_are_no_rate() -> None:
    nothing = Events.of([], [])
    assert (nothing.n, nothing.value, nothing.low, nothing.high) == (0, None, None, None)
    assert Events.of([0], [0.0]).value is None
    assert Events.of([0], [0.0]).at_most(1, 0.05).outcome is INCONCLUSIVE


# ---------------------------------------------------------------- means


def test_the_interval_of_a_mean_is_students() -> None:
    values = [float(v) for v in range(1, 41)]
    mean = Mean.of(values, unit="ms")
    error = float(np.std(values, ddof=1)) / sqrt(40)
    assert mean.value == 20.5
    assert mean.low == pytest.approx(20.5 - 1.6849 * error, abs=1e-3)
    assert mean.high == pytest.approx(20.5 + 1.6849 * error, abs=1e-3)
    assert mean.at_most(24, 0.05).outcome is PASS
    assert mean.at_most(17, 0.05).outcome is FAIL
    assert mean.at_most(21, 0.05).outcome is INCONCLUSIVE
    assert mean.at_least(17, 0.05).outcome is PASS
    assert mean.at_least(24, 0.05).outcome is FAIL
    assert mean.at_most(24, 0.05).because == "its p99 is 40 ms"


@pytest.mark.parametrize("leans", [1, -1])
def test_either_end_of_the_mean_of_skewed_readings_is_wrong_as_seldom_as_it_says(leans: int) -> None:
    drawn = leans * np.random.default_rng(1).exponential(1.0, (4000, 100))
    means = [Mean.of(readings) for readings in drawn]
    too_low = sum(mean.high is not None and mean.high < leans for mean in means) / len(means)
    too_high = sum(mean.low is not None and mean.low > leans for mean in means) / len(means)
    assert 0.035 < too_low < 0.062  # Student's: .071 and .032, the other way round for those that lean to the left
    assert 0.035 < too_high < 0.062
    assert all(mean.low <= mean.value <= mean.high for mean in means if None not in {mean.low, mean.value, mean.high})


def test_a_mean_of_few_is_inconclusive() -> None:
    few = Mean.of([1.0, 2.0] * 14 + [1.0], noun="calls").at_most(100, 0.05)
    assert few.outcome is INCONCLUSIVE
    assert few.because == "a mean needs 30 calls, 1 more; its p99 is 2"
    assert Mean.of([1.0, 2.0] * 14).at_most(0.1, 0.05).outcome is INCONCLUSIVE


def test_one_that_never_came_makes_the_mean_infinite() -> None:
    mean = Mean.of([1.0] * 40 + [inf])
    assert mean.value == inf
    assert mean.at_most(1e9, 0.05).outcome is FAIL
    assert Mean.of([1.0, inf]).at_most(1e9, 0.05).outcome is FAIL


def test_readings_of_one_call_are_one_group() -> None:
    values = [float(v) for v in range(5) for _ in range(10)]
    assert Mean.of(values).at_most(2.4, 0.05).outcome is PASS
    by_call = Mean.of(values, [n // 10 for n in range(50)])
    assert by_call.error == pytest.approx(float(np.std(range(5), ddof=1)) / sqrt(5))
    assert by_call.at_most(2.4, 0.05).outcome is INCONCLUSIVE
    assert Mean.of(values, ["one"] * 50).at_most(100, 0.05).outcome is INCONCLUSIVE


def test_of_nothing_there_is_no_mean() -> None:
    nothing = Mean.of([])
    assert (nothing.n, nothing.value, nothing.low, nothing.high) == (0, None, None, None)
    assert nothing.at_most(1, 0.05).outcome is INCONCLUSIVE


# ---------------------------------------------------------------- exact


def test_a_count_is_what_it_is() -> None:
    assert Exact(0, 100).at_most(0, 0.05).outcome is PASS
    assert Exact(1, 100).at_most(0, 0.05).outcome is FAIL
    assert Exact(1, 100).at_least(1, 0.05).outcome is PASS
    assert Exact(0, 100).at_least(1, 0.05).outcome is FAIL
    assert Exact(None, 0).at_most(0, 0.05).outcome is INCONCLUSIVE


def test_the_worst_speaks_of_this_run_only() -> None:
    worst = Worst.of([1.0, 3.0, 2.0], noun="turns")
    assert (worst.value, worst.low, worst.high, worst.n) == (3, 3, 3, 3)
    assert worst.at_most(3, 0.05).outcome is PASS
    assert "no bound for the next" in worst.at_most(3, 0.05).because
    assert worst.at_most(1.5, 0.05).because == "2 of 3 turns are over it"
    assert worst.at_least(3, 0.05).outcome is PASS
    assert worst.at_least(4, 0.05).outcome is FAIL
    assert Worst.of([]).at_most(1, 0.05).outcome is INCONCLUSIVE
    assert Worst.of([]).at_least(1, 0.05).outcome is INCONCLUSIVE


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 20)), min_size=1, max_size=20), st.floats(0.01, 1))
def test_a_weighted_quantile_is_that_of_the_readings_written_out(pairs: list[tuple[float, int]], q: float) -> None:
    written_out = sorted(value for value, count in pairs for _ in range(count))
    wanted = next(v for i, v in enumerate(written_out, start=1) if i >= q * len(written_out) - 1e-9)
    assert weighted_quantile([v for v, _ in pairs], [c for _, c in pairs], q) == wanted


def test_of_no_samples_there_is_no_weighted_quantile() -> None:
    assert weighted_quantile([], [], 0.99) is None
    assert weighted_quantile([1.0], [0], 0.99) is None


# ---------------------------------------------------------------- wording


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (712.4, "ms", "712"),
        (45.678, "ms", "45.7"),
        (2.1349, "s", "2.13"),
        (0.0021349, "s", "0.00213"),
        (0, "", "0"),
        (1200000, "", "1200000"),
        (99.97, "%", "99.97"),
        (100, "%", "100"),
        (97.92, "%", "97.9"),
        (0.05, "%", "0.05"),
        (inf, "ms", "infinite"),
        (-0.0, "", "0"),
    ],
)
def test_numbers_have_the_digits_that_matter(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_a_number_does_not_round_to_the_limit_it_breaks() -> None:
    assert number(800.3, "ms", apart_from=(800,)) == "800.3"
    assert number(800.0, "ms", apart_from=(800,)) == "800"
    assert number(799.9999, "ms", apart_from=(600, 800)) == "799.9999"


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (1.253, 1.252, "1.253"),
        (1.2549, 1.2548, "1.255"),
        (250.4, 250.2, "250.4"),
        (12.26, 12.28, "12.26"),
        (799.96, 799.97, "799.96"),
        (1.2525, 1.2525, "1.2525"),
        (1.25, 1.252, "1.25"),
    ],
)
def test_a_number_does_not_round_across_a_limit_of_more_digits(value: float, limit: float, text: str) -> None:
    assert number(value, "s", apart_from=(limit,)) == text


def test_percentiles_are_rounded_down() -> None:
    assert [percentile(q) for q in (0.5, 0.95, 0.999)] == ["p50", "p95", "p99.9"]
    assert [certified(q) for q in (0.92789, 0.99037, 0.999999, 0.0)] == ["p92.7", "p99", "p99.9999", "p0"]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (698, 731, "698-731"),
        (698, inf, "698 or more"),
        (-inf, 731, "up to 731"),
        (-inf, inf, ""),
        (5, 5, ""),
        (None, 5, ""),
    ],
)
def test_spreads(low: float | None, high: float | None, text: str) -> None:
    assert spread(low, high, "ms", apart_from=()) == text
