"""The parts that the worst calls are made of: which they are, what happened in them, and how much of them there is."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from random import Random

import numpy as np
import pytest
import soundfile

from busyhour.keeping import Keeper
from busyhour.model import MS, SECOND, Mark, Operation, Samples
from busyhour.recording import Figures, Recorded, Recording, Sound, Track, at_sample
from busyhour.reports.html.calls import summary
from busyhour.reports.html.calls_audio import cost, fitted, shares, vorbis, window, within
from busyhour.reports.html.calls_audio import stretch as stretch_of
from busyhour.reports.html.calls_chosen import KINDS, Borne, Chosen, borne, chosen, reasons
from busyhour.reports.html.calls_shape import Frame, bin_ms, clock, drawn, peaks
from busyhour.reports.html.calls_story import Story, story
from busyhour.reports.html.calls_words import Spoken, Witnessed
from busyhour.testing import MemoryRun

RATE_HZ = 8_000


# ---------------------------------------------------------------- which calls


def heard(response_ms: int = 0, phase: str = "steady", **figures: int | str) -> Borne:
    own = Figures(response_ns=response_ms * MS, **figures)  # type: ignore[arg-type]  # a test names them well
    return Borne(phase=phase, since_ns=0, until_ns=SECOND, figures=own)


def names(found: list[Chosen]) -> list[str]:
    return [one.call for one in found]


def test_the_worst_are_taken_by_each_kind_in_turn() -> None:
    calls = {"a": heard(900), "b": heard(800), "c": heard(dead_air_ns=SECOND), "d": heard(talked_over=1), "e": heard()}
    found = chosen(calls, calls, most=10)
    assert [(one.call, one.kind, one.peak) for one in found] == [
        ("a", "response", True),
        ("c", "dead air", True),
        ("d", "barge-in", True),
        ("b", "response", False),
    ]


def test_calls_that_are_cut_into_and_that_stutter_are_among_the_worst() -> None:
    """The longest response may be a good one, where what is missed are cut-ins and underruns."""
    calls = {f"s{n}": heard(650 + n, dead_air_ns=700 * MS) for n in range(12)}
    calls |= {"cut": heard(400, cut_ins=5), "holes": heard(400, holes=5), "cut less": heard(400, cut_ins=2)}
    found = {one.call: one.kind for one in chosen(calls, calls, most=10)}
    assert found["cut"] == found["cut less"] == "early"
    assert found["holes"] == "underrun"


def test_the_worst_of_all_is_there_though_it_was_not_recorded() -> None:
    calls = {f"c{n}": heard(n) for n in range(1, 100)}
    found = chosen(calls, ["c3", "c5", "c7"], most=10)
    assert names(found) == ["c99", "c7", "c5", "c3"]
    assert [one.recorded for one in found] == [False, True, True, True]
    assert names(chosen(calls, [], most=3)) == ["c99", "c98", "c97"]


def test_a_call_as_bad_that_was_recorded_is_preferred() -> None:
    calls = {name: heard(outcome="hung up early") for name in "abcd"}
    assert names(chosen(calls, ["c"], most=10)) == ["c"]


def test_the_worst_of_some_phases_come_before_any_other() -> None:
    calls = {"s1": heard(100), "s2": heard(200), **{f"o{n}": heard(1_000 + n, phase="outage") for n in range(20)}}
    found = chosen(calls, calls, most=4, phases=["steady"])
    assert names(found) == ["s2", "s1", "o19", "o18"]
    assert not found[0].peak, "a call of another phase is worse"


def test_reasons_tell_first_what_it_was_taken_for() -> None:
    bad = heard(2_913, missed=2, outcome="hung up early", talked_over=3, dead_air_ns=6 * SECOND, yield_ns=SECOND)
    one = Chosen(number=1, call="a", borne=bad, kind="response", peak=True, recorded=True)
    told = ["worst response 2,913 ms", "failed: hung up early", "2 unanswered", "talked over 3x"]
    assert reasons(one) == told
    assert reasons(replace(one, kind="dead air", peak=False))[0] == "dead air 6.0 s"
    assert reasons(replace(one, kind="failed"))[0] == "failed: hung up early"


def first_reason(kind: str, *, peak: bool = True, **figures: int) -> str:
    own = Borne(phase="steady", since_ns=0, until_ns=SECOND, figures=replace(Figures(), **figures))  # type: ignore[arg-type]  # a test names them well
    return reasons(Chosen(number=1, call="a", borne=own, kind=kind, peak=peak, recorded=True))[0]


def test_cut_ins_and_holes_are_told_by_how_many_and_how_long() -> None:
    assert first_reason("early", cut_ins=5, cut_in_ns=1_531 * MS) == "most cut-ins: 5, up to 1,531 ms early"
    assert first_reason("early", peak=False, cut_ins=5, cut_in_ns=1_531 * MS) == "5 cut-ins, up to 1,531 ms early"
    assert first_reason("early", cut_ins=1, cut_in_ns=90 * MS) == "1 cut-in, 90 ms early"
    assert first_reason("underrun", holes=3, hole_ns=314 * MS) == "most holes in speech: 3, up to 314 ms"
    assert first_reason("underrun", holes=1, hole_ns=60 * MS) == "1 hole in speech, 60 ms"
    also = reasons(
        Chosen(number=1, call="a", borne=heard(700, cut_ins=2, holes=1), kind="response", peak=False, recorded=True)
    )
    assert also == ["response 700 ms", "2 cut-ins", "1 hole in speech"]


def test_a_call_without_a_greeting_is_not_called_one_with_an_unanswered_turn() -> None:
    assert first_reason("unanswered", missed=1, ungreeted=True) == "no greeting"
    assert first_reason("unanswered", missed=3, ungreeted=True) == "no greeting, 2 unanswered"
    assert first_reason("unanswered", missed=3) == "most unanswered turns: 3"
    assert first_reason("unanswered", missed=1) == "1 unanswered"


class _Shelf:
    """Keeps the figures of every call."""

    def __init__(self) -> None:
        self.figures: dict[str, Figures] = {}

    def keep(self, recorded: Recorded, sound: Sound) -> None:
        assert sound.rate_hz == RATE_HZ
        self.figures[recorded.call] = recorded.figures

    def discard(self, calls: object) -> None:
        raise AssertionError(f"{calls} were to be kept")


def anything(random: Random, call: str) -> list[Operation]:
    """What may have happened in a call."""
    made = [
        Operation(
            id=call,
            kind="call",
            phase="steady",
            due_ns=0,
            began_ns=5,
            ended_ns=10**11,
            outcome=random.choice(["ok", "lost"]),
        )
    ]
    for number in range(random.randrange(12)):
        kind = random.choice(["greeting", "turn", "barge_in", "pause", "underrun", "speech"])
        due_ns = random.randrange(10**11)
        ended_ns = None if random.random() < 0.4 and kind != "pause" else due_ns + random.randrange(-SECOND, 9 * SECOND)
        outcome = "ok" if ended_ns else random.choice(["missed", "not reached", "not yielded"])
        detail = {"gave_up_ns": due_ns + random.randrange(6 * SECOND)} if random.random() < 0.9 else {}
        own = {"due_ns": due_ns, "began_ns": due_ns - 7, "ended_ns": ended_ns, "outcome": outcome, "detail": detail}
        made.append(Operation(id=f"{call}/{number}", kind=kind, phase="steady", parent=call, **own))  # type: ignore[arg-type]  # its fields
    return made


def test_what_was_borne_is_what_is_kept_with_a_recording() -> None:
    """Computed from columns here and one by one there: the same of any call."""
    random, shelf, every = Random(3), _Shelf(), []
    keeper = Keeper(Recording(all=True), seed=1, phases=1, shelf=shelf)
    keeper.enter("steady")
    empty = Track(b"", np.empty((0, 2), np.int64))
    sound = Sound(
        began_ns=0, ended_ns=SECOND, codec="PCMU", rate_hz=RATE_HZ, silence=b"\xff", caller=empty, agent=empty
    )
    for number in range(60):
        call = f"steady/{number}"
        keeper.begin(call, call)
        for operation in anything(random, call):
            keeper.note(operation)
            every.append(operation)
        keeper.heard(call, sound)
        keeper.settle(call)
    found = borne(MemoryRun(every))
    assert {call: one.figures for call, one in found.items()} == shelf.figures
    assert len(found) == 60
    assert all(one.since_ns <= 5 and one.until_ns >= 10**11 for one in found.values())


def test_a_call_that_was_in_progress_when_the_run_was_cut_is_one_of_them() -> None:
    turn = Operation(id="s/1/turn/1", kind="turn", phase="s", parent="s/1", due_ns=5, began_ns=2, ended_ns=9)
    assert borne(MemoryRun([turn])) == {
        "s/1": Borne(phase="s", since_ns=2, until_ns=9, figures=Figures(response_ns=4, dead_air_ns=4))
    }


# ---------------------------------------------------------------- whose words


def voice(first_s: float, seconds: float, text: str, *, cancelled: bool = False) -> Operation:
    first_ns = round(first_s * SECOND)
    detail = {"text": text, "first_audio_ns": first_ns, "audio_ms": seconds * 1_000, "cancelled": cancelled}
    return Operation(id=text, kind="tts", phase="", due_ns=first_ns - 70 * MS, detail=detail)


def final(connection: str, began_s: float, ended_s: float, text: str) -> Operation:
    detail = {"connection": connection, "transcript": text}
    began_ns, due_ns = round(began_s * SECOND), round(ended_s * SECOND)
    return Operation(id=f"{connection}{began_s}", kind="stt", phase="", due_ns=due_ns, began_ns=began_ns, detail=detail)


def stretch(began_s: float, ended_s: float) -> tuple[int, int]:
    return round(began_s * SECOND), round(ended_s * SECOND)


def test_an_agents_words_are_those_whose_audio_began_and_lasted_so() -> None:
    witnessed = Witnessed([voice(1.0, 2.0, "mine"), voice(1.05, 3.0, "another's"), voice(6.0, 1.0, "mine too")], [])
    said = witnessed.said([stretch(1.001, 3.001), stretch(6.001, 7.001), stretch(20, 21)])
    assert [(one.text, one.unsure) for one in said] == [("mine", False), ("mine too", False), ("", False)]


def test_words_that_fit_about_as_well_are_called_unsure() -> None:
    both = Witnessed([voice(1.0, 2.0, "one"), voice(1.004, 2.0, "other")], []).said([stretch(1.001, 3.001)])
    assert both[0].unsure
    same = Witnessed([voice(1.0, 2.0, "one"), voice(1.004, 2.0, "one")], []).said([stretch(1.001, 3.001)])
    assert not same[0].unsure, "who said it does not matter where both said the same"


def test_a_reply_of_several_sentences_is_put_together() -> None:
    rows = [
        voice(1.0, 2.0, "First."),
        voice(1.4, 1.5, "Second."),
        voice(1.9, 1.0, "Third."),
        voice(2.0, 9.0, "Another's."),
    ]
    assert Witnessed(rows, []).said([stretch(1.001, 5.501)])[0].text == "First. Second. Third."


def test_of_voices_at_once_it_is_the_one_that_says_what_was_to_be_replied() -> None:
    rows = [
        voice(3.0, 2.0, "Another's."),
        voice(2.96, 2.0, "At nine, sir."),
        voice(3.2, 1.0, "Elsewhere."),
        voice(3.3, 1.0, "Or ten."),
    ]
    detail = {"prompt": "when do you open?", "reply": "At nine, sir. Or ten."}
    model = Operation(id="llm/1", kind="llm", phase="", due_ns=round(2.5 * SECOND), detail=detail)
    caller = [Spoken(*stretch(1, 2), "When do you open?")]
    assert Witnessed(rows, [], [model]).said([stretch(3.001, 6.001)], caller)[0].text == "At nine, sir. Or ten."
    assert Witnessed(rows, []).said([stretch(3.001, 6.001)], caller)[0].text == "Another's. Elsewhere."


def test_a_reply_that_was_cut_off_is_the_words_that_were_to_be_said() -> None:
    rows = [voice(1.0, 3.4, "We are open all day.", cancelled=True), voice(1.2, 1.0, "Another's.")]
    assert Witnessed(rows, []).said([stretch(1.001, 2.1)])[0].text == "We are open all day."


def test_an_agent_behind_a_jitter_buffer_is_heard_later_and_recognised_all_the_same() -> None:
    rows = [voice(at, 1.0, f"mine {at}") for at in (1, 4, 7)] + [voice(4.19, 2.0, "another's")]
    said = Witnessed(rows, []).said([stretch(at + 0.2, at + 1.2) for at in (1, 4, 7)])
    assert [one.text for one in said] == ["mine 1", "mine 4", "mine 7"]


def test_what_was_understood_is_told_where_it_is_not_what_was_said() -> None:
    caller = [
        Spoken(*stretch(1, 2), "Nine o'clock."),
        Spoken(*stretch(5, 7), "On Tuesday, please."),
        Spoken(*stretch(9, 10), "Bye."),
    ]
    finals = [final("a", 1.01, 2.02, "nine oclock"), final("a", 5.01, 6, "on"), final("a", 6.1, 7, "two days please")]
    others = [final("b", 0.9, 2.3, "something"), final("b", 3, 4, "else")]
    assert Witnessed([], [*others, *finals]).understood(caller) == ["", "on two days please", ""]
    assert Witnessed([], []).understood(caller) == ["", "", ""]


# ---------------------------------------------------------------- what happened


def told(kind: str = "response", *operations: Operation, marks: tuple[Mark, ...] = ()) -> Story:
    run = MemoryRun(operations, marked=marks)
    (only,) = borne(run).items()
    return story(run, Chosen(number=1, call=only[0], borne=only[1], kind=kind, peak=True, recorded=False))


def of(kind: str, due_s: float, ended_s: float | None, **more: object) -> Operation:
    own: dict[str, object] = {
        "id": f"{kind}{due_s}",
        "due_ns": round(due_s * SECOND),
        "began_ns": round(due_s * SECOND),
        "ended_ns": None if ended_s is None else round(ended_s * SECOND),
        "parent": "s/1",
    }
    return Operation(kind=kind, phase="s", **{**own, **more})  # type: ignore[arg-type]  # a test names them well


CALL = of("call", 0, 60, id="s/1", parent="", detail={"ended_by": "agent", "why": "hung up"})


def test_the_worst_moment_is_that_for_which_the_call_was_taken() -> None:
    quick, slow = of("turn", 5, 5.5), of("turn", 20, 22.9)
    silent = of("pause", 30, 34)
    talking = of("barge_in", 40, None, outcome="not yielded", detail={"gave_up_ns": 46 * SECOND})
    missed = of("turn", 50, None, outcome="missed", detail={"gave_up_ns": 56 * SECOND})
    hasty, early = of("turn", 57, 56.5), of("turn", 58, 57.1)
    stutters, hole = of("underrun", 25, 25.06), of("underrun", 26, 26.3)
    every = (CALL, quick, slow, silent, talking, missed, hasty, early, stutters, hole)
    since = {kind: told(kind, *every).worst for kind in KINDS}
    assert {kind: worst and worst.since_ns // SECOND for kind, worst in since.items()} == {
        "response": 20,
        "dead air": 50,
        "barge-in": 40,
        "unanswered": 50,
        "failed": 60,
        "early": 57,
        "underrun": 26,
    }
    (cut_in,) = (span for span in told("early", *every).spans if span.since_ns == 57_100 * MS)
    assert cut_in.bad


def test_an_agent_that_cuts_in_was_early_and_not_late() -> None:
    its = told("dead air", CALL, of("turn", 5, 3.2, began_ns=2 * SECOND, detail={"text": "I would like"}))
    (span,) = its.spans
    assert (span.kind, span.label) == ("early", "cuts in, 1,800 ms early")
    assert summary(its) == "1 turn: cuts in, 1,800 ms early"


def test_faults_are_told_by_when_they_were() -> None:
    marks = (
        Mark(-5, "fault.began", "before", {"phase": "s"}),
        Mark(-1, "fault.ended", "before", {"phase": "s"}),
        Mark(-3, "fault.began", "all along", {"phase": "s"}),
        Mark(4 * SECOND, "fault.began", "within", {"phase": "s"}),
        Mark(6 * SECOND, "fault.ended", "within", {"phase": "s"}),
        Mark(99 * SECOND, "fault.began", "after", {"phase": "s"}),
    )
    its = told("failed", CALL, marks=marks)
    assert [span.label for span in its.spans if span.kind == "fault"] == ["all along", "within"]
    assert [line.text for line in its.lines] == [
        "Fault injected since before the call: all along",
        "Fault injected: within",
        "Fault undone: within",
        "The call is hung up by the agent",
    ]


def test_what_is_drawn_lies_within_the_frame() -> None:
    its = told("response", CALL, of("turn", 5, 5.5), of("turn", 20, 22.9), of("turn", 50, 51))
    frame = Frame(zero_ns=0, since_ns=18 * SECOND, until_ns=21 * SECOND)
    shown = drawn(its, frame)
    assert shown["seconds"] == 3.0
    assert shown["from"] == 18.0
    assert shown["worst"] == [2.0, 3.0]
    assert shown["spans"] == [["response", "agent", 2.0, 3.0, "2,900 ms", 2]]
    assert shown["ticks"] == []


# ---------------------------------------------------------------- shapes and sound


def test_each_bin_has_its_loudest_sample_and_the_last_may_be_short() -> None:
    samples = np.zeros(170 + 160, np.int16)
    samples[[0, 165, 329]] = -32_768, 8_192, 2_048
    assert list(peaks(samples, RATE_HZ, 20)) == [255, 128, 64]
    assert peaks(np.zeros(0, np.int16), RATE_HZ, 20) == b""


@pytest.mark.parametrize(("seconds", "each_ms"), [(0.0, 20), (60.0, 20), (150.0, 20), (151.0, 40), (10_000.0, 1_340)])
def test_a_long_call_has_longer_bins(seconds: float, each_ms: int) -> None:
    assert bin_ms(seconds) == each_ms
    assert seconds * 1_000 / each_ms <= 7_500


@pytest.mark.parametrize(("seconds", "told"), [(0, "0:00.0"), (59.96, "1:00.0"), (61.25, "1:01.2"), (600, "10:00.0")])
def test_instants_are_told_in_minutes(seconds: float, told: str) -> None:
    assert clock(round(seconds * SECOND)) == told


def test_a_window_has_the_worst_moment_and_what_led_to_it() -> None:
    assert window(100, 200, (50, 60)) == (0, 100)
    assert window(100, 40, (50, 60)) == (30, 70)
    assert window(100, 40, (0, 0)) == (0, 40)
    assert window(100, 40, (99, 100)) == (60, 100)
    assert window(100, 20, (20, 90)) == (20, 40), "of a moment longer than the room, the beginning"
    assert window(100, 40, (500, 900)) == (60, 100), "a moment after what was recorded"


def speech(seconds: float, rate_hz: int = RATE_HZ) -> tuple[Samples, Samples]:
    """Something like two people: noise of a voice's strength, in turns of two seconds."""
    count = round(seconds * rate_hz)
    noise = np.random.default_rng(1).normal(0, 3_000, (2, count)).astype(np.int16)
    turns = np.arange(count) // (2 * rate_hz) % 2
    return noise[0] * (turns == 0).astype(np.int16), noise[1] * (turns == 1).astype(np.int16)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 32_000, 48_000])
