"""The stress plan in little: every kind of load and every fault, a few calls of each, and how the calls have ended."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.journeys.test_plans import LATENESS, ROOT, check

from busyhour.errors import PlanError
from busyhour.journal import open_run
from busyhour.planfile import load

pytestmark = pytest.mark.long

LITTLE = """
import runpy
from dataclasses import replace

from busyhour import Burst, Call, Scenario, Silence
from busyhour.workloads.idle import Idle
from busyhour.workloads.in_turn import InTurn

LATER = (" 2", " 3", "after ", "next callers")
WHOLE = ("hung up by the agent 1", "media broken 1", "half open 1")


def brief(phase, workload):
    if isinstance(workload, InTurn):
        return InTurn([brief(phase, one) for one in workload.workloads])
    if phase.name in WHOLE or not isinstance(workload, Call):
        return workload
    return replace(workload, scenarios=[Scenario("brief", [Silence(1)])])


def little(phase):
    count = 40 if phase.name == "busy 1" else 3 if phase.name == "parallel agents" else 2
    return replace(phase, arrivals=Burst(count), workload=brief(phase, phase.workload))


def plan():
    whole = runpy.run_path("plans/stress.py")["plan"](scale=0.05, memory=0.02)
    phases = [phase for phase in whole.phases if not any(word in phase.name for word in LATER)]
    lateness = [gate for gate in whole.valid_if if gate.name.startswith({lateness!r})]
    return replace(
        whole,
        phases=[little(phase) for phase in phases],
        gates=[*(gate for gate in whole.gates if gate.name.startswith("rate of successful calls in all")), *lateness],
        valid_if=[gate for gate in whole.valid_if if gate not in lateness],
        controls=(),
    )
"""
ENDS = {
    "interruptions": {"ok": 2},
    "monologue": {"ok": 2},
    "burst": {"ok": 2},
    "parallel agents": {"ok": 3},
    "memory pressure": {"ok": 2},
    "warm-up": {"ok": 2},
    "hung up by the caller 1": {"ok": 2},
    "hung up by the agent 1": {"ok: hung up": 2},
    "transferred 1": {"ok": 2},
    "media broken 1": {"hung up early: hung up": 2},
    "half open 1": {"hung up early: hung up": 2},
    "given up 1": {"no answer": 2},
    "busy 1": {"ok": 32, "rejected: busy": 8},
    "media refused 1": {"media refused": 2},
}


def test_the_stress_plan(tmp_path: Path) -> None:
    written = tmp_path / "little.py"
    written.write_text(LITTLE.replace("{lateness!r}", repr(LATENESS)))
    check(str(written), "the target stayed up", folder=tmp_path)
    with open_run(tmp_path / "run.journal") as run:
        found: dict[str, Counter[str]] = {}
        for call in run.operations("call"):
            why = {"hung up": ": hung up", "USER_BUSY": ": busy"}.get(str(call.detail["why"]), "")
            # A caller as impatient as that may give up before the agent has been told of the call.
            outcome = call.outcome.replace("webhook unanswered", "no answer")
            found.setdefault(call.phase, Counter())[outcome + why] += 1
    assert found == {phase: Counter(ends) for phase, ends in ENDS.items()}


@pytest.mark.parametrize(("scale", "minutes", "interruptions"), [(1, 5, 100), (0.2, 1, 20)])
def test_as_much_stress_as_it_says(scale: float, minutes: float, interruptions: int) -> None:
    plan = load(ROOT / "plans/stress.py", {"scale": str(scale)}).plan
    talked_over, monologue = plan.phases[:2]
    calls = next(n for n in range(1000) if not isinstance(talked_over.arrivals.due_ns(n, n, 0), int))
    assert calls * 4 == interruptions
    said = monologue.workload.scenarios[0].steps[1].utterance  # type: ignore[attr-defined]  # a Call, by the plan's own word
    assert said.speech_ended / said.rate_hz > 60 * minutes
    assert [service.name for service in plan.beside] == ["voice-agent 2", "voice-agent 3"]


@pytest.mark.parametrize("option", ["scale=0", "memory=0.99"])
def test_what_makes_no_sense_is_refused(option: str) -> None:
    name, _, value = option.partition("=")
    with pytest.raises(PlanError, match=f"{option}: .*must be"):
        load(ROOT / "plans/stress.py", {name: value})
