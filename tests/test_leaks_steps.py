"""Each step of the trend's judgement by itself, with an answer that is known."""

from math import exp, inf, log

import numpy as np
import pytest

from busyhour.statistics.leaks.fitting import Belief, Fitted, fitted
from busyhour.statistics.leaks.foresight import Noise, detectable_per_hour, hours_to_detect
from busyhour.statistics.leaks.noise import Noises, noises
from busyhour.statistics.leaks.shapes import Growth, coarse_taus, line_only, taus_around
from busyhour.statistics.leaks.traces import (
    Blocks,
    Floats,
    Readings,
    Trace,
    blocks,
    longest_period,
    readings,
    without_load,
)
from busyhour.statistics.leaks.trend import look_hours, look_rates
from busyhour.statistics.leaks.weighing import all_fits, kept_of, recent_slope, still_rising

HOURS = np.arange(960) * 30 / 3600


def given(value: Floats, hours: Floats = HOURS, load: Floats | None = None, done: Floats | None = None) -> Readings:
    return Readings(hours, value, load, done)


def noise(seed: int, deviation: float = 3.0, alike: float = 0.9, n: int = 960) -> Floats:
    rng = np.random.default_rng(seed)
    found, level = np.empty(n), rng.normal(0, deviation)
    for i, shock in enumerate(rng.normal(0, deviation * (1 - alike**2) ** 0.5, n)):
        level = alike * level + shock
        found[i] = level
    return found


def sawtooth(period_hours: float, height: float = 100.0) -> Floats:
    return height * (HOURS / period_hours % 1.0)


# ---------------------------------------------------------------- readings


def test_readings_are_put_in_order_each_instant_once_and_what_is_not_finite_left_out() -> None:
    trace = Trace([7200, 3600, 3600, np.nan, 10800, 14400], [3, 1, 2, 9, np.inf, 4], load=[np.nan, 5, 5, 5, 5, 7])
    clean = readings(trace)
    assert clean.hours.tolist() == [0, 1, 3]
    assert clean.value.tolist() == [2, 3, 4]
    assert clean.load is not None
    assert clean.load.tolist() == pytest.approx([5, 5 + 2 / 3, 7])


def test_a_reading_a_second_is_thinned_to_means() -> None:
    at = np.arange(8 * 3600)
    clean = readings(Trace(at, 5.0 + 2 * at / 3600, completed=at))
    assert 3500 < len(clean.hours) <= 4097
    assert clean.value[[0, -1]] == pytest.approx([5, 21], abs=0.01)
    assert np.polyfit(clean.hours, clean.value, 1)[0] == pytest.approx(2)
    assert clean.completed is not None
    assert clean.completed[-1] == pytest.approx(28_800, abs=10)


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 times but 3 of completed"):
        Trace([1, 2], [1, 2], completed=[1, 2, 3])


def test_readings_until_an_hour_are_those_before_it() -> None:
    assert readings(Trace(HOURS * 3600, HOURS)).until(2.0).span == pytest.approx(2.0)


# ---------------------------------------------------------------- load


def test_what_follows_the_load_is_taken_away_and_the_trend_is_not() -> None:
    load = 30 + 20 * np.sin(HOURS * 2 * np.pi / 24) + noise(1, 4)
    rest = without_load(given(10 * HOURS + 2 * load + noise(2, 1), load=load)).value
    slope = np.polyfit(HOURS, rest, 1)[0]
    assert slope == pytest.approx(10, abs=0.7)


def test_a_load_that_merely_rises_with_a_leak_does_not_explain_it_away() -> None:
    load = 5 * HOURS + noise(3, 2)
    value = 12 * HOURS + noise(4, 3)
    assert np.polyfit(HOURS, without_load(given(value, load=load)).value, 1)[0] == pytest.approx(12, abs=1.5)


