"""Which calls are recorded, and which of the recordings stay."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busyhour.keeping import Keeper
from busyhour.model import MS, SECOND, Operation
from busyhour.recording import Figures, Recorded, Recording, Shelf, Sound, Track, worst
from busyhour.share import Share
from busyhour.testing import barge_in, greeting, turn, underrun

SILENT = Track(b"", np.empty((0, 2), np.int64))


def sound(octets: int = 1_000) -> Sound:
    track = Track(b"\x00" * octets, np.empty((0, 2), np.int64))
    return Sound(began_ns=1, ended_ns=SECOND, codec="PCMU", rate_hz=8_000, silence=b"\xff", caller=SILENT, agent=track)


class Shelved:
    """A shelf in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Recorded] = {}

    def keep(self, recorded: Recorded, sound: Sound) -> None:
        assert recorded.call not in self.kept
        self.kept[recorded.call] = recorded

    def discard(self, calls: Iterable[str]) -> None:
        for name in calls:
            del self.kept[name]


def taken(keeper: Keeper, name: str, *, ms: float = 500, octets: int = 1_000, outcome: str = "ok") -> None:
    """A whole call with one turn that was answered after so long."""
    assert keeper.begin(name, name)
    keeper.note(turn(ms, call=name))
    keeper.heard(name, sound(octets))
    keeper.note(ended(name, outcome))
    keeper.settle(name)


def ended(name: str, outcome: str = "ok") -> Operation:
    return Operation(id=name, kind="call", phase="steady", due_ns=0, outcome=outcome, detail={"why": ""})


def keeping(
    recording: Recording, *, seed: int = 0, phases: int = 1, share: Share | None = None
) -> tuple[Keeper, Shelved]:
    shelf = Shelved()
    keeper = Keeper(recording, seed=seed, phases=phases, shelf=shelf, share=share or Share())
    keeper.enter("steady")
    return keeper, shelf


def test_a_call_is_recorded_while_there_is_room() -> None:
    keeper, _ = keeping(Recording(at_once=2, seconds_max=90))
    assert [keeper.begin(name, name) for name in ("a", "b", "c")] == [90 * SECOND, 90 * SECOND, 0]
    keeper.settle("a")
    assert keeper.begin("d", "d")
    assert not keeper.begin("e", "e")


def test_processes_share_the_room() -> None:
    shares = [keeping(Recording(at_once=5), share=Share(index, 2))[0] for index in range(2)]
    assert [sum(bool(one.begin(str(n), str(n))) for n in range(9)) for one in shares] == [3, 2]


def test_all_are_recorded_and_kept_when_asked_for() -> None:
    keeper, shelf = keeping(Recording(all=True, at_once=1))
    assert all(keeper.begin(str(n), str(n)) for n in range(50))
    for n in range(50):
        keeper.heard(str(n), sound())
        keeper.settle(str(n))
    assert len(shelf.kept) == 50
    assert (keeper.told()["recorded"], keeper.told()["kept"]) == (50, 50)


def test_one_arrival_may_place_several_calls() -> None:
    keeper, shelf = keeping(Recording())
    for name in ("steady/1/first", "steady/1/second"):
        keeper.begin(name, "steady/1")
        keeper.heard(name, sound())
    keeper.settle("steady/1")
    assert sorted(shelf.kept) == ["steady/1/first", "steady/1/second"]


def test_a_call_that_never_had_media_is_not_kept_and_makes_room() -> None:
    keeper, shelf = keeping(Recording(at_once=1))
    assert keeper.begin("a", "a")
    keeper.note(ended("a", "rejected"))
    keeper.settle("a")
    assert not shelf.kept
    assert not keeper.told()
    assert keeper.begin("b", "b")


# ---------------------------------------------------------------- the worst


def test_the_worst_by_latency_stay() -> None:
    keeper, shelf = keeping(Recording(sample=0, worst=3))
    for n, ms in enumerate([300, 900, 200, 800, 100, 700, 600]):
        taken(keeper, f"steady/{n}", ms=ms)
    assert sorted(shelf.kept) == ["steady/1", "steady/3", "steady/5"]
    assert shelf.kept["steady/1"].figures.response_ns == 900 * MS
    assert (keeper.told()["recorded"], keeper.told()["kept"]) == (7, 3)


