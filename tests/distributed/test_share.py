"""Shares of all processes are the whole: nothing is left out, nothing is there twice."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.arrivals import Burst, Constant, Hold, Poisson, Ramp, Schedule, Steps
from busyhour.carriers.places import drawn_uuid, next_call
from busyhour.distributed.crew import arrivals_of
from busyhour.model import SECOND, Arrivals, Due
from busyhour.share import WHOLE, Share, falls_to
from busyhour.testing import check_arrivals

OPEN: list[Arrivals] = [
    Constant(7, 3),
    Poisson(5, count=41, seed=3),
    Ramp(0, 9, 4),
    Ramp(9, 0, 4),
    Steps([3, 5], 2),
    Burst(7, 3, 2),
    Schedule([0, 0.5, 0.5, 4]),
]


@pytest.mark.parametrize("arrivals", OPEN, ids=repr)
@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_the_shares_of_an_open_schedule_are_its_arrivals(arrivals: Arrivals, of: int) -> None:
    whole = check_arrivals(arrivals)
    found = {}
    for share in (Share(index, of) for index in range(of)):
        times = check_arrivals(share.arrivals(arrivals))
        found |= {share.number(nth): due_ns for nth, due_ns in enumerate(times)}
        assert arrivals_of(arrivals, share) == len(times)
    assert found == dict(enumerate(whole))


@given(total=st.integers(0, 500), of=st.integers(1, 40))
def test_the_parts_of_a_bound_add_up_to_it(total: int, of: int) -> None:
    parts = [Share(index, of).part(total) for index in range(of)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize("of", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("at_once", [1, 3, 10])
def test_what_is_held_in_progress_is_divided_without_a_remainder(at_once: int, of: int) -> None:
    hold = Hold(at_once, 60)
    in_progress = 0
    for share in (Share(index, of) for index in range(of)):
        part, started = share.arrivals(hold), 0
        while part.due_ns(started, 0, SECOND) == SECOND:
            started += 1
        for finished in (1, 17):  # and so it goes on, however many have been
            assert part.due_ns(started + finished, finished, SECOND) is Due.PENDING
            assert started == 0 or part.due_ns(started + finished - 1, finished, SECOND) == SECOND
        assert part.due_ns(started, 0, 60 * SECOND) is Due.ENDED
        assert arrivals_of(hold, share) is None
        assert started == share.part(at_once)
        in_progress += started
    assert in_progress == at_once


@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_calls_are_named_so_that_their_worker_can_be_told_from_their_id(of: int) -> None:
    alone: list[str] = []
    dialled = 0
    for _ in range(300):
        dialled, random = next_call("carrier 1", dialled, WHOLE, drawn_uuid)
        alone.append(drawn_uuid(random))
    shared: list[str] = []
    for share in (Share(index, of) for index in range(of)):
        dialled = 0
        while dialled < 300:
            dialled, random = next_call("carrier 1", dialled, share, drawn_uuid)
            name = drawn_uuid(random)
            assert falls_to(name, of) == share.index
            if dialled <= 300:
                shared.append(name)
    assert sorted(shared) == sorted(alone)


def test_every_worker_has_about_as_many_names() -> None:
    random = Random(1)
    counts = [0] * 5
    for _ in range(5000):
        counts[falls_to(drawn_uuid(random), 5)] += 1
    assert all(850 < count < 1150 for count in counts)
