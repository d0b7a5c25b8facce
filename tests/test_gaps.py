"""What the harness did not see is left out of every judgement, and every judgement says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from busyhour.carriers.memory import MemoryService
from busyhour.gates import AtLeast, AtMost, judge
from busyhour.gates.gaps import Watched
from busyhour.indicators import call_success, dropped, probed, response_latency
from busyhour.model import SECOND, Gate, Mark, Operation, Outcome, Plan, Sample
from busyhour.testing import MemoryRun, answered, call, whole_run, witnessed

SLEPT = Mark(1000 * SECOND, "machine.suspended", "harness", {"from_ns": 999 * SECOND, "seconds": 420.0})
STOPPED = replace(SLEPT, kind="harness.stopped")
CUT = Mark(
    1000 * SECOND, "run.resumed", "", {"segment": 2, "cut_ns": 900 * SECOND, "at": "2026-11-20T20:23:06.123+00:00"}
)


def verdicts(run: MemoryRun, *gates: Gate) -> dict[str, tuple[Outcome, str]]:
    judgement = judge(Plan(target=MemoryService("agent"), phases=[], gates=gates), run)
    return {verdict.gate: (verdict.outcome, verdict.because) for verdict in (*judgement.validity, *judgement.verdicts)}


def calls(*at_s: float, outcome: str = "ok", seconds: float = 30) -> list[Operation]:
    return [call(100 + number, at_s=at, seconds=seconds, outcome=outcome) for number, at in enumerate(at_s)]


@pytest.mark.parametrize(
    ("at_s", "seconds", "left_out"),
    [
        (900, 98, False),  # over before the last time that all was well
        (900, 100, True),
        (999.5, 1, True),
        (900, 200, True),
        (1009, 5, True),  # connections are being made anew
        (1011, 5, False),
    ],
)
def test_a_call_that_overlaps_is_left_out(at_s: float, seconds: float, left_out: bool) -> None:
    run = whole_run(calls(at_s, seconds=seconds), marks=[SLEPT])
    assert len(Watched.of(run).operations("call")) == (not left_out)


def test_a_call_is_left_out_whole_and_no_other() -> None:
    before, after = answered([300, 310], number=1, at_s=100), answered([320, 330], number=3, at_s=2000)
    during = answered([9000] * 3, number=2, at_s=985)
    run = Watched.of(whole_run(before, during, after, marks=[SLEPT]))
    assert {turn.parent for turn in run.operations("turn")} == {"steady/1", "steady/3"}
    assert len(run.operations("turn", "steady")) == 4


def test_readings_and_counts_of_the_gap_are_left_out_and_a_trend_has_a_hole() -> None:
    samples = [Sample(at * SECOND, "agent", "rss_mb", 100.0 + at) for at in range(0, 3600, 10)]
    marks = [SLEPT, *(Mark(at * SECOND, "arrival.dropped", "steady", {"count": 7}) for at in (500, 1001))]
    run = whole_run(calls(10), samples=samples, marks=marks)
    kept = [sample.at_ns // SECOND for sample in Watched.of(run).samples("agent", "rss_mb", "steady")]
    assert kept == [at for at in range(0, 3600, 10) if not 999 <= at <= 1010]
    assert [mark.at_ns for mark in Watched.of(run).marks("arrival.dropped")] == [500 * SECOND]
    outcome, because = verdicts(run, AtMost(dropped("steady"), 7))["count of dropped arrivals in steady <= 7"]
    assert outcome is Outcome.PASS
    assert because.endswith("(0 calls are left out, for the machine was suspended for 7 min, 17 min after it began)")


def test_what_a_twin_saw_meanwhile_is_left_out() -> None:
    seen = [witnessed("llm", "llm", at) for at in (990, 999.5, 1005, 1020)]
    run = Watched.of(whole_run(seen, marks=[SLEPT]))
    assert [one.due_ns / SECOND for one in run.operations("llm")] == [990, 1020]


@pytest.mark.parametrize("mark", [SLEPT, STOPPED, CUT], ids=["suspended", "stopped", "cut"])
def test_a_verdict_stands_without_the_gap_and_says_so(mark: Mark) -> None:
    good = calls(*range(0, 900, 10), seconds=5)
    bad = [
        replace(one, id=f"steady/{number}") for number, one in enumerate(calls(895, 897, outcome="lost", seconds=104))
    ]
    gate = AtLeast(call_success("steady"), 95, "%")
    outcome, because = verdicts(whole_run(good, bad, marks=[mark]), gate)[gate.name]
    assert outcome is Outcome.PASS
    why = {
        "machine.suspended": "the machine was suspended for 7 min, 17 min after it began",
        "harness.stopped": "the harness stood still for 7 min, 17 min after it began",
        "run.resumed": "the run was cut 15 min after it began",
    }[mark.kind]
    assert because.endswith(f"(2 calls are left out, for {why})")
    assert "n=90" in because
    unmarked = verdicts(whole_run(good, bad), gate)[gate.name]
    assert unmarked[1].count("left out") == 0
    assert "n=92" in unmarked[1]


def test_a_phase_without_the_gap_is_judged_as_ever() -> None:
    marks = [replace(SLEPT, at_ns=3000 * SECOND, detail={"from_ns": 2999 * SECOND, "seconds": 12.0})]
    early, late = answered([300] * 3, phase="early"), answered([300] * 3, phase="late", number=2, at_s=2990)
    gates = [AtMost(response_latency(phase, q=1), 800, "ms") for phase in ("early", "late")]
    run = whole_run(early, late, phases=("early", "late"), marks=marks)
    judged = verdicts(run, *gates)
    assert "left out" not in judged[gates[0].name][1]
    assert (
        "1 call is left out, for the machine was suspended for 12 s, 50 min after it began" in judged[gates[1].name][1]
    )


def test_readings_of_a_run_without_calls_are_left_out_in_so_many_words() -> None:
    samples = [Sample(at * SECOND, "agent", "rss_mb", 900.0 if at == 1000 else 100.0) for at in range(0, 3600, 10)]
    gate = AtMost(probed("agent", "rss_mb", phase="steady"), 200, "MB")
    outcome, because = verdicts(whole_run(samples=samples, marks=[SLEPT]), gate)[gate.name]
    assert outcome is Outcome.PASS
    assert "(what fell into it is left out, for the machine was suspended" in because


def test_a_run_without_gaps_is_the_run_itself() -> None:
    run = whole_run(calls(1, 2))
    assert Watched.of(run) is run


# ---------------------------------------------------------------- what is said of the whole


def test_segments_and_absences_are_said_where_the_journal_is_judged() -> None:
    run = whole_run(calls(1), marks=[CUT, replace(SLEPT, at_ns=2000 * SECOND, detail={"seconds": 3.5})])
    outcome, because = verdicts(run)["the journal is whole"]
    assert outcome is Outcome.PASS
    assert because == (
        "the journal is whole: segment 2 began at 2026-11-20 20:23:06 UTC, after a cut 15 min after it began; "
        "the machine was suspended for 3.5 s, 33 min after it began"
    )


@pytest.mark.parametrize("kind", ["run.stopped", "run.failed"])
def test_what_ended_a_segment_is_why_it_was_cut_and_no_more(kind: str) -> None:
    ended = Mark(900 * SECOND, kind, "", {"why": "stopped by Ctrl-C"})
    resumed = replace(CUT, detail={**CUT.detail, "why": "stopped by Ctrl-C"})
    judged = verdicts(whole_run(calls(1), marks=[ended, resumed]))
    assert judged["the journal is whole"][0] is Outcome.PASS
    assert "after a cut 15 min after it began: stopped by Ctrl-C" in judged["the journal is whole"][1]
    assert judged["the run came to its end"][0] is Outcome.PASS


def test_a_segment_that_breaks_off_is_not_whole_however_the_first_ended() -> None:
    whole = whole_run(calls(1))
    marks = [mark for mark in whole.marked if mark.kind != "run.ended"]
    stopped = Mark(900 * SECOND, "run.stopped", "", {"why": "stopped by Ctrl-C"})
    run = replace(whole, marked=[*marks, stopped, CUT])
    assert verdicts(run)["the journal is whole"][0] is Outcome.INVALID


def fault(kind: str, at_s: int, **detail: bool | str) -> Mark:
    return Mark(at_s * SECOND, kind, "outage", {"phase": "steady", **detail})


def test_a_fault_that_was_cut_needs_no_proof_but_its_repetition_does() -> None:
    first, again = fault("fault.began", 800), fault("fault.began", 1001)
    proof = fault("fault.proof", 1100, effective=True, because="12 refused")
    proven = verdicts(whole_run(calls(1), marks=[first, CUT, again, proof]))["every fault took effect"]
    assert proven == (Outcome.PASS, "every fault took effect: outage in steady (12 refused)")
    unproven = verdicts(whole_run(calls(1), marks=[first, CUT, again]))["every fault took effect"]
    assert unproven[0] is Outcome.INVALID


def test_a_harness_that_stands_still_again_and_again_is_no_accident() -> None:
    def stops(count: int, seconds: float) -> MemoryRun:
        marks = [
            Mark(
                (100 + 50 * n) * SECOND, "harness.stopped", "", {"from_ns": (99 + 50 * n) * SECOND, "seconds": seconds}
            )
            for n in range(count)
        ]
        return whole_run(calls(1), marks=marks)

    assert verdicts(stops(2, 40))["nothing disturbed the services"][0] is Outcome.PASS
    assert verdicts(stops(3, 3))["nothing disturbed the services"][0] is Outcome.PASS
    outcome, because = verdicts(stops(3, 20))["nothing disturbed the services"]
    assert outcome is Outcome.INVALID
    assert "the harness stood still 3 times, for 60 s in all" in because