def test_the_worst_of_each_kind_comes_before_the_second_of_any() -> None:
    calls = {
        "slow": Figures(response_ns=3 * SECOND),
        "slower": Figures(response_ns=4 * SECOND),
        "slowest": Figures(response_ns=5 * SECOND),
        "dead air": Figures(dead_air_ns=2 * SECOND),
        "deaf": Figures(talked_over=1),
        "slow to yield": Figures(yield_ns=4 * SECOND),
        "mute": Figures(missed=2),
        "lost": Figures(outcome="lost"),
        "hasty": Figures(cut_ins=2, cut_in_ns=SECOND),
        "hastier": Figures(cut_ins=3, cut_in_ns=9),
        "stutters": Figures(holes=4, hole_ns=60 * MS),
        "fine": Figures(),
    }
    assert worst(calls, 7) == {
        "slowest": "response",
        "dead air": "dead air",
        "deaf": "barge-in",
        "mute": "unanswered",
        "lost": "failed",
        "hastier": "early",
        "stutters": "underrun",
    }
    assert list(worst(calls, 10))[7:] == ["slower", "slow to yield", "hasty"]
    assert "fine" not in worst(calls, 99)
    assert not worst(calls, 0)


def test_a_call_is_taken_once_and_its_place_goes_to_the_next() -> None:
    calls = {"a": Figures(response_ns=9, dead_air_ns=9), "b": Figures(response_ns=8), "c": Figures(dead_air_ns=5)}
    assert worst(calls, 2) == {"a": "response", "c": "dead air"}


FIGURES = st.builds(
    Figures,
    outcome=st.sampled_from(["ok", "ok", "lost"]),
    response_ns=st.integers(0, 9),
    dead_air_ns=st.integers(0, 9),
    missed=st.sampled_from([0, 0, 1, 2]),
    talked_over=st.sampled_from([0, 0, 0, 1]),
    cut_ins=st.sampled_from([0, 0, 1, 2]),
    holes=st.sampled_from([0, 0, 0, 3]),
)


@settings(max_examples=80, deadline=None)
@given(figures=st.lists(FIGURES, min_size=1, max_size=40), most=st.integers(1, 9))
def test_the_very_worst_of_each_kind_is_never_lost(figures: list[Figures], most: int) -> None:
    keeper, shelf = keeping(Recording(sample=0, worst=most))
    for n, one in enumerate(figures):
        name = f"steady/{n:02}"
        keeper.begin(name, name)
        keeper._open[name].figures = one
        keeper.heard(name, sound())
        keeper.settle(name)
    calls = {f"steady/{n:02}": one for n, one in enumerate(figures)}
    assert set(worst(calls, min(7, most))) <= set(shelf.kept)
    assert len(shelf.kept) == len(worst(calls, most))


def test_what_a_caller_bore_is_read_from_what_is_written_down() -> None:
    keeper, shelf = keeping(Recording())
    keeper.begin("steady/1", "steady/1")
    for operation in (
        greeting(None),
        turn(400),
        turn(1_250, number=2),
        turn(None, number=3, gave_up_after_s=4),
        turn(-1_500, number=4),
        turn(-300, number=5),
        underrun(31, ms=60),
        underrun(33, number=2, ms=240),
        turn(9_000, call="steady/2"),
        barge_in(310),
        barge_in(None, number=2),
        barge_in(None, number=3, reached=False),
        ended("steady/1", "hung up early"),
    ):
        keeper.note(operation)
    keeper.heard("steady/1", sound())
    keeper.settle("steady/1")
    figures = shelf.kept["steady/1"].figures
    assert (figures.outcome, figures.missed, figures.talked_over) == ("hung up early", 2, 1)
    assert (figures.response_ns, figures.yield_ns) == (1_250 * MS, 310 * MS)
    assert figures.dead_air_ns == 4 * SECOND
    assert (figures.cut_ins, figures.cut_in_ns) == (2, 1_500 * MS)
    assert (figures.holes, figures.hole_ns) == (2, 240 * MS)
    assert figures.ungreeted