def test_memory_that_follows_the_load_later_is_followed_later() -> None:
    load = np.repeat(np.random.default_rng(5).uniform(0, 40, 64), 15)
    behind = np.empty(960)
    level = load[0]
    for i, one in enumerate(load):
        level += (one - level) * (1 - exp(-1 / 20))
        behind[i] = level
    rest = without_load(given(3 * behind + noise(6, 1), load=load)).value
    assert rest.std() < 0.35 * (3 * behind).std()


def test_without_a_load_that_moves_nothing_is_taken_away() -> None:
    value = noise(7)
    assert without_load(given(value)).value is value
    assert without_load(given(value, load=np.full(960, 3.0))).value is value


# ---------------------------------------------------------------- period, blocks


@pytest.mark.parametrize("minutes", [4, 9, 25])
def test_the_period_of_a_sawtooth_is_found(minutes: float) -> None:
    found = longest_period(given(sawtooth(minutes / 60) + noise(8, 2) + 5 * HOURS))
    assert found == pytest.approx(minutes / 60, rel=0.1)


def test_a_period_that_grows_is_that_of_the_later_half() -> None:
    phase = np.cumsum(30 / 3600 / np.linspace(0.1, 0.3, 960))
    assert longest_period(given(100 * (phase % 1.0) + noise(9, 2))) > 0.19


@pytest.mark.parametrize("alike", [0.0, 0.9, 0.97])
def test_slow_noise_has_no_period(alike: float) -> None:
    assert [longest_period(given(noise(seed, 3, alike))) for seed in range(10, 16)] == [0.0] * 6


def test_blocks_of_a_periodic_trace_are_its_floor() -> None:
    made = blocks(given(sawtooth(0.2) + 500))
    assert made.width >= 1.3 * 0.2 * 0.95
    assert made.value == pytest.approx(np.full(len(made.value), 505), abs=8)


def test_blocks_of_any_other_trace_are_medians_which_spikes_do_not_move() -> None:
    value = np.full(960, 300.0) + noise(17, 1, 0.0)
    value[::7] += 1000
    made = blocks(given(value))
    assert 48 <= len(made.value) <= 65
    assert made.value == pytest.approx(np.full(len(made.value), 300), abs=2.5)


def test_a_stretch_without_readings_has_no_block() -> None:
    awake = (HOURS < 3) | (HOURS > 5)
    made = blocks(given(noise(18)[awake], HOURS[awake]))
    assert not ((made.hours > 3.1) & (made.hours < 4.9)).any()


def test_a_block_that_stands_out_weighs_less() -> None:
    value = 300 + noise(19, 1, 0.0)
    value[480:500] += 80
    made = blocks(given(value))
    assert made.weight.min() < 0.1
    assert np.median(made.weight) > 0.5


# ---------------------------------------------------------------- shapes, noise, fits


def even(value: Floats, **more: Floats) -> Blocks:
    """Blocks as they are given, 8 h of them."""
    n = len(value)
    columns: dict[str, Floats | None] = {"load": None, "high_water": None, "completed": None, **more}
    return Blocks(np.linspace(0, 8, n), value, weight=np.ones(n), period=0.0, width=8 / n, **columns)


def best_of(value: Floats, **more: Floats) -> Fitted:
    made = even(value, **more)
    scaled = (made.value - np.median(made.value)) / np.abs(made.value - np.median(made.value)).max()
    return kept_of(all_fits(made, scaled, 3.0)[0])[0]


AT = np.linspace(0, 8, 64)
LITTLE = np.random.default_rng(20).normal(0, 0.5, 64)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (0 * AT, "constant"),
        (12 * AT, "line"),
        (100 * (1 - np.exp(-AT / 0.8)), "plateau"),
        (40 * np.log1p(AT / 0.5), "logarithm"),
        (np.minimum(60.0, 15 * AT), "capped ramp"),
        (50.0 * (AT > 3), "step"),
        (50.0 * (AT > 3) + 30 * (AT > 6), "two steps"),
        (100 * (1 - np.exp(-AT / 0.8)) + 50 * (AT > 5), "plateau and step"),
        (100 * (1 - np.exp(-AT / 0.8)) + 10 * AT, "plateau with line"),
        (50.0 * (AT > 3) + 10 * AT, "step with line"),
        (12 * np.maximum(0, AT - 4), "late with line"),
    ],
)
def test_a_trace_of_a_shape_is_fitted_best_by_that_shape(value: Floats, name: str) -> None:
    assert best_of(value + LITTLE).shape.name == name


