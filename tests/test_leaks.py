"""Whether memory leaks: traces whose truth is known, a batch of benign ones, and what is no trace at all."""

import re
from collections.abc import Sequence

import numpy as np
import pytest

from busyhour.statistics.leaks import Finding, Sensor, Trace, Trend, cause, judge_trend
from busyhour.statistics.leaks.cause import CauseClass, explained
from busyhour.statistics.leaks.traces import Floats

HOURS = np.arange(1, 961) * 30 / 3600
AT_END: Sequence[float] = ()
"""No look before the end: a test of the finding needs none."""


def noise(seed: int, deviation: float = 3.0, alike: float = 0.9) -> Floats:
    rng = np.random.default_rng(seed)
    found, level = np.empty(960), rng.normal(0, deviation)
    for i, shock in enumerate(rng.normal(0, deviation * (1 - alike**2) ** 0.5, 960)):
        level = alike * level + shock
        found[i] = level
    return found


def judged(value: Floats, *, looks: Sequence[float] | None = AT_END, **more: Floats) -> Trend:
    return judge_trend(Trace(HOURS * 3600, 300 + value, **more), limit_per_hour=4.0, looks=looks)


SAWTOOTH = 90 * (HOURS / 0.15 % 1.0)
WARM_UP = 150 * (1 - np.exp(-HOURS / 0.6))


@pytest.mark.parametrize(
    ("value", "finding"),
    [
        (0 * HOURS, Finding.NO_LEAK),
        (1.0 * HOURS, Finding.NO_LEAK),
        (-20.0 * HOURS, Finding.NO_LEAK),
        (WARM_UP, Finding.NO_LEAK),
        (SAWTOOTH, Finding.NO_LEAK),
        (90.0 * (HOURS > 4.4), Finding.STEP),
        (16 * HOURS, Finding.LEAK),
        (16 * HOURS + WARM_UP, Finding.LEAK),
        (16 * HOURS + SAWTOOTH, Finding.LEAK),
        (8 * np.floor(2 * HOURS), Finding.LEAK),
        (16 * np.maximum(0, HOURS - 2), Finding.LEAK),
        (4 * HOURS, Finding.INCONCLUSIVE),
    ],
)
def test_what_is_said_of_each_kind_of_trace(value: Floats, finding: Finding) -> None:
    trend = judged(value + noise(1, 2.0, 0.8))
    assert trend.finding is finding, trend.because
    assert trend.because


def test_a_warm_up_as_slow_as_it_may_be_is_not_told_from_a_leak() -> None:
    slow = Trace(HOURS * 3600, 300 + 200 * (1 - np.exp(-HOURS / 7)) + noise(1, 2.0, 0.8))
    trend = judge_trend(slow, limit_per_hour=4.0, settling_hours=8.0, looks=AT_END)
    assert trend.finding is Finding.INCONCLUSIVE
    assert trend.needed_hours is None or trend.needed_hours > 8


def test_a_leak_comes_with_its_slope_its_shapes_and_their_curves() -> None:
    trend = judged(16 * HOURS + noise(2))
    assert trend.slope is not None
    assert trend.limit_per_hour < trend.slope.low < 16 < trend.slope.high
    assert trend.slope.value == pytest.approx(16, abs=1.5)
    assert trend.kept[0].name == "line"
    assert trend.kept[0].worse_by == 0
    assert trend.hours is not None
    assert trend.floor is not None
    assert np.abs(trend.kept[0].curve - trend.floor).max() < 10
    assert trend.needed_hours is None
    assert trend.odds > 2


def test_a_plateau_tells_its_time_constant_and_ends() -> None:
    best = judged(WARM_UP + noise(3, 1.0)).kept[0]
    assert best.name == "plateau"
    assert best.ends
    assert best.chosen == (pytest.approx(0.6, rel=0.1),)
    assert best.slope.value == 0


def test_what_follows_the_load_is_no_leak_though_the_load_rises() -> None:
    load = 20 + 4 * HOURS + noise(4, 5)
    assert judged(2 * load + noise(5, 1), load=load).finding is not Finding.LEAK
    leaking = judged(16 * HOURS + 2 * (20 + noise(4, 5)) + noise(5, 1), load=20 + noise(4, 5))
    assert leaking.finding is Finding.LEAK


