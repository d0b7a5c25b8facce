import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.media.codec import codec
from busyhour.media.speech import HANGOVER_NS, WINDOW_NS, Speech, loud_windows
from busyhour.model import MS, Heard, HeardKind

ONSET, OFFSET, GAP = HeardKind.ONSET, HeardKind.OFFSET, HeardKind.GAP
LONG_AFTER_NS = 10**12


def noise(dbfs: float, seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(0, 32_768 * 10 ** (dbfs / 20), round(8_000 * seconds))
    return np.clip(samples, -32_768, 32_767).astype(np.int16)


def tone(dbfs: float, hz: float = 440, samples: int = 8_000) -> np.ndarray:
    amplitude = 32_768 * 10 ** (dbfs / 20) * 2**0.5
    return np.clip(amplitude * np.sin(2 * np.pi * hz * np.arange(samples) / 8_000), -32_768, 32_767).astype(np.int16)


def events(loud: bytes, hangover_ns: int = HANGOVER_NS) -> list[tuple[HeardKind, int]]:
    """What is heard of one stretch that begins at 0."""
    speech = Speech(hangover_ns)
    heard = [*speech.played(0, len(loud) * WINDOW_NS, loud), *speech.passed(LONG_AFTER_NS)]
    return [(event.kind, event.at_ns) for event in heard]


@pytest.mark.parametrize("name", ["PCMU", "PCMA"])
@pytest.mark.parametrize("dbfs", [-70, -60, -50])
def test_noise_of_the_line_is_not_loud_in_either_law(name: str, dbfs: float) -> None:
    coded = codec(name).decode(codec(name).encode(noise(dbfs, seconds=10)))
    assert not loud_windows(coded, 20).any()


@pytest.mark.parametrize("name", ["PCMU", "PCMA"])
@pytest.mark.parametrize("octet", [0x00, 0x7F, 0x80, 0xD5, 0x55, 0xFF])
def test_a_constant_is_no_sound_however_strong(name: str, octet: int) -> None:
    assert not loud_windows(codec(name).decode(bytes([octet]) * 160), 20).any()


@pytest.mark.parametrize("hz", [300, 440, 1_000, 3_000])
def test_the_threshold_lies_at_minus_42_dbfs(hz: float) -> None:
    assert not loud_windows(tone(-46, hz), 20).any()
    assert loud_windows(tone(-36, hz), 20).all()


def test_the_strongest_sound_does_not_overflow() -> None:
    assert loud_windows(np.where(np.arange(160) % 2, 32_767, -32_768).astype(np.int16), 20).all()


def test_onset_and_offset_are_the_edges_of_the_sound() -> None:
    loud = bytes(12) + b"\1" * 100 + bytes(400)
    assert events(loud) == [(ONSET, 12 * WINDOW_NS), (OFFSET, 112 * WINDOW_NS)]


@pytest.mark.parametrize("click", [b"\1", b"\1\1\1", b"\1\0\0\0\0\1\0\0\0\0\1", b"\1\0\0\0\1\0\1\0\1"])
def test_clicks_are_no_speech(click: bytes) -> None:
    assert events((click + bytes(30)) * 20) == []


def test_a_click_before_or_after_speech_moves_neither_edge() -> None:
    loud = b"\1" + bytes(20) + b"\1" * 40 + bytes(20) + b"\1" + bytes(300)
    assert events(loud) == [(ONSET, 21 * WINDOW_NS), (OFFSET, 61 * WINDOW_NS)]


def test_a_pause_within_the_hangover_is_part_of_the_speech_and_a_longer_one_is_not() -> None:
    hangover = HANGOVER_NS // WINDOW_NS
    word = b"\1" * 40
    # It takes four loud windows to be sure of sound: the fourth may end with the hangover, and not later.
    assert events(word + bytes(hangover - 4) + word) == [(ONSET, 0), (OFFSET, (76 + hangover) * WINDOW_NS)]
    assert len(events(word + bytes(hangover - 3) + word)) == 4
    second = (40 + hangover) * WINDOW_NS
    assert events(word + bytes(hangover) + word) == [
        (ONSET, 0),
        (OFFSET, 40 * WINDOW_NS),
        (ONSET, second),
        (OFFSET, second + 40 * WINDOW_NS),
    ]


@pytest.mark.parametrize(("pause", "kinds"), [(-4, []), (-3, [OFFSET, ONSET]), (-1, [OFFSET, ONSET])])
def test_a_frame_that_is_loud_throughout_is_judged_like_its_windows(pause: int, kinds: list[HeardKind]) -> None:
    speech = Speech()
    speech.played(0, 40 * WINDOW_NS, b"\1" * 40)
    began_ns = 40 * WINDOW_NS + HANGOVER_NS + pause * WINDOW_NS
    heard = speech.played(40 * WINDOW_NS, began_ns, bytes((began_ns // WINDOW_NS) - 40))
    heard += speech.played(began_ns, began_ns + 8 * WINDOW_NS, b"\1" * 8)
    assert [event.kind for event in heard] == kinds


def test_the_offset_is_told_when_the_hangover_is_over_and_not_before() -> None:
    speech = Speech()
    speech.played(0, 40 * WINDOW_NS, b"\1" * 40)
    end_ns = 40 * WINDOW_NS
    assert speech.passed(end_ns + HANGOVER_NS - 1) == []
    assert speech.settled_ns(end_ns + HANGOVER_NS - 1) == end_ns
    assert speech.passed(end_ns + HANGOVER_NS) == [Heard(OFFSET, end_ns)]
    assert speech.passed(end_ns + 2 * HANGOVER_NS) == []


def test_the_end_of_the_call_ends_the_speech_at_once() -> None:
    speech = Speech()
    assert speech.stopped() == []
    speech.played(0, 40 * WINDOW_NS, b"\1" * 40)
    assert speech.stopped() == [Heard(OFFSET, 40 * WINDOW_NS)]


def after_a_hole(hole_ns: int, before: bytes, after: bytes, *, cleared: bool = False) -> list[Heard]:
    speech = Speech()
    dry_ns = len(before) * WINDOW_NS
    heard = speech.played(0, dry_ns, before)
    if cleared:
        speech.cleared()
    resumed_ns = dry_ns + hole_ns
    heard += speech.passed(resumed_ns)
    heard += speech.played(resumed_ns, resumed_ns + len(after) * WINDOW_NS, after)
    return [event for event in heard if event.kind is GAP]


SOUND = b"\1" * 40


def test_a_dry_queue_inside_speech_is_a_gap() -> None:
    assert after_a_hole(60 * MS, SOUND, SOUND) == [Heard(GAP, 100 * MS, 160 * MS)]


@pytest.mark.parametrize(
    ("hole_ns", "before", "after", "cleared"),
    [
        pytest.param(5 * MS, SOUND, SOUND, False, id="too short to be heard"),
        pytest.param(60 * MS, SOUND + bytes(40), SOUND, False, id="the phrase was over before"),
        pytest.param(60 * MS, SOUND, bytes(40) + SOUND, False, id="a new phrase begins after"),
        pytest.param(600 * MS, SOUND, SOUND, False, id="an offset and a new onset"),
        pytest.param(60 * MS, bytes(40), SOUND, False, id="nothing before"),
        pytest.param(60 * MS, SOUND, bytes(40), False, id="nothing after"),
        pytest.param(60 * MS, SOUND, SOUND, True, id="the agent cleared"),
    ],
)
def test_what_is_not_a_gap(hole_ns: int, before: bytes, after: bytes, cleared: bool) -> None:
    assert after_a_hole(hole_ns, before, after, cleared=cleared) == []


@given(st.lists(st.tuples(st.integers(1, 250), st.booleans(), st.booleans()), max_size=12))
def test_events_do_not_depend_on_how_the_windows_are_cut_or_how_often_one_asks(
    runs: list[tuple[int, bool, bool]],
) -> None:
    loud = b"".join(bytes([sounds]) * windows for windows, sounds, _ in runs)
    cut = Speech()
    heard: list[Heard] = []
    at_ns = 0
    for windows, sounds, asked in runs:
        for size in (windows // 3, windows - windows // 3):
            if size:
                heard += cut.played(at_ns, at_ns + size * WINDOW_NS, bytes([sounds]) * size)
                at_ns += size * WINDOW_NS
            if asked:
                heard += cut.passed(at_ns)
    heard += cut.passed(LONG_AFTER_NS)
    assert [(event.kind, event.at_ns) for event in heard] == events(loud)


@given(st.binary(max_size=800).map(lambda noisy: bytes(octet % 2 for octet in noisy)))
def test_onsets_and_offsets_alternate_in_order_of_time(loud: bytes) -> None:
    heard = events(loud, hangover_ns=50 * MS)
    assert [kind for kind, _ in heard] == [ONSET, OFFSET] * (len(heard) // 2)
    assert [at for _, at in heard] == sorted(at for _, at in heard)