def test_the_time_constant_is_refined_beyond_the_grid() -> None:
    fit = best_of(250 * (1 - np.exp(-AT / 0.73)) + LITTLE)
    assert fit.shape.name == "plateau"
    assert fit.shape.chosen[fit.best[1]][0] == pytest.approx(0.73, rel=0.02)
    assert coarse_taus(8.0, 3.0).max() == pytest.approx(3.0)
    assert taus_around(1.0, 16.0, 3.0).tolist() == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1, 2, 3])


def test_a_pool_as_large_as_the_load_ever_was_is_a_shape() -> None:
    load = 20 + 15 * np.sin(AT * 2) + np.random.default_rng(21).uniform(0, 10, 64)
    high = np.maximum.accumulate(load)
    assert best_of(2 * high + LITTLE, load=load, high_water=high).shape.name == "high water"


def test_growth_with_the_calls_is_told_from_growth_with_time_where_calls_come_unevenly() -> None:
    done = np.cumsum(np.where((AT > 2) & (AT < 4), 30.0, 2.0))
    assert best_of(done * 0.1 + LITTLE, completed=done).shape.growth is Growth.CALLS
    evenly = line_only(even(AT, completed=1000 * AT))
    assert [shape.growth for shape in evenly.shapes] == [Growth.LINE]


def test_each_shape_that_ends_is_kept_together_with_its_line() -> None:
    made = even(LITTLE)
    kept = kept_of(all_fits(made, LITTLE, 3.0)[0])
    assert kept[0].shape.ends
    ending = {fit.shape.base for fit in kept if fit.shape.ends}
    assert ending <= {fit.shape.base for fit in kept if fit.shape.growth is Growth.LINE}


def test_least_squares_under_independent_noise_are_the_textbook_s() -> None:
    made = even(5 * AT + LITTLE)
    plain = Noises(np.ones(1), np.ones(1), np.eye(64)[None], np.zeros(1))
    (fit,) = fitted(line_only(made), made.value, plain)
    (slope, _), covariance = np.polyfit(AT, made.value, 1, cov="unscaled")
    rest = made.value - np.polyval(np.polyfit(AT, made.value, 1), AT)
    assert fit.slope[0, 0] == pytest.approx(slope)
    assert fit.error[0, 0] == pytest.approx((covariance[0, 0] * (rest @ rest) / 61) ** 0.5, rel=1e-6)


def test_a_random_walk_has_a_slope_as_uncertain_as_it_is() -> None:
    """Its drift is known to no better than its step times the square root of the number of steps."""
    held = 0
    for seed in range(60):
        value = np.cumsum(np.random.default_rng(seed).normal(0, 1, 64)) / 8
        made = even(value)
        belief = Belief.of(fitted(line_only(made), value, noises(made.hours, made.weight)))
        held += belief.quantile(0.05) <= 0 <= belief.quantile(0.95)
    assert held >= 48  # 54 of 60 are meant, three standard deviations below it are 47


