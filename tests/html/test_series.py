"""A few points of many: windows, thinned readings, gauges."""

from __future__ import annotations

import json
from math import inf, nan
from random import Random

import numpy as np
import pytest

from busyhour.gates import AtLeast, AtMost, Between
from busyhour.indicators import call_success, response_latency
from busyhour.model import MS, SECOND, Estimate, Outcome, Verdict
from busyhour.reports.html.gauge import LEFT, RIGHT, WIDTH, Gauge, figure, gauge
from busyhour.reports.html.series import (
    POINTS_MOST,
    WINDOWS_MOST,
    Windows,
    apart,
    in_progress,
    quantiles,
    ranks,
    stepped,
    thinned,
    told,
    weighted_quantiles,
)
from busyhour.reports.html.words import clock, duration
from busyhour.statistics.exact import weighted_quantile
from busyhour.statistics.quantile import rank
from busyhour.testing import answered, call, whole_run


def ns(*seconds: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([round(one * SECOND) for one in seconds], dtype=np.int64)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("seconds", [0, 0.5, 7, 150, 3_600, 31_000, 900_000, 40_000_000])
@pytest.mark.parametrize("readings", [0, 1, 50, 1_000_000])
def test_windows_are_few_and_cover_the_run(seconds: float, readings: int) -> None:
    windows = Windows.of(SECOND, SECOND + round(seconds * SECOND), readings)
    assert 1 <= windows.count <= WINDOWS_MOST
    assert windows.count * windows.width_s >= seconds
    assert len(windows.middles_s) == len(windows.edges_s) - 1 == windows.count
    assert windows.index(ns(1, 1 + seconds, 0)).tolist() == [0, windows.count - 1, 0]


def test_a_window_has_twenty_readings_if_there_are_so_many() -> None:
    assert Windows.of(0, 600 * SECOND, 200).width_s == 60
    assert Windows.of(0, 600 * SECOND, 200, each=2).width_s == 10
    assert Windows.of(0, 600 * SECOND, 10).count == 1


@pytest.mark.parametrize(
    ("width", "words"),
    [(0.5, "0.5 s"), (15, "15 s"), (120, "2 min"), (7200, "2 h"), (90, "90 s"), (7342.5, "2 h 2 min")],
)
def test_the_width_of_windows_in_words(width: float, words: str) -> None:
    assert Windows(0, width, 1).told == words


def test_quantiles_of_windows_are_those_of_their_own_readings() -> None:
    random = Random(3)
    at_ns = ns(*(random.uniform(0, 60) for _ in range(400)))
    values = np.array([random.choice([random.uniform(1, 9), inf]) for _ in at_ns])
    windows = Windows(0, 10, 6)
    qs = (0.5, 0.95, 1.0)
    for q, found in zip(qs, quantiles(windows, at_ns, values, qs), strict=True):
        for number, value in enumerate(found):
            own = sorted(values[windows.index(at_ns) == number])
            assert value == own[rank(len(own), q) - 1]


def test_a_percentile_beyond_which_no_reading_can_be_is_not_told() -> None:
    at_ns, values = ns(*[1] * 19, *[11] * 20), np.arange(39.0)
    assert quantiles(Windows(0, 10, 3), at_ns, values, [0.95]) == [[None, 37.0, None]]
    assert quantiles(Windows(0, 10, 3), at_ns, values, [0.99]) == [[None, None, None]]
    assert quantiles(Windows(0, 10, 3), at_ns, values, [0.5]) == [[9.0, 28.0, None]]


def test_quantiles_of_histograms_are_those_of_all_they_stand_for() -> None:
    random = Random(5)
    at_ns = ns(*(random.uniform(0, 30) for _ in range(90)))
    values, counts = np.array([random.uniform(1, 9) for _ in at_ns]), np.array([random.randrange(4) for _ in at_ns])
    windows = Windows(0, 10, 4)
    found = weighted_quantiles(windows, at_ns, values, counts, 0.9)
    for number in range(3):
        own = windows.index(at_ns) == number
        assert found[number] == weighted_quantile(values[own], counts[own], 0.9)
    assert found[3] is None


def test_the_most_at_once_is_what_counting_says() -> None:
    random = Random(7)
    began = [random.uniform(0, 50) for _ in range(80)]
    ended = [at + random.uniform(0, 20) for at in began]
    found = in_progress(Windows(0, 5, 14), ns(*began), ns(*ended))
    for number, most in enumerate(found):
        looks = [number * 5 + 0.001 * i for i in range(5000)]
        counted = max(sum(b <= look < e for b, e in zip(began, ended, strict=True)) for look in looks[::50])
        assert most is not None
        assert most >= counted
    assert max(one for one in found if one is not None) == max(
        sum(b <= at < e for b, e in zip(began, ended, strict=True)) for at in began
    )


# ---------------------------------------------------------------- points


def test_few_readings_are_all_drawn_and_many_keep_their_extremes() -> None:
    at_ns = np.arange(50_000, dtype=np.int64) * MS
    values = np.sin(at_ns / 1e9)
    values[31_234], values[7] = 99.0, -99.0
    values[100] = nan
    kept = thinned(at_ns, values)
    assert len(kept) <= POINTS_MOST
    assert {31_234, 7} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert thinned(at_ns[:200], values[:200]).tolist() == [i for i in range(200) if i != 100]
    assert len(thinned(at_ns[:0], values[:0])) == 0


def test_what_is_told_is_json_whatever_it_is() -> None:
    given = [1.0, 1 / 3, inf, -inf, nan, None, 1e9, 123456.789]
    found = json.loads(json.dumps(told(given), allow_nan=False))
    assert found == [1, 0.333333, "never", 0, None, None, 1_000_000_000, 123457]
    assert stepped([1.0, None]) == [1, None, None]
    assert stepped([]) == []


def test_places_are_in_order_and_apart() -> None:
    found = apart([1, 1, 1, 1.0004, 5])
    assert found == sorted(set(found))
    assert found[-1] == 5


def test_the_curve_reaches_beyond_the_last_sample_and_has_what_is_wanted() -> None:
    found = ranks(50, 40, wanted=[0.95, 1.0])
    assert 0.95 in found
    assert found[0] == 0
    assert 1 - 1 / 50 < found[-1] < 1
    assert rank(50, found[-1]) == 50
    assert ranks(0, 40) == []


@pytest.mark.parametrize(
    ("seconds", "at", "long"),
    [(0.42, "0:00", "0.42 s"), (75, "1:15", "1 min 15 s"), (3_725, "1:02:05", "1 h 2 min"), (-1, "0:00", "-1 s")],
)
def test_times_in_words(seconds: float, at: str, long: str) -> None:
    assert (clock(seconds), duration(seconds)) == (at, long)


# ---------------------------------------------------------------- gauges


def drawn(verdict: Verdict) -> Gauge:
    found = gauge(verdict)
    assert found is not None
    return found


def of(
    value: float | None, low: float | None, high: float | None, *, unit: str = "ms", at_most: float | None = 800
) -> Gauge | None:
    limits = (None, at_most)
    return gauge(Verdict("g", Outcome.PASS, "b", Estimate("w", unit, 9, value, low, high), limits=limits))


def test_what_is_within_lies_on_the_allowed_side() -> None:
    run = whole_run(*(answered([500.0 + n], number=n) for n in range(90)))
    found = drawn(AtMost(response_latency("steady"), 800, "ms").judge(run))
    assert found.interval is not None
    assert found.value is not None
    assert LEFT <= found.interval[0] <= found.value <= found.interval[1] < found.allowed[1] <= RIGHT
    assert found.allowed[0] == 0
    assert found.told == "585 ms (581-589, n=90), limit \u2264 800 ms"
    assert [limit.text for limit in found.limits] == ["\u2264 800 ms"]


def test_a_limit_in_another_unit_is_drawn_in_that_of_the_estimate() -> None:
    run = whole_run(*(answered([500.0 + n], number=n) for n in range(90)))
    found = drawn(AtMost(response_latency("steady"), 0.8, "s").judge(run))
    assert [limit.text for limit in found.limits] == ["\u2264 800 ms"]


def test_at_least_and_between_have_their_own_side() -> None:
    run = whole_run(*(call(n) for n in range(60)))
    least = drawn(AtLeast(call_success("steady"), 90, "%").judge(run))
    assert least.value is not None
    assert least.allowed[0] < least.value <= least.allowed[1] == WIDTH
    both = drawn(Between(call_success("steady"), 90, 99.5, "%").judge(run))
    assert both.allowed[0] < both.allowed[1] < both.value <= RIGHT if both.value is not None else False
    assert [limit.text for limit in both.limits] == ["\u2265 90 %", "\u2264 99.5 %"]


def test_what_never_came_is_an_arrow_out_of_the_picture() -> None:
    found = of(inf, 500, inf)
    assert found is not None
    assert found.value is None
    assert found.open_high
    assert found.interval == (found.interval[0], WIDTH) if found.interval else False
    assert found.label.text == "infinite"
    assert found.told.startswith("infinite (500 or more, n=9)")


def test_all_is_infinite_but_the_limit() -> None:
    found = of(inf, inf, inf)
    assert found is not None
    assert found.interval is None
    assert found.allowed[1] < WIDTH


def test_far_apart_is_drawn_on_a_logarithmic_scale() -> None:
    found = of(2.0, 1.0, 4.0, at_most=5_000)
    assert found is not None
    assert found.log
    assert found.value is not None
    assert found.value - LEFT > 10


@pytest.mark.parametrize("value", [0.0, -3.0, 800.0, 1e-9, 1e12])
def test_nothing_leaves_the_picture(value: float) -> None:
    found = of(value, value, value)
    assert found is not None
    assert found.value is not None
    assert LEFT <= found.value <= RIGHT
    assert 0 <= found.label.x <= WIDTH


def test_nothing_measured_or_no_limit_is_not_drawn() -> None:
    assert of(None, None, None) is None
    assert of(5.0, 4.0, 6.0, at_most=None) is None
    assert gauge(Verdict("g", Outcome.PASS, "b")) is None


def test_figures_of_tables() -> None:
    assert figure(None) == figure(Estimate("w", "ms", 0, None, None, None)) == "\u2013"
    assert figure(Estimate("w", "s", 4, inf, None, None)) == "never"
    assert figure(Estimate("w", "%", 4, 99.97, None, None)) == "99.97 %"
