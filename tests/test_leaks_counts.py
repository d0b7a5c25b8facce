"""Counts per batch of calls: tables whose answer is known, exact bounds."""

import pytest

from busyhour.statistics.leaks import Batch, Finding, PerCall, chance_of_leak, judge_counts
from busyhour.statistics.leaks.counts import by_ending, left_by, longest_rise, per_call, residues

HANG_UP = "hang-up"
REFUSED = "refused"


def batches(*counts: int | None, ending: str = HANG_UP, calls: int = 20) -> list[Batch]:
    return [Batch({ending: calls}, {} if count is None else {"fds": count}) for count in counts]


@pytest.mark.parametrize(
    ("counts", "finding"),
    [
        ((10, 10, 10), Finding.NO_LEAK),
        ((11, 10, 10), Finding.NO_LEAK),  # given back
        ((9, 8, 7), Finding.NO_LEAK),
        ((11, 12, 13), Finding.LEAK),
        ((10, 11, 12, 13), Finding.LEAK),
        ((11, 12, 13, 13, 13), Finding.LEAK),  # three in a row are three in a row
        ((11, 12, 12, 13, 14, 14), Finding.STEP),  # never three
        ((11, 12, 11, 12, 13, 10), Finding.NO_LEAK),
        ((13, 13, 13), Finding.STEP),
        ((10, 10, 13), Finding.SUSPECT),
        ((10, 12, 13), Finding.SUSPECT),
        ((10, 10), Finding.INCONCLUSIVE),
        ((), Finding.INCONCLUSIVE),
        ((10, None, 10, 10), Finding.INCONCLUSIVE),
        ((11, None, 12, 13), Finding.INCONCLUSIVE),  # a gap is no growth
        ((None, 11, 12, 13), Finding.INCONCLUSIVE),
        ((None, 11, 12, 13, 14), Finding.LEAK),
    ],
)
def test_a_counter_that_grows_in_three_batches_in_a_row_leaks(counts: tuple[int | None, ...], finding: Finding) -> None:
    (residue,) = judge_counts({"fds": 10}, batches(*counts))
    assert residue.finding is finding, residue.because
    assert residue.because


def test_each_counter_is_judged_by_itself() -> None:
    run = [Batch({HANG_UP: 5}, {"fds": 10, "tasks": 1 + i, "threads": 4}) for i in (1, 2, 3)]
    found = {residue.counter: residue.finding for residue in judge_counts({"fds": 10, "tasks": 1, "threads": 4}, run)}
    assert found == {"fds": Finding.NO_LEAK, "tasks": Finding.LEAK, "threads": Finding.NO_LEAK}


def test_a_leak_of_one_ending_is_found_between_the_batches_of_others() -> None:
    counts = [10, 13, 13, 16, 16, 19]
    run = [Batch({ending: 5}, {"fds": count}) for ending, count in zip([HANG_UP, REFUSED] * 3, counts, strict=True)]
    (residue,) = judge_counts({"fds": 10}, run)
    assert residue.finding is Finding.LEAK
    assert REFUSED in residue.because
    assert residue.per_call[HANG_UP].value == 0
    assert residue.per_call[REFUSED].value == pytest.approx(9 / 15)


def test_residues_and_what_each_batch_left() -> None:
    kept = residues("fds", 10, batches(12, None, 11, 14))
    assert kept == [2, None, 1, 4]
    assert left_by(kept) == [2, None, None, 3]
    assert left_by([]) == []
    assert longest_rise([1, 1, None, 1, 0, 2]) == 2


def test_batches_of_mixed_endings_belong_to_none() -> None:
    mixed = [Batch({HANG_UP: 5, REFUSED: 0}, {}), Batch({HANG_UP: 5, REFUSED: 5}, {}), Batch({REFUSED: 5}, {})]
    assert by_ending(mixed, [1, 2, 3]) == {HANG_UP: [1], REFUSED: [3]}


@pytest.mark.parametrize("calls", [1, 20, 58, 59, 96, 300, 10_000])
def test_clean_calls_bound_the_chance_of_a_leak_exactly(calls: int) -> None:
    chance = chance_of_leak(0, calls)
    assert chance is not None
    assert chance.low == 0
    assert chance.high == pytest.approx(1 - 0.05 ** (1 / calls))


def test_the_bound_in_general_is_that_of_clopper_and_pearson() -> None:
    chance = chance_of_leak(3, 100, alpha=0.025)
    assert chance is not None
    assert (chance.low, chance.high) == pytest.approx((0.006230, 0.085176), abs=1e-6)
    assert chance_of_leak(0, 0) is None
    everything = chance_of_leak(40, 20)
    assert everything is not None
    assert (everything.leaked, everything.high) == (20, 1.0)


def test_what_a_call_leaves_has_the_exact_interval_of_a_count() -> None:
    found = per_call(batches(1, 2, 3, 4), [1, 1, 1, 1], 0.025)[HANG_UP]
    assert found.value == pytest.approx(4 / 80)
    assert found.low == pytest.approx(1.0899 / 80, abs=1e-5)  # Garwood 1936: 4 events
    assert found.high == pytest.approx(10.2416 / 80, abs=1e-5)


def test_mixed_batches_are_told_apart_by_least_squares_where_they_can_be() -> None:
    calls = [(10, 2), (10, 5), (4, 6), (8, 1), (5, 5)]
    run = [Batch({HANG_UP: a, REFUSED: b}, {}) for a, b in calls]
    found = per_call(run, [2 * b for _, b in calls], 0.05)
    assert found[HANG_UP].value == pytest.approx(0, abs=1e-9)
    assert found[REFUSED].value == pytest.approx(2)
    assert found[REFUSED].low == pytest.approx(2)


def test_endings_that_always_come_together_are_not_told_apart() -> None:
    run = [Batch({HANG_UP: 10, REFUSED: 5}, {}) for _ in range(4)]
    assert per_call(run, [1, 1, 1, 1], 0.05) == {HANG_UP: PerCall(None, None, None), REFUSED: PerCall(None, None, None)}


def test_the_chance_counts_the_calls_whose_counter_was_read() -> None:
    (residue,) = judge_counts({"fds": 10}, batches(10, None, 10, 10))
    assert residue.chance is not None
    assert residue.chance.calls == 60
    (unread,) = judge_counts({"fds": 10}, batches(None, None, None))
    assert unread.chance is None
    assert unread.residues == [None, None, None]