def test_a_pool_as_large_as_the_most_calls_there_ever_were_is_no_leak() -> None:
    load = np.maximum(0, 10 + 6 * HOURS + noise(6, 6))
    assert judged(0.9 * np.maximum.accumulate(load) + noise(7, 1), load=load).finding is not Finding.LEAK


def test_the_slope_per_completed_call() -> None:
    done = np.cumsum(np.where((HOURS > 2) & (HOURS < 4), 6.0, 1.0))
    trend = judged(0.1 * done + noise(8, 1), completed=done)
    assert trend.finding is Finding.LEAK
    assert trend.per_call is not None
    assert trend.per_call.low < 0.1 < trend.per_call.high
    assert trend.per_call.value == pytest.approx(0.1, rel=0.1)
    assert trend.smallest_detectable_per_call is not None
    assert trend.smallest_detectable_per_call < 0.1
    assert judged(noise(8)).per_call is None


def test_the_looks_are_told_and_a_leak_is_said_at_the_second_hit_in_a_row() -> None:
    trend = judged(25 * HOURS + noise(9, 2.0, 0.8), looks=None)
    assert [look.at_hours for look in trend.looks[:-1]] == [2, 3, 4, 5, 6, 7]
    hits = [look.hit for look in trend.looks]
    assert not hits[0]  # younger than a warm-up may be
    assert hits[-1]
    assert trend.alarm_hours is not None
    first = trend.looks[[hits[i] and hits[i - 1] for i in range(1, len(hits))].index(True) + 1]
    assert trend.alarm_hours == first.at_hours <= 6


def test_a_hit_that_the_end_takes_back_is_a_suspect_at_most() -> None:
    trend = judged(np.minimum(110, 22 * HOURS) + noise(10, 1.0, 0.5), looks=[4, 5])
    assert trend.looks[0].hit
    assert trend.finding is not Finding.LEAK


def test_a_short_run_says_that_it_sees_less() -> None:
    short = HOURS < 1
    one = judge_trend(Trace(HOURS[short] * 3600, 300 + noise(11)[short]), limit_per_hour=4.0)
    eight = judged(noise(11))
    assert one.smallest_detectable is not None
    assert eight.smallest_detectable is not None
    assert one.smallest_detectable > 4 * eight.smallest_detectable
    assert one.finding is Finding.INCONCLUSIVE
    assert one.needed_hours is None or one.needed_hours > 1


def test_a_leak_of_the_smallest_detectable_size_is_found() -> None:
    found = 0
    for seed in range(20, 26):
        quiet = judged(noise(seed))
        assert quiet.smallest_detectable is not None
        found += judged(quiet.smallest_detectable * HOURS + noise(seed + 50)).finding is Finding.LEAK
    assert found >= 4  # at least 5.4 of 6 are meant


def test_of_a_batch_of_benign_traces_none_is_called_a_leak() -> None:
    """Chance would have to strike twice: at 1 % or less, two of 16 have a probability of 1 %."""
    benign = [0 * HOURS, WARM_UP, SAWTOOTH, 80.0 * (HOURS > 3)]
    found = [
        judged(shape + noise(seed, 2 + seed % 4, 0.8 + 0.03 * (seed % 6))).finding
        for seed in range(60, 64)
        for shape in benign
    ]
    assert found.count(Finding.LEAK) <= 1
    assert found.count(Finding.NO_LEAK) + found.count(Finding.STEP) >= 6


def test_of_a_batch_of_leaks_none_is_said_to_be_none() -> None:
    shapes = [0 * HOURS, WARM_UP, SAWTOOTH]
    found = [
        judged(16 * HOURS + shape + noise(seed, 2 + seed % 3)).finding for seed in range(70, 74) for shape in shapes
    ]
    assert Finding.NO_LEAK not in found
    assert found.count(Finding.LEAK) >= 9


