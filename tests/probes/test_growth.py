"""Counters that come and go, and when something is due."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.model import SECOND
from busyhour.probes.growth import Growth, Rates, TreeGrowth
from busyhour.probes.schedule import Schedule
from busyhour.proc import Stat, Used

PARENT = Stat(1, "parent", "S", 0, 0.0, 1, 10, 0, Used(0, 0, 0, 0))
CHILD = replace(PARENT, pid=2, name="child", parent=1, began_ticks=20)
GRANDCHILD = replace(PARENT, pid=3, name="grandchild", parent=2, began_ticks=30)


def test_what_had_begun_before_counts_from_there_and_what_is_new_from_nothing() -> None:
    growth: Growth[str] = Growth(2)
    assert growth.add({"a": (100, 7)}) == (0, 0)
    assert growth.add({"a": (103, 7), "b": (5, 1)}) == (8, 1)
    assert growth.add({"b": (6, 1)}) == (9, 1), "what is gone takes nothing away"
    assert growth.add({"b": (2, 0)}) == (11, 1), "another has its name"
    assert growth.add({}) == (11, 1)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 9)), max_size=3), max_size=9))
def test_a_sum_never_falls(looks: list[dict[str, tuple[int]]]) -> None:
    growth: Growth[str] = Growth(1)
    sums = [growth.add(look)[0] for look in looks]
    assert sums == sorted(sums)


def test_a_child_that_its_parent_waits_for_is_not_counted_twice() -> None:
    growth = TreeGrowth(1)
    growth.add([PARENT], [(50,)])
    assert growth.add([PARENT, CHILD], [(51,), (30,)]) == (31,)
    assert growth.add([PARENT], [(51 + 34,)]) == (31 + 4,), "the 30 were known; 4 came after we looked"


def test_a_child_may_be_waited_for_long_after_its_end() -> None:
    growth = TreeGrowth(1)
    growth.add([PARENT], [(50,)])
    growth.add([PARENT, CHILD], [(50,), (30,)])
    for _ in range(5):
        assert growth.add([PARENT], [(50,)], {CHILD.key}) == (30,)
    assert growth.add([PARENT], [(80,)]) == (30,)
    assert growth.add([PARENT], [(120,)]) == (70,), "and only once"


def test_a_parent_that_never_waits_owes_nothing_for_long() -> None:
    growth = TreeGrowth(1)
    growth.add([PARENT], [(50,)])
    growth.add([PARENT, CHILD], [(50,), (30,)])
    for _ in range(3):
        growth.add([PARENT], [(50,)])
    assert growth.add([PARENT], [(90,)]) == (70,)


def test_a_child_that_was_never_seen_is_counted_with_its_parent() -> None:
    growth = TreeGrowth(1)
    growth.add([PARENT], [(50,)])
    assert growth.add([PARENT], [(50 + 33,)]) == (33,)


def test_a_branch_that_ends_comes_to_the_next_above_it() -> None:
    growth = TreeGrowth(2)
    growth.add([PARENT], [(50, 0)])
    growth.add([PARENT, CHILD, GRANDCHILD], [(50, 0), (20, 1), (7, 2)])
    assert growth.total == (27, 3)
    assert growth.add([PARENT], [(50 + 28, 3)]) == (28, 3), "the child had waited for the grandchild, and used 1 more"


def test_a_restart_goes_on_counting() -> None:
    growth = TreeGrowth(1)
    growth.add([PARENT], [(50,)])
    growth.add([PARENT], [(60,)])
    assert growth.add([replace(PARENT, began_ticks=99)], [(5,)]) == (15,)


def test_rates_are_by_the_time_that_has_passed_and_begin_with_the_second_look() -> None:
    rates = Rates()
    assert rates.per_second({"a": 1.0}, 5 * SECOND) == {}
    assert rates.per_second({"a": 7.0, "b": 2.0}, 8 * SECOND) == {"a": 2.0}
    assert rates.per_second({"a": 7.0, "b": 4.0}, 8 * SECOND) == {}, "no time has passed"
    assert rates.per_second({"b": 6.0}, 10 * SECOND) == {"b": 1.0}


# ---------------------------------------------------------------- schedules


def dues(schedule: Schedule, seconds: list[float]) -> list[float]:
    return [second for second in seconds if schedule.due(round(second * SECOND))]


def test_a_grid_is_kept_although_looks_are_early_and_late() -> None:
    looks = [second + (0.05 if second % 3 else -0.05) for second in range(1, 32)]
    assert [round(second) for second in dues(Schedule(10), looks)] == [1, 11, 21, 31]


def test_what_was_missed_is_not_made_up_for() -> None:
    assert dues(Schedule(10), [0, 1, 45, 46, 54, 55, 56]) == [0, 45, 55]


def test_what_takes_long_is_due_less_often() -> None:
    schedule = Schedule(10, share=0.001)
    schedule.due(0)
    schedule.took(SECOND // 20)
    assert dues(schedule, [10, 50, 59, 60, 61]) == [10, 60], "50 ms are a thousandth of 50 s"


@pytest.mark.parametrize("took_ns", [0, SECOND])
def test_every_time_is_every_time(took_ns: int) -> None:
    schedule = Schedule(0, share=0.001)
    schedule.took(took_ns)
    assert dues(schedule, [0, 0, 1, 1.001]) == [0, 0, 1, 1.001]


def test_at_once_is_the_next_time() -> None:
    schedule = Schedule(10)
    schedule.due(0)
    schedule.at_once()
    assert dues(schedule, [1, 2, 10.8, 11]) == [1, 11]