def test_a_call_that_was_greeted_was_not_left_ungreeted() -> None:
    keeper, shelf = keeping(Recording())
    keeper.begin("steady/1", "steady/1")
    for operation in (greeting(180), turn(None, gave_up_after_s=4), ended("steady/1")):
        keeper.note(operation)
    keeper.heard("steady/1", sound())
    keeper.settle("steady/1")
    assert not shelf.kept["steady/1"].figures.ungreeted


# ---------------------------------------------------------------- the sample


def sampled(seed: int, order: int) -> set[str]:
    keeper, shelf = keeping(Recording(sample=5, worst=0), seed=seed)
    names = [f"steady/{n}" for n in range(100)]
    Random(order).shuffle(names)
    for name in names:
        taken(keeper, name)
    return set(shelf.kept)


def test_the_sample_is_drawn_by_the_seed_whatever_the_order() -> None:
    assert len(sampled(1, 0)) == 5
    assert sampled(1, 0) == sampled(1, 7)
    assert sampled(1, 0) != sampled(2, 0)


def test_the_sample_is_even() -> None:
    early = sum(int(name.partition("/")[2]) < 50 for seed in range(60) for name in sampled(seed, 0))
    assert 110 <= early <= 190  # of 300; four standard deviations


# ---------------------------------------------------------------- room


def test_what_is_kept_stays_within_its_bytes() -> None:
    keeper, shelf = keeping(Recording(sample=5, worst=10, megabytes_max=0.005))
    for n in range(40):
        taken(keeper, f"steady/{n}", ms=100 + n, octets=900)
        assert sum(one.bytes for one in shelf.kept.values()) <= 5_000
    assert "steady/39" in shelf.kept  # the worst has room before a sample has
    told = keeper.told()
    assert (told["kept"], told["bytes_max"]) == (5, 5_000)
    assert told["left_out"] == 35


def test_all_stops_when_its_bytes_are_used() -> None:
    keeper, shelf = keeping(Recording(all=True, megabytes_max=0.003))
    for n in range(10):
        taken(keeper, f"steady/{n}", octets=1_000)
    assert len(shelf.kept) == 3
    assert keeper.told()["left_out"] == 7


def test_a_phase_leaves_room_for_the_next_and_what_it_does_not_use() -> None:
    keeper, shelf = keeping(Recording(sample=100, worst=0, megabytes_max=0.010), phases=2)
    for n in range(30):
        taken(keeper, f"steady/{n}", octets=1_000)
    assert len(shelf.kept) == 5
    keeper.enter("outage")
    for n in range(30):
        taken(keeper, f"outage/{n}", octets=1_000)
    assert [one.phase for one in shelf.kept.values()].count("outage") == 5
    unused, shelf = keeping(Recording(sample=100, worst=0, megabytes_max=0.010), phases=2)
    unused.enter("outage")
    for n in range(30):
        taken(unused, f"outage/{n}", octets=1_000)
    assert len(shelf.kept) == 10


# ---------------------------------------------------------------- the setting


def test_the_setting_says_what_is_wrong_with_it() -> None:
    wrong = Recording(sample=-1, at_once=0, seconds_max=0, megabytes_max=float("nan"))
    assert wrong.problems() == [
        "Recording(sample=-1): it cannot be less than 0",
        "Recording(at_once=0): it cannot be less than 1",
        "Recording(seconds_max=0): it must be more than 0; to record nothing, give Recording.off()",
        "Recording(megabytes_max=nan): it must be more than 0; to record nothing, give Recording.off()",
    ]
    assert not Recording().problems()


@pytest.mark.parametrize(
    ("recording", "on", "megabytes"),
    [(Recording(), True, 100), (Recording.off(), False, 100), (Recording(all=True), True, 10_000)],
)
def test_it_is_on_unless_it_is_off(recording: Recording, on: bool, megabytes: int) -> None:
    assert (recording.on, recording.bytes_max) == (on, megabytes * 1_000_000)


def test_a_shelf_is_recognised() -> None:
    assert isinstance(Shelved(), Shelf)
    assert not isinstance(object(), Shelf)
