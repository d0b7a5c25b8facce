from collections.abc import Callable
from dataclasses import replace
from math import inf
from random import Random

import pytest

from busyhour import indicators
from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import (
    agent_interruptions,
    agent_talk_share,
    barge_in_stop,
    call_setup,
    call_success,
    dead_air,
    dropped,
    first_audio_latency,
    loop_lag,
    mean_response_latency,
    missed_turns,
    probed,
    response_latency,
    send_lateness,
    underruns,
    word_error_rate,
    yield_rate,
)
from busyhour.indicators.transcripts import Heard, matched, word_errors, words
from busyhour.model import MS, SECOND, Indicator, Mark, Operation, Phase, Sample
from busyhour.testing import (
    MemoryRun,
    answered,
    barge_in,
    call,
    greeting,
    speech,
    transcript,
    turn,
    underrun,
    whole_run,
)

# ---------------------------------------------------------------- over nothing


@pytest.mark.parametrize(
    "indicator",
    [
        response_latency("steady"),
        mean_response_latency("steady"),
        first_audio_latency("steady"),
        barge_in_stop("steady"),
        yield_rate("steady"),
        missed_turns("steady"),
        dead_air("steady"),
        agent_interruptions("steady"),
        call_success("steady"),
        underruns("steady"),
        word_error_rate("steady"),
        agent_talk_share("steady"),
        send_lateness(),
        loop_lag(),
        probed("agent", "rss_mb"),
    ],
    ids=lambda indicator: indicator.what,
)
def test_over_nothing_there_is_no_value_and_no_interval(indicator: Indicator) -> None:
    for run in (MemoryRun(), whole_run(call(1, phase="other"), phases=["steady", "other"])):
        estimate = indicator(run)
        assert (estimate.n, estimate.value, estimate.low, estimate.high) == (0, None, None, None)
        assert estimate.what == indicator.what
        assert estimate.unit == indicator.unit


def test_the_public_names_are_all_there_and_sorted() -> None:
    assert sorted(indicators.__all__) == list(indicators.__all__)
    assert all(hasattr(indicators, name) for name in indicators.__all__)
    assert all(getattr(indicators, name).__doc__ for name in indicators.__all__)


def test_a_phase_may_be_given_as_itself() -> None:
    class Never:
        def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int:
            return 0

        async def perform(self, arrival: object) -> None: ...

    phase = Phase("steady", Never(), Never())
    assert response_latency(phase) == response_latency("steady")
    assert dropped(phase, "outage").phases == ("steady", "outage")


@pytest.mark.parametrize("q", [0, -0.5, 1.01, 95])
def test_a_quantile_lies_between_0_and_1(q: float) -> None:
    with pytest.raises(PlanError, match="between 0 and 1"):
        response_latency("steady", q)
    with pytest.raises(PlanError, match="between 0 and 1"):
        send_lateness(q)


def test_percent_given_for_a_quantile_is_mended() -> None:
    with pytest.raises(PlanError, match=r"did you mean 0\.95"):
        response_latency("steady", 95)


# ---------------------------------------------------------------- latency


def test_response_latency_is_from_the_end_of_speech_to_the_answer() -> None:
    run = whole_run(answered([100, 200, 300]), answered([400], number=2), answered([9000], number=1, phase="other"))
    estimate = response_latency("steady", 0.5)(run)
    assert (estimate.what, estimate.unit) == ("p50 response latency in steady", "ms")
    assert (estimate.n, estimate.value) == (4, 200)


def test_an_unanswered_turn_is_infinitely_late_and_a_hasty_one_not_late() -> None:
    run = whole_run(turn(None, number=1), turn(-300, number=2), turn(-300, number=3))
    assert response_latency("steady", 0.99)(run).value == inf
    assert response_latency("steady", 0.5)(run).value == 0
    assert mean_response_latency("steady")(run).value == inf


def test_turns_of_one_call_are_told_to_the_evidence_as_such() -> None:
    one = response_latency("steady")(whole_run(answered([100.0] * 200)))
    many = response_latency("steady")(whole_run(*(answered([100.0], number=n) for n in range(200))))
    assert one.evidence is not None
    assert many.evidence is not None
    assert one.evidence.at_most(200, 0.05).outcome == "inconclusive"
    assert many.evidence.at_most(200, 0.05).outcome == "pass"