def test_belief_of_one_fit_is_student_s() -> None:
    belief = Belief(np.array([3.0]), np.array([2.0]), np.array([10.0]), np.array([1.0]))
    assert belief.quantile(0.95) == pytest.approx(3 + 2 * 1.812461, abs=1e-4)
    assert belief.below(3.0) == pytest.approx(0.5)
    assert belief.above(3.0 + 2 * 1.812461) == pytest.approx(0.05, abs=1e-5)


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("value", "rising"),
    [
        (12 * AT, True),
        (12 * np.floor(AT * 1.5), True),
        (100 * (1 - np.exp(-AT / 3)), False),
        (100.0 * (AT > 3), False),
        (100 * (1 - np.exp(-AT / 0.5)), False),
        (1 * AT, False),
        (-12 * AT, False),
    ],
)
def test_four_quarters_that_rise_without_slowing_down(value: Floats, rising: bool) -> None:
    assert still_rising(value, 2.0 * 8) is rising


def test_the_last_half_alone_shows_whether_it_still_grows() -> None:
    growing, done = even(12 * AT + LITTLE), even(np.minimum(40, 12 * AT) + LITTLE)
    assert recent_slope(growing.last_half(), growing.last_half().value) == pytest.approx(12, abs=1)
    assert recent_slope(done.last_half(), done.last_half().value) < 0.3


def test_looks_are_hourly_from_the_second_hour_and_at_the_end() -> None:
    assert look_hours(8.0) == [2, 3, 4, 5, 6, 7, 8]
    assert look_hours(1.0) == [1.0]
    assert look_hours(2.5) == [2, 2.5]
    assert len(look_hours(240.0)) == 24
    assert look_hours(8.0, []) == [8.0]
    assert look_hours(8.0, [4, 1, 9, -2]) == [1, 4, 8]


@pytest.mark.parametrize("looks", [1, 2, 3, 7, 24])
def test_all_looks_together_spend_alpha(looks: int) -> None:
    rates = look_rates(looks, 0.01)
    assert len(rates) == looks
    pairs = max(0, looks - 2)
    assert sum(rate.hit for rate in rates[1 : 1 + pairs]) + rates[-1].hit <= 0.01 + 1e-12


# ---------------------------------------------------------------- foresight


def test_the_time_to_detect_is_the_formula_s() -> None:
    quiet = Noise(4.0, 0.9, 30)
    assert quiet.effective_per_hour == pytest.approx(120 * 0.1 / 1.9)
    expected = (12 * 16 * (2.326348 + 1.281552) ** 2 / (120 / 19 * 100)) ** (1 / 3)
    assert hours_to_detect(quiet, 12, limit_per_hour=2) == pytest.approx(expected, rel=1e-5)
    assert hours_to_detect(quiet, 2, limit_per_hour=2) == inf
    assert quiet.memory_hours == pytest.approx(-30 / 3600 / log(0.9))


def test_what_is_detectable_in_the_time_to_detect_is_the_rate() -> None:
    quiet = Noise(4.0, 0.9, 30)
    hours = hours_to_detect(quiet, 7.5, limit_per_hour=2, alpha=0.003)
    assert detectable_per_hour(quiet, hours, limit_per_hour=2, alpha=0.003) == pytest.approx(7.5)
    assert detectable_per_hour(quiet, 0.0, limit_per_hour=2) == inf


def test_a_warm_up_that_may_go_on_hides_a_leak_the_more_the_shorter_the_run() -> None:
    quiet = Noise(4.0, 0.9, 30)
    plain = {hours: detectable_per_hour(quiet, hours, limit_per_hour=2) for hours in (0.4, 1, 8)}
    beside = {hours: detectable_per_hour(quiet, hours, limit_per_hour=2, settling_hours=3) for hours in (0.4, 1, 8)}
    assert plain[0.4] > plain[1] > plain[8]
    assert beside[0.4] > beside[1] > beside[8]
    assert beside[8] / plain[8] < 12 < beside[0.4] / plain[0.4]


def test_noise_is_measured_from_a_trace() -> None:
    found = Noise.of(Trace(HOURS * 3600, 300 + noise(22, 4.0, 0.97)))
    assert found is not None
    assert found.deviation == pytest.approx(3.3, abs=1.5)  # of medians of 15 readings
    assert 0.2 < found.alike < 0.98
    assert Noise.of(Trace([1, 2], [1, 2])) is None
