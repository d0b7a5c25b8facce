"""Schedules: pure, seeded, and they end."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.arrivals import Burst, Constant, Hold, Poisson, Ramp, Schedule, Steps
from busyhour.errors import PlanError
from busyhour.model import SECOND, Due
from busyhour.testing import check_arrivals


def test_constant_is_evenly_spaced_and_ends() -> None:
    assert check_arrivals(Constant(4, 1)) == [0, SECOND // 4, SECOND // 2, 3 * SECOND // 4]


def test_poisson_has_exponential_gaps_at_its_rate() -> None:
    times = check_arrivals(Poisson(50, seconds=400, seed=3))
    gaps = [(b - a) / SECOND for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps))
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert deviation / mean == pytest.approx(1.0, abs=0.03)


def test_poisson_replays_from_its_seed_and_differs_without() -> None:
    assert check_arrivals(Poisson(2, count=20, seed=1)) == check_arrivals(Poisson(2, count=20, seed=1))
    assert check_arrivals(Poisson(2, count=20, seed=1)) != check_arrivals(Poisson(2, count=20, seed=2))


def test_poisson_stops_at_whichever_limit_comes_first() -> None:
    assert len(check_arrivals(Poisson(10, seconds=1000, count=7))) == 7
    assert all(t < SECOND for t in check_arrivals(Poisson(10, seconds=1, count=1000)))


@given(st.floats(0, 20), st.floats(0, 20), st.floats(1, 100))
def test_ramp_counts_the_area_under_its_rate(start: float, end: float, seconds: float) -> None:
    if abs(start - end) < 0.01:
        return
    times = check_arrivals(Ramp(start, end, seconds))
    assert len(times) == pytest.approx((start + end) / 2 * seconds, abs=1.001)
    assert times == sorted(times)
    assert all(t <= seconds * SECOND for t in times)


def test_steps_keep_each_rate_for_its_time() -> None:
    times = check_arrivals(Steps([1, 10, 2], 5))
    counts = [sum(a <= t < a + 5 * SECOND for t in times) for a in (0, 5 * SECOND, 10 * SECOND)]
    assert counts == [5, 50, 10]
    assert times == sorted(times)


def test_burst_is_simultaneous() -> None:
    assert check_arrivals(Burst(3, times=2, every_seconds=10)) == [0, 0, 0, 10 * SECOND, 10 * SECOND, 10 * SECOND]


def test_schedule_is_taken_as_it_is() -> None:
    assert check_arrivals(Schedule([0.5, 0.5, 2])) == [SECOND // 2, SECOND // 2, 2 * SECOND]


def test_hold_waits_for_a_place_and_ends_by_the_clock() -> None:
    hold = Hold(2, 10)
    assert hold.due_ns(0, 0, 5) == 5
    assert hold.due_ns(2, 0, 6) is Due.PENDING
    assert hold.due_ns(2, 1, 7) == 7
    assert hold.due_ns(2, 2, 10 * SECOND) is Due.ENDED


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(0, 1),
        lambda: Constant(1, math.inf),
        lambda: Poisson(1),
        lambda: Poisson(-1, seconds=1),
        lambda: Poisson(1, seconds=0),
        lambda: Ramp(1, 1, 10),
        lambda: Ramp(-1, 1, 10),
        lambda: Steps([], 1),
        lambda: Steps([1, 0], 1),
        lambda: Burst(0),
        lambda: Schedule([2, 1]),
        lambda: Hold(0, 1),
    ],
)
def test_an_impossible_schedule_is_refused_by_name(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError, match=r"Constant|Poisson|Ramp|Steps|Burst|Schedule|Hold"):
        make()


class Fickle:
    """A schedule that waits for the system: coordinated omission."""

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        return max(started, finished) * SECOND + elapsed_ns if started < 3 else Due.ENDED


def test_a_schedule_that_waits_for_the_system_is_found_out() -> None:
    with pytest.raises(AssertionError, match="by what else happens"):
        check_arrivals(Fickle())
    with pytest.raises(AssertionError, match="has not ended"):
        check_arrivals(Constant(1000, 1000), within=10)