def test_first_audio_latency_is_from_the_open_line_to_the_greeting() -> None:
    run = whole_run(greeting(700, call="steady/1"), greeting(None, call="steady/2"), greeting(900, call="steady/3"))
    assert first_audio_latency("steady", 0.5)(run).value == 900
    assert first_audio_latency("steady", 0.95)(run).value == inf
    assert first_audio_latency("steady")(run).what == "p95 first-audio latency in steady"


def test_barge_in_counts_only_where_there_was_something_to_stop() -> None:
    run = whole_run(
        barge_in(300, number=1),
        barge_in(500, number=2),
        barge_in(None, number=3),
        barge_in(None, number=4, reached=False),
    )
    stop = barge_in_stop("steady", 0.5)(run)
    assert (stop.n, stop.value) == (3, 500)
    assert barge_in_stop("steady", 0.9)(run).value == inf


def test_yield_rate_is_within_a_time() -> None:
    run = whole_run(*(barge_in(ms, number=n) for n, ms in enumerate([100, 2000, 2001, None])))
    assert yield_rate("steady")(run).value == 50
    assert yield_rate("steady", within_ms=500)(run).value == 25
    assert yield_rate("steady", within_ms=500).what == "yield rate within 500 ms in steady"


def test_dead_air_lasts_until_the_answer_or_until_the_caller_gave_up() -> None:
    run = whole_run(turn(1500, number=1), turn(None, number=2, gave_up_after_s=4), turn(200, number=3))
    worst = dead_air("steady")(run)
    assert (worst.what, worst.unit, worst.value, worst.n) == ("longest dead air in steady", "s", 4, 3)
    assert dead_air("steady", 0.5)(run).value == 1.5


def test_dead_air_that_nobody_saw_the_end_of_is_infinite() -> None:
    lost = Operation(id="steady/1/turn/1", kind="turn", phase="steady", due_ns=5 * SECOND, outcome="lost")
    assert dead_air("steady")(whole_run(lost)).value == inf


# ---------------------------------------------------------------- rates


def test_missed_turns() -> None:
    estimate = missed_turns("steady")(whole_run(answered([100, None, 200, 300])))
    assert (estimate.value, estimate.n, estimate.unit) == (25, 4, "%")


def test_call_success_counts_calls_that_failed_before_there_was_a_turn() -> None:
    run = whole_run(call(1), call(2, outcome="no answer"), call(3, outcome="lost"), call(4, outcome="cut off"))
    assert call_success("steady")(run).value == 25


def test_calls_that_we_cut_off_because_the_run_was_stopped_say_nothing() -> None:
    operations = [call(1), call(2, outcome="no answer"), call(3, outcome="cut off")]
    stopped = MemoryRun(operations, marked=[Mark(0, "phase.began", "steady"), Mark(9, "run.stopped")])
    assert (call_success("steady")(stopped).n, call_success("steady")(stopped).value) == (2, 50)


def test_agent_interruptions_are_starts_of_speech_inside_the_callers() -> None:
    run = whole_run(
        speech("caller", 10, 12, number=1),
        speech("caller", 20, 22, number=2),
        speech("agent", 9, 11, number=3),  # it was speaking before
        speech("agent", 10, 10.5, number=4),
        speech("agent", 11.99, 13, number=5),
        speech("agent", 12, 13, number=6),  # the caller had ended
        speech("agent", 21, 22, call="steady/2"),  # another call
    )
    estimate = agent_interruptions("steady")(run)
    assert (estimate.value, estimate.n, estimate.unit) == (100, 2, "%")
    assert agent_interruptions("steady")(whole_run(speech("caller", 1, 2))).value == 0


def test_underruns_are_counted_per_minute_of_agent_speech() -> None:
    run = whole_run(
        speech("agent", 0, 60, number=1),
        speech("agent", 70, 130, number=2),
        speech("caller", 60, 70),
        speech("agent", 0, 120, call="steady/2"),
        *(underrun(5 + n, number=n) for n in range(2)),
    )
    estimate = underruns("steady")(run)
    assert (estimate.value, estimate.unit) == (0.5, "/min")
    assert estimate.high == pytest.approx(6.296 / 4, abs=0.001)


