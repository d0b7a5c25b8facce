from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost, Between, Holds, judge
from busyhour.gates.judgement import worst
from busyhour.indicators import (
    call_success,
    dead_air,
    dropped,
    mean_response_latency,
    missed_turns,
    probed,
    response_latency,
    send_lateness,
    underruns,
)
from busyhour.model import JSON, SECOND, Comparison, Estimate, Gate, Mark, Operation, Outcome, Plan, Run, Sample
from busyhour.testing import MemoryRun, answered, call, turn, whole_run

PASS, FAIL, INCONCLUSIVE, NOT_RUN, INVALID = (
    Outcome.PASS,
    Outcome.FAIL,
    Outcome.INCONCLUSIVE,
    Outcome.NOT_RUN,
    Outcome.INVALID,
)
P95 = AtMost(response_latency("steady", 0.95), 800, "ms")
SUCCESS = AtLeast(call_success("steady"), 95, "%")


def turns(in_time: int, late: int = 0, *, phase: str = "steady") -> list[Operation]:
    """Each of a call of its own, so that they are independent."""
    latencies = [700.0] * in_time + [900.0] * late
    return [turn(ms, call=f"{phase}/{n}", at_s=n) for n, ms in enumerate(latencies)]


def calls(good: int, bad: int = 0) -> list[Operation]:
    return [call(n, outcome="ok" if n < good else "lost") for n in range(good + bad)]


# ---------------------------------------------------------------- truth tables


@pytest.mark.parametrize(
    ("run", "outcome"),
    [
        (whole_run(turns(59)), PASS),
        (whole_run(turns(58)), INCONCLUSIVE),
        (whole_run(turns(92, 1)), PASS),
        (whole_run(turns(91, 1)), INCONCLUSIVE),
        (whole_run(turns(55, 6)), INCONCLUSIVE),
        (whole_run(turns(53, 7)), FAIL),
        (whole_run(turns(0, 1)), FAIL),
        (whole_run(turns(59, phase="other"), phases=["steady", "other"]), NOT_RUN),
        (whole_run(calls(10)), NOT_RUN),
        (MemoryRun(), NOT_RUN),
    ],
)
def test_at_most_of_a_quantile(run: MemoryRun, outcome: Outcome) -> None:
    assert P95.judge(run).outcome is outcome


@pytest.mark.parametrize(
    ("good", "bad", "outcome"),
    [(59, 0, PASS), (58, 0, INCONCLUSIVE), (92, 1, PASS), (53, 7, FAIL), (55, 6, INCONCLUSIVE), (0, 0, NOT_RUN)],
)
def test_at_least_of_a_rate(good: int, bad: int, outcome: Outcome) -> None:
    assert SUCCESS.judge(whole_run(calls(good, bad))).outcome is outcome


@pytest.mark.parametrize(("count", "outcome"), [(0, PASS), (1, FAIL)])
def test_at_most_of_a_count(count: int, outcome: Outcome) -> None:
    marks = [Mark(1, "arrival.dropped", "steady", {"count": count})] if count else []
    verdict = AtMost(dropped("steady"), 0).judge(whole_run(calls(3), marks=marks))
    assert verdict.outcome is outcome
    assert AtMost(dropped("steady"), 0).judge(whole_run(phases=["other"])).outcome is NOT_RUN


@pytest.mark.parametrize(
    ("latency_ms", "n", "outcome"),
    [(700, 100, PASS), (100, 100, FAIL), (900, 100, FAIL), (700, 30, INCONCLUSIVE), (700, 0, NOT_RUN)],
)
def test_between(latency_ms: float, n: int, outcome: Outcome) -> None:
    run = whole_run([turn(latency_ms, call=f"steady/{i}", at_s=i) for i in range(n)])
    assert Between(response_latency("steady", 0.95), 200, 800, "ms").judge(run).outcome is outcome


