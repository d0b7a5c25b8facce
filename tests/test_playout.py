import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.errors import ProtocolError
from busyhour.media.playout import MARKS_MAX, Playout, Stretch
from busyhour.media.speech import WINDOW_NS
from busyhour.model import MS, SECOND

FOREVER_NS = 10**15
SAMPLE_NS = SECOND // 8_000


def sound(samples: int) -> np.ndarray:
    return (8_000 * np.sin(np.arange(samples) * 2.0)).astype(np.int16)


def silence(samples: int) -> np.ndarray:
    return np.zeros(samples, np.int16)


def loud_ns(stretches: list[Stretch]) -> list[tuple[int, int]]:
    """The stretches of loud windows, joined where they touch."""
    joined: list[tuple[int, int]] = []
    for stretch in stretches:
        for index, loud in enumerate(stretch[2]):
            began_ns = stretch[0] + index * WINDOW_NS
            ended_ns = min(began_ns + WINDOW_NS, stretch[1])
            if loud and joined and joined[-1][1] == began_ns:
                joined[-1] = (joined[-1][0], ended_ns)
            elif loud:
                joined.append((began_ns, ended_ns))
    return joined


def total_ns(stretches: list[Stretch]) -> int:
    return sum(ended_ns - began_ns for began_ns, ended_ns, _ in stretches)


def test_audio_plays_when_it_arrives_at_a_dry_queue_and_else_behind_what_waits() -> None:
    playout = Playout(8_000)
    playout.push(sound(160), 1_000 * MS)
    playout.push(silence(800), 1_001 * MS)
    playout.push(sound(160), 1_002 * MS)
    assert playout.ended_ns == 1_140 * MS
    playout.push(sound(160), 1_500 * MS)
    assert loud_ns(playout.played(FOREVER_NS)) == [
        (1_000 * MS, 1_020 * MS),
        (1_120 * MS, 1_140 * MS),
        (1_500 * MS, 1_520 * MS),
    ]


def test_nothing_is_told_before_it_was_played() -> None:
    playout = Playout(8_000)
    playout.push(sound(240_000), 0)
    assert playout.played(0) == []
    assert total_ns(playout.played(17 * MS)) == 15 * MS  # whole windows only
    assert total_ns(playout.played(17 * MS)) == 0
    assert playout.played(1 * SECOND)[0][0] == 15 * MS
    assert playout.played(1 * SECOND) == []


def test_a_jitter_buffer_delays_what_comes_to_a_dry_queue_only() -> None:
    playout = Playout(8_000, jitter_buffer_ns=40 * MS)
    for frame in range(5):
        late_ns = 30 * MS if frame == 3 else 0
        playout.push(sound(160), 1_000 * MS + frame * 20 * MS + late_ns)
    assert loud_ns(playout.played(FOREVER_NS)) == [(1_040 * MS, 1_140 * MS)]


def test_audio_that_arrives_just_as_the_queue_runs_dry_goes_on_without_a_break() -> None:
    playout = Playout(8_000, jitter_buffer_ns=40 * MS)
    playout.push(sound(170), 0)
    ended_ns = playout.ended_ns
    played = playout.played(ended_ns)
    playout.push(sound(170), ended_ns)
    assert playout.ended_ns == ended_ns + 170 * SAMPLE_NS
    played += playout.played(FOREVER_NS)
    assert loud_ns(played) == [(40 * MS, playout.ended_ns)]
    # All windows but the last are whole: the second chunk finished the window that the first began.
    assert {began_ns % WINDOW_NS for began_ns, _, _ in played} == {0}


def test_what_goes_on_sounding_is_told_in_one_piece() -> None:
    playout = Playout(8_000)
    frames = 100
    for frame in range(frames):
        playout.push_windows(b"\1" * 8, frame * 20 * MS)
    told = playout.played(frames * 20 * MS)
    assert told == [(0, frames * 20 * MS, b"\1" * 8 * frames)]
    playout.push_windows(b"\1" * 7 + b"\0", frames * 20 * MS)
    playout.push_windows(b"\1" * 8, (frames + 1) * 20 * MS)
    assert len(playout.played((frames + 2) * 20 * MS)) == 2  # a frame with silence in it stays alone


def test_clear_drops_what_was_not_played_and_cuts_the_window_in_play() -> None:
    playout = Playout(8_000)
    playout.push(sound(8_000), 0)
    cleared = playout.clear(101 * MS)
    assert loud_ns(cleared.played) == [(0, 101 * MS)]
    assert cleared.dropped_ns == 899 * MS
    assert playout.ended_ns == 101 * MS
    assert playout.played(FOREVER_NS) == []


def test_what_comes_after_a_clear_plays_at_once() -> None:
    playout = Playout(8_000)
    playout.push(sound(8_000), 0)
    playout.clear(101 * MS)
    playout.push(sound(160), 130 * MS)
    assert loud_ns(playout.played(FOREVER_NS)) == [(130 * MS, 150 * MS)]


def test_no_samples_at_all_wait_in_no_jitter_buffer() -> None:
    playout = Playout(8_000, jitter_buffer_ns=40 * MS)
    playout.push(silence(0), 1_000 * MS)
    assert playout.clear(1_010 * MS).dropped_ns == 0
    playout.push(sound(160), 1_020 * MS)
    assert loud_ns(playout.played(FOREVER_NS)) == [(1_060 * MS, 1_080 * MS)]


def test_what_comes_with_a_clear_waits_in_the_jitter_buffer_like_any_beginning() -> None:
    playout = Playout(8_000, jitter_buffer_ns=40 * MS)
    playout.push(sound(160), 0)
    playout.clear(50 * MS)
    playout.push(sound(160), 50 * MS)
    assert loud_ns(playout.played(FOREVER_NS)) == [(90 * MS, 110 * MS)]


