"""The call workload on a line in memory, in virtual time: every number it writes down is known beforehand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from busyhour.carriers.memory import Manner, MemoryCarrier, MemoryLine
from busyhour.clock import VirtualClock
from busyhour.model import (
    MS,
    SECOND,
    Arrival,
    Audio,
    CallSetup,
    Endpoint,
    Heard,
    HeardKind,
    Line,
    Operation,
    Spoken,
)
from busyhour.workloads.call import BargeIn, Call, Greeting, HangUp, Press, Say, Scenario, Silence, Step

# 1.5 s of audio, of which speech is 0.1 s to 1.3 s
AUDIO = Audio("test.words", "some words", np.zeros(12_000, np.int16), 8000, 800, 10_400)


def placed(
    *steps: Step, manner: Manner | None = None, carried_by: type[MemoryCarrier] = MemoryCarrier
) -> dict[str, list[Operation]]:
    """Play a scenario against an agent of these manners: operations by kind."""
    clock = VirtualClock()
    carrier = carried_by(clock=clock, manner=manner or Manner())
    operations: list[Operation] = []

    async def main() -> None:
        arrival = Arrival(
            id="phase/1",
            phase="phase",
            due_ns=clock.now_ns(),
            clock=clock,
            random=Random(0),
            dial=lambda setup: carrier.dial(Endpoint("memory:"), setup),
            record=operations.append,
        )
        await Call([Scenario("test", steps)]).perform(arrival)

    clock.run(main())
    kinds: dict[str, list[Operation]] = {}
    for operation in operations:
        kinds.setdefault(operation.kind, []).append(operation)
    return kinds


def latency_ms(operation: Operation) -> float:
    assert operation.ended_ns is not None
    return (operation.ended_ns - operation.due_ns) / MS


def test_a_call_with_two_turns_writes_down_what_was_heard() -> None:
    kinds = placed(Greeting(), Say(AUDIO), Say(AUDIO), manner=Manner(greets_after_ms=250, answers_after_ms=432))
    assert [latency_ms(o) for o in kinds["greeting"]] == [250]
    assert [latency_ms(o) for o in kinds["turn"]] == [432, 432]
    assert [o.outcome for o in kinds["call"]] == ["ok"]
    agent = [o for o in kinds["speech"] if o.who == "agent"]
    assert [(o.ended_ns or 0) - (o.began_ns or 0) for o in agent] == [2 * SECOND] * 3
    assert all(o.parent == "phase/1" and o.phase == "phase" for kind in ("turn", "speech") for o in kinds[kind])
    assert len({o.id for kind in kinds.values() for o in kind}) == sum(map(len, kinds.values()))


def test_the_caller_waits_for_the_agents_end_before_speaking() -> None:
    kinds = placed(Greeting(), Say(AUDIO))
    greeting_end = next(o.ended_ns for o in kinds["speech"] if o.who == "agent")
    said = next(o.began_ns for o in kinds["speech"] if o.who == "caller")
    assert greeting_end is not None
    assert said is not None
    assert 700 <= (said - greeting_end) / MS - 100 <= 1000  # 100 ms of the audio lie before its speech


def test_an_unanswered_turn_has_no_end_and_is_waited_for() -> None:
    kinds = placed(Greeting(), Say(AUDIO, patience_seconds=3), Say(AUDIO), manner=Manner(misses_turn=1))
    first, second = kinds["turn"]
    assert (first.outcome, first.ended_ns) == ("missed", None)
    gave_up = first.detail["gave_up_ns"]
    assert isinstance(gave_up, int)
    assert gave_up - first.due_ns == 3 * SECOND
    assert second.outcome == "ok"


def test_an_agent_that_says_nothing_at_all_has_missed_the_greeting() -> None:
    kinds = placed(Greeting(patience_seconds=2), manner=Manner(greets_after_ms=60_000))
    assert [(o.outcome, o.ended_ns) for o in kinds["greeting"]] == [("missed", None)]


def test_a_barge_in_measures_from_the_callers_first_sound_to_the_agents_last() -> None:
    kinds = placed(Greeting(), BargeIn(AUDIO, asking=AUDIO, after_ms=800), manner=Manner(stops_after_ms=321))
    (barge_in,) = kinds["barge_in"]
    assert latency_ms(barge_in) == 321
    assert barge_in.outcome == "ok"
    assert [latency_ms(o) for o in kinds["turn"]] == [400, 400]


def test_an_agent_that_talks_on_has_not_yielded() -> None:
    manner = Manner(stops_after_ms=60_000, speaks_ms=50_000)
    kinds = placed(Greeting(60), BargeIn(AUDIO, asking=AUDIO, patience_seconds=2), manner=manner)
    assert [o.outcome for o in kinds.get("barge_in", [])] in ([], ["not yielded"])
    kinds = placed(BargeIn(AUDIO, asking=AUDIO, patience_seconds=2), manner=Manner(stops_after_ms=9000, speaks_ms=8000))
    assert [(o.outcome, o.ended_ns) for o in kinds["barge_in"]] == [("not yielded", None)]


def test_an_answer_that_is_over_before_it_can_be_talked_over_does_not_count() -> None:
    kinds = placed(Greeting(), BargeIn(AUDIO, asking=AUDIO, after_ms=3000), manner=Manner(speaks_ms=1000))
    assert [o.outcome for o in kinds["barge_in"]] == ["not reached"]


def test_an_agent_that_hangs_up_in_mid_scenario_has_failed_the_call() -> None:
    kinds = placed(Greeting(), Say(AUDIO), Say(AUDIO), manner=Manner(hangs_up_after_turn=1))
    assert [(o.outcome, o.detail["ended_by"]) for o in kinds["call"]] == [("hung up early", "agent")]


def test_an_agent_that_hangs_up_after_the_last_step_has_ended_it() -> None:
    kinds = placed(Greeting(), Say(AUDIO), manner=Manner(hangs_up_after_turn=1))
    assert [(o.outcome, o.detail["ended_by"]) for o in kinds["call"]] == [("ok", "agent")]


def test_a_refused_call_is_data() -> None:
    kinds = placed(Greeting(), manner=Manner(refuses="rejected"))
    assert [o.outcome for o in kinds.pop("call")] == ["rejected"]
    assert not kinds


def test_silence_and_keys() -> None:
    kinds = placed(Greeting(), Silence(5), Press("12#"))
    (call,) = kinds["call"]
    assert call.ended_ns is not None
    assert call.began_ns is not None
    assert call.ended_ns - call.began_ns > 7 * SECOND


@pytest.mark.parametrize("answers_after_ms", [-700, -100])
def test_an_answer_that_cuts_in_and_goes_on_is_an_early_answer(answers_after_ms: int) -> None:
    kinds = placed(Greeting(), Say(AUDIO), manner=Manner(answers_after_ms=answers_after_ms, stops_after_ms=5000))
    assert [latency_ms(o) for o in kinds["turn"]] == [answers_after_ms]


class Coughing(MemoryCarrier):
    """Its far end also sounds in the midst of the caller's words."""

    @asynccontextmanager
    async def dial(self, target: Endpoint, call: CallSetup) -> AsyncIterator[Line]:
        yield CoughingLine(self.clock, self.manner)


