"""What a plan will not be able to say is said before it is carried out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from busyhour.errors import PlanError
from busyhour.planfile import load
from busyhour.prospects import foretold

PREAMBLE = """
from dataclasses import dataclass, replace
from busyhour.arrivals import Burst, Constant, Hold, Poisson, Ramp, Schedule
from busyhour.carriers.memory import MemoryCarrier, MemoryService
from busyhour.clock import VirtualClock
from busyhour.gates import AtLeast, AtMost, Between, Holds, NoLeak, NothingLeft
from busyhour.indicators import *
from busyhour.model import Phase, Plan
from busyhour.probes.process import Process
from busyhour.workloads.call import Call, Greeting, Say, Scenario
from busyhour.workloads.idle import Idle

agent = MemoryService("agent")
talk = Call([Scenario("s", [Say("hours.parking"), Say("goodbye.bye")])])
greeted = Call([Scenario("s", [Greeting(), Say("hours.parking"), Say("goodbye.bye")])])

def made(*phases, gates, probes=()):
    return Plan(target=agent, carrier=MemoryCarrier(clock=VirtualClock()), phases=phases, gates=gates, probes=probes)
"""
Notes = Callable[..., list[str]]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    def of(text: str, **options: str) -> list[str]:
        path = tmp_path / "plan.py"
        path.write_text(PREAMBLE + text)
        return foretold(load(path, options))

    return of


SCALED = """
def plan(scale: float = 1.0):
    steady = Phase("steady", Constant(1, seconds=100 * scale), greeted)
    greets = AtMost(first_audio_latency(steady, q=1), 9, "s")
    return made(steady, gates=[greets, {gate}])
"""


def test_a_gate_that_a_scale_leaves_too_little_to_pass_is_named_with_the_scale_that_has_enough(notes: Notes) -> None:
    success = SCALED.format(gate='AtLeast(call_success(steady), 95, "%")')
    assert notes(success) == []
    (note,) = notes(success, scale="0.1")
    assert "'rate of successful calls in steady >= 95 %' cannot pass, only fail" in note
    assert "it takes 59 calls, and 'steady' has 10 at most; --scale 0.59 has enough" in note
    assert notes(success, scale="0.59") == []
    assert len(notes(success, scale="0.57")) == 1


@pytest.mark.parametrize(
    ("gate", "least"),
    [
        ('AtMost(response_latency(steady, q=0.95), 800, "ms")', "59 turns, and 'steady' has 6 at most"),
        ('AtLeast(response_latency(steady, q=0.5), 1, "ms")', None),  # five turns tell a median, and there are six
        ('AtMost(mean_response_latency(steady), 800, "ms")', "30 turns, and 'steady' has 6 at most"),
        ('AtMost(missed_turns(steady), 5, "%")', "59 turns, and 'steady' has 6 at most"),
        ("AtMost(second_half_over_first(response_latency(steady, q=0.5)), 1.1)", "10 turns, and 'steady' has 6"),
        ('AtMost(first_audio_latency(steady, q=0.9), 800, "ms")', "29 greetings, and 'steady' has 3 at most"),
        ('AtMost(dead_air(steady), 3, "s")', None),  # the worst of the run: one turn is enough
        ('AtMost(across("all", [missed_turns(steady)]), 5, "%")', "59 turns, and 'steady' has 6 at most"),
    ],
)
def test_each_kind_of_gate_knows_what_it_takes(notes: Notes, gate: str, least: str | None) -> None:
    found = notes(SCALED.format(gate=gate), scale="0.03")
    assert len(found) == (least is not None)
    assert least is None or least in found[0]


@pytest.mark.parametrize(
    ("gate", "end"),
    [
        (
            'AtLeast(call_success("steady"), 90, "%")',
            "it takes 29 calls, and 'steady' has 3 at most; give it 10 times as many arrivals",
        ),
        (
            'AtMost(missed_turns("steady"), 5, "%")',
            "59 turns, and 'steady' has 6 at most; give it 10 times as many arrivals, or its scenarios more turns",
        ),
        (
            'AtMost(barge_in_stop("steady", 0.9), 1, "s")',
            "it takes 29 interruptions, and 'steady' has 0 at most; give its scenarios some interruptions",
        ),
    ],
)
def test_a_schedule_without_a_scale_is_to_have_more_arrivals(notes: Notes, gate: str, end: str) -> None:
    (note,) = notes(f'plan = made(Phase("steady", Burst(3), talk), gates=[{gate}])')
    assert note.endswith(end)


def test_as_many_calls_as_the_target_lets_be_held_are_not_counted_before(notes: Notes) -> None:
    held = 'plan = made(Phase("steady", Hold(2, seconds=60), talk), gates=[AtLeast(call_success("steady"), 90, "%")])'
    assert notes(held) == []


EMPTY = """
def plan(scale: float = 1.0):
    calls = Poisson(0.01, seconds=1000 * scale, seed=3)
    return made(Phase("steady", calls, talk), gates=[{gate}])
