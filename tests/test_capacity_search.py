"""The search for a capacity against systems that are sharp, noisy, undecided, and against a harness that gives up."""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busyhour.errors import PlanError
from busyhour.model import Outcome
from busyhour.statistics.capacity import Answer, Limit, Search, Tried, Try

PASS, FAIL, INVALID, UNCLEAR = Outcome.PASS, Outcome.FAIL, Outcome.INVALID, Outcome.INCONCLUSIVE
System = Callable[[Try], Outcome]


def searched(search: Search, system: System) -> tuple[Answer, list[Tried]]:
    """Carry a search out. Fails when it does not end by itself."""
    tried: list[Tried] = []
    for _ in range(search.runs + 1):
        following = search.next(tried)
        assert search.next(tuple(tried)) == following  # the same question, the same answer
        if isinstance(following, Answer):
            return following, tried
        assert 1 <= following.at_once <= search.most
        tried.append(Tried(following.at_once, system(following), following.open_loop))
    raise AssertionError(f"no answer after {len(tried)} runs: {tried}")


def up_to(capacity: int, beyond: Outcome = FAIL) -> System:
    return lambda one: PASS if one.at_once <= capacity else beyond


@settings(deadline=None)
@given(capacity=st.integers(1, 3000), start=st.integers(1, 64), most=st.integers(1, 3000))
def test_a_sharp_capacity_is_found_exactly(capacity: int, start: int, most: int) -> None:
    answer, tried = searched(Search(most, start=start, resolution=0), up_to(capacity))
    if capacity >= most:
        assert answer == Answer(most, None, None, Limit.ASKED)
    else:
        assert answer == Answer(capacity, capacity + 1, capacity + 1, Limit.TARGET)
    assert len(tried) <= 2 * most.bit_length() + 6


@settings(deadline=None)
@given(capacity=st.integers(1, 3000), resolution=st.floats(0, 0.5))
def test_the_bracket_is_as_narrow_as_was_asked_and_holds_the_capacity(capacity: int, resolution: float) -> None:
    answer, _ = searched(Search(4000, resolution=resolution), up_to(capacity))
    assert answer.bound is not None
    assert answer.passed <= capacity < answer.bound
    assert answer.bound - answer.passed <= max(1, resolution * answer.passed)


def test_both_ends_are_seen_twice() -> None:
    _, tried = searched(Search(100), up_to(20))
    held = Counter(one.at_once for one in tried if not one.open_loop)
    assert held[20] == 2
    assert held[21] == 2


@settings(deadline=None)
@given(
    knee=st.integers(2, 200),
    width=st.integers(0, 30),
    seed=st.integers(0, 10_000),
    unclear=st.floats(0, 0.4),
)
def test_a_noisy_knee_is_bracketed_and_the_search_ends(knee: int, width: int, seed: int, unclear: float) -> None:
    """Below the knee it passes, beyond its width it fails, between them it does either by chance."""
    random = Random(seed)

    def system(one: Try) -> Outcome:
        if random.random() < unclear / one.effort:
            return UNCLEAR
        if one.at_once <= knee:
            return PASS
        return FAIL if one.at_once > knee + width else random.choice([PASS, FAIL])

    search = Search(1000, runs=120)
    answer, tried = searched(search, system)
    assert len(tried) < search.runs
    assert answer.passed <= knee + width
    if answer.limit is Limit.TARGET:
        assert answer.bound is not None
        assert answer.bound > knee
    held = Counter(one.at_once for one in tried if not one.open_loop)
    assert max(held.values()) < 2 * search.tries  # unclear ones and clear ones


@settings(deadline=None)
@given(outcomes=st.lists(st.sampled_from([PASS, FAIL, INVALID, UNCLEAR, Outcome.NOT_RUN]), min_size=60, max_size=60))
def test_whatever_happens_it_ends_with_an_answer_that_its_history_bears_out(outcomes: list[Outcome]) -> None:
    results = iter(outcomes)
    answer, tried = searched(Search(500, runs=50), lambda _: next(results))
    held = [one for one in tried if not one.open_loop]
    if answer.passed:
        at_it = [one.outcome for one in held if one.at_once == answer.passed]
        assert at_it.count(PASS) > at_it.count(FAIL)
        assert at_it.count(PASS) >= 2 or answer.limit is Limit.UNFINISHED
    if answer.bound is not None:
        assert answer.bound > answer.passed
        at_it = [one.outcome for one in held if one.at_once == answer.bound]
        assert at_it.count(PASS) <= max(1, at_it.count(FAIL))
    assert all({PASS, FAIL} <= {one.outcome for one in held if one.at_once == level} for level in answer.shaky)


def test_what_fails_at_one_call_is_said_after_one_run() -> None:
    answer, tried = searched(Search(100), lambda _: FAIL)
    assert answer == Answer(0, 1, 1, Limit.TARGET)
    assert len(tried) == 1


def test_a_harness_that_cannot_even_hold_one_call_is_said_after_two_runs() -> None:
    answer, tried = searched(Search(100), lambda _: INVALID)
    assert answer == Answer(0, 1, None, Limit.HARNESS)
    assert len(tried) == 2


