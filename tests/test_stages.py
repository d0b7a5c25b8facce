"""Which stage owns a missed latency: runs whose stages are known, and what is told of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.plans.exchanges import ASKED, REPLIES, USUAL, diagnosis, exchange, flat, shares, spread

from busyhour.gates import AtLeast, AtMost, Between, judge
from busyhour.indicators import (
    across,
    dead_air,
    first_audio_latency,
    mean_response_latency,
    missed_turns,
    response_latency,
)
from busyhour.indicators.stages import Diagnosis, Missed, diagnose
from busyhour.model import JSON, MS, SECOND, Mark, Operation, Outcome, Plan, Run
from busyhour.services import Command
from busyhour.testing import MemoryRun, greeting, whole_run, witnessed

# ---------------------------------------------------------------- one stage is slow


SLOW = {
    "end_pointing": ("end-pointing", 800),
    "STT_final": ("STT final", 540),
    "agent": ("agent and network", 704),
    "LLM_first_token": ("LLM first token", 900),
    "LLM_first_sentence": ("LLM first sentence", 1060),
    "network": ("agent and network", 702),
    "TTS_first_audio": ("TTS first audio", 700),
    "playout": ("playout", 610),
}


@pytest.mark.parametrize("slow", SLOW)
def test_the_slow_stage_is_named_with_its_share_and_all_of_them_sum_up(slow: str) -> None:
    owner, ms = SLOW[slow]
    run = whole_run(spread(**{slow: ms}))
    found = diagnosis(run)
    assert found.owner == owner
    told = shares(found)
    expected = {**USUAL, slow.replace("_", " ").replace("end pointing", "end-pointing"): ms}
    expected["agent and network"] = expected.pop("agent") + expected.pop("network")
    assert told == pytest.approx(expected)
    assert sum(told.values()) == pytest.approx(found.ms)
    assert sum(stage.share for stage in found.stages) == pytest.approx(1)
    assert found.typical_ms == pytest.approx(sum(USUAL.values()))
    assert (found.n, found.of) == (2, 2)


def test_the_sentence_says_how_much_of_which_turns_and_what_is_typical() -> None:
    found = diagnosis(whole_run(spread(LLM_first_token=900)))
    assert found.because == (
        "p95 response latency in steady: of 1276 ms in the 2 slowest of 20 turns, LLM first token took 900 ms (71 %; "
        "900-900 ms), end-pointing 200 ms (16 %), all else 176 ms (14 %); typical ones take 526 ms, LLM first token "
        "150 ms (29 %)"
    )


def test_what_the_slowest_take_longer_for_is_told_where_it_is_not_what_takes_longest() -> None:
    found = diagnosis(whole_run(spread(LLM_first_token=190, end_pointing=210)))
    assert found.owner == "end-pointing"
    grown = diagnosis(whole_run(spread(LLM_first_token=198, end_pointing=205)))
    assert grown.because.endswith("; of the 53 ms more, LLM first token took 48 ms")
    assert "more" not in diagnosis(whole_run(spread(LLM_first_token=160))).because  # nobody looks for so little


def test_the_interval_is_that_of_a_mean_over_calls() -> None:
    slow = [exchange(10 * n + 10, {"LLM_first_token": 800 + 100 * n}, number=n) for n in range(3)]
    run = whole_run(flat(slow), spread(20, 0)[3 * 5 :])
    found = diagnosis(run, q=0.86)
    stage = next(stage for stage in found.stages if stage.name == "LLM first token")
    assert stage.ms == pytest.approx(900)
    assert stage.low is not None
    assert stage.high is not None
    # Student's 95 % quantile with two degrees of freedom is 2.92, the standard error 100 / sqrt(3).
    assert (stage.low, stage.high) == pytest.approx((900 - 168.6, 900 + 168.6), abs=0.1)
    alone = diagnosis(whole_run(spread(slow=1, TTS_first_audio=700)), q=1)
    assert {(stage.low, stage.high) for stage in alone.stages} == {(None, None)}


# ---------------------------------------------------------------- requests that went wrong


def after(operations: list[Operation], *more: Operation) -> MemoryRun:
    """Beside other calls, which say what is usual."""
    return whole_run(operations, spread(12, 0), more)


def test_a_request_that_failed_before_another_was_served_is_a_stage_of_its_own() -> None:
    slow = exchange(300, {"agent": 1204}, number=90)
    asked_s = 300.244
    failed = witnessed("llm", "llm", asked_s, outcome="no_token", first_ms=None, seconds=1.2, prompt=ASKED[0], reply="")
    assert shares(diagnosis(after(slow, failed), q=1)) == pytest.approx(
        {"end-pointing": 200, "STT final": 40, "requests that failed": 1200, "LLM first token": 150,
         "LLM first sentence": 60, "TTS first audio": 60, "agent and network": 6, "playout": 10}
    )  # fmt: skip


def test_a_voice_that_was_silent_before_another_spoke_is_that_too() -> None:
    slow = exchange(300, {"network": 1202}, number=90)
    given_s = 300.456
    silent = witnessed("tts", "tts", given_s, outcome="zero_audio", first_ms=None, seconds=1.2, text=REPLIES[0])
    told = shares(diagnosis(after(slow, silent), q=1))
    assert told["requests that failed"] == pytest.approx(1200)
    assert told["agent and network"] == pytest.approx(6)


def test_what_a_tool_took_is_no_failure() -> None:
    slow = exchange(300, {"agent": 904}, number=90)
    called = witnessed("llm", "llm", 300.244, first_ms=100, seconds=0.2, prompt=ASKED[0], reply="", tool="book")
    told = shares(diagnosis(after(slow, called), q=1))
    assert told["tools"] == pytest.approx(900)
    assert "requests that failed" not in told


def test_a_failed_request_of_another_call_is_not_taken_for_ones_own() -> None:
    slow = exchange(300, {"agent": 804}, number=90)
    other = witnessed("llm", "llm", 300.6, outcome="no_token", first_ms=None, seconds=0.4, prompt=ASKED[1], reply="")
    told = shares(diagnosis(after(slow, other), q=1))
    assert told["agent and network"] == pytest.approx(806)


def test_a_model_that_never_answered_owns_the_wait_for_the_apology() -> None:
    slow = exchange(300, {"LLM_first_token": 2000, "LLM_first_sentence": 0}, number=90)
    stuck = [
        replace(row, outcome="no_token", detail={**row.detail, "first_token_ns": None, "reply": ""})
        if row.kind == "llm"
        else replace(row, detail={**row.detail, "text": "I am sorry, I am having some trouble right now."})
        if row.kind == "tts"
        else row
        for row in slow
    ]
    told = shares(diagnosis(after(stuck), q=1))
    assert told["LLM first token"] == pytest.approx(2000)


def test_a_final_that_never_came_was_waited_for_at_the_transcriber() -> None:
    slow = exchange(300, {"STT_final": 1000}, number=90)
    lost = [replace(row, ended_ns=None, outcome="no_final") if row.kind == "stt" else row for row in slow]
    told = shares(diagnosis(after(lost), q=1))
    assert told["end-pointing"] == pytest.approx(200)
    assert told["STT final"] == pytest.approx(1004)


def test_a_slow_path_to_the_model_is_the_networks_and_not_the_models() -> None:
    """It takes 150 ms to the model and 150 ms back: the tokens leave as early as ever, the voice is asked later."""
    told = shares(diagnosis(after(exchange(300, {"agent": 154, "network": 152}, number=90)), q=1))
    assert told["agent and network"] == pytest.approx(306)
    assert told["LLM first sentence"] == pytest.approx(60)


def test_of_a_long_reply_only_the_first_sentence_is_waited_for() -> None:
    slow = exchange(300, {"TTS_first_audio": 800}, number=90)
    reply = f"{REPLIES[0]} " * 10
    longer = [
        replace(row, ended_ns=(row.ended_ns or 0) + 540 * MS, detail={**row.detail, "reply": reply.strip()})
        if row.kind == "llm"
        else row
        for row in slow
    ]
    told = shares(diagnosis(after(longer), q=1))
    assert told["LLM first sentence"] == pytest.approx(60, abs=2)
    assert told["TTS first audio"] == pytest.approx(800)


# ---------------------------------------------------------------- what is missing


def test_a_journal_that_does_not_say_when_speech_was_over_has_end_pointing_and_transcription_in_one() -> None:
    run = whole_run(flat([exchange(10 * n + 10, number=n, closed=False) for n in range(20)]))
    told = shares(diagnosis(run))
    assert told["end-pointing and STT"] == pytest.approx(240)
    assert not {"end-pointing", "STT final"} & told.keys()


def test_an_agent_without_a_transcriber_or_a_model_of_ours_is_diagnosed_by_what_there_is() -> None:
    deaf = whole_run(flat([exchange(10 * n + 10, number=n, without=["stt"]) for n in range(20)]))
    assert shares(diagnosis(deaf)) == pytest.approx(
        {"end-pointing and STT": 244, "LLM first token": 150, "LLM first sentence": 60, "TTS first audio": 60,
         "agent and network": 2, "playout": 10}
    )  # fmt: skip
    brainless = whole_run(flat([exchange(10 * n + 10, number=n, without=["llm"]) for n in range(20)]))
    assert shares(diagnosis(brainless)) == pytest.approx(
        {"end-pointing": 200, "STT final": 40, "TTS first audio": 60, "agent and network": 216, "playout": 10}
    )


def test_a_transcript_with_errors_is_still_known() -> None:
    slow = exchange(300, {"TTS_first_audio": 600}, number=90, heard="Is there any barking near the coffins?")
    assert shares(diagnosis(after(slow), q=1))["TTS first audio"] == pytest.approx(600)


def test_without_any_twin_nothing_is_said() -> None:
    run = whole_run(flat([exchange(10 * n + 10, number=n, without=["stt", "llm", "tts"]) for n in range(20)]))
    indicator = response_latency("steady")
    assert diagnose(run, [Missed("the gate", indicator, 526.0)]) == ()
    assert diagnose(whole_run(), [Missed("the gate", indicator, 526.0)]) == ()


def test_an_answer_that_no_twin_gave_is_not_explained() -> None:
    slow = exchange(300, {"TTS_first_audio": 900}, number=90, without=["tts"])
    found = diagnosis(after(slow), q=1)
    assert (found.n, found.of, found.stages, found.owner) == (0, 1, (), "")
    assert found.because == (
        "longest response latency in steady: no stage can be named: of the slowest of 13 turns none could be "
        "attributed (1 left no trace at the twins)"
    )


# ---------------------------------------------------------------- what never came


def unanswered(operations: list[Operation], **outcome: JSON) -> list[Operation]:
    """The same call, of which nothing was heard; of the twins' rows by kind, what they came to, or None for no row."""
    made = []
    for row in operations:
        if row.kind == "turn":
            made.append(
                replace(
                    row, ended_ns=None, outcome="missed", detail={**row.detail, "gave_up_ns": row.due_ns + 6 * 10**9}
                )
            )
        elif row.kind not in outcome:
            made.append(row)
        elif outcome[row.kind] is not None:
            first = {name: None for name in ("first_token_ns", "first_audio_ns") if name in row.detail}
            ended_ns = None if row.kind == "stt" else row.ended_ns
            made.append(replace(row, outcome=str(outcome[row.kind]), ended_ns=ended_ns, detail={**row.detail, **first}))
    return made