"""


def test_a_phase_in_which_nothing_arrives_and_that_a_gate_reads_is_an_error(notes: Notes) -> None:
    gate = 'AtMost(dead_air("steady"), 3, "s")'
    assert notes(EMPTY.format(gate=gate)) == []
    with pytest.raises(PlanError) as caught:
        notes(EMPTY.format(gate=gate), scale="0.001")
    (problem,) = caught.value.problems
    assert (
        "nothing ever arrives in the phase 'steady', which the gate 'longest dead air in steady <= 3 s' reads"
        in problem
    )
    assert "--scale" in problem
    enough = problem.partition("--scale ")[2].partition(" ")[0]
    assert notes(EMPTY.format(gate=gate), scale=enough) == []
    assert notes(EMPTY.format(gate="AtMost(dropped(), 0)"), scale="0.001") == []  # nobody reads it
    with pytest.raises(PlanError, match="give its schedule more time, or arrivals"):
        notes(f'plan = made(Phase("steady", Poisson(0.01, seconds=1, seed=3), talk), gates=[{gate}])')


def test_phases_that_a_scale_leaves_out_are_named(notes: Notes) -> None:
    plan = """
def plan(scale: float = 1.0):
    phases = [Phase("short", Burst(1), talk)]
    if scale >= 0.05:
        phases.append(Phase("long", Constant(1, seconds=100 * scale), talk))
    return made(*phases, gates=[AtMost(dropped(), 0)])
"""
    assert notes(plan) == []
    (note,) = notes(plan, scale="0.01")
    assert note == "--scale 0.01 leaves out the phase 'long', and what gates read of them; --scale 0.08 has enough"


SOAK = 'soak = Phase("soak", {arrivals}, {workload})\nplan = made(soak, gates=[{gate}], probes=[{probe}])'


@pytest.mark.parametrize(
    ("arrivals", "workload"),
    [
        ("Constant(0.01, seconds=3600)", "talk"),
        ("Hold(2, seconds=7200)", "talk"),
        ("Burst(1)", "Idle(seconds=4000)"),
        ("Schedule([0, 3600])", "talk"),
    ],
)
def test_who_soaks_without_a_gate_on_memory_is_told_of_it(notes: Notes, arrivals: str, workload: str) -> None:
    text = SOAK.format(arrivals=arrivals, workload=workload, gate="AtMost(dropped(), 0)", probe="Process(agent)")
    (note,) = notes(text)
    assert note.startswith("the phase 'soak' takes ")
    assert "no gate looks at memory" in note
    assert "add NoLeak('agent', mb_per_hour=...)" in note


@pytest.mark.parametrize(
    ("arrivals", "gate"),
    [
        ("Constant(0.01, seconds=3500)", "AtMost(dropped(), 0)"),  # no soak
        ("Constant(0.01, seconds=3600)", 'NoLeak("agent", 6)'),
        ("Constant(0.01, seconds=3600)", 'AtMost(probed("agent", "rss_mb"), 800, "MB")'),
        ("Constant(0.01, seconds=3600)", 'AtMost(growth_per_hour("agent", "private_mb", soak), 20, "MB/h")'),
    ],
)
def test_who_looks_at_memory_or_does_not_soak_is_told_nothing(notes: Notes, arrivals: str, gate: str) -> None:
    assert notes(SOAK.format(arrivals=arrivals, workload="talk", gate=gate, probe="Process(agent)")) == []


BATCHES = "*(Phase(name, Burst(1), talk) for name in 'abcd')"


@pytest.mark.parametrize(
    ("gate", "what"),
    [
        ('NoLeak("agent", 6)', "the memory"),
        ('NothingLeft(agent, ["a", "b", "c", "d"])', "counters"),
        ('AtMost(probed(agent, "rss_mb"), 500, "MB")', "'rss_mb'"),
        ('AtMost(mean_probed(agent, "cpu_pct", "a"), 50, "%")', "'cpu_pct'"),
        ('Between(growth_per_hour(agent, "private_mb", "a"), 1, 2, "MB/h")', "'private_mb'"),
        ('AtMost(kept_per_call(agent, ["a", "b", "c"]), 9, "KB")', "'private_mb'"),
        ('AtMost(second_half_over_first(mean_probed(agent, "rss_mb", "a")), 1.1)', "'rss_mb'"),
    ],
)
def test_a_gate_on_readings_that_nobody_takes_is_an_error(notes: Notes, gate: str, what: str) -> None:
    plan = f"plan = made({BATCHES}, gates=[{gate}], probes=[{{probe}}])"
    with pytest.raises(PlanError) as caught:
        notes(plan.format(probe=""))
    (problem,) = caught.value.problems
    assert problem.endswith(
        f" reads {what} of 'agent', and no probe of the plan does: it could not pass; "
        "add one to its probes, like Process(agent)"
    )
    assert notes(plan.format(probe="Process(agent)")) == []


def test_what_is_asked_of_the_harness_is_looked_at_too(notes: Notes) -> None:
    plan = 'plan = replace(made({}, gates=[AtMost(dropped(), 0)]), valid_if=[AtMost(probed("{}", "cpu_pct"), 90, "%")])'
    with pytest.raises(PlanError, match="reads 'cpu_pct' of 'agent', and no probe of the plan does"):
        notes(plan.format(BATCHES, "agent"))
    assert notes(plan.format(BATCHES, "harness")) == []


def test_readings_that_are_taken_without_a_probe_need_none(notes: Notes) -> None:
    text = f"""