def test_vorbis_is_as_long_as_the_sound_at_every_rate(rate_hz: int) -> None:
    caller, agent = speech(3.3, rate_hz)
    ogg = vorbis(caller, agent, rate_hz)
    decoded, rate = soundfile.read(BytesIO(ogg), dtype="int16")
    assert decoded.shape[1] == 2
    assert len(decoded) / rate == pytest.approx(3.3, abs=0.001)
    loud = np.abs(decoded[round(0.5 * rate) : round(1.5 * rate)].astype(np.int32)).mean(axis=0)
    assert loud[0] > 5 * loud[1], "the caller speaks first, and is left"


def test_the_same_sound_is_the_same_stream() -> None:
    both = speech(2.0)
    assert vorbis(*both, RATE_HZ) == vorbis(*both, RATE_HZ)


def whole(seconds: float) -> Sound:
    empty = Track(b"", np.empty((0, 2), np.int64))
    return Sound(
        began_ns=7,
        ended_ns=7 + round(seconds * SECOND),
        codec="PCMU",
        rate_hz=RATE_HZ,
        silence=b"\xff",
        caller=empty,
        agent=empty,
    )


def test_a_clip_keeps_to_its_bytes_and_has_the_moment() -> None:
    both = speech(40)
    moment = (30 * SECOND, 31 * SECOND)
    for bytes_max in (1_000_000, 60_000, 25_000):
        clip = fitted(whole(40), both, bytes_max=bytes_max, around_ns=moment)
        assert clip is not None
        assert len(clip.ogg) <= bytes_max
        assert clip.since_ns <= moment[0]
        assert moment[1] <= clip.until_ns
        decoded, rate = soundfile.read(BytesIO(clip.ogg), dtype="int16")
        assert len(decoded) / rate == pytest.approx((clip.until_ns - clip.since_ns) / SECOND, abs=0.001)
    assert fitted(whole(40), both, bytes_max=3_000, around_ns=moment) is None