def test_between_fails_on_either_side_even_where_the_other_is_open() -> None:
    bimodal = [turn(100 if n < 5 else 900, call=f"steady/{n}", at_s=n) for n in range(10)]
    verdict = Between(response_latency("steady", 0.5), 50, 800, "ms").judge(whole_run(bimodal))
    assert verdict.outcome is INCONCLUSIVE
    lost = Between(mean_response_latency("steady"), 200, 800, "ms").judge(whole_run(answered([100, None])))
    assert lost.outcome is FAIL
    shown_late = [turn(900, call=f"steady/{n}", at_s=n) for n in range(10)]
    assert Between(response_latency("steady", 0.5), 899, 899.5, "ms").judge(whole_run(shown_late)).outcome is FAIL


@pytest.mark.parametrize("outcome", list(Outcome))
def test_holds_says_what_its_check_says(outcome: Outcome) -> None:
    verdict = Holds("the log is empty", lambda run: Comparison(outcome, "3 lines")).judge(MemoryRun())
    assert verdict.outcome is outcome
    assert verdict.because == "the log is empty: 3 lines"
    assert Holds("so", lambda run: Comparison(outcome, "")).judge(MemoryRun()).because == "so"


@dataclass(frozen=True)
class Told:
    """An indicator of a user's own, which brings an interval and no evidence."""

    value: float | None
    low: float | None
    high: float | None
    what: str = "queue length"
    unit: str = ""
    phases: tuple[str, ...] = ()

    def __call__(self, run: Run) -> Estimate:
        return Estimate(self.what, self.unit, 7, self.value, self.low, self.high)


@pytest.mark.parametrize(
    ("told", "at_most", "at_least"),
    [
        (Told(5, 4, 6), PASS, FAIL),
        (Told(15, 14, 16), FAIL, PASS),
        (Told(10, 9, 11), INCONCLUSIVE, INCONCLUSIVE),
        (Told(10, 10, 10), PASS, PASS),
        (Told(5, None, None), INCONCLUSIVE, INCONCLUSIVE),
        (Told(5, None, 6), PASS, FAIL),
        (Told(None, None, None), NOT_RUN, NOT_RUN),
    ],
)
def test_an_estimate_without_evidence_is_judged_by_its_interval(
    told: Told, at_most: Outcome, at_least: Outcome
) -> None:
    assert AtMost(told, 10).judge(MemoryRun()).outcome is at_most
    assert AtLeast(told, 10).judge(MemoryRun()).outcome is at_least


late = st.one_of(st.floats(0, 3000), st.none())


@given(latencies=st.lists(late, max_size=80), more=st.lists(st.one_of(st.floats(801, 3000), st.none()), min_size=1))
def test_later_turns_never_mend_a_gate(latencies: list[float | None], more: list[float | None]) -> None:
    def judged(values: Sequence[float | None]) -> Outcome:
        return P95.judge(whole_run([turn(ms, call=f"steady/{n}", at_s=n) for n, ms in enumerate(values)])).outcome

    before, after = judged(latencies), judged([*latencies, *more])
    assert after is not PASS or before is PASS
    assert before is not FAIL or after is FAIL


# ---------------------------------------------------------------- sentences


def said(gate: Gate, *operations: Operation | list[Operation], samples: Sequence[Sample] = ()) -> str:
    return gate.judge(whole_run(*operations, samples=samples)).because