@dataclass
class Metering(MemoryService):
    def drain(self, now_ns):
        return []

gates = [AtMost(probed("proxy", "proxy_lag_ms"), 9, "ms"), AtMost(probed("a workload", "queue"), 9)]
plan = replace(made({BATCHES}, gates=gates), services=[Metering("proxy")])
"""
    assert notes(text) == []


def test_readings_of_what_is_nearly_a_service_are_told(notes: Notes) -> None:
    (note,) = notes(f'plan = made({BATCHES}, gates=[AtMost(probed("agnet", "rss_mb"), 500, "MB")])')
    assert note == (
        "the gate 'highest rss of agnet <= 500 MB' reads 'rss_mb' of 'agnet', which is no service of the plan; "
        "did you mean 'agent'?"
    )


def test_the_harness_is_no_service_but_has_readings(notes: Notes) -> None:
    text = f"""
late = [AtMost(send_lateness(), 5, "ms")]
plan = replace(made({BATCHES}, gates=[NoLeak("harness", 6)]), valid_if=late, services=[MemoryService("hermes")])
"""
    assert notes(text) == []


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ('AtMost(dead_air("steady"), 3, "s")', True),
        ('Between(call_success("steady"), 20, 100, "%")', True),
        ('NoLeak("harness", 6)', True),
        ('AtMost(first_audio_latency("steady", q=1), 2, "s")', False),
        ('AtMost(across("all", [first_audio_latency("steady", q=1)]), 2, "s")', False),
        ('AtMost(second_half_over_first(first_audio_latency("steady", q=1)), 2)', False),
        ('Holds("it greets", print)', False),  # nobody knows what it reads
        ('AtLeast(said("steady", "welcome to"), 1)', False),
        ('AtMost(tool_calls("steady"), 3)', True),
    ],
)
def test_that_an_agent_need_not_greet_is_told_where_callers_wait_for_it(notes: Notes, gate: str, told: bool) -> None:
    plan = (
        'phases = [Phase("warm-up", Burst(9), talk), Phase("steady", Burst(9), {})]\nplan = made(*phases, gates=[{}])'
    )
    assert notes(plan.format("talk", gate)) == []
    expected = (
        "the callers in 'steady' wait for a greeting, and no gate reads it: an agent that never greets would pass; "
        "add AtMost(first_audio_latency('steady', q=0.5), 1000, \"ms\") to the gates"
    )
    assert notes(plan.format("greeted", gate)) == ([expected] if told else [])


def test_a_plan_that_takes_no_scale_says_how_it_would(tmp_path: Path) -> None:
    path = tmp_path / "plan.py"
    gates = "gates=[AtMost(dropped(), 0)]"
    path.write_text(
        f'{PREAMBLE}\ndef plan(seed: int = 1):\n    return made(Phase("steady", Burst(1), talk), {gates})\n'
    )
    with pytest.raises(PlanError, match=r"no option 'scale'.*options are: seed; to be scaled, its plan\(\) must take"):
        load(path, {"scale": "0.1"})
    path.write_text(f'{PREAMBLE}\nplan = made(Phase("steady", Burst(1), talk), {gates})\n')
    with pytest.raises(PlanError, match=r"to be scaled, `plan` must be a function that takes `scale"):
        load(path, {"scale": "0.1"})
