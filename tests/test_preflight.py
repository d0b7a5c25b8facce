"""More than the machine has room for is said before anything is started, with the number that fits."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.journeys.runs import PLAN as WIRE
from tests.journeys.runs import arguments, marks, pid_of, until

from busyhour import descriptors, proc
from busyhour.arrivals import Burst, Constant, Hold, Poisson
from busyhour.carriers.memory import MemoryCarrier, MemoryService
from busyhour.cli import main
from busyhour.clock import SystemClock
from busyhour.errors import PlanError
from busyhour.gates import AtMost
from busyhour.indicators import dropped
from busyhour.model import Arrivals, Audio, Phase, Plan, Workload
from busyhour.planfile import load
from busyhour.preflight import DESCRIPTORS_A_CALL, Room, check, fitting, room, shortages
from busyhour.workloads.call import Call, Greeting, Say, Scenario
from busyhour.workloads.http import Get, Http
from busyhour.workloads.idle import Idle

CROWDED = Path(__file__).parent / "plans" / "crowded.py"
LIMITED = """
import os, resource, sys
soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
os.execv(sys.executable, [sys.executable, "-m", "busyhour", *sys.argv[3:]])
"""
HTTP = """
from busyhour import AtMost, Burst, Get, Http, Phase, Plan
from busyhour.indicators import dropped
from busyhour.services import AlreadyRunning

phase = Phase("asked", Burst(50_000), Http([Get("/")], connections={connections}), at_once=50_000)
plan = Plan(target=AlreadyRunning(name="api", url="http://127.0.0.1:9"), phases=[phase], gates=[AtMost(dropped(), 0)])
"""


def limited(soft: int, hard: int, *words: str) -> list[str]:
    """The command line with so many files allowed."""
    return [sys.executable, "-c", LIMITED, str(soft), str(hard), *words]


def refused(folder: Path, soft: int, hard: int, *words: str) -> str:
    """What a command says that is refused before it has left any trace."""
    done = subprocess.run(
        limited(soft, hard, *words), cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 64, done.stdout + done.stderr
    assert not done.stdout
    assert not list(folder.rglob("*.journal"))
    return done.stderr


def test_a_run_of_more_calls_than_files_allow_is_refused_with_the_number_that_fits(tmp_path: Path) -> None:
    journal = tmp_path / "run.journal"
    said = refused(tmp_path, 200, 200, *arguments(journal, calls=90, per_second=0))
    assert said.count("\n") == 1
    # There are places for 100, but 90 is all that arrive.
    assert "the phase 'talk' may have 90 calls at once, but only " in said
    fits = int(said.partition("but only ")[2].split()[0])
    assert 20 <= fits <= 50
    assert "each takes 2 file descriptors of the harness, which may have 200, " in said
    assert "raise the hard limit (`ulimit -Hn`" in said
    assert said.endswith("or lower its at_once\n")


def test_proving_a_plan_and_searching_its_capacity_are_refused_alike(tmp_path: Path) -> None:
    assert "calls at once, but only" in refused(
        tmp_path, 200, 200, "prove", str(WIRE), "-o", "calls=90", "-o", "per_second=0"
    )
    said = refused(tmp_path, 200, 200, "capacity", str(CROWDED), "--most", "80")
    assert "--most 80: only " in said
    assert "each takes 2 file descriptors of the harness" in said


def test_connections_of_requests_are_counted_too(tmp_path: Path) -> None:
    plan = tmp_path / "plan.py"
    plan.write_text(HTTP.format(connections=150))
    said = refused(tmp_path, 200, 200, "run", str(plan))
    assert "the phase 'asked' may have 150 connections at once, but only " in said
    assert "each takes 1 file descriptor of the harness" in said
    assert said.endswith("or lower the connections of its workload\n")


def test_a_plan_that_does_not_fit_can_be_loaded_for_its_journals_to_be_judged(tmp_path: Path) -> None:
    plan = tmp_path / "plan.py"
    plan.write_text(HTTP.format(connections=10**7))
    assert load(plan).plan.phases[0].name == "asked"
    assert main(["run", str(plan)]) == 64


def test_calls_without_a_carrier_are_refused_before_anything_is_started() -> None:
    phase = Phase("steady", Burst(1), Call([Scenario("greeted", [Greeting()])]))
    plan = Plan(target=MemoryService(name="agent"), phases=[phase], gates=[AtMost(dropped(), 0)])
    with pytest.raises(PlanError) as caught:
        check(plan)
    (problem,) = caught.value.problems
    assert problem == (
        "the phase 'steady' places calls, and the plan has no carrier; give it one, "
        'like carrier=PlainWebSocket(path="/media")'
    )


def test_we_take_what_we_may_have_and_the_target_gets_what_it_would_have_had(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard == resource.RLIM_INFINITY or hard > 300, "these tests need 300 files"
    journal = tmp_path / "run.journal"
    words = limited(150, 300, *arguments(journal, calls=60, per_second=0, hold=1, model="yes"))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        try:
            until(lambda: any(mark.name == "agent" for mark in marks(journal, "service.started")))
            assert open_at_most(run.pid) == 300
            assert open_at_most(pid_of(journal, "llm")) == 300
            assert open_at_most(pid_of(journal, "agent")) == 150
            output, _ = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode in {0, 1, 2, 3}, output  # a verdict: 60 calls take more than the 150 files of the agent


def open_at_most(pid: int) -> int | None:
    limits = proc.limits(pid)
    assert limits is not None
    return limits["Max open files"]


def test_what_was_asked_for_is_given_back_and_the_outermost_knows_what_was_given() -> None:
    with limit(128):
        assert descriptors.given() is None
        with descriptors.widened(), descriptors.widened():
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == descriptors.attainable() > 128
            assert descriptors.given() == 128
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 128
        assert descriptors.given() is None


@pytest.mark.skipif(sys.platform != "linux", reason="as /proc tells it")
def test_the_table_of_files_does_not_grow_in_the_middle_of_the_load() -> None:
    code = """if True:
        from pathlib import Path
        from busyhour.descriptors import attainable, widened
        with widened():
            print(min(attainable(), 1 << 16), Path("/proc/self/status").read_text().partition("FDSize:")[2].split()[0])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    wanted, room = map(int, done.stdout.split())
    assert room >= wanted > 64