class CoughingLine(MemoryLine):
    """From 200 ms before the caller's last word on, for 100 ms."""

    async def say(self, audio: Audio) -> Spoken:
        spoken = await super().say(audio)
        from_ns = spoken.ended_ns - 200 * MS
        self._events[:0] = [Heard(HeardKind.ONSET, from_ns), Heard(HeardKind.OFFSET, from_ns + 100 * MS)]
        return spoken


@pytest.mark.parametrize("after_ms", [300, 2_000])  # of silence behind the words: the cough's end is told after, before
@pytest.mark.parametrize("misses_turn", [0, 1])
def test_a_cough_while_the_caller_speaks_is_no_answer(after_ms: int, misses_turn: int) -> None:
    silent = np.zeros(10_400 + after_ms * 8, np.int16)
    audio = replace(AUDIO, samples=silent)
    manner = Manner(answers_after_ms=2_432, misses_turn=misses_turn)
    kinds = placed(Greeting(), Say(audio), carried_by=Coughing, manner=manner)
    assert [o.outcome for o in kinds["turn"]] == ["missed" if misses_turn else "ok"]
    assert [latency_ms(o) for o in kinds["turn"] if o.ended_ns is not None] == ([] if misses_turn else [2_432])


def test_an_agent_that_hangs_up_without_a_word_has_not_greeted() -> None:
    kinds = placed(Greeting(), manner=Manner(greets_after_ms=60_000, hangs_up_after_ms=300))
    assert [(o.outcome, o.ended_ns) for o in kinds["greeting"]] == [("lost", None)]
    assert [o.outcome for o in kinds["call"]] == ["hung up early"]