def test_the_harness_is_the_limit_where_it_gives_up_before_the_target_does() -> None:
    answer, tried = searched(Search(1000, resolution=0), up_to(37, INVALID))
    assert (answer.passed, answer.bound, answer.failed, answer.limit) == (37, 38, None, Limit.HARNESS)
    assert max(one.at_once for one in tried) == 64  # not a step beyond the first that showed it


def test_below_the_harness_limit_the_target_is_still_found() -> None:
    def system(one: Try) -> Outcome:
        return INVALID if one.at_once > 50 else PASS if one.at_once <= 40 else FAIL

    answer, _ = searched(Search(1000, resolution=0), system)
    assert (answer.passed, answer.failed, answer.limit) == (40, 41, Limit.TARGET)


def test_a_ramp_that_broke_by_chance_does_not_bound_the_answer() -> None:
    answer, tried = searched(
        Search(200, resolution=0),
        lambda one: FAIL if one.open_loop and one.at_once >= 8 else PASS if one.at_once <= 90 else FAIL,
    )
    assert (answer.passed, answer.bound) == (90, 91)
    held = [one.at_once for one in tried if not one.open_loop]
    best = 1
    for level in held:
        assert level <= max(8, 2 * best)  # it goes on by doubling
        best = max(best, level if level <= 90 else 0)


def test_what_the_ramp_could_do_is_held_first() -> None:
    _, tried = searched(Search(100), up_to(70))
    held = [one.at_once for one in tried if not one.open_loop]
    assert held[:2] == [1, 64]


def test_one_call_alone_decides_little_and_is_not_pressed_for_more() -> None:
    answer, tried = searched(Search(64), lambda one: UNCLEAR if one.at_once == 1 else up_to(10)(one))
    assert (answer.passed, answer.bound) == (10, 11)
    assert sum(one.at_once == 1 for one in tried) == 1


@settings(deadline=None)
@given(
    st.lists(
        st.builds(Tried, st.integers(1, 12), st.sampled_from([PASS, FAIL, INVALID, UNCLEAR]), st.booleans()),
        max_size=40,
    )
)
def test_of_any_history_the_answer_is_the_largest_pass_below_all_that_did_not(history: list[Tried]) -> None:
    answer = Search(12).answer(history, Limit.UNFINISHED)
    assert answer.bound is None or answer.bound > answer.passed
    assert answer.failed is None or answer.bound is None or answer.failed >= answer.bound


def test_a_ramp_that_saw_nothing_does_not_raise_the_answer() -> None:
    answer, _ = searched(Search(200, resolution=0), lambda one: PASS if one.open_loop or one.at_once <= 3 else FAIL)
    assert (answer.passed, answer.bound) == (3, 4)


def test_what_is_unclear_gets_more_evidence_up_to_a_bound() -> None:
    efforts: dict[int, list[int]] = {}

    def system(one: Try) -> Outcome:
        efforts.setdefault(one.at_once, []).append(one.effort)
        return PASS if one.at_once <= 10 else UNCLEAR if one.at_once <= 12 else FAIL

    answer, _ = searched(Search(64, start=64, resolution=0), system)
    assert (answer.passed, answer.bound, answer.failed, answer.limit) == (10, 11, 16, Limit.EVIDENCE)
    assert efforts[11] == [1, 2, 4]


def test_evidence_that_decides_when_there_is_more_of_it_is_waited_for() -> None:
    answer, _ = searched(Search(64, resolution=0), lambda one: UNCLEAR if one.effort < 4 else up_to(10)(one))
    assert (answer.passed, answer.bound) == (10, 11)


def test_a_level_that_did_both_is_decided_by_the_majority_and_named() -> None:
    seen = Counter[int]()

    def system(one: Try) -> Outcome:
        seen[one.at_once] += not one.open_loop
        if one.at_once == 20 and not one.open_loop:
            return [PASS, FAIL, FAIL][seen[20] - 1]
        return up_to(20)(one)

    answer, _ = searched(Search(64, resolution=0), system)
    assert (answer.passed, answer.bound, answer.shaky) == (19, 20, (20,))


@pytest.mark.parametrize(("again", "limit"), [(INVALID, Limit.HARNESS), (UNCLEAR, Limit.EVIDENCE)])
def test_a_pass_that_is_never_seen_again_is_not_believed(again: Outcome, limit: Limit) -> None:
    seen = Counter[int]()

    def system(one: Try) -> Outcome:
        seen[one.at_once] += not one.open_loop
        return again if one.at_once == 20 and seen[20] > 1 else up_to(20)(one)

    answer, _ = searched(Search(64, resolution=0), system)
    assert (answer.passed, answer.bound, answer.limit) == (19, 20, limit)


def test_out_of_runs_it_tells_what_is_known() -> None:
    search = Search(100_000, runs=6)
    answer, tried = searched(search, up_to(50_000))
    assert answer.limit is Limit.UNFINISHED
    assert len(tried) == 6


def test_a_search_for_one_call_needs_no_ramp() -> None:
    answer, tried = searched(Search(1), lambda _: PASS)
    assert answer == Answer(1, None, None, Limit.ASKED)
    assert not any(one.open_loop for one in tried)


@pytest.mark.parametrize("wrong", [{"most": 0}, {"start": 0}, {"confirm": 0}, {"resolution": 1}, {"resolution": -1}])
def test_settings_that_are_none_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(PlanError, match=next(iter(wrong))):
        Search(**{"most": 10, **wrong})  # type: ignore[arg-type]
