"""One indicator over several phases."""

from math import inf

import pytest

from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import across, call_success, dead_air, lowest, missed_turns, response_latency
from busyhour.model import Outcome
from busyhour.testing import answered, call, whole_run

PHASES = ("one", "two", "three")
RUN = whole_run(
    answered([400.0, 500.0], phase="one"),
    answered([2600.0, None], phase="two", at_s=1300),
    call(9, phase="three", outcome="rejected"),
    phases=PHASES,
)


def test_the_readings_of_all_phases_are_one_estimate() -> None:
    worst = across("all outages", [dead_air(phase) for phase in PHASES])
    assert worst.what == "longest dead air in all outages"
    assert worst.phases == PHASES
    assert (worst(RUN).value, worst(RUN).n) == (6.0, 4)
    assert across("all", [missed_turns(phase) for phase in PHASES])(RUN).value == 25
    assert across("all", [response_latency(phase, q=0.99) for phase in PHASES])(RUN).value == inf


def test_what_failed_is_explained_from_the_phase_it_failed_in() -> None:
    verdict = AtLeast(across("all", [call_success(phase) for phase in PHASES]), 95, "%").judge(RUN)
    assert "1 rejected (three/9)" in verdict.because
    many = whole_run(
        *(call(1, phase=f"p{n}", outcome="no media") for n in range(5)), phases=[f"p{n}" for n in range(5)]
    )
    pooled = across("all", [call_success(f"p{n}") for n in range(5)])
    assert AtLeast(pooled, 95, "%").judge(many).because.endswith("and in 2 more phases")


def test_a_phase_that_was_not_run_gives_no_reading() -> None:
    pooled = across("all", [dead_air("one"), dead_air("never")])
    assert pooled(RUN).n == 2
    assert AtMost(across("none", [dead_air("never")]), 3, "s").judge(RUN).outcome is Outcome.NOT_RUN


def test_only_what_is_alike_can_be_pooled() -> None:
    with pytest.raises(PlanError, match="not alike: longest dead air in one, p95 dead air in two"):
        across("all", [dead_air("one"), dead_air("two", q=0.95)])
    with pytest.raises(PlanError, match="at least one"):
        across("all", [])


def test_the_lowest_of_some_shares_shows_what_their_average_hides() -> None:
    dead = [call(n, phase="dead", outcome="lost") for n in range(6)]
    fine = [call(n, phase="fine") for n in range(234)]
    run = whole_run(dead, fine, phases=("dead", "fine"))
    shares = [call_success("dead"), call_success("fine"), call_success("never")]
    assert AtLeast(across("all", shares), 95, "%").judge(run).outcome is Outcome.PASS
    verdict = AtLeast(lowest("any", shares), 80, "%").judge(run)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.because.endswith("in dead, of 6")
    assert lowest("any", [call_success("never")])(run).value is None


def test_a_lowest_is_not_known_where_a_phase_that_ran_gave_no_reading() -> None:
    calls = [call(n, phase="fine", outcome="ok" if n else "lost") for n in range(10)]
    lowest_of_both = lowest("any", [call_success("fine"), call_success("empty")])
    run = whole_run(calls, phases=("fine", "empty"))
    verdict = AtLeast(lowest_of_both, 80, "%").judge(run)
    assert (verdict.outcome, verdict.because.partition(": ")[2]) == (
        Outcome.INCONCLUSIVE,
        "nothing was measured in empty",
    )
    assert AtLeast(lowest_of_both, 95, "%").judge(run).outcome is Outcome.FAIL
    assert AtLeast(lowest_of_both, 80, "%").judge(whole_run(calls, phases=("fine",))).outcome is Outcome.PASS


def test_what_is_across_some_can_be_across_more() -> None:
    some = across("some", [dead_air("one"), dead_air("two")])
    more = across("more", [some, dead_air("three")])
    assert more.phases == PHASES
    assert more(RUN).n == across("all", [dead_air(phase) for phase in PHASES])(RUN).n
