"""What became of the calls is said where nothing else can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from busyhour.gates import AtMost, judge, unsaid
from busyhour.indicators import response_latency
from busyhour.model import Mark, Operation, Outcome, Plan
from busyhour.testing import MemoryRun, call

GATES = [AtMost(response_latency("steady", 0.95), 800, "ms")]
PLAN = Plan(target=cast(Any, None), carrier=cast(Any, None), phases=(), gates=GATES)
BEGAN = Mark(1, "fault.began", "no token", {"phase": "steady"})
INEFFECTIVE = Mark(5, "fault.proof", "no token", {"effective": False, "because": "no stream began", "phase": "steady"})


def run_of(operations: Sequence[Operation], marks: Sequence[Mark] = ()) -> MemoryRun:
    own = [Mark(0, "run.began"), Mark(0, "phase.began", "steady"), *marks, Mark(9, "run.ended")]
    return MemoryRun(operations, marked=own)


REFUSED: dict[str, Any] = {"outcome": "webhook refused", "why": "webhook refused: call.initiated to /webhook: 404"}
BESIDE = call(1, phase="other", outcome="lost")


@pytest.mark.parametrize(
    ("operations", "effect", "target"),
    [
        (
            [call(n, **REFUSED) for n in range(4)],
            ": all 4 calls failed: webhook refused (call.initiated to /webhook: 404)",
            "; all 4 calls failed: webhook refused (call.initiated to /webhook: 404)",
        ),
        ([call(1, outcome="lost")], ": the only call failed: lost", "; the only call failed: lost"),
        (
            [BESIDE, *(call(n, **REFUSED) for n in range(2))],
            ": all 2 calls failed: webhook refused (call.initiated to /webhook: 404)",
            "; all 3 calls failed, 2 of them: webhook refused (call.initiated to /webhook: 404)",
        ),
        ([call(1, phase="other"), call(2, outcome="lost")], ": the only call failed: lost", ""),
        ([call(1), call(2, outcome="lost")], "", ""),
        ([BESIDE], "", "; the only call failed: lost"),
        ([], "", ""),
    ],
)
def test_a_fault_that_no_call_came_far_enough_to_meet_says_what_the_calls_failed_of(
    operations: list[Operation], effect: str, target: str
) -> None:
    run = run_of(operations, [BEGAN, INEFFECTIVE])
    judgement = judge(PLAN, run)
    (broken,) = (verdict for verdict in judgement.validity if verdict.outcome is Outcome.INVALID)
    assert broken.because == f"every fault took effect: no token in steady had no effect (no stream began){effect}"
    assert unsaid(run, judgement) == f"nothing is said of the target: 3 gates not judged{target}"


def test_of_a_run_that_can_be_believed_nothing_stays_unsaid() -> None:
    run = run_of([call(1, **REFUSED)])
    assert unsaid(run, judge(PLAN, run)) == ""
