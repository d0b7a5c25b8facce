"""Whose requests were whose, where many call at once: rightly attributed, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import pytest
from tests.plans.exchanges import diagnosis, exchange, flat, shares

from busyhour.indicators.attribution import AMBIGUOUS, STAGES, UNTRACED, Attribution
from busyhour.indicators.matching import Matching
from busyhour.journal import Journal, open_run
from busyhour.model import MS, Operation
from busyhour.testing import MemoryRun, whole_run

# ---------------------------------------------------------------- calls at once


def test_calls_that_say_different_things_at_once_are_told_apart() -> None:
    made = [exchange(10 + n // 3, {"TTS_first_audio": 60 + 40 * n}, number=n, what=n % 3) for n in range(30)]
    run = whole_run(flat(made))
    found = diagnosis(run, q=0.5)
    assert (found.n, found.of) == (16, 16)
    told = shares(found)
    assert told["TTS first audio"] == pytest.approx(60 + 40 * sum(range(14, 30)) / 16)
    assert told["LLM first token"] == pytest.approx(150)


def crowd(count: int, per_second: float, seed: int) -> Iterator[tuple[list[Operation], Mapping[str, float]]]:
    """Calls that say one of three things, by chance, with stages that vary; and the stages."""
    random, at_s = Random(seed), 10.0
    for n in range(count):
        at_s += random.expovariate(per_second)
        slow = 5 if n % 10 == 0 else 1
        stages = {
            "end_pointing": 200.0,
            "STT_final": round(random.lognormvariate(3.7, 0.2)),
            "agent": round(random.uniform(1, 8)),
            "LLM_first_token": round(slow * random.lognormvariate(5, 0.2)),
            "LLM_first_sentence": 60.0,
            "network": round(random.uniform(1, 3)),
            "TTS_first_audio": round(random.lognormvariate(4.1, 0.2)),
            "playout": round(random.uniform(1, 20)),
        }
        yield exchange(at_s, stages, number=n, what=random.randrange(3)), stages


@pytest.mark.parametrize(("per_second", "at_least"), [(2, 0.98), (10, 0.97), (30, 0.9)])
def test_most_turns_of_a_crowd_are_attributed_and_nearly_all_of_them_rightly(
    per_second: float, at_least: float
) -> None:
    made = list(crowd(300, per_second, seed=3))
    attribution = Attribution(whole_run(flat([operations for operations, _ in made])), "steady")
    truth = {operations[0].id: stages for operations, stages in made}
    shared = [attribution.shared(wait) for wait in attribution.turns]
    known = [one for one in shared if one.stages]
    assert {one.why for one in shared} <= {"", AMBIGUOUS, UNTRACED}
    assert len(known) >= at_least * len(shared)
    right = sum(
        abs(one.stages["LLM first token"] / MS - truth[one.wait.call]["LLM_first_token"]) < 50
        and abs(one.stages["TTS first audio"] / MS - truth[one.wait.call]["TTS_first_audio"]) < 50
        for one in known
    )
    assert right >= 0.99 * len(known)
    for one in known:
        assert sum(one.stages.values()) == one.wait.latency_ns
        assert set(one.stages) <= set(STAGES)


def pairs(apart_s: float, first: Mapping[str, float], second: Mapping[str, float]) -> MemoryRun:
    """Ten times two callers who say the same, the second a moment later."""
    return whole_run(
        *(exchange(10 * n + 10, first, number=2 * n) for n in range(10)),
        *(exchange(10 * n + 10 + apart_s, second, number=2 * n + 1) for n in range(10)),
    )


def test_where_calls_cannot_be_told_apart_no_stage_is_named() -> None:
    """The one waits for the voice, the other for the agent: whose request was whose, nobody can tell."""
    run = pairs(0.002, {"TTS_first_audio": 560}, {"agent": 504})
    found = diagnosis(run, q=0.1)
    assert found.stages == ()
    assert found.of == 20
    assert "no stage can be named: of the 20 slowest of 20 turns" in found.because
    assert "could be of several calls" in found.because
    assert found.because.endswith("; fewer calls at once, or callers who say different things, would tell")


def test_a_request_is_of_one_call_only() -> None:
    """By its times alone the second might have had the requests of the first; but then the first had none."""
    run = whole_run(
        pairs(0.12, {"TTS_first_audio": 560}, {"agent": 504}).recorded,
        flat(exchange(1000 + 10 * n, number=100 + n) for n in range(20)),
    )
    attribution = Attribution(run, "steady")
    slow = [attribution.shared(wait) for wait in attribution.turns if (wait.latency_ns or 0) > 600 * MS]
    assert [round(one.stages["agent and network"] / MS) for one in slow] == [6, 506] * 10
    assert [round(one.stages["TTS first audio"] / MS) for one in slow] == [560, 60] * 10


def test_two_that_cannot_be_told_apart_but_waited_alike_are_attributed() -> None:
    assert diagnosis(pairs(0.005, {}, {}), q=0.1).n == 20


def test_a_crowd_of_the_slowest_is_sampled_and_says_so() -> None:
    run = whole_run(flat([exchange(10 * n + 10, number=n, what=n % 3) for n in range(450)]), seconds=7200)
    found = diagnosis(run, q=0.01)
    assert (found.n, found.of) == (100, 100)
    assert "in the 450 slowest of 450 turns (100 of 100 that were looked at could be attributed)" in found.because


def test_of_a_long_run_only_the_time_around_the_turns_in_question_is_read(tmp_path: Path) -> None:
    """What is told is the same whether all that the twins saw is read, or what they saw at those times."""
    made = flat(operations for operations, _ in crowd(300, 1, seed=5))
    whole = whole_run(made)
    with Journal.create(tmp_path / "run.journal", {}) as journal:
        for entry in (*whole.recorded, *whole.marked):
            journal.append(entry)
    with open_run(tmp_path / "run.journal") as run:
        waits = Matching(run, "steady").turns[::20]
        seen = []
        for all_of in (10_000, 0):
            matching = Matching(run, "steady", all_of=all_of)
            matching.look_at(waits)
            usual = matching.usual(waits[0])
            seen.append((len(matching.seen.voices), [matching.chains(wait, usual)[0].lags for wait in waits], usual))
    (every, lags, usual), (some, lags_then, usual_then) = seen
    assert some < every
    assert lags_then == lags
    assert usual_then.heard_ns == pytest.approx(usual.heard_ns, abs=3 * MS)