def test_room_does_not_depend_on_the_soft_limit() -> None:
    before = room(2).count
    with limit(128):
        assert abs(room(2).count - before) <= 5


@contextmanager
def limit(soft: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# ---------------------------------------------------------------- the counting


def test_what_fits_is_bounded_by_descriptors_or_by_ports() -> None:
    few = fitting(DESCRIPTORS_A_CALL, descriptors=1024, open_files=24, ports=28_232)
    assert few.count == (1024 - 24 - 100) // 2
    assert "of the harness, which may have 1024, 124 of them for itself" in few.because
    many = fitting(DESCRIPTORS_A_CALL, descriptors=10**6, open_files=24, ports=28_232)
    assert many.count == 27_232
    assert "ip_local_port_range; widen that range" in many.because
    widest = fitting(DESCRIPTORS_A_CALL, descriptors=10**6, open_files=24, ports=64_512)
    assert widest.because.endswith("use more machines")
    shared = fitting(DESCRIPTORS_A_CALL, descriptors=1024, open_files=24, ports=28_232, processes=3)
    assert shared.count == 3 * few.count
    assert fitting(1, descriptors=64, open_files=24, ports=28_232).count == 0


WORD = Audio("word", "word", np.zeros(400, np.int16), 8000, 0, 400)
TALK = Call([Scenario("talk", [Greeting(), Say(WORD)])])


@pytest.mark.parametrize(
    ("arrivals", "workload", "at_once", "asked"),
    [
        (Poisson(per_second=5, seconds=60, seed=1), TALK, 50, 0),
        (Poisson(per_second=5, seconds=60, seed=1), TALK, 51, 51),  # 300 come: all places may be taken
        (Burst(50), TALK, 10_000, 0),  # so many places, and never anybody for them
        (Burst(51), TALK, 10_000, 51),
        (Constant(1, 50), TALK, 10_000, 0),
        (Hold(at_once=40, seconds=3600), TALK, 10_000, 0),
        (Hold(at_once=60, seconds=3600), TALK, 60, 60),
        (Burst(10_000), Idle(1), 10_000, 0),
        (Burst(10_000), Http([Get("/")], connections=80), 10_000, 0),
        (Burst(10_000), Http([Get("/")], connections=81), 10_000, 81),
        (Burst(70), Http([Get("/")], connections=500), 10_000, 0),
    ],
)
def test_what_a_phase_may_have_at_once(arrivals: Arrivals, workload: Workload, at_once: int, asked: int) -> None:
    phase = Phase("rush", arrivals, workload, at_once=at_once)
    plan = Plan(
        target=MemoryService("agent"),
        carrier=MemoryCarrier(clock=SystemClock()),
        phases=[phase],
        gates=[AtMost(dropped(), 0)],
    )
    found = list(shortages(plan, calls=Room(50, "because"), connections=Room(80, "because")))
    assert [sentence.startswith(f"the phase 'rush' may have {asked} ") for sentence in found] == [True] * bool(asked)