@pytest.mark.parametrize(
    ("outcome", "stage"),
    [
        ({"stt": None, "llm": None, "tts": None}, "end-pointing and STT"),
        ({"stt": "no_final", "llm": None, "tts": None}, "STT final"),
        ({"llm": None, "tts": None}, "agent and network"),
        ({"llm": "no_token", "tts": None}, "LLM first token"),
        ({"tts": None}, "agent and network"),
        ({"tts": "hang"}, "TTS first audio"),
        ({}, "playout"),
    ],
)
def test_a_turn_without_an_answer_stood_still_somewhere(outcome: dict[str, JSON], stage: str) -> None:
    found = diagnosis(after(unanswered(exchange(300, number=90), **outcome)), q=1)
    assert found.unanswered == ((stage, 1),)
    assert found.stages == ()
    assert found.because == (
        f"longest response latency in steady: 1 of 13 turns was never answered: 1 stood still at {stage}"
    )


def test_dead_air_counts_what_was_given_up_and_says_both() -> None:
    slow = exchange(300, {"TTS_first_audio": 6500}, number=90)
    lost = [unanswered(exchange(400 + 10 * n, number=91 + n), llm="no_token", tts=None) for n in range(3)]
    run = after(slow, *(row for some in lost for row in some))
    (found,) = diagnose(run, [Missed("the gate", dead_air("steady"), 6.0)])
    assert found.owner == "TTS first audio"
    assert found.unanswered == (("LLM first token", 3),)
    assert found.because.startswith(
        "longest dead air in steady: of 6966 ms in the slowest of 16 turns, TTS first audio"
    )
    assert found.because.endswith("; 3 more were never answered: 3 stood still at LLM first token")