def test_the_sentences() -> None:
    spread = [turn(600 + n, call=f"steady/{n}", at_s=n) for n in range(120)]
    assert said(P95, spread) == "p95 response latency in steady is 713 ms (709-718, n=120), within 800 ms"
    assert said(P95, turns(40)) == (
        "p95 response latency in steady is 700 ms (700 or more, n=40), not shown to be within 800 ms: "
        "0 of 40 turns are over it, which certifies p92.7 at most; at least 19 more turns are needed"
    )
    assert said(P95, turns(50, 10)) == (
        "p95 response latency in steady is 900 ms (n=60), over 800 ms: 10 of 60 turns are over it"
    )
    assert said(SUCCESS, calls(59)) == "rate of successful calls in steady is 100 % (95.05-100, n=59), at least 95 %"
    assert said(SUCCESS, calls(50, 10)) == (
        "rate of successful calls in steady is 83.3 % (73.4-90.7, n=60), below 95 %: 50 of 60 calls; "
        "10 lost (steady/50)"
    )
    assert said(AtMost(dropped("steady"), 0), calls(3)) == "count of dropped arrivals in steady is 0 (n=3), within 0"
    assert said(AtMost(send_lateness(0.99), 5, "ms"), samples=[Sample(1, "harness", "send_lateness_ms", 0.4, 99)]) == (
        "p99 send lateness is 0.4 ms (n=99), within 5 ms"
    )
    assert said(AtMost(dead_air("steady"), 3, "s"), turns(20)) == (
        "longest dead air in steady is 0.7 s (n=20), within 3 s: the worst of this run, no bound for the next"
    )
    assert said(Between(response_latency("steady"), 0.2, 0.8, "s"), turns(100)) == (
        "p95 response latency in steady is 0.7 s (n=100), within 0.2..0.8 s"
    )


def test_what_never_came_is_told_as_infinite() -> None:
    lost = [turn(None, call=f"steady/{n}", at_s=n) for n in range(30)]
    assert said(P95, turns(30), lost) == (
        "p95 response latency in steady is infinite (n=60), over 800 ms: 30 of 60 turns are over it"
    )


def test_a_value_is_not_rounded_to_the_limit_that_it_breaks() -> None:
    barely = [turn(800.3, call=f"steady/{n}", at_s=n) for n in range(60)]
    assert "is 800.3 ms (n=60), over 800 ms" in said(P95, barely)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (MemoryRun(), "phase steady did not begin"),
        (whole_run(calls(3)), "phase steady ran with 3 calls, which gave no reading of it"),
        (whole_run(calls(1)), "phase steady ran with 1 call, which gave no reading of it"),
        (
            whole_run(calls(1), [call(n, outcome="refused", why=f"404 of call {n}") for n in (2, 3)]),
            "phase steady ran with 3 calls, which gave no reading of it: 2 of them failed: refused (404 of call 2)",
        ),
    ],
)
def test_what_was_not_measured_is_told_with_the_reason(run: MemoryRun, reason: str) -> None:
    assert P95.judge(run).because == f"p95 response latency in steady was not measured: {reason}"


def test_what_the_whole_run_did_not_measure() -> None:
    verdict = AtMost(send_lateness(), 5, "ms").judge(whole_run())
    assert verdict.because == "p99 send lateness was not measured: the run gave no reading of it"
    assert AtMost(dropped("a", "b"), 0).judge(whole_run()).because.endswith("phases a, b did not begin")


# ---------------------------------------------------------------- units and names


@pytest.mark.parametrize(
    ("gate", "outcome"),
    [
        (AtMost(response_latency("steady"), 0.8, "s"), PASS),
        (AtMost(response_latency("steady"), 0.6, "s"), FAIL),
        (AtMost(dead_air("steady"), 800, "ms"), PASS),
        (AtMost(dead_air("steady"), 600, "ms"), FAIL),
        (AtMost(missed_turns("steady"), 0.05, "share"), PASS),
        (AtLeast(response_latency("steady"), 0.01, "min"), PASS),
    ],
)
def test_limits_are_converted(gate: AtMost | AtLeast, outcome: Outcome) -> None:
    verdict = gate.judge(whole_run(turns(100)))
    assert verdict.outcome is outcome
    assert f"{gate.limit} {gate.unit}" in verdict.because