def test_agent_talk_share_is_of_the_time_of_the_conversation() -> None:
    run = whole_run(
        call(1, seconds=100),
        speech("agent", 0, 30),
        speech("agent", 50, 70),
        speech("caller", 30, 50),
        call(2, seconds=50),
        call(3, outcome="no answer", opened_ns=None),
    )
    estimate = agent_talk_share("steady")(run)
    assert (estimate.value, estimate.n) == (25, 2)


# ---------------------------------------------------------------- harness and probes


def lateness(value: float, count: int, at_ns: int = 10) -> Sample:
    return Sample(at_ns, "harness", "send_lateness_ms", value, count)


def test_where_no_frame_was_due_none_was_late() -> None:
    short = [call(1, outcome="no answer", opened_ns=None), call(2, outcome="protocol error", seconds=0.05)]
    gate = AtMost(send_lateness(0.99), 5, "ms")
    assert gate.judge(whole_run(short)).because == (
        "p99 send lateness is 0 ms (n=0), within 5 ms: no call had media for longer than 100 ms, so no frame was due"
    )
    assert gate.judge(whole_run(short)).outcome == "pass"
    assert gate.judge(whole_run(short, call(3, seconds=2))).outcome == "not run"
    assert gate.judge(whole_run()).outcome == "not run"


def test_the_commonest_reasons_of_failed_calls_are_told() -> None:
    def failed(number: int, outcome: str, why: str = "") -> Operation:
        return call(number, outcome=outcome, why=why)

    run = whole_run(
        [failed(n, "lost", "lost: the socket broke") for n in (1, 2, 3)],
        [failed(n, "rejected", "USER_BUSY") for n in (4, 5)],
        failed(6, "no answer"),
        failed(7, "no media"),
        failed(8, "protocol error"),
        call(9),
    )
    assert (
        AtLeast(call_success("steady"), 90, "%")
        .judge(run)
        .because.endswith(
            ": 1 of 9 calls; 3 lost (steady/1: the socket broke), 2 rejected (steady/4: USER_BUSY), "
            "1 no answer (steady/6), 2 for other reasons"
        )
    )


def test_lateness_counts_every_frame() -> None:
    run = whole_run(samples=[lateness(0.1, 9_900), lateness(7.0, 99), lateness(50.0, 1)])
    assert (send_lateness(0.99)(run).value, send_lateness(0.99)(run).n) == (0.1, 10_000)
    assert send_lateness(0.995)(run).value == 7
    assert send_lateness(1)(run).value == 50
    assert send_lateness(0.99).what == "p99 send lateness"
    assert send_lateness(0.99).phases == ()


def test_samples_of_a_phase_lie_between_its_marks() -> None:
    samples = [Sample(n * SECOND, "agent", "rss_mb", value) for n, value in ((1, 100.0), (15, 300.0), (25, 200.0))]
    run = whole_run(samples=samples, phases=["a", "b", "c"], seconds=30)
    assert probed("agent", "rss_mb")(run).value == 300
    assert probed("agent", "rss_mb", phase="c")(run).value == 200
    assert probed("agent", "rss_mb", phase="c").what == "highest rss of agent in c"
    assert probed("agent", "rss_mb").unit == "MB"
    assert probed("agent", "cpu_pct", 0.5).what == "p50 cpu of agent"
    assert probed("agent", "open_files").what == "highest open files of agent"


def test_what_a_probe_could_not_read_is_not_a_reading() -> None:
    samples = [Sample(1, "agent", "rss_mb", float("nan")), Sample(2, "agent", "rss_mb", 5.0)]
    assert (probed("agent", "rss_mb")(whole_run(samples=samples)).n) == 1


def test_no_dropped_arrival_is_a_measurement_once_the_phase_began() -> None:
    run = whole_run(call(1), call(2), phases=["steady", "outage"])
    assert (dropped("steady")(run).value, dropped("steady")(run).n) == (0, 2)
    assert dropped("outage")(run).value == 0
    assert dropped("unheard of")(run).value is None
    assert dropped()(run).value == 0
    assert dropped().what == "count of dropped arrivals"
    assert dropped("steady", "outage").what == "count of dropped arrivals in steady and outage"