def test_an_agent_that_hangs_up_while_the_caller_speaks_has_lost_the_turn() -> None:
    kinds = placed(Greeting(), Say(AUDIO), manner=Manner(hangs_up_after_ms=4000))
    assert [(o.outcome, o.ended_ns) for o in kinds["turn"]] == [("lost", None)]
    assert [(o.outcome, o.detail["ended_by"]) for o in kinds["call"]] == [("lost", "caller")]


def test_a_late_answer_is_not_the_answer_to_the_next_turn() -> None:
    # 3.5 s after the first turn, while the caller, whose patience was 3 s, is saying the second
    manner = Manner(answers_after_ms=3500, stops_after_ms=60_000, speaks_ms=3000)
    kinds = placed(Greeting(), Say(AUDIO, patience_seconds=3), Say(AUDIO, patience_seconds=3), manner=manner)
    assert [o.outcome for o in kinds["turn"]] == ["missed", "missed"]


def test_a_silence_within_an_answer_is_written_down() -> None:
    kinds = placed(Greeting(), Say(AUDIO), manner=Manner(pauses_ms=650))
    assert [(o.ended_ns or 0) - o.due_ns for o in kinds["pause"]] == [650 * MS] * 2
    assert len(kinds["turn"]) == 1


class Lingering(MemoryCarrier):
    """It has something to settle for 2 s after each call."""

    @asynccontextmanager
    async def dial(self, target: Endpoint, call: CallSetup) -> AsyncIterator[Line]:
        async with super().dial(target, call) as line:
            yield line
        await self.clock.sleep_until(self.clock.now_ns() + 2 * SECOND)


@pytest.mark.parametrize(
    ("cancelled_ms", "outcome", "ended_by", "lasted_ms"),
    [(500, "cut off", "harness", 500), (1_500, "ok", "caller", 1_000), (9_000, "ok", "caller", 1_000)],
)
def test_a_call_is_cut_off_while_it_lasts_and_not_when_its_line_is_wound_up(
    cancelled_ms: int, outcome: str, ended_by: str, lasted_ms: int
) -> None:
    clock = VirtualClock()
    carrier = Lingering(clock=clock)
    calls: list[Operation] = []

    async def main() -> None:
        arrival = Arrival(
            id="phase/1",
            phase="phase",
            due_ns=0,
            clock=clock,
            random=Random(0),
            dial=lambda setup: carrier.dial(Endpoint("memory:"), setup),
            record=lambda one: calls.append(one) if one.kind == "call" else None,
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(cancelled_ms / 1000):
                await Call([Scenario("test", [Silence(1)])]).perform(arrival)

    clock.run(main())
    (call,) = calls
    assert call.ended_ns is not None
    assert (call.outcome, call.detail["ended_by"], call.ended_ns // MS) == (outcome, ended_by, lasted_ms)


# ---------------------------------------------------------------- hanging up


def test_a_caller_who_hangs_up_while_the_agent_speaks() -> None:
    kinds = placed(Greeting(), HangUp(AUDIO, after_ms=700), manner=Manner(speaks_ms=5000))
    (call,) = kinds["call"]
    assert (call.outcome, call.detail["ended_by"]) == ("ok", "caller")
    assert latency_ms(kinds["turn"][0]) == 400
    cut = [o for o in kinds["speech"] if o.who == "agent"][-1]
    assert ((cut.ended_ns or 0) - (cut.began_ns or 0)) / MS == 700


def test_one_who_is_not_answered_hangs_up_when_the_patience_is_over() -> None:
    kinds = placed(Greeting(), HangUp(AUDIO, patience_seconds=2), manner=Manner(misses_turn=1))
    assert [o.outcome for o in kinds["turn"]] == ["missed"]
    assert [o.outcome for o in kinds["call"]] == ["ok"]


def test_nothing_follows_a_hang_up() -> None:
    problems = Call([Scenario("test", [HangUp(AUDIO), Silence(1)])]).problems()
    assert problems == ["scenario 'test': nothing can follow a HangUp; make it the last step"]