# ---------------------------------------------------------------- what is no trace


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        ([], [], "0 usable readings"),
        ([1.0], [5.0], "1 usable readings"),
        ([1.0] * 50, [5.0] * 50, "1 usable readings"),
        (range(50), [np.nan] * 50, "0 usable readings"),
        (range(9), range(9), "9 usable readings"),
        ([*range(5), *range(10**6, 10**6 + 5)], range(10), "fewer than 10 blocks"),
    ],
)
def test_too_few_readings_are_inconclusive_and_say_so(at: Sequence[float], value: Sequence[float], why: str) -> None:
    trend = judge_trend(Trace(at, value), limit_per_hour=1.0)
    assert trend.finding is Finding.INCONCLUSIVE
    assert why in trend.because


@pytest.mark.parametrize(
    "wrong", [{"limit_per_hour": np.nan}, {"alpha": 0.0}, {"alpha": 0.7}, {"settling_hours": 0.0}], ids=str
)
def test_what_cannot_be_asked_is_inconclusive(wrong: dict[str, float]) -> None:
    asked = {"limit_per_hour": 1.0, **wrong}
    trend = judge_trend(Trace(HOURS * 3600, noise(1)), **asked)
    assert trend.finding is Finding.INCONCLUSIVE
    assert trend.because


def test_a_load_that_is_the_same_in_every_block_explains_nothing() -> None:
    """Its means do not vary, though the most that ever was in progress does: 0 / 0 is no column."""
    load = np.arange(960.0) % 10  # of ten readings each are the 48 blocks of four hours
    assert judged(16 * HOURS + noise(3), load=load, looks=[4]).finding is Finding.LEAK


def test_what_rose_at_once_and_then_again_may_do_so_a_third_time() -> None:
    once = 48.0 * (HOURS > 2.3)
    assert judge_trend(Trace(HOURS * 3600, 300 + once + noise(3, 1.5)), limit_per_hour=2.0).finding is Finding.STEP
    again = once + 48.0 * (HOURS > 6.3)
    twice = judge_trend(Trace(HOURS * 3600, 300 + again + noise(3, 1.5)), limit_per_hour=2.0)
    assert twice.finding is Finding.INCONCLUSIVE, "12 MB an hour, in steps of four hours each"
    assert re.search(r"it rose at once by 4[\d.]+ and by 4[\d.]+: whether", twice.because)


def test_a_constant_never_grew() -> None:
    trend = judge_trend(Trace(HOURS * 3600, np.full(960, 7.0)), limit_per_hour=0.0)
    assert trend.finding is Finding.NO_LEAK
    assert trend.slope is not None
    assert trend.slope.high == 0


def awkward() -> dict[str, tuple[Floats, Floats]]:
    rng = np.random.default_rng(30)
    value = 300 + noise(31)
    holes = value.copy()
    holes[rng.random(960) < 0.3] = np.nan
    holes[100:200] = np.inf
    awake = (HOURS < 3) | (HOURS > 4.5)
    back = rng.permutation(960)
    return {
        "holes": (HOURS, holes),
        "irregular": (np.sort(rng.uniform(0, 8, 500)), 300 + noise(32)[:500]),
        "suspended": (HOURS[awake], value[awake]),
        "in no order": (HOURS[back], value[back]),
        "huge": (HOURS, 1e30 * value),
        "tiny": (HOURS, 1e-30 * value),
        "far from zero": (HOURS, 1e12 + value),
        "two values": (HOURS, np.where(rng.random(960) < 0.5, 1.0, 2.0)),
        "one that differs": (HOURS, np.where(np.arange(960) == 500, 1.0, 2.0)),
        "exact line": (HOURS, 3 * HOURS),
        "beyond floats": (HOURS, np.where(np.arange(960) % 100 == 0, 1e308, value)),
    }


@pytest.mark.parametrize("name", list(awkward()))
def test_awkward_readings_are_judged_without_an_error(name: str) -> None:
    hours, value = awkward()[name]
    trend = judge_trend(Trace(hours * 3600, value), limit_per_hour=9.0, looks=[4])
    assert trend.because
    assert trend.finding is not Finding.LEAK or name == "huge"  # a limit of 9 is nothing beside 1e30
    if name in {"holes", "suspended", "in no order", "far from zero", "exact line", "beyond floats"}:
        assert trend.finding is Finding.NO_LEAK


