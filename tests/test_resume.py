"""A run that was cut is taken up where it was: no phase twice, no arrival twice, no name twice, and nothing hidden."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from busyhour.clock import VirtualClock, boot_id
from busyhour.engine import Execution, Stopped
from busyhour.errors import JournalError, PlanError
from busyhour.gates import judge
from busyhour.journal import Journal, StoredRun, open_run
from busyhour.model import SECOND, Mark, Operation, Outcome, Sample
from busyhour.planfile import load
from busyhour.resuming import Cut, cut_run
from busyhour.testing import check_arrivals

PLAN = '''
from dataclasses import dataclass

from busyhour.arrivals import Burst, Constant, Hold, Poisson
from busyhour.carriers.memory import MemoryService
from busyhour.gates import AtLeast
from busyhour.indicators import call_success
from busyhour.model import SECOND, Operation, Phase, Plan
from busyhour.workloads.idle import Idle


@dataclass(frozen=True)
class Talk:
    """Ten turns of a second."""

    async def perform(self, arrival):
        began_ns = arrival.clock.now_ns()
        outcome = "cut off"
        about = {"phase": arrival.phase, "due_ns": arrival.due_ns}
        try:
            for number in range(10):
                await arrival.clock.sleep_until(began_ns + (number + 1) * SECOND)
                turn = {"id": f"{arrival.id}/turn/{number + 1}", "kind": "turn", "parent": arrival.id}
                arrival.record(Operation(began_ns=arrival.clock.now_ns(), **turn, **about))
            outcome = "ok"
        finally:
            about |= {"began_ns": began_ns, "ended_ns": arrival.clock.now_ns()}
            arrival.record(Operation(id=arrival.id, kind="call", outcome=outcome, **about))


def plan(shape: str = "steady"):
    arrivals = {"steady": Constant(1, 60), "poisson": Poisson(1, 60, seed=3), "burst": Burst(5, 4, 20)}
    arrivals["held"] = Hold(3, 60)
    phases = [
        Phase("warm-up", Burst(2), Talk()),
        Phase("idle", Burst(1), Idle(30)) if shape == "idle" else Phase("steady", arrivals[shape], Talk()),
        Phase("cool-down", Burst(2), Talk()),
    ]
    return Plan(target=MemoryService("agent"), phases=phases, gates=[AtLeast(call_success(phases[1]), 50, "%")])
'''


@dataclass
class Killed:
    """A journal whose writer is killed at an instant: what comes later is not written."""

    journal: Journal
    clock: VirtualClock
    at_ns: int

    def append(self, entry: Operation | Sample | Mark) -> None:
        if self.clock.now_ns() <= self.at_ns:
            self.journal.append(entry)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.py"
    path.write_text(PLAN)
    return path


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "run.journal"


def begun(file_path: Path, journal: Path, seconds: float, shape: str = "steady", **meta: object) -> None:
    """A run that is killed after so many seconds. Its machine is started anew: the clock of what follows is at 0."""
    clock = VirtualClock()
    file = load(file_path, {"shape": shape})
    about = {"plan": str(file_path), "options": {"shape": shape}, "source": file.source, "seed": 5, "boot": "another"}
    with Journal.create(journal, json.loads(json.dumps(about | meta))) as notebook:
        killed = Killed(notebook, clock, round(seconds * SECOND))
        clock.run(Execution(file.plan, killed, clock=clock, seed=5).execute())


def continued(journal: Path, seconds: float = 1e6, *, stop: bool = False) -> Cut:
    """Taken up on a machine whose clock is at 7 s; to its end, or killed or stopped after so many seconds."""
    clock = VirtualClock()
    clock.run(clock.sleep_until(7 * SECOND))
    cut = cut_run(journal, clock.now_ns())
    at = cut.resumption.continuation
    with Journal.reopen(journal, shift_ns=at.moved_ns) as notebook:
        for call in cut.resumption.cut_off:
            notebook.append(call)
        killed = Killed(notebook, clock, 10**18 if stop else round((7 + seconds) * SECOND))
        execution = Execution(cut.file.plan, killed, clock=clock, seed=cut.seed, continuing=at)

        async def main() -> None:
            if stop:
                asyncio.get_running_loop().call_later(seconds, execution.stop, "stopped by Ctrl-C")
            await execution.execute()

        with suppress(Stopped):
            clock.run(main())
    return cut


def numbers(run: StoredRun, phase: str = "steady") -> list[int]:
    return sorted(int(call.id.rpartition("/")[2]) for call in run.operations("call", phase))


def consistent(run: StoredRun) -> None:
    """No name twice, every turn has its call, and no instant of a segment is before the one before it."""
    operations = [*run.operations("call"), *run.operations("turn")]
    assert [name for name, count in Counter(one.id for one in operations).items() if count > 1] == []
    assert {turn.parent for turn in run.operations("turn")} <= {call.id for call in run.operations("call")}
    for mark in run.marks("run.resumed"):
        cut_ns = mark.detail["cut_ns"]
        assert isinstance(cut_ns, int)
        assert cut_ns < mark.at_ns


# ---------------------------------------------------------------- where it is taken up


@pytest.mark.parametrize("shape", ["steady", "poisson", "burst", "held"])
@pytest.mark.parametrize("seconds", [11.0, 30.5, 47.25, 69.99])
def test_every_arrival_of_the_schedule_came_once(plan: Path, journal: Path, shape: str, seconds: float) -> None:
    begun(plan, journal, seconds, shape)
    at = continued(journal).resumption.continuation
    with open_run(journal) as run:
        consistent(run)
        came = set(numbers(run))
        if shape != "held":  # who waits for others is not due at instants
            arrivals = load(plan, {"shape": shape}).plan.phases[1].arrivals
            due = check_arrivals(arrivals)
            assert came <= set(range(1, len(due) + 1))
            lost = [due[number - 1] for number in set(range(1, len(due) + 1)) - came]
            # One that came in the second before has left nothing behind yet.
            assert all(at.elapsed_ns - SECOND <= at_ns < at.elapsed_ns for at_ns in lost)
        assert [mark.name for mark in run.marks("phase.ended")] == ["warm-up", "steady", "cool-down"]
        assert [mark.name for mark in run.marks("phase.began")] == ["warm-up", "steady", "cool-down"]
        assert [mark.name for mark in run.marks("phase.resumed")] == ["steady"]


def test_the_schedule_goes_on_at_the_same_distances(plan: Path, journal: Path) -> None:
    begun(plan, journal, 30.5)
    cut = continued(journal).resumption.continuation
    assert (cut.segment, cut.phase, cut.done) == (2, "steady", frozenset({"warm-up"}))
    with open_run(journal) as run:
        due = [call.due_ns for call in run.operations("call", "steady")]
        (resumed,) = run.marks("phase.resumed")
        later = [at_ns for at_ns in due if at_ns >= resumed.at_ns]
        assert {b - a for a, b in pairwise(later)} == {SECOND}
        assert later[0] - resumed.at_ns < SECOND
        whole_s = (run.marks("phase.ended")[1].at_ns - resumed.at_ns) / SECOND + cut.elapsed_ns / SECOND
        assert whole_s == pytest.approx(69, abs=0.5), "60 s of arrivals, and the last call"


def test_a_number_in_progress_is_held_again_at_once(plan: Path, journal: Path) -> None:
    begun(plan, journal, 35, "held")
    continued(journal)
    with open_run(journal) as run:
        (resumed,) = run.marks("phase.resumed")
        began = [call.began_ns for call in run.operations("call", "steady")]
        assert began.count(resumed.at_ns) == 3


def test_an_idle_phase_is_idle_for_the_rest_of_its_time(plan: Path, journal: Path) -> None:
    begun(plan, journal, 25, "idle")
    continued(journal)
    with open_run(journal) as run:
        (resumed,) = run.marks("phase.resumed")
        ended = next(mark for mark in run.marks("phase.ended") if mark.name == "idle")
        assert (ended.at_ns - resumed.at_ns) / SECOND == pytest.approx(30 - 15, abs=1.1)


def test_calls_in_progress_stay_cut_off_and_are_not_judged(plan: Path, journal: Path) -> None:
    begun(plan, journal, 30.5)
    with open_run(journal) as run:
        in_progress = {turn.parent for turn in run.operations("turn")} - {call.id for call in run.operations("call")}
        assert len(in_progress) == 9
    continued(journal)
    with open_run(journal) as run:
        consistent(run)
        calls = {call.id: call for call in run.operations("call")}
        assert {calls[name].outcome for name in in_progress} == {"cut off"}
        assert {call.outcome for call in calls.values() if call.id not in in_progress} == {"ok"}
        judgement = judge(load(plan).plan, run)
        assert judgement.outcome is Outcome.PASS
        (whole,) = [one.because for one in judgement.validity if one.gate == "the journal is whole"]
        assert "segment 2 began at 20" in whole
        assert "after a cut 30 s after it began" in whole


def test_it_can_be_cut_again_and_stopped_and_still_comes_to_its_end(plan: Path, journal: Path) -> None:
    begun(plan, journal, 20)
    continued(journal, 15)
    third = continued(journal, 12.5, stop=True).resumption.continuation
    assert (third.segment, third.phase) == (3, "steady")
    fourth = continued(journal).resumption.continuation
    assert (fourth.segment, fourth.why) == (4, "stopped by Ctrl-C")
    assert fourth.elapsed_ns / SECOND == pytest.approx(10 + 15 + 12.5, abs=2.5)
    with open_run(journal) as run:
        consistent(run)
        assert numbers(run) == list(range(1, 61))
        assert [mark.detail["segment"] for mark in run.marks("run.resumed")] == [2, 3, 4]
        assert len(run.marks("run.ended")) == 1
        because = judge(load(plan).plan, run).validity[0].because
    assert because.count("after a cut") == 3
    assert because.endswith("stopped by Ctrl-C")


@pytest.mark.parametrize(("seconds", "done"), [(9.99, set()), (79.5, {"warm-up", "steady"})])
def test_a_cut_in_another_phase(plan: Path, journal: Path, seconds: float, done: set[str]) -> None:
    begun(plan, journal, seconds)
    cut = continued(journal).resumption.continuation
    assert cut.done == done
    with open_run(journal) as run:
        consistent(run)
        assert numbers(run, "cool-down") == numbers(run, "warm-up") == [1, 2]
        assert numbers(run) == list(range(1, 61))


def test_a_run_that_was_cut_when_all_was_done_only_has_its_end_added(plan: Path, journal: Path) -> None:
    begun(plan, journal, 1e6)
    with closing(sqlite3.connect(journal)) as harmed, harmed:
        harmed.execute("DELETE FROM marks WHERE kind = 'run.ended'")
    continued(journal)
    with open_run(journal) as run:
        assert numbers(run) == list(range(1, 61))
        assert judge(load(plan).plan, run).outcome is Outcome.PASS


def test_the_clock_of_the_same_machine_is_not_moved(plan: Path, journal: Path) -> None:
    begun(plan, journal, 30.5, boot=boot_id() or "this one")
    cut = cut_run(journal, 5000 * SECOND).resumption.continuation
    if boot_id():
        assert cut.moved_ns == 0
        assert cut.cut_ns == pytest.approx(30.5 * SECOND, abs=2 * SECOND)
    earlier = cut_run(journal, 3 * SECOND).resumption.continuation
    with open_run(journal) as run:
        assert 3 * SECOND + earlier.moved_ns == run.last_ns() + SECOND


# ---------------------------------------------------------------- what is not taken up


def refusal(journal: Path, error: type[JournalError | PlanError]) -> str:
    with pytest.raises(error) as refused:
        cut_run(journal, SECOND)
    return str(refused.value)


def test_a_run_that_came_to_its_end_is_not_taken_up(plan: Path, journal: Path) -> None:
    begun(plan, journal, 1e6)
    assert refusal(journal, JournalError) == (
        f"{journal}: its run came to its end, nothing is left to continue; judge it, or make another"
    )


def test_a_run_that_never_began_is_not_taken_up(journal: Path) -> None:
    Journal.create(journal, {}).close()
    assert "its run never began; make it again" in refusal(journal, JournalError)


def test_a_run_of_several_processes_is_not_taken_up(plan: Path, journal: Path) -> None:
    begun(plan, journal, 20, processes=4)
    assert "its run was shared by 4 processes" in refusal(journal, JournalError)


def test_a_run_that_is_still_going_on_is_not_taken_up(plan: Path, journal: Path) -> None:
    begun(plan, journal, 20)
    with Journal.reopen(journal):
        assert "is still being written by a running busyhour" in refusal(journal, JournalError)


def test_a_plan_that_was_changed_is_not_the_same_run_unless_one_says_so(plan: Path, journal: Path) -> None:
    begun(plan, journal, 20)
    plan.write_text(PLAN + "\n# changed\n")
    assert f"{plan}: it has changed since {journal} was begun" in refusal(journal, PlanError)
    assert cut_run(journal, SECOND, changed_plan=True).seed == 5
    plan.write_text(PLAN.replace('"steady", arrivals', '"other", arrivals'))
    with pytest.raises(PlanError, match="the plan has no phase 'steady' any more, in which its run was cut"):
        cut_run(journal, SECOND, changed_plan=True)
    plan.unlink()
    assert "is no longer there; put it back" in refusal(journal, PlanError)


def test_what_no_plan_made_is_not_taken_up(plan: Path, journal: Path) -> None:
    begun(plan, journal, 20, plan=None)
    assert "it does not say which plan made it" in refusal(journal, JournalError)


def test_how_calls_were_to_be_recorded_is_remembered(plan: Path, journal: Path) -> None:
    begun(plan, journal, 20, recording={"all": True, "sample": 5, "worst": 10, "at_once": 20})
    assert cut_run(journal, SECOND).file.plan.recording.all