def test_dropped_arrivals_are_summed_over_their_phases() -> None:
    marks = [Mark(1, "arrival.dropped", name, {"count": count}) for name, count in (("a", 2), ("a", 3), ("b", 10))]
    run = whole_run(call(1, phase="a"), phases=["a", "b"], marks=marks)
    assert (dropped("a")(run).value, dropped("a")(run).n) == (5, 6)
    assert dropped("a", "b")(run).value == 15
    assert dropped()(run).value == 15


# ---------------------------------------------------------------- transcripts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't — stop!", ["dont", "stop"]),
        ("half-past  TWO, p.m.", ["half", "past", "two", "p", "m"]),
        ("", []),
        ("Straße 5", ["strasse", "5"]),
        ("rock\u2019n\u2019roll", ["rocknroll"]),
    ],
)
def test_words_are_compared_without_dress(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a b c", "a b b c", 1),
        ("a b c", "", 3),
        ("", "a b", 2),
        ("a b c d", "b c d e", 2),
        ("a b", "x y z w v", 5),
    ],
)
def test_word_errors(said: str, heard: str, errors: int) -> None:
    assert word_errors(said.split(), heard.split()) == errors


def slow_word_errors(said: list[str], heard: list[str]) -> int:
    if not said or not heard:
        return len(said) + len(heard)
    return min(
        slow_word_errors(said[1:], heard[1:]) + (said[0] != heard[0]),
        slow_word_errors(said[1:], heard) + 1,
        slow_word_errors(said, heard[1:]) + 1,
    )


def test_word_errors_are_the_least_of_all_ways() -> None:
    random = Random(1)
    for _ in range(60):
        said, heard = ([random.choice("abc") for _ in range(random.randrange(6))] for _ in range(2))
        assert word_errors(said, heard) == slow_word_errors(said, heard)


def conversation(
    n: int, phase: str = "steady", hear: Callable[[str], str] = str, later_s: float = 0.12
) -> list[Operation]:
    """A call among many at once, with its own pattern of speech, and what its connection heard a moment later."""
    random, at, operations = Random(n), 100 + n * 0.1, []
    for number in range(1, 6):
        at += random.uniform(3, 9)
        seconds, text = random.uniform(0.6, 3), f"call {n} says {number}"
        operations.append(turn(500, call=f"{phase}/{n}", number=number, at_s=at, seconds=seconds, text=text))
        heard = transcript(f"connection {99 - n}", at + later_s, at + seconds + later_s, hear(text), number=number)
        operations.append(heard)
        at += seconds + 2
    return operations


@pytest.mark.parametrize("later_s", [0, 0.12, 0.6])
def test_connections_are_matched_to_calls_by_the_timing_of_speech(later_s: float) -> None:
    run = whole_run(*(conversation(n, later_s=later_s) for n in range(90)))
    estimate = word_error_rate("steady")(run)
    assert (estimate.value, estimate.n, estimate.unit) == (0, 90, "%")


def test_word_errors_are_pooled_over_the_words_of_the_phase() -> None:
    wrong = conversation(3, hear=lambda text: text.replace("says", "said"))
    run = whole_run(conversation(1), wrong, conversation(2, phase="other", hear=lambda text: "nonsense"))
    assert word_error_rate("steady")(run).value == pytest.approx(100 * 5 / 40)


def test_a_call_that_no_connection_heard_was_not_understood() -> None:
    deaf = [part for part in conversation(7) if part.kind == "turn"]
    assert word_error_rate("steady")(whole_run(conversation(1), deaf)).value == 50


def test_a_call_may_have_had_several_connections() -> None:
    parts = conversation(1)
    halves = [
        transcript(f"{'ab'[number > 2]}", part.began_ns / SECOND, part.due_ns / SECOND, text, number=number)
        for number, part in enumerate((p for p in parts if p.kind == "stt"), start=1)
        if part.began_ns is not None and isinstance(text := part.detail["transcript"], str)
    ]
    said = [part for part in parts if part.kind == "turn"]
    assert word_error_rate("steady")(whole_run(conversation(2), said, halves)).value == 0


