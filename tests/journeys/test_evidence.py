"""Evidence survives, on real processes and disks: kills, a full disk, a stop, a jump of the wall clock; continued."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from busyhour.cli import main
from busyhour.model import SECOND, Operation
from busyhour.proc import stat

from . import small_disk
from .runs import arguments, busyhour, marks, operations, pid_of, until

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
STEADY = {"calls": 20, "per_second": 5, "hold": 1}
SOON_SECONDS = 40


def calls_over(journal: Path, least: int) -> bool:
    return len(operations(journal, "call")) >= least


def numbers(calls: list[Operation]) -> list[int]:
    return sorted(int(call.id.rpartition("/")[2]) for call in calls)


# ---------------------------------------------------------------- killed


def test_a_run_that_is_killed_at_any_moment_leaves_a_beginning_of_its_evidence() -> None:
    crashes = [sys.executable, str(ROOT / "benchmarks" / "crashes.py"), "--kills", "5", "--seconds", "1.5"]
    crashes += ["--lost-seconds-max", "5"]  # on a machine that is five times as slow a commit comes so late
    done = subprocess.run(
        [*crashes, "--lost-seconds-max", "5"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    assert done.returncode == 0, done.stdout
    assert "inconsistent" in done.stdout


def test_a_killed_run_is_continued_to_its_end_and_judged_as_one(journal, traces, capsys) -> None:  # type: ignore[no-untyped-def]
    with busyhour(*arguments(journal, **STEADY)) as run:
        until(lambda: calls_over(journal, 3))
        assert main(["resume", str(journal)]) == 66
        assert "is still being written by a running busyhour" in capsys.readouterr().err
        run.kill()
        run.wait()
        until(lambda: not traces.left())
    agent = pid_of(journal, "agent")
    with busyhour("resume", str(journal)) as again:
        out, err = again.communicate(timeout=SOON_SECONDS)
    assert again.returncode == 0, out + err
    assert "Segment 2 goes on" in err
    assert "s into the phase 'talk'" in err
    assert "the journal is whole: segment 2 began at 20" in out
    assert traces.left() == []
    calls = operations(journal, "call")
    outcomes = Counter(call.outcome for call in calls)
    assert set(outcomes) <= {"ok", "cut off"}
    left_out = re.search(r"rate of successful calls.*\((\d+) calls? (?:is|are) left out, for the run was cut", out)
    assert left_out is not None
    assert outcomes["cut off"] <= int(left_out[1]) <= outcomes["cut off"] + 1, "the last that was over"
    assert len(set(numbers(calls))) == len(calls)
    assert numbers(calls)[-1] == 20
    assert {turn.parent for turn in operations(journal, "greeting")} <= {call.id for call in calls}
    started = [mark for mark in marks(journal, "service.started") if mark.name == "agent"]
    assert len(started) == 2, "by which a trend can be told to begin anew"
    assert started[1].detail["pids"] != [agent]
    assert not journal.with_name(journal.name + "-wal").exists()
    assert main(["resume", str(journal)]) == 66
    assert "its run came to its end, nothing is left to continue" in capsys.readouterr().err


def test_a_run_that_was_stopped_by_hand_is_continued(journal, traces) -> None:  # type: ignore[no-untyped-def]
    with busyhour(*arguments(journal, **STEADY)) as run:
        until(lambda: calls_over(journal, 2))
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=SOON_SECONDS)
    assert run.returncode in {2, 3}
    with busyhour("resume", str(journal)) as again:
        out, err = again.communicate(timeout=SOON_SECONDS)
    assert again.returncode == 0, out + err
    assert "after a cut" in out
    assert ": stopped by Ctrl-C" in out
    calls = operations(journal, "call")
    assert {call.outcome for call in calls} == {"ok", "cut off"}
    assert numbers(calls) == list(range(1, 21)), "winding it up took none from the schedule"
    assert traces.left() == []


# ---------------------------------------------------------------- a full disk


def test_a_disk_that_becomes_full_ends_the_run_which_is_judged_as_far_as_it_went(tmp_path: Path, traces) -> None:  # type: ignore[no-untyped-def]
    disk, verdicts = tmp_path / "disk", tmp_path / "verdicts"
    disk.mkdir()
    journal = disk / "run.journal"
    words = arguments(journal, calls=2000, per_second=20, hold=1)
    run = f"{sys.executable} -m busyhour {' '.join(words)} --record all >/dev/null; echo exit $? >&2; "
    judge = f"{sys.executable} -m busyhour judge {journal} >{verdicts} 2>&1; echo judged $? >&2"
    small = [sys.executable, small_disk.__file__, str(disk), str(10 << 20), "/bin/sh", "-c", run + judge]
    done = subprocess.run(small, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode == small_disk.NOT_ALLOWED:  # then the journal's own tests have refused it in another way
        assert done.stdout == done.stderr == ""
        return
    assert traces.left() == []
    assert "exit 66\n" in done.stderr
    complaint = next(line for line in done.stderr.splitlines() if line.startswith("busyhour: "))
    assert complaint.startswith(f"busyhour: {journal} cannot be written: database or disk is full")
    assert complaint.endswith(f"; `busyhour resume {journal}` continues it")
    assert "Traceback" not in done.stderr
    told = verdicts.read_text()
    assert "judged 2\n" in done.stderr, told
    assert "PASS          the journal is whole\n" in told
    assert f"the run came to its end: {journal} cannot be written: database or disk is full" in told
    assert "rate of successful calls in talk is 100 %" in told


# ---------------------------------------------------------------- stopped, and another time of day


def test_a_harness_that_was_stopped_says_so_and_leaves_those_calls_out(journal, traces) -> None:  # type: ignore[no-untyped-def]
    with busyhour(*arguments(journal, calls=40, per_second=5, hold=1)) as run:
        until(lambda: calls_over(journal, 2))
        run.send_signal(signal.SIGSTOP)
        until(lambda: (now := stat(run.pid)) is not None and now.state == "T")
        threading.Event().wait(4)  # the time that passes is what is tested
        run.send_signal(signal.SIGCONT)
        out, err = run.communicate(timeout=SOON_SECONDS)
    assert run.returncode in {0, 2}, out + err
    (stopped,) = marks(journal, "harness.stopped")
    seconds, from_ns = stopped.detail["seconds"], stopped.detail["from_ns"]
    assert isinstance(seconds, float)
    assert isinstance(from_ns, int)
    assert 2 <= seconds <= (stopped.at_ns - from_ns) / SECOND
    assert "the journal is whole: the harness stood still for" in out
    assert " are left out, for the harness stood still for" in out
    assert marks(journal, "machine.suspended") == []
    (ended,) = marks(journal, "phase.ended")
    passed_over = ended.detail["passed_over"]
    assert isinstance(passed_over, int)
    assert passed_over >= 10, "what was due meanwhile"
    assert traces.left() == []


def test_a_run_that_is_lost_is_ended_at_a_checkpoint(journal, traces) -> None:  # type: ignore[no-untyped-def]
    words = arguments(journal, calls=2000, per_second=8, hold=1, mischief="hangs up")
    with busyhour(*words, "--checkpoint", "4", "--stop-on-fail") as run:
        out, err = run.communicate(timeout=2 * SOON_SECONDS)
    assert run.returncode == 1, out + err
    looks = marks(journal, "checkpoint")
    assert len(looks) >= 2
    lines = [line for line in err.splitlines() if line.startswith("checkpoint after ")]
    assert len(lines) == len(looks)
    assert "1 fail; rate of successful calls in talk is 0 %" in lines[-1]
    assert "The run was cut short: stopped at the checkpoint after " in err
    assert "for this can no longer pass: rate of successful calls in talk is 0 %" in err
    assert "FAIL          rate of successful calls in talk is 0 %" in out
    assert traces.left() == []


JUMPING = '''
"""Every process of the run: its wall clock jumps by up to a year, back and forth, each time that it is read."""
import datetime
import random
import time

def shift():
    return random.uniform(-31e6, 31e6)

real = datetime.datetime

class Jumping(real):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=shift())

seconds, nanoseconds = time.time, time.time_ns
time.time = lambda: seconds() + shift()
time.time_ns = lambda: nanoseconds() + int(1e9 * shift())
datetime.datetime = Jumping
'''


def test_a_wall_clock_that_jumps_changes_nothing(journal, traces, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(JUMPING)
    path = os.pathsep.join([str(modules), str(ROOT / "src")])
    with busyhour(*arguments(journal, calls=8, per_second=4, hold=1, model="yes"), PYTHONPATH=path) as run:
        out, err = run.communicate(timeout=SOON_SECONDS)
    assert run.returncode == 0, out + err
    calls = operations(journal, "call")
    assert numbers(calls) == list(range(1, 9))
    assert {call.outcome for call in calls} == {"ok"}
    due = [call.due_ns for call in calls]
    assert [b - a for a, b in pairwise(due)] == pytest.approx([SECOND / 4] * 7, abs=2)
    for call in calls:
        assert call.ended_ns is not None
        assert 0.9 < (call.ended_ns - call.due_ns) / SECOND < 30
    (began,), (ended,) = marks(journal, "run.began"), marks(journal, "run.ended")
    assert all(began.at_ns <= call.due_ns <= ended.at_ns for call in calls)
    assert marks(journal, "machine.suspended") == []
    assert traces.left() == []