def test_clear_of_a_dry_queue_does_nothing() -> None:
    playout = Playout(8_000)
    assert playout.clear(5 * MS).dropped_ns == 0
    playout.push(sound(160), 10 * MS)
    cleared = playout.clear(30 * MS)
    assert (loud_ns(cleared.played), cleared.dropped_ns) == ([(10 * MS, 30 * MS)], 0)


def test_marks_are_reached_when_the_audio_before_them_was_played() -> None:
    playout, reached = Playout(8_000), list[str]()
    playout.mark("at once", 0, reached.append)
    playout.push(sound(160), 0)
    playout.mark("after one frame", 1 * MS, reached.append)
    playout.push(sound(160), 2 * MS)
    playout.mark("after two", 2 * MS, reached.append)
    playout.reached(0)
    assert reached == ["at once"]
    playout.reached(20 * MS - 1)
    assert reached == ["at once"]
    playout.reached(20 * MS)
    assert reached == ["at once", "after one frame"]
    assert playout.clear(25 * MS).marks == ["after two"]
    playout.reached(FOREVER_NS)
    assert reached == ["at once", "after one frame"]
    assert not playout.marks


def test_marks_are_bounded() -> None:
    playout = Playout(8_000)
    playout.push(sound(160), 0)
    for n in range(MARKS_MAX):
        playout.mark(str(n), 0, lambda _: None)
    with pytest.raises(ProtocolError, match="1000 marks"):
        playout.mark("one more", 0, lambda _: None)


def test_the_queue_is_bounded() -> None:
    playout = Playout(8_000)
    playout.push(sound(30 * 8_000), 0)
    playout.push(sound(160), 0)  # 30 s wait already, not more
    with pytest.raises(ProtocolError, match="more than 30 s of audio"):
        playout.push(sound(160), 0)
    with pytest.raises(ProtocolError, match="more than 30 s of audio"):
        playout.push_windows(b"\1" * 8, 0)
    playout.push(sound(160), 21 * MS)  # it has drained a little
    assert playout.ended_ns == 30_040 * MS


def test_a_rate_without_whole_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="22050 Hz"):
        Playout(22_050)


def test_windows_judged_beforehand_need_a_run_at_a_windows_edge() -> None:
    playout = Playout(8_000)
    assert playout.push_windows(b"\1" * 8, 0)
    playout.push(sound(7), 1 * MS)
    assert not playout.push_windows(b"\1" * 8, 2 * MS)
    assert playout.ended_ns == 20 * MS + 7 * SAMPLE_NS
    assert playout.push_windows(b"\1" * 8, 40 * MS)  # a new run
    assert playout.ended_ns == 60 * MS


speech_like = st.lists(st.tuples(st.integers(1, 400), st.booleans()), min_size=1, max_size=8).map(
    lambda parts: np.concatenate([sound(n) if loud else silence(n) for n, loud in parts])
)


@given(speech_like, st.lists(st.integers(1, 700), max_size=10), st.sampled_from([8_000, 16_000, 24_000]))
def test_the_same_audio_in_other_chunks_is_heard_the_same(audio: np.ndarray, sizes: list[int], rate_hz: int) -> None:
    whole, cut = Playout(rate_hz), Playout(rate_hz)
    whole.push(audio, 5 * MS)
    begin = 0
    for size in [*sizes, len(audio)]:
        cut.push(audio[begin : begin + size], 5 * MS)
        begin += size
    assert cut.ended_ns == whole.ended_ns
    assert loud_ns(cut.played(FOREVER_NS)) == loud_ns(whole.played(FOREVER_NS))


actions = st.lists(
    st.tuples(
        st.sampled_from(["push", "windows", "clear", "played", "mark"]),
        st.integers(0, 60 * 8).map(lambda eighths: eighths * MS // 8),
        st.integers(1, 1_000),
    ),
    max_size=40,
)


@given(actions, st.sampled_from([0, 40 * MS]))
def test_all_that_was_pushed_is_played_or_dropped_once_and_in_order(
    steps: list[tuple[str, int, int]], jitter_buffer_ns: int
) -> None:
    playout = Playout(8_000, jitter_buffer_ns)
    now_ns = pushed_ns = dropped_ns = 0
    played: list[Stretch] = []
    arrivals: list[int] = []
    marked, came_back = list[str](), list[str]()
    for action, later_ns, samples in steps:
        now_ns += later_ns
        if action == "push":
            playout.push(sound(samples), now_ns)
            pushed_ns += samples * SAMPLE_NS
            arrivals.append(now_ns)
        elif action == "windows":
            if playout.push_windows(b"\1" * (samples % 8 + 1), now_ns):
                pushed_ns += (samples % 8 + 1) * WINDOW_NS
                arrivals.append(now_ns)
        elif action == "clear":
            cleared = playout.clear(now_ns)
            played += cleared.played
            dropped_ns += cleared.dropped_ns
            came_back += cleared.marks
        elif action == "mark":
            playout.mark(str(len(marked)), now_ns, came_back.append)
            marked.append(str(len(marked)))
        else:
            played += playout.played(now_ns)
            playout.reached(now_ns)
            assert all(ended_ns <= now_ns for _, ended_ns, _ in played)
    played += playout.played(FOREVER_NS)
    playout.reached(FOREVER_NS)
    assert total_ns(played) + dropped_ns == pushed_ns
    assert came_back == marked
    edges = [edge for stretch in played for edge in stretch[:2]]
    assert edges == sorted(edges)
    assert not played or played[0][0] >= arrivals[0] + jitter_buffer_ns