def given_up_after(operations: list[Operation], seconds: float) -> list[Operation]:
    until_ns = {row.id: row.due_ns + round(seconds * SECOND) for row in operations if row.kind == "turn"}
    return [
        replace(row, detail={**row.detail, "gave_up_ns": until_ns[row.id]}) if row.id in until_ns else row
        for row in operations
    ]


def test_of_dead_air_every_unanswered_turn_is_told_and_not_only_that_given_up_last() -> None:
    lost = [
        given_up_after(unanswered(exchange(10 * n + 10, number=n), llm="no_token", tts=None), 2 + n / 1_000)
        for n in range(18)
    ]
    found = diagnosis(whole_run(flat(lost)), dead_air("steady"))
    assert found.because == (
        "longest dead air in steady: 18 of 18 turns were never answered: 18 stood still at LLM first token"
    )
    assert found.unanswered == (("LLM first token", 18),)


def test_a_dead_air_within_an_answer_is_not_laid_to_those_that_never_came() -> None:
    lost = unanswered(exchange(300, number=90), llm="no_token", tts=None)
    silent = Operation(
        id="steady/0/pause", kind="pause", phase="steady", parent="steady/0", due_ns=20 * SECOND, ended_ns=29 * SECOND
    )
    run = after(lost, silent)
    value = dead_air("steady")(run).value
    assert value == pytest.approx(9)
    assert diagnose(run, [Missed("the gate", dead_air("steady"), 9.0)]) == ()


