"""What the compiled lane hears, against the long way, in Python: the same frames, the same end."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fastlane.rig import STEPS, Rig, StillClock, compiled, performed

from busyhour.clock import VirtualClock
from busyhour.model import MS, Heard, HeardKind


@compiled
@settings(max_examples=150, deadline=None)
@given(STEPS, st.sampled_from([0, 0, 60 * MS]))
def test_what_is_heard_and_when_it_is_told_are_the_same(
    steps: Sequence[tuple[str, int, int]], jitter_buffer_ns: int
) -> None:
    outcomes = []
    for by_lane in (True, False):
        clock = VirtualClock()
        rig = Rig(clock, by_lane, jitter_buffer_ns)
        state = clock.run(performed(rig, steps))
        outcomes.append((rig.told, state))
    assert outcomes[0] == outcomes[1]


@compiled
def test_most_frames_take_the_lane() -> None:
    clock = VirtualClock()
    rig = Rig(clock, by_lane=True)
    handed_on: list[bytes] = []
    put = rig.socket._socket._put
    rig.socket._socket._put = lambda row: (handed_on.append(row[2]), put(row))
    clock.run(performed(rig, [("silence", 40, 20), ("tone", 40, 20), ("silence", 40, 20), ("tone", 40, 20)]))
    assert rig.socket.counts.received == 160
    assert len(handed_on) == 1  # from which the others are recognised
    kinds = [heard.kind for _, heard in rig.told if isinstance(heard, Heard)]
    assert kinds == [HeardKind.ONSET, HeardKind.OFFSET, HeardKind.ONSET, HeardKind.OFFSET, HeardKind.ENDED]


@compiled
def test_frames_that_take_the_lane_count_among_those_that_are_too_many() -> None:
    rig = Rig(StillClock(), by_lane=True)
    for _ in range(4):
        rig.socket._socket.passed(500)
    assert not rig.told
    rig.socket._socket.passed(500)
    assert [what for _, what in rig.told] == ["more than 2000 frames in a second"]
