"""The soak plan at its scales: what it demands, for how long, and how each demand is proven."""

from __future__ import annotations

from pathlib import Path

import pytest

from busyhour.arrivals import Hold
from busyhour.errors import PlanError
from busyhour.gates import NoLeak
from busyhour.model import Due
from busyhour.planfile import load, vary
from busyhour.prospects import foretold, length_seconds
from busyhour.services import Command
from busyhour.workloads.idle import Idle

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("scale", "calls"), [(1, 72), (0.2, 14), (0.05, 3)])
def test_the_hours_of_the_soak_plan(scale: float, calls: int) -> None:
    plan = load(ROOT / "plans/soak.py", {"scale": str(scale)}).plan
    idle, filling, soak = plan.phases[:3]
    assert isinstance(idle.workload, Idle)
    assert idle.workload.seconds == pytest.approx(2 * 3600 * scale)
    assert (filling.name, soak.name) == ("filling", "soak")
    due = [soak.arrivals.due_ns(number, number, 0) for number in range(calls + 2)]
    assert sum(not isinstance(one, Due) for one in due) in {calls, calls + 1}
    (gate,) = (gate for gate in plan.gates if isinstance(gate, NoLeak))
    assert gate.settling_hours == pytest.approx(min(3, 6 * scale / 2))


def test_a_soak_at_constant_concurrency_fills_the_pools_and_allows_for_a_shorter_warm_up() -> None:
    options = {"hours": "2", "at_once": "6", "idle_hours": "0", "defect": "leak_native:40"}
    plan = load(ROOT / "plans/soak.py", options).plan
    filling, soak = plan.phases[:2]
    assert filling.arrivals.due_ns(8, 0, 0) == 0
    assert filling.arrivals.due_ns(9, 0, 0) is Due.ENDED
    assert soak.arrivals == Hold(6, 7200)
    assert [gate.settling_hours for gate in plan.gates if isinstance(gate, NoLeak)] == [0.25]
    assert isinstance(plan.target, Command)
    assert plan.target.env["DEFECT"] == "leak_native:40"
    with pytest.raises(PlanError, match=r"hours=-1: it must be from 0 to 1000"):
        load(ROOT / "plans/soak.py", {"hours": "-1"})


def test_every_gate_of_the_soak_but_that_of_hours_has_a_control_of_a_minute() -> None:
    plan = load(ROOT / "plans/soak.py", {}).plan
    controlled = {control.gate.name for control in plan.controls}
    uncontrolled = [gate for gate in [*plan.gates, *plan.valid_if] if gate.name not in controlled]
    assert [type(gate) for gate in uncontrolled] == [NoLeak]
    for control in plan.controls:
        for variation in (control.red, control.benign):
            phases = vary(plan, variation, variation.only).phases
            assert phases, variation.name
            assert sum(length_seconds(phase) for phase in phases) < 300, variation.name


def notes(**options: str) -> list[str]:
    """But for the one on greetings, of which a soak demands nothing: it asks whether the agent stays as it was."""
    return [note for note in foretold(load(ROOT / "plans/soak.py", options)) if "greeting" not in note]


def test_what_a_short_soak_cannot_show_is_said_before_it() -> None:
    (note,) = notes(scale="0.05")
    assert note == (
        "the gate 'rate of successful calls in soak >= 90 %' cannot pass, only fail: it takes 29 calls, and 'soak' has "
        "4 at most; --scale 0.41 has enough"
    )
    (left_out,) = notes(scale="0")
    assert left_out.startswith("--scale 0 leaves out the phases 'idle', 'filling', 'soak'")
    assert notes() == []
    assert notes(hours="2", at_once="6") == []