# ---------------------------------------------------------------- greetings


def test_a_greeting_has_the_agent_the_voice_and_the_playout() -> None:
    run = whole_run(flat([exchange(10 * n + 10, number=n, greeted=True) for n in range(20)]))
    found = diagnosis(run, first_audio_latency("steady", 0.9))
    assert shares(found) == pytest.approx({"TTS first audio": 55, "agent and network": 20, "playout": 5})
    assert found.because.startswith(
        "p90 first-audio latency in steady: of 80 ms in the 20 slowest of 20 greetings, TTS"
    )


def test_a_call_that_was_never_greeted() -> None:
    mute = replace(greeting(None, call="steady/90", at_s=300), detail={"gave_up_ns": 306 * 10**9})
    silent = witnessed("tts", "tts", 300.02, first_ms=None, outcome="hang", text="Thank you for calling.")
    calls = [exchange(10 * n + 10, number=n, greeted=True) for n in range(5)]
    told = diagnosis(whole_run(flat(calls), [mute, silent]), first_audio_latency("steady", 1))
    assert told.unanswered == (("TTS first audio", 1),)
    forgotten = diagnosis(whole_run(flat(calls), [mute]), first_audio_latency("steady", 1))
    assert forgotten.unanswered == (("agent and network", 1),)


# ---------------------------------------------------------------- gates