def test_a_share_of_07_is_7_percent_exactly() -> None:
    assert AtLeast(Told(7, 7, 7, unit="%"), 0.07, "share").judge(MemoryRun()).outcome is PASS


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (
            lambda: AtMost(response_latency("steady"), 800),
            "its unit is missing; give 'ns' or 'us' or 'ms' or 's' or 'min'",
        ),
        (lambda: AtMost(response_latency("steady"), 800, "%"), "'%' is no unit of it; give 'ns' or"),
        (lambda: AtLeast(call_success("steady"), 0.95), "its unit is missing; give '%' or 'share'"),
        (lambda: AtMost(dropped("steady"), 0, "calls"), "it has no unit; leave out 'calls'"),
        (
            lambda: AtMost(probed("agent", "rss_mbb", phase="steady"), 500, "MB"),
            "'rss_mbb' has no unit, which would be the end of its name, as in 'rss_mb'; correct the name, or leave out",
        ),
        (lambda: AtMost(underruns("steady"), 1), "its unit is missing; give '/min'"),
        (lambda: AtMost(response_latency("steady"), inf, "ms"), "a limit must be a finite number"),
        (lambda: AtMost(response_latency("steady"), 800, "ms", alpha=0.5), "between 0 and 0.5, not at 0.5"),
        (lambda: AtMost(response_latency("steady"), 800, "ms", alpha=0), "between 0 and 0.5, not at 0"),
        (lambda: Between(response_latency("steady"), 800, 200, "ms"), "the lower limit must be below the upper one"),
        (lambda: Between(response_latency("steady"), 200, 200, "ms"), "the lower limit must be below the upper one"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused_when_it_is_built(build: Any, problem: str) -> None:
    with pytest.raises(PlanError) as refused:
        build()
    assert len(refused.value.problems) == 1
    assert problem in refused.value.problems[0]
    assert " in steady " in refused.value.problems[0]


def test_every_problem_of_a_gate_is_listed() -> None:
    with pytest.raises(PlanError) as refused:
        Between(response_latency("steady"), 5, inf, "km", alpha=2)
    assert len(refused.value.problems) == 3


def test_names_say_indicator_relation_and_limit() -> None:
    assert P95.name == "p95 response latency in steady <= 800 ms"
    assert SUCCESS.name == "rate of successful calls in steady >= 95 %"
    assert AtMost(dropped("steady"), 0).name == "count of dropped arrivals in steady <= 0"
    assert Between(response_latency("steady"), 0.2, 0.8, "s").name == "p95 response latency in steady in 0.2..0.8 s"
    strict = AtMost(response_latency("steady"), 800, "ms", alpha=0.01)
    assert strict.name == "p95 response latency in steady <= 800 ms (alpha 0.01)"
    assert P95.phases == ("steady",)
    assert AtMost(send_lateness(), 5, "ms").phases == ()


def test_a_stricter_alpha_needs_more_evidence() -> None:
    run = whole_run(turns(59))
    assert AtMost(response_latency("steady"), 800, "ms", alpha=0.01).judge(run).outcome is INCONCLUSIVE
    assert AtMost(response_latency("steady"), 800, "ms", alpha=0.05).judge(run).outcome is PASS


# ---------------------------------------------------------------- judging a run


def plan(*gates: Gate, valid_if: Sequence[Gate] = ()) -> Plan:
    return Plan(target=cast(Any, None), carrier=cast(Any, None), phases=(), gates=gates, valid_if=valid_if)


def run_of(*marks: Mark, operations: Sequence[Operation] = (), meta: dict[str, JSON] | None = None) -> MemoryRun:
    """A run with just these marks beside the beginning of the run and of its phase."""
    own = [Mark(0, "run.began"), Mark(0, "phase.began", "steady")]
    return MemoryRun(operations, marked=[*own, *marks], meta=meta or {})


ENDED = Mark(90 * SECOND, "run.ended")
STOPPED = Mark(30 * SECOND, "run.stopped", "", {"why": "stopped by Ctrl-C"})
GOOD = turns(59)


def died(role: str, obituary: str) -> Mark:
    return Mark(20 * SECOND, "service.died", "agent", {"role": role, "obituary": obituary})


def fault(kind: str, at_s: int, name: str = "no token", **detail: JSON) -> Mark:
    return Mark(at_s * SECOND, f"fault.{kind}", name, detail)


PROVEN = fault("proof", 5, effective=True, because="9 streams had no token", phase="steady")
INEFFECTIVE = fault("proof", 5, effective=False, because="no stream began", phase="steady")


@pytest.mark.parametrize(
    ("marks", "outcome", "words"),
    [
        ([ENDED], PASS, ""),
        ([Mark(9, "run.failed", detail={"why": "agent: no"})], INVALID, "the run could not be carried out: agent: no"),
        ([], INVALID, "it breaks off 60.7 s after it began, without an end"),
        ([STOPPED], INCONCLUSIVE, "the run came to its end: stopped by Ctrl-C, 30 s after it began"),
        ([died("target", "agent exited with 3"), STOPPED], FAIL, "agent exited with 3, 20 s after it began"),
        ([died("target", "agent was killed by SIGSEGV"), STOPPED], FAIL, "agent was killed by SIGSEGV"),
        (
            [died("target", "agent was killed by SIGKILL"), STOPPED],
            INVALID,
            "SIGKILL, 20 s after it began (from outside",
        ),
        ([died("target", "agent was killed by SIGTERM"), STOPPED], INVALID, "was killed by SIGTERM"),
        ([died("target", "agent was lost: its supervisor was killed"), STOPPED], INVALID, "its supervisor was killed"),
        ([died("harness", "llm exited with 1"), STOPPED], INVALID, "nothing disturbed the services: llm exited with 1"),
        ([fault("began", 1), PROVEN, fault("ended", 6), ENDED], PASS, ""),
        (
            [fault("began", 1), INEFFECTIVE, fault("ended", 6), ENDED],
            INVALID,
            "no token had no effect (no stream began)",
        ),
        ([fault("began", 1), fault("ended", 6), ENDED], INVALID, "no token left no proof of its effect"),
        ([fault("began", 1), fault("ended", 6), STOPPED], INCONCLUSIVE, "stopped by Ctrl-C"),
        ([fault("began", 1), INEFFECTIVE, STOPPED], INVALID, "no token had no effect"),
        ([fault("began", 1), PROVEN, fault("began", 8), ENDED], INVALID, "left no proof"),
        ([fault("began", 7), PROVEN, ENDED], INVALID, "left no proof"),
        ([fault("began", 1), fault("began", 3), PROVEN, ENDED], INVALID, "left no proof"),
        ([fault("began", 1, "other"), PROVEN, ENDED], INVALID, "other left no proof"),
    ],
)
def test_every_run_is_asked_whether_it_can_be_believed(marks: list[Mark], outcome: Outcome, words: str) -> None:
    judgement = judge(plan(P95), run_of(*marks, operations=GOOD))
    assert judgement.outcome is outcome
    assert any(words in verdict.because for verdict in (*judgement.validity, *judgement.verdicts))
    target = [verdict for verdict in judgement.verdicts if verdict.gate == P95.name]
    assert [verdict.outcome for verdict in target] == [INVALID if outcome is INVALID else PASS]


def test_a_stopped_run_must_prove_the_faults_of_phases_that_ended() -> None:
    began = fault("began", 1, phase="steady")
    assert judge(plan(P95), run_of(began, STOPPED, operations=GOOD)).outcome is INCONCLUSIVE
    ended = Mark(9 * SECOND, "phase.ended", "steady")
    assert judge(plan(P95), run_of(began, ended, STOPPED, operations=GOOD)).outcome is INVALID


def test_a_journal_of_nothing_is_invalid() -> None:
    judgement = judge(plan(P95), MemoryRun())
    assert judgement.outcome is INVALID
    assert judgement.exit_code == 3
    assert judgement.validity[0].because == "the journal is whole: it never began"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_target_is_not_spoken_of_unless_the_harness_passes(outcome: Outcome) -> None:
    asked = []

    def look(run: Run) -> Comparison:
        asked.append(run)
        return Comparison(PASS, "")

    harness = Holds("the harness is well", lambda run: Comparison(outcome, "measured"))
    judgement = judge(plan(Holds("the target is well", look), valid_if=[harness]), whole_run())
    (verdict,) = (v for v in judgement.verdicts if v.gate == "the target is well")
    if outcome is PASS:
        assert judgement.outcome is PASS
        assert len(asked) == 1
    else:
        assert judgement.outcome is INVALID
        assert not asked
        assert {v.outcome for v in judgement.verdicts} == {INVALID}
        assert verdict.because == ("the target is well: the run does not say, because the harness is well: measured")
        assert verdict.estimate is None
    assert judgement.validity[-1].outcome is outcome


def test_the_last_words_of_a_process_do_not_reach_the_terminal_raw() -> None:
    last_words = "agent exited with 1; its last lines:\n  \x1b[31mboom\x00\ud800\n"
    judgement = judge(plan(P95), run_of(died("target", last_words), STOPPED, operations=GOOD))
    assert judgement.verdicts[0].because == (
        "the target stayed up: agent exited with 1; its last lines: \ufffd[31mboom\ufffd\ufffd, 20 s after it began"
    )


def test_all_that_is_wrong_with_a_run_is_counted() -> None:
    bad = [Holds(name, lambda run: Comparison(FAIL, "late")) for name in ("first", "second")]
    judgement = judge(plan(P95, valid_if=bad), whole_run(GOOD))
    assert judgement.verdicts[-1].because == f"{P95.name}: the run does not say (and 1 more), because first: late"


@pytest.mark.parametrize(
    ("outcomes", "expected", "code"),
    [
        ([PASS, PASS], PASS, 0),
        ([PASS, NOT_RUN], NOT_RUN, 2),
        ([NOT_RUN, INCONCLUSIVE], INCONCLUSIVE, 2),
        ([INCONCLUSIVE, FAIL, PASS], FAIL, 1),
        ([FAIL, INVALID], INVALID, 3),
        ([], NOT_RUN, 2),
    ],
)
def test_the_roll_up_takes_the_worst(outcomes: list[Outcome], expected: Outcome, code: int) -> None:
    gates = [Holds(f"gate {n}", lambda run, o=o: Comparison(o, "")) for n, o in enumerate(outcomes)]  # type: ignore[misc]
    judgement = judge(plan(*gates), whole_run())
    assert judgement.outcome is expected
    assert judgement.exit_code == code


def test_worst_is_the_order_of_badness() -> None:
    assert worst([PASS, INVALID, FAIL]) is INVALID
    assert worst([NOT_RUN, PASS]) is NOT_RUN


# ---------------------------------------------------------------- proofs


@pytest.mark.parametrize(
    ("proofs", "expected"),
    [
        ({P95.name: "proven"}, "proven"),
        ({P95.name: "unproven"}, "unproven"),
        ({P95.name: "Proven?"}, "unproven"),
        ({SUCCESS.name: "proven"}, "unproven"),
        (None, "unproven"),
        (["proven"], "unproven"),
    ],
)
def test_only_what_was_proven_is_marked_so(proofs: JSON, expected: str) -> None:
    for run in (whole_run(GOOD, meta={"proofs": proofs}), MemoryRun(GOOD, meta={"proofs": proofs})):
        judgement = judge(plan(P95), run)
        assert [v.proof for v in judgement.verdicts if v.gate == P95.name] == [expected]
        assert judgement.unproven == (expected == "unproven")


def test_what_no_control_can_be_made_for_is_neither() -> None:
    judgement = judge(plan(valid_if=[AtMost(dropped("steady"), 0)]), whole_run(answered([100])))
    built_in = [
        v for v in (*judgement.validity, *judgement.verdicts) if v.gate != "count of dropped arrivals in steady <= 0"
    ]
    assert {v.proof for v in built_in} == {""}
    assert judgement.validity[-1].proof == "unproven"
