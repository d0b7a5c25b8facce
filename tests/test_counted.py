"""Samples by count weigh what they would one by one; decimal buckets never make a latency look better."""

from array import array
from math import inf
from random import Random

import pytest

from busyhour.histogram import DecimalHistogram
from busyhour.model import MS, Outcome
from busyhour.statistics.counted import Counted
from busyhour.statistics.exact import Worst
from busyhour.statistics.quantile import Quantile


def test_counted_samples_are_judged_as_each_for_itself() -> None:
    random = Random(1)
    values = [float(round(random.lognormvariate(3, 1))) for _ in range(3000)] + [inf] * 20
    seconds = [number // 100 for number in range(len(values))]
    readings = [(value, 1, second) for value, second in zip(values, seconds, strict=True)]
    one_by_one = Quantile.of(values, 0.95, seconds)
    counted = Quantile.of_counts(Counted(readings), 0.95)
    assert list(counted.ordered) == sorted(values)
    assert (counted.n, counted.value, counted.low, counted.high) == (
        one_by_one.n, one_by_one.value, one_by_one.low, one_by_one.high,
    )  # fmt: skip
    assert counted.alike.factor == pytest.approx(one_by_one.alike.factor)
    for limit in (20, 90, 100, 110, 120, 500):
        assert counted.at_most(limit, 0.05).outcome is one_by_one.at_most(limit, 0.05).outcome


def test_ten_million_are_no_more_work_than_their_buckets() -> None:
    readings = [(float(ms), 50_000, second) for ms in range(1, 101) for second in range(2)]
    quantile = Quantile.of_counts(Counted(readings), 0.99)
    assert quantile.n == 10_000_000
    assert quantile.value == 99.0
    assert quantile.at_most(99, 0.05).outcome is Outcome.INCONCLUSIVE
    assert quantile.at_most(100, 0.05).outcome is Outcome.PASS
    assert quantile.at_most(98, 0.05).outcome is Outcome.FAIL
    assert Worst(Counted(readings)).value == 100.0


def test_what_stood_still_in_one_second_is_discounted() -> None:
    """Three bad seconds with all their requests late are not the evidence that as many, scattered, would be."""
    scattered = [(1.0, 97, second) for second in range(100)] + [(500.0, 3, second) for second in range(100)]
    bunched = [(1.0, 100, second) for second in range(97)] + [(500.0, 100, second) for second in range(97, 100)]
    apart, together = (Quantile.of_counts(Counted(r), 0.99, noun="requests") for r in (scattered, bunched))
    assert apart.alike.factor == 1.0
    assert together.alike.factor == pytest.approx(100)
    assert apart.at_most(100, 0.05).outcome is Outcome.FAIL
    comparison = together.at_most(100, 0.05)
    assert comparison.outcome is Outcome.INCONCLUSIVE
    assert "requests of one second are alike (correlation 1.00), so that 10000 weigh as 100" in comparison.because


def test_nothing_is_nothing_and_no_number_is_refused() -> None:
    empty = Quantile.of_counts(Counted([]), 0.5)
    assert (empty.n, empty.value, Worst(Counted([(1.0, 0, 0)])).value) == (0, None, None)
    with pytest.raises(IndexError):
        Counted([(1.0, 2, 0)])[2]
    with pytest.raises(ValueError, match="not a number"):
        Counted([(float("nan"), 1, 0)])


def test_a_decimal_bucket_is_never_better_than_the_reading_and_at_most_a_hundredth_worse() -> None:
    random = Random(2)
    durations = [round(10 ** random.uniform(3, 11)) for _ in range(5000)]
    for duration in durations:
        histogram = DecimalHistogram()
        histogram.add_all(array("q", [duration]))
        (sample,) = histogram.drain(7, "s", "n")
        upper = round(sample.value * MS)
        assert duration <= upper <= duration * 1.01 + 1, duration
        assert (sample.at_ns, sample.source, sample.name, sample.count) == (7, "s", "n", 1)


@pytest.mark.parametrize("limit_ms", [0.05, 1, 1.2, 3.5, 5, 35, 99, 100, 250, 300, 500, 990, 1000, 2000, 60_000])
def test_how_many_are_over_a_limit_of_two_digits_is_exact(limit_ms: float) -> None:
    limit_ns = round(limit_ms * MS)
    histogram = DecimalHistogram()
    histogram.add_all(array("q", [limit_ns - 1, limit_ns, limit_ns + 1, 2 * limit_ns]))
    drained = histogram.drain(0, "s", "n")
    assert sum(sample.count for sample in drained if sample.value > limit_ms) == 2
    assert histogram.drain(0, "s", "n") == []


def test_early_is_not_late_and_a_decade_has_350_buckets() -> None:
    histogram = DecimalHistogram()
    histogram.add_all(array("q", [-5, 0]))
    assert [(sample.value, sample.count) for sample in histogram.drain(0, "s", "n")] == [(0.0, 2)]
    histogram.add_all(array("q", range(MS, 10 * MS, 1000)))
    assert len(histogram.drain(0, "s", "n")) == 351
    histogram.add_all(array("q"))
    assert histogram.drain(0, "s", "n") == []
