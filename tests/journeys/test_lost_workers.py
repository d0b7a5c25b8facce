"""Runs in several processes that end as nobody planned: a worker is killed, or the leader, or Ctrl-C is pressed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from busyhour.cli import main

from .runs import Traces, arguments, busyhour, marks, operations, until

SHARED = Path(__file__).parents[1] / "plans" / "shared.py"
SOON_SECONDS = 90
LONG = {"hold": 300, "calls": 200}


def workers(journal: Path) -> list[int]:
    told = next((m.detail["pids"] for m in marks(journal, "service.started") if m.name == "workers"), [])
    assert isinstance(told, list)
    return [int(str(pid)) for pid in told]


def parts(journal: Path) -> list[Path]:
    return sorted(journal.parent.glob(f"{journal.name}.worker-*[0-9]"))


def in_calls(journal: Path) -> bool:
    """Every worker has calls in progress, as its journal says already."""
    return len(parts(journal)) >= 2 and all(len(operations(part, "greeting")) >= 2 for part in parts(journal))


def test_a_killed_worker_makes_the_run_invalid_and_takes_only_its_share(  # type: ignore[no-untyped-def]
    journal, traces, capsys
) -> None:
    words = [*arguments(journal, hold=0.5, calls=48, per_second=8), "--processes", "2"]
    with busyhour(*words) as leader:
        until(lambda: in_calls(journal), SOON_SECONDS)
        os.kill(workers(journal)[1], signal.SIGKILL)
        out, err = leader.communicate(timeout=SOON_SECONDS)
    assert leader.returncode == 3
    assert "Traceback" not in err
    assert traces.left() == []
    assert "INVALID nothing disturbed the services: worker 2 of 2 was killed by SIGKILL;" in " ".join(out.split())
    (died,) = marks(journal, "service.died")
    calls = operations(journal, "call")
    numbers = [int(call.id.removeprefix("talk/")) for call in calls]
    first = [number for number in numbers if number % 2 == 1]
    assert sorted(first) == list(range(1, 49, 2))  # worker 1 went on to the end of its share
    assert len(set(numbers)) == len(numbers)
    assert 0 < int(str(died.detail["lost"])) <= 24
    dropped = sum(int(str(mark.detail["count"])) for mark in marks(journal, "arrival.dropped"))
    assert dropped == died.detail["lost"]
    assert any(number % 2 == 0 for number in greeted(journal))  # of the dead one, what it had written is kept
    assert not parts(journal)


def greeted(journal: Path) -> list[int]:
    return [int(one.id.split("/")[1]) for one in operations(journal, "greeting")]


def test_ctrl_c_ends_the_leader_and_its_workers_in_order(journal: Path, traces: Traces) -> None:
    with busyhour(*arguments(journal, **LONG), "--processes", "2") as leader:
        until(lambda: in_calls(journal), SOON_SECONDS)
        os.killpg(leader.pid, signal.SIGINT)
        _, err = leader.communicate(timeout=SOON_SECONDS)
    assert leader.returncode in {2, 3}
    assert err.endswith("The run was cut short: stopped by Ctrl-C\n")
    assert "Traceback" not in err
    assert traces.left() == []
    calls = operations(journal, "call")
    assert {call.outcome for call in calls} == {"cut off"}  # whose rows are all there
    (began,) = marks(journal, "phase.began")
    assert len(calls) == len({call.id for call in calls}) >= 4
    assert not parts(journal)
    assert began.name == "talk"


def test_a_killed_leader_leaves_no_worker(journal: Path, traces: Traces) -> None:
    with busyhour(*arguments(journal, **LONG), "--processes", "2") as leader:
        until(lambda: in_calls(journal), SOON_SECONDS)
        assert len(traces.left()) == 1 + 2 * 2 + 2  # the leader; two workers and an agent, each below its supervisor
        leader.send_signal(signal.SIGKILL)
        leader.wait()
        until(lambda: not traces.left(), SOON_SECONDS)
    assert main(["judge", str(journal)]) == 3
    assert len(parts(journal)) == 2  # theirs are kept


def test_when_no_worker_is_left_the_run_ends_at_once(journal: Path, traces: Traces) -> None:
    with busyhour(*arguments(journal, **LONG), "--processes", "2") as leader:
        until(lambda: in_calls(journal), SOON_SECONDS)
        for pid in workers(journal):
            os.kill(pid, signal.SIGKILL)
        _, err = leader.communicate(timeout=SOON_SECONDS)
    assert leader.returncode == 69
    assert "busyhour: no worker is left: worker 1 was killed by SIGKILL; worker 2 was killed by SIGKILL" in err
    assert traces.left() == []
    assert operations(journal, "greeting")


def test_a_bug_in_a_workers_workload_ends_the_run_and_names_the_worker(journal: Path, traces: Traces, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["run", str(SHARED), "--journal", str(journal), "--processes", "2", "-o", "kind=broken"]) == 70
    err = capsys.readouterr().err
    assert "worker 2: a bug of busyhour's own, or of the plan's workload: ZeroDivisionError" in err
    assert traces.left() == []
    (failed,) = marks(journal, "run.failed")
    assert "ZeroDivisionError" in str(failed.detail["why"])
