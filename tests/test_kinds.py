"""What is of the wrong kind in a plan is said in a sentence, not by a traceback from where it was first used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from busyhour.arrivals import Burst
from busyhour.carriers.memory import MemoryCarrier, MemoryService
from busyhour.clock import VirtualClock
from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost, Between
from busyhour.indicators import dead_air, response_latency
from busyhour.model import Phase, Plan
from busyhour.planfile import check
from busyhour.services import Command
from busyhour.workloads.call import Call, Greeting, Say, Scenario

TALK = Scenario("talk", [Greeting()])
STEADY = Phase("steady", Burst(1), Call([TALK]))
PLAN = Plan(
    target=MemoryService("agent"),
    carrier=MemoryCarrier(clock=VirtualClock()),
    phases=[STEADY],
    gates=[AtMost(dead_air(STEADY), 3, "s")],
)
ANY: Any = None  # what follows is wrong on purpose: a type checker would say so, too


def test_a_plan_in_which_all_is_of_its_kind() -> None:
    assert check(PLAN) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"target": "python agent.py"},
            "its target is 'python agent.py' (of the kind str); give a service, like Command(",
        ),
        ({"carrier": MemoryCarrier}, "its carrier is the class MemoryCarrier itself; give a carrier, like Telnyx() or"),
        ({"phases": STEADY}, "its phases are Phase("),
        ({"phases": [Burst(1)]}, "its phases: one is Burst("),
        (
            {"gates": [dead_air(STEADY)]},
            "its gates: one is the indicator of longest dead air in steady; give a gate, like",
        ),
        ({"valid_if": 3}, "its valid_if are 3 (of the kind int); give a list of them, in brackets"),
        ({"services": "llm"}, "its services are 'llm' (of the kind str); give a list of them, in brackets"),
    ],
)
def test_a_plan_with_something_else(changes: dict[str, Any], told: str) -> None:
    problems = check(replace(PLAN, **changes))
    assert len(problems) == 1
    assert problems[0].startswith(told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arrivals": 5}, "the phase 'steady': its arrivals is 5 (of the kind int); give a schedule, like Poisson("),
        ({"workload": TALK}, "give a Call, in which callers play it: Call([...])"),
        ({"faults": ["no token"]}, "the phase 'steady': its faults: one is 'no token' (of the kind str); give a fault"),
        ({"workload": Call(ANY or TALK)}, "a Call takes a list of scenarios, in brackets, not one Scenario"),
        ({"workload": Call([ANY or Say("hours.today")])}, "a Call takes Scenarios, and Say("),
        (
            {"workload": Call([Scenario("s", ANY or "hi")])},
            "scenario 's': its steps are no list; write them in brackets",
        ),
        (
            {"workload": Call([Scenario("s", [ANY or "hi"])])},
            "scenario 's': 'hi' is no step; a caller's are Greeting, Say",
        ),
    ],
)
def test_a_phase_with_something_else(changes: dict[str, Any], told: str) -> None:
    problems = check(replace(PLAN, phases=[replace(STEADY, **changes)]))
    assert len(problems) == 1
    assert told in problems[0]


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: AtMost(response_latency(STEADY), ANY or "800", "ms"), "its limit is a number, not '800'"),
        (lambda: Between(response_latency(STEADY), 1, ANY or "2", "ms"), "its limit is a number, not '2'"),
        (lambda: AtLeast(ANY or "latency", 1), "like response_latency(steady), not to 'latency'"),
        (
            lambda: AtMost(ANY or response_latency, 1),
            "not to the function response_latency itself; call it: ",
        ),
        (lambda: Command("agent", env={"PORT": ANY or 5}), "gives PORT the value 5; give a text, or a service of"),
    ],
)
def test_parts_of_something_else(build: Callable[[], object], told: str) -> None:
    with pytest.raises(PlanError) as caught:
        build()
    assert told in str(caught.value)
