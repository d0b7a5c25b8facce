"""What the carrier's twin cannot is charged to nobody: the run is INVALID, and says why."""

from __future__ import annotations

from busyhour.errors import TWIN_CANNOT
from busyhour.gates import AtMost, judge
from busyhour.indicators import response_latency
from busyhour.model import Operation, Outcome, Plan
from busyhour.services import AlreadyRunning
from busyhour.testing import call, turn, whole_run

PLAN = Plan(
    target=AlreadyRunning(name="agent", url="http://127.0.0.1:1"),
    phases=[],
    gates=[AtMost(response_latency("steady", q=0.5), 800, "ms")],
)


def calls(*whys: str, outcome: str = TWIN_CANNOT) -> list[Operation]:
    """Twenty calls with answers enough; the first of them ended with that outcome, and for these reasons."""
    ended = [call(number, outcome=outcome, why=why) for number, why in enumerate(whys)]
    answers = [turn(300, call=f"steady/{number}", number=one) for number in range(20) for one in range(1, 5)]
    return [*ended, *(call(number) for number in range(len(whys), 20)), *answers]


def test_a_run_in_which_the_twin_could_all_is_judged() -> None:
    assert judge(PLAN, whole_run(calls())).outcome is Outcome.PASS


def test_one_call_beyond_the_twin_makes_the_run_invalid_and_each_reason_is_said_once() -> None:
    run = whole_run(calls("no <Record>", "no <Record>", "no <Enqueue>"))
    judgement = judge(PLAN, run)
    assert judgement.outcome is Outcome.INVALID
    assert judgement.exit_code == 3
    (broken,) = [verdict for verdict in judgement.validity if verdict.outcome is Outcome.INVALID]
    assert broken.because == (
        "the carrier's twin could do what the agent asked for: in 3 of 20 calls it could not: no <Record>; no <Enqueue>"
    )
    assert all("the run does not say" in verdict.because for verdict in judgement.verdicts)


def test_another_failure_of_a_call_is_the_agents() -> None:
    assert judge(PLAN, whole_run(calls("error 12100", outcome="protocol error"))).outcome is not Outcome.INVALID