def judged(run: Run, *gates: AtMost | AtLeast | Between) -> dict[str, Diagnosis]:
    plan = Plan(target=Command("true", name="agent"), phases=[], gates=gates)
    return {found.gate: found for found in judge(plan, run).diagnoses}


def test_gates_of_latency_that_are_not_met_are_diagnosed_and_no_others() -> None:
    run = whole_run(spread(60, 6, LLM_first_token=900), phases=("steady",))
    missed, met = AtMost(response_latency("steady"), 800, "ms"), AtMost(response_latency("steady", 0.5), 800, "ms")
    near = AtMost(response_latency("steady", 0.9), 1300, "ms")
    others = (
        AtMost(missed_turns("steady"), 0, "%"),
        AtLeast(response_latency("steady"), 5000, "ms"),
        AtMost(first_audio_latency("steady"), 1, "ms"),  # there are none: NOT_RUN
    )
    ranged, mean = (
        Between(response_latency("steady"), 100, 800, "ms"),
        AtMost(mean_response_latency("steady"), 500, "ms"),
    )
    found = judged(run, missed, met, near, ranged, mean, *others)
    assert set(found) - {near.name} == {missed.name, ranged.name, mean.name}
    assert found[missed.name].owner == "LLM first token"
    assert found[mean.name].because.startswith(
        "mean response latency in steady: of 1276 ms in the 6 slowest of 60 turns"
    )


def test_an_inconclusive_gate_is_diagnosed_and_an_invalid_run_is_not() -> None:
    run = whole_run(spread(20, 2, TTS_first_audio=700))
    gate = AtMost(response_latency("steady"), 1200, "ms")
    plan = Plan(target=Command("true", name="agent"), phases=[], gates=[gate])
    judgement = judge(plan, run)
    assert judgement.outcome is Outcome.INCONCLUSIVE
    assert [found.owner for found in judgement.diagnoses] == ["TTS first audio"]
    broken = judge(plan, MemoryRun(run.recorded, (), [mark for mark in run.marked if mark.kind != "run.ended"]))
    assert broken.outcome is Outcome.INVALID
    assert broken.diagnoses == ()


def test_several_phases_in_one_gate_are_diagnosed_together() -> None:
    calm = [exchange(10 * n + 10, number=n) for n in range(20)]
    busy = [exchange(10 * n + 1810, {"TTS_first_audio": 500}, number=n, phase="busy") for n in range(5)]
    run = whole_run(flat(calm), flat(busy), phases=("steady", "busy"))
    pooled = across("all", [response_latency("steady", 0.9), response_latency("busy", 0.9)])
    found = diagnosis(run, pooled)
    assert found.owner == "TTS first audio"
    assert found.because.startswith("p90 response latency in all: of 966 ms in the 5 slowest of 25 turns")


def test_what_fell_into_a_gap_is_left_out_of_the_diagnosis_too() -> None:
    run = whole_run(
        spread(60, 6, LLM_first_token=900),
        exchange(3000, {"TTS_first_audio": 3000}, number=99),
        marks=[Mark(3001 * 10**9, "machine.suspended", "", {"from_ns": 2990 * 10**9, "seconds": 11})],
    )
    gate = AtMost(response_latency("steady"), 800, "ms")
    assert "TTS" not in judged(run, gate)[gate.name].owner
    assert " of 60 turns" in judged(run, gate)[gate.name].because
