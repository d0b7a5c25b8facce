"""Faults in whole runs: those that cannot be had, those that hit nobody, and services that die because they are to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from busyhour.arrivals import Burst, Constant
from busyhour.cli import main
from busyhour.clock import SystemClock, VirtualClock
from busyhour.engine import Execution
from busyhour.faults.process import Kill, Restart
from busyhour.gates import AtLeast, Holds, judge
from busyhour.indicators import call_success
from busyhour.model import (
    Clock,
    Comparison,
    Endpoint,
    FaultUnavailable,
    Gate,
    Mark,
    Outcome,
    Phase,
    Plan,
    Proof,
    Sample,
)
from busyhour.probes.process import Process
from busyhour.services import Command
from busyhour.testing import MemoryRun

from .test_engine import Harm, Notes, Work, executed, planned


@dataclass(frozen=True)
class Unavailable:
    """A fault that nobody may inject."""

    name: str = "disk full"
    service: str = "target"

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        raise FaultUnavailable("needs root, to mount a file system: run as root")
        yield


def run_of(notes: Notes) -> MemoryRun:
    return MemoryRun(
        notes.operations(),
        [r for r in notes.records if isinstance(r, Sample)],
        [r for r in notes.records if isinstance(r, Mark)],
    )


# ---------------------------------------------------------------- not to be had


def test_a_phase_whose_fault_is_not_to_be_had_is_not_carried_out_and_the_others_are() -> None:
    clock, log = VirtualClock(), list[str]()
    phases = (
        Phase("before", Burst(2), Work(1)),
        Phase("full", Burst(3), Work(1), faults=[Harm(log), Unavailable()]),
        Phase("after", Burst(4), Work(1)),
    )
    notes = executed(planned(clock, *phases), clock)
    assert [o.phase for o in notes.operations()] == ["before"] * 2 + ["after"] * 4
    assert log == ["injected", "undone"]
    assert notes.mark("fault.unavailable").detail == {
        "phase": "full",
        "why": "needs root, to mount a file system: run as root",
    }
    assert notes.marks()[-1] == "run.ended"


def test_nothing_is_said_of_that_phase_but_why() -> None:
    clock, log = VirtualClock(), list[str]()
    good, full = Phase("good", Burst(60), Work(1)), Phase("full", Burst(3), Work(1), faults=[Harm(log), Unavailable()])
    plan = planned(clock, good, full)
    notes = executed(plan, clock)
    at_once = Holds("it is at once", lambda run: Comparison(Outcome.FAIL, "it is not"), phases=("full",))
    gates: list[Gate] = [AtLeast(call_success(good), 80, "%"), AtLeast(call_success(full), 80, "%"), at_once]
    judgement = judge(replace(plan, gates=gates, valid_if=[at_once]), run_of(notes))
    why = "phase full was not carried out: the fault 'disk full' needs root, to mount a file system: run as root"
    by_gate = {verdict.gate: verdict for verdict in judgement.verdicts}
    assert by_gate[gates[0].name].outcome is Outcome.PASS
    for gate in gates[1:]:
        assert (by_gate[gate.name].outcome, by_gate[gate.name].because) == (Outcome.NOT_RUN, f"{gate.name}: {why}")
    assert by_gate["the run came to its end"].outcome is Outcome.NOT_RUN
    assert by_gate["the run came to its end"].because == f"the run came to its end: {why}"
    assert {verdict.gate: verdict.outcome for verdict in judgement.validity}["every fault took effect"] is Outcome.PASS
    assert judgement.outcome is Outcome.NOT_RUN
    assert judgement.exit_code == 2


def test_a_plan_whose_gates_read_other_phases_does_not_pass_either() -> None:
    clock = VirtualClock()
    good, full = Phase("good", Burst(60), Work(1)), Phase("full", Burst(3), Work(1), faults=[Unavailable()])
    plan = planned(clock, good, full)
    notes = executed(plan, clock)
    judgement = judge(replace(plan, gates=[AtLeast(call_success(good), 80, "%")]), run_of(notes))
    assert judgement.outcome is Outcome.NOT_RUN


# ---------------------------------------------------------------- aimed at nobody

IDLE = """
import sys
from busyhour import AtLeast, Burst, Call, Command, Greeting, Phase, Plan, Scenario, Silence, Telnyx
from busyhour.emulators import OpenAI
from busyhour.faults.carrier import UnsignedWebhooks
from busyhour.faults.provider import NoToken
from busyhour.indicators import call_success
def plan(aim: str = "llm"):
    llm = OpenAI()
    telnyx = Telnyx(media_within_seconds=30, hangup_within_seconds=30)
    agent = Command([sys.executable, {agent!r}], name="agent", env={{"TELNYX_API_BASE": telnyx}})
    fault = NoToken(llm) if aim == "llm" else UnsignedWebhooks(telnyx)
    talk = Scenario("talk", [Greeting(patience_seconds=30), Silence(0.2)], think_ms=(50, 100))
    steady = Phase("steady", Burst(3), Call([talk]), faults=[fault])
    gates = [AtLeast(call_success(steady), 50, "%")]
    return Plan(target=agent, carrier=telnyx, services=[llm], phases=[steady], gates=gates)
