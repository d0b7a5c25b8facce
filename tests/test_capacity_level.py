"""The parts of a level: how callers come, which phase is searched, what fits into the machine, what it broke on."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plans.crowded import Crowded, made

from busyhour.capacity.files import Fullest
from busyhour.capacity.level import Held, Level, gates_of, phase_of, plan_at
from busyhour.capacity.reading import Files, Reading, cause
from busyhour.carriers.memory import MemoryService
from busyhour.clock import VirtualClock
from busyhour.errors import PlanError
from busyhour.faults.process import BlockLoop
from busyhour.model import SECOND, Due, Endpoint, Plan, Workload
from busyhour.probes.process import Process
from busyhour.workloads.http import Get, Http
from busyhour.workloads.idle import Idle


@pytest.fixture
def plan() -> Plan:
    return made(Crowded(clock=VirtualClock(), capacity=5))


# ---------------------------------------------------------------- arrivals


@settings(deadline=None)
@given(
    at_once=st.integers(1, 20),
    filled=st.floats(0, 20),
    call_seconds=st.floats(2, 30),
    seconds=st.floats(21, 60),
)
def test_a_held_level_fills_evenly_never_exceeds_itself_and_ends(
    at_once: int, filled: float, call_seconds: float, seconds: float
) -> None:
    held = Held(at_once=at_once, seconds=seconds, filled_seconds=filled, least_seconds=call_seconds / 2)
    now_ns, ends, started = 0, list[int](), 0
    while True:
        finished = sum(end <= now_ns for end in ends)
        due = held.due_ns(started, finished, now_ns)
        if due is Due.ENDED:
            break
        if due is Due.PENDING:
            now_ns = min(end for end in ends if end > now_ns)
            continue
        assert not isinstance(due, Due)
        assert now_ns <= due < seconds * SECOND
        assert due >= round(min(started, at_once) * filled / at_once * SECOND) - 1
        now_ns = due
        ends.append(now_ns + round(call_seconds * SECOND))
        started += 1
        assert sum(end > now_ns for end in ends) <= at_once
    assert started >= min(at_once, 1)


def test_a_held_level_takes_a_free_place_no_faster_than_it_is_told() -> None:
    held = Held(at_once=10, seconds=100, filled_seconds=10, least_seconds=5)
    due, started = 0, 0
    while isinstance(due, int) and not isinstance(due, Due):
        following = held.due_ns(started, started, due)  # every one is over as soon as it has begun
        if isinstance(following, Due):
            break
        due, started = following, started + 1
    assert started == 10 + round((100 - 10) / 5 * 10)


def test_a_count_ends_it() -> None:
    held = Held(at_once=1, seconds=1000, count=2)
    assert held.due_ns(1, 1, 5 * SECOND) == 5 * SECOND
    assert held.due_ns(1, 0, 5 * SECOND) is Due.PENDING
    assert held.due_ns(2, 1, 5 * SECOND) is Due.ENDED


# ---------------------------------------------------------------- the plan of a level


def test_the_first_conversation_without_faults_is_searched(plan: Plan) -> None:
    assert phase_of(plan).name == "talk"
    assert phase_of(plan, "greeting").name == "greeting"
    broken = replace(plan.phases[1], faults=[BlockLoop(milliseconds=1, every_milliseconds=10)])
    with pytest.raises(PlanError, match="no phase of the plan is a conversation without faults"):
        phase_of(replace(plan, phases=[plan.phases[0], broken]))


@pytest.mark.parametrize("workload", [Http([Get("/")]), Idle(1)])
def test_a_phase_without_calls_is_refused(plan: Plan, workload: Workload) -> None:
    quiet = replace(plan.phases[1], workload=workload)
    with pytest.raises(PlanError, match=r"--phase talk: its workload is \w+, and what is searched for is a number"):
        phase_of(replace(plan, phases=[plan.phases[0], quiet]), "talk")


def test_a_phase_that_no_gate_reads_is_refused(plan: Plan) -> None:
    with pytest.raises(PlanError, match="no gate of the plan reads the phase 'talk' alone"):
        phase_of(replace(plan, gates=[gate for gate in plan.gates if gate.phases == ("greeting",)]))


def test_a_level_has_the_phase_alone_its_gates_and_room_for_its_calls(plan: Plan) -> None:
    phase = phase_of(plan)
    varied = plan_at(plan, phase, Level(at_once=500, call_seconds=2, warm_up_seconds=2, window_seconds=10))
    assert [one.name for one in varied.phases] == ["talk"]
    assert varied.phases[0].at_once >= 500
    assert [gate.name for gate in varied.gates] == [gate.name for gate in gates_of(plan, phase)]
    assert len(varied.valid_if) == len(plan.valid_if)


def test_the_processes_of_every_service_are_watched_once(plan: Plan) -> None:
    own = replace(plan, probes=[Process(plan.target)])
    for one in (plan, own):
        varied = plan_at(one, phase_of(one), Level(at_once=2, call_seconds=1))
        watched = [probe for probe in varied.probes if isinstance(probe, Process)]
        assert sorted(probe.service for probe in watched) == ["agent", "carrier"]


# ---------------------------------------------------------------- what fits


def test_the_process_nearest_to_its_limit_of_files_is_watched() -> None:
    fills = "import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
    fills += "files = [os.dup(0) for _ in range(40)]; print(flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {fills!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdout.readline()
        found = Fullest(MemoryService("agent")).read(Endpoint("", (shell.pid,)))
        shell.stdin.write(b"\n")
    assert found["fullest_fds_limit"] == 64
    assert 43 <= found["fullest_fds"] <= 60
    assert Fullest(MemoryService("agent")).read(Endpoint("", (shell.pid,))) == {}


def test_a_ramp_piles_up_no_more_than_there_is_room_for(plan: Plan) -> None:
    steep = Level(at_once=30, open_loop=True, call_seconds=1)
    room = [plan_at(plan, phase_of(plan), steep, places=places).phases[0].at_once for places in (None, 1000, 150, 20)]
    assert room == [300, 300, 150, 30]


# ---------------------------------------------------------------- what it broke on


def reading(**changes: object) -> Reading:
    plain = Reading(calls=40, in_progress=10, call_seconds=20, per_second=0.5, cores={"agent": 0.4, "harness": 0.2})
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words", "harness"),
    [
        ({"cores": {"agent": 0.97, "harness": 0.2}}, "CPU: agent uses 0.97 cores with 1 process", False),
        ({"cores": {"agent": 0.9, "tts": 0.99}}, "CPU: agent uses 0.9 cores", False),
        (
            {"cores": {"agent": 0.4, "tts": 0.99}},
            "CPU: tts uses 0.99 cores with 1 process, which is of the harness",
            True,
        ),
        ({"cores": {"agent": 0.4, "harness": 0.9}}, "CPU: harness uses 0.9 cores", True),
        (
            {"cores": {"agent": 2.2, "llm": 1.3}, "processes": {"agent": 4, "llm": 2}},
            "CPU: all of the machine's 4 cores are in use (agent 2.2, llm 1.3)",
            False,
        ),
        ({"cores": {"agent": 1.5}, "processes": {"agent": 3}}, "lateness, while agent uses 1.5 cores", False),
        (
            {"failed": {"rejected": 3, "lost": 1}, "cores": {"agent": 0.4, "tts": 0.99}},
            "refusals: agent turned 3 of 40 calls away (rejected 3), which is a limit of its own",
            False,
        ),
        (
            {"failed": {"busy": 3}, "cores": {"agent": 0.97}},
            "CPU: agent uses 0.97 cores with 1 process, and turned 3 of 40 calls away (busy 3)",
            False,
        ),
        ({"failed": {"no answer": 3, "busy": 1}}, "errors: 4 of 40 calls failed (no answer 3, busy 1)", False),
        (
            {"failed": {"rejected": 3}, "cores": {"agent": 0.97}, "files": {"agent": Files(1000, 1024)}},
            "files: a process of agent has 1000 open and may have 1024 (`ulimit -n`)",
            False,
        ),
        ({"failed": {"busy": 3}, "files": {"agent": Files(900, 1024)}}, "refusals: ", False),
        ({"files": {"agent": Files(1000, 1024)}}, "lateness, while agent uses 0.4 cores", False),
        ({"failed": {"no answer": 3, "lost": 1}}, "errors: 4 of 40 calls failed (no answer 3, lost 1)", False),
        ({}, "lateness, while agent uses 0.4 cores with 1 process: it waits, and does not compute", False),
        ({"cores": {}}, "lateness; the target's CPU is not known", False),
    ],
)
def test_the_probes_say_on_what_a_level_broke(changes: dict[str, object], words: str, harness: bool) -> None:
    found = cause(reading(**changes), "agent", machine_cores=4)
    assert words in found.words
    assert found.harness is harness


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "lateness of the harness with 0.2 cores of its own, 0.6 of the machine's 4 cores used by all of the run"),
        ({"cores": {"agent": 0.97, "harness": 0.2}}, "lateness of the harness with 0.2 cores"),
        ({"cores": {"agent": 0.97, "harness": 0.9}}, "CPU: harness uses 0.9 cores with 1 process"),
        ({"cores": {}, "failed": {"rejected": 3}}, "lateness of the harness, 0 of the machine's 4 cores used"),
    ],
)
def test_of_a_harness_that_was_late_it_is_said_what_it_had(changes: dict[str, object], words: str) -> None:
    assert words in cause(reading(**changes), "agent", machine_cores=4, invalid=True).words