def test_an_interruption_is_speech_too() -> None:
    interrupting = Operation(
        id="steady/1/barge_in/1",
        kind="barge_in",
        phase="steady",
        due_ns=40 * SECOND,
        began_ns=40 * SECOND,
        parent="steady/1",
        detail={"text": "stop it"},
    )
    run = whole_run(interrupting, speech("caller", 40, 41), transcript("x", 40.1, 41.1, "stop it now"), call(1))
    assert word_error_rate("steady")(run).value == 50


def test_without_any_transcriber_there_is_no_word_error_rate() -> None:
    assert word_error_rate("steady")(whole_run(turn(100, text="hello there"))).value is None


def heard(*spans_s: tuple[float, float]) -> list[Heard]:
    return [Heard(round(began * SECOND), round(ended * SECOND), "") for began, ended in spans_s]


def test_a_short_connection_goes_to_the_call_it_was_cut_from() -> None:
    said = {"long": heard((1, 4), (10, 14), (20, 24), (50, 52), (60, 64), (70, 75)), "short": heard((51, 53))}
    assert matched(said, {"x": heard((50.1, 52.1))}) == {"x": "long"}
    assert matched(said, {"x": heard((51.1, 53.1))}) == {"x": "short"}


def test_a_call_that_talks_all_the_time_does_not_draw_all_connections() -> None:
    said = {"talker": heard((3, 12)), "quiet": heard((5, 6), (8, 9)), "brief": heard((7, 7.5))}
    heard_by = {"x": heard((5.1, 6.1), (8.1, 9.1)), "y": heard((7.1, 7.6)), "z": heard((3.1, 12.1))}
    assert matched(said, heard_by) == {"x": "quiet", "y": "brief", "z": "talker"}


def test_a_connection_that_heard_nobody_belongs_to_nobody() -> None:
    said = {"steady/1": [Heard(0, 1 * SECOND, "hello")]}
    assert matched(said, {"late": [Heard(5 * SECOND, 6 * SECOND, "noise")], "silent": []}) == {}
    assert matched(said, {"it": [Heard(100 * MS, 1100 * MS, "hello")]}) == {"it": "steady/1"}


# ---------------------------------------------------------------- silences, set-up, and the worst phase


def test_dead_air_is_the_longest_silence_of_a_turn_before_its_answer_or_within_it() -> None:
    pause = Operation(
        id="steady/1/pause/1",
        kind="pause",
        phase="steady",
        due_ns=13 * SECOND,
        began_ns=13 * SECOND,
        ended_ns=round(14.8 * SECOND),
        parent="steady/1",
    )
    run = whole_run(turn(700, at_s=10), turn(600, at_s=20, number=2), pause)
    assert dead_air("steady")(run).value == pytest.approx(1.8)
    assert dead_air("steady")(run).n == 2
    elsewhere = whole_run(turn(700, at_s=10), replace(pause, parent="steady/2"))
    assert dead_air("steady")(elsewhere).value == pytest.approx(0.7)


def test_call_setup_counts_what_was_never_taken_as_infinitely_late() -> None:
    taken = [call(n, answered_ns=40 * MS) for n in range(30)]
    refused = call(31, outcome="rejected")
    assert call_setup("steady", 0.5)(whole_run(taken)).value == 40
    assert call_setup("steady", 1.0)(whole_run(taken, refused)).value == inf


def test_lateness_is_that_of_the_worst_phase() -> None:
    # 1 % of the run's frames were late, but half of those of the short phase
    on_time = Sample(1 * SECOND, "harness", "send_lateness_ms", 0.5, 9_900)
    late = Sample(3 * SECOND, "harness", "send_lateness_ms", 40.0, 100)
    marks = [
        Mark(0, "run.began"),
        Mark(0, "phase.began", "long"),
        Mark(2 * SECOND, "phase.ended", "long"),
        Mark(2 * SECOND, "phase.began", "short"),
        Mark(4 * SECOND, "phase.ended", "short"),
    ]
    estimate = send_lateness(0.95)(MemoryRun(sampled=[on_time, late], marked=marks))
    assert (estimate.value, estimate.n) == (40.0, 10_000)