"""


@pytest.fixture
def idle(tmp_path: Path) -> Path:
    path = tmp_path / "idle.py"
    path.write_text(IDLE.format(agent=str(Path(__file__).parents[1] / "plans" / "agent.py")))
    return path


def test_a_fault_aimed_at_a_twin_that_nobody_calls_is_an_invalid_run(
    idle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(idle), "--journal", str(tmp_path / "run.journal")]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "INVALID every fault took effect: llm no_token in steady had no effect "
        "(0 of 0 requests to llm met no_token while it was injected)"
    ) in out


def test_a_fault_of_the_carrier_in_a_run_with_calls_takes_effect(
    idle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = str(tmp_path / "run.journal")
    assert main(["run", str(idle), "--journal", journal, "-o", "aim=carrier"]) in {0, 2}
    out = " ".join(capsys.readouterr().out.split())
    assert "every fault took effect: telnyx unsigned webhooks in steady (" in out
    assert "webhooks sent without a signature at telnyx while it was injected)" in out


# ---------------------------------------------------------------- meant to die


def test_a_service_that_is_killed_and_restarted_by_faults_does_not_end_the_run() -> None:
    clock = SystemClock()
    target = Command([sys.executable, "-c", SERVER], name="target")
    phases = (
        Phase(
            "kill", Constant(4, 1.6), Work(0.01), faults=[Kill(target, after_seconds=0.2, restart_after_seconds=0.5)]
        ),
        Phase("restart", Burst(1), Work(1.2), faults=[Restart(target)]),
        Phase("gone", Burst(1), Work(1.2), faults=[Kill(target, stays_dead=True)]),
    )
    plan: Plan = replace(planned(VirtualClock(), *phases), target=target, services=[], probes=[Process(target)])
    notes = Notes()
    asyncio.run(Execution(plan, notes, clock=clock).execute())
    assert "run.ended" in notes.marks()
    assert not any(mark.startswith("service.died") for mark in notes.marks())
    proofs = [r.detail for r in notes.records if isinstance(r, Mark) and r.kind == "fault.proof"]
    assert [proof["effective"] for proof in proofs] == [True] * 3
    # Whether it is back before the phase is over, is the machine's affair.
    assert str(proofs[0]["because"]).startswith("target lost the process by SIGKILL, and ")
    gone_ns = max(r.at_ns for r in notes.records if isinstance(r, Mark) and r.kind == "fault.began")
    readings = [r for r in notes.records if isinstance(r, Sample) and (r.source, r.name) == ("target", "rss_mb")]
    assert readings, "the processes it became are watched"
    assert all(reading.at_ns < gone_ns for reading in readings)


SERVER = """
import http.server, os
http.server.HTTPServer.allow_reuse_address = True
class Quiet(http.server.SimpleHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Quiet).serve_forever()
"""