def test_what_a_sound_will_cost_is_known_beforehand() -> None:
    both = speech(40)
    assert len(vorbis(*both, RATE_HZ)) == pytest.approx(cost(40, 40, RATE_HZ), rel=0.6), "noise takes more than speech"
    silent = np.zeros(40 * RATE_HZ, np.int16)
    assert len(vorbis(silent, silent, RATE_HZ)) < cost(40, 0, RATE_HZ)


def test_no_more_than_two_minutes_of_a_call_are_encoded() -> None:
    silent = np.zeros(600 * RATE_HZ, np.int16)
    clip = fitted(whole(600), (silent, silent), bytes_max=1_000_000, around_ns=(500 * SECOND, 501 * SECOND))
    assert clip is not None
    assert 120 * SECOND <= clip.until_ns - clip.since_ns < 121 * SECOND
    assert clip.since_ns % SECOND == 0
    assert clip.since_ns <= 500 * SECOND <= clip.until_ns


def test_of_a_very_long_call_ten_minutes_are_taken_out() -> None:
    octets = bytes(n % 251 for n in range(3 * RATE_HZ))
    runs = np.array([[100 * RATE_HZ, RATE_HZ], [900 * RATE_HZ, 2 * RATE_HZ]], np.int64)
    sound = replace(whole(2_000), caller=Track(octets, runs))
    part = stretch_of(sound, (900 * SECOND, 901 * SECOND))
    assert 600 * SECOND <= part.ended_ns - part.began_ns < 601 * SECOND
    begin = at_sample(part.began_ns - sound.began_ns, RATE_HZ)
    cut = sound.octets(sound.caller)[begin : begin + part.samples]
    assert part.octets(part.caller) == cut
    edge = stretch_of(sound, (1_301 * SECOND + SECOND // 3, 1_302 * SECOND))
    begin = at_sample(edge.began_ns - sound.began_ns, RATE_HZ)
    assert 900 * RATE_HZ < begin < 902 * RATE_HZ, "in the midst of sound"
    assert edge.octets(edge.caller) == sound.octets(sound.caller)[begin : begin + edge.samples]
    assert stretch_of(whole(600), (0, 0)).ended_ns == whole(600).ended_ns


def test_calls_share_the_room_and_the_short_ones_leave_theirs() -> None:
    assert shares([20_000, 90_000, 90_000], 1_000_000) == [20_000, 90_000, 90_000]
    assert shares([20_000, 90_000, 90_000], 120_000) == [20_000, 50_000, 50_000]
    assert shares([90_000, 90_000, 90_000], 40_000) == [20_000, 20_000, 0], "too little for three: the last has none"
    assert shares([90_000, 0, 90_000], 20_000) == [20_000, 0, 0]
    assert shares([90_000], 10_000) == [0]
    assert shares([], 10_000) == []


def test_a_clip_is_cut_at_its_samples() -> None:
    samples = np.arange(RATE_HZ, dtype=np.int16)
    assert list(within(samples, RATE_HZ, SECOND // 2, SECOND // 2 + MS)) == list(range(4_000, 4_008))