# ---------------------------------------------------------------- causes


def fake(finding: Finding) -> Trend:
    return Trend(finding, "", 1.0)


LEAK, FLAT, UNCLEAR = fake(Finding.LEAK), fake(Finding.NO_LEAK), fake(Finding.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("blocks", "heap", "finding", "classes"),
    [
        (LEAK, LEAK, Finding.LEAK, [CauseClass.PYTHON_OBJECTS]),
        (LEAK, FLAT, Finding.LEAK, [CauseClass.PYTHON_OBJECTS]),
        (LEAK, None, Finding.LEAK, [CauseClass.PYTHON_OBJECTS]),
        (FLAT, LEAK, Finding.LEAK, [CauseClass.NATIVE_HEAP]),
        (FLAT, FLAT, Finding.RETENTION, [CauseClass.ALLOCATOR_RETENTION]),
        (None, LEAK, Finding.LEAK, []),
        (FLAT, None, Finding.LEAK, []),
        (None, FLAT, Finding.LEAK, []),
        (UNCLEAR, LEAK, Finding.LEAK, []),
        (FLAT, UNCLEAR, Finding.LEAK, []),
        (None, None, Finding.LEAK, []),
    ],
)
def test_the_class_of_memory_that_leaks(
    blocks: Trend | None, heap: Trend | None, finding: Finding, classes: list[CauseClass]
) -> None:
    given = {Sensor.PRIVATE_DIRTY: LEAK, Sensor.BLOCKS: blocks, Sensor.HEAP: heap}
    found = explained({sensor: trend for sensor, trend in given.items() if trend is not None})
    assert (found.finding, found.classes) == (finding, classes)
    assert {Sensor.BLOCKS, Sensor.HEAP} & set(found.missing) == {s for s, trend in given.items() if trend is None}
    for sensor, trend in given.items():
        assert trend is not None or (sensor in found.missing and (classes or f"{sensor}: not read" in found.because))


def test_memory_that_does_not_leak_has_no_class_but_what_is_counted_has_its_own() -> None:
    found = explained({Sensor.RSS: FLAT, Sensor.BLOCKS: LEAK, Sensor.TASKS: LEAK, Sensor.DESCRIPTORS: LEAK})
    assert found.finding is Finding.NO_LEAK
    assert found.classes == [CauseClass.DESCRIPTORS, CauseClass.TASKS]


def test_without_memory_nothing_is_said_of_it() -> None:
    found = explained({Sensor.THREADS: LEAK})
    assert found.finding is Finding.INCONCLUSIVE
    assert found.classes == [CauseClass.THREADS]
    assert Sensor.PRIVATE_DIRTY in found.missing
    assert explained({}).finding is Finding.INCONCLUSIVE


@pytest.mark.parametrize("blocks_per_hour", [0, 10_500])
def test_a_native_leak_from_its_traces(blocks_per_hour: int) -> None:
    """Whether or not Python keeps a little beside it: 10,500 blocks are 1 MB, and the memory grows by 20."""
    at = HOURS * 3600
    traces = {
        Sensor.PRIVATE_DIRTY: Trace(at, 300 + 20 * HOURS + noise(40)),
        Sensor.HEAP: Trace(at, 100 + 20 * HOURS + noise(41, 1.0)),
        Sensor.BLOCKS: Trace(at, 500_000 + blocks_per_hour * HOURS + 300 * noise(42)),
        Sensor.DESCRIPTORS: Trace(at, np.full(960, 41.0)),
    }
    found = cause(traces, limit_mb_per_hour=4.0, looks=AT_END)
    assert found.finding is Finding.LEAK, found.because
    assert found.classes == [CauseClass.NATIVE_HEAP]
    assert Sensor.TASKS in found.missing
    assert found.trends[Sensor.DESCRIPTORS].finding is Finding.NO_LEAK
