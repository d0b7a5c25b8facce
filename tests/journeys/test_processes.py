"""`busyhour run --processes N`: the run in several processes is the run in one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from busyhour.cli import main
from busyhour.journal import open_run
from busyhour.model import Operation

from .runs import Traces, marks, operations

MEMORY = Path(__file__).parents[1] / "plans" / "memory.py"
SHARED = MEMORY.with_name("shared.py")
TOO_SMALL = "the phase 'talk' has room for 1 at once, which 2 processes cannot share"


def run(plan: Path, journal: Path, processes: int, *words: str) -> int:
    return main(["run", str(plan), "--journal", str(journal), "--processes", str(processes), "--seed", "5", *words])


def calls_of(journal: Path) -> dict[str, tuple[int, object]]:
    """What each call was to be: when it was due, after the first, and what was drawn for it."""
    calls = operations(journal, "call")
    first_ns = min(call.due_ns for call in calls)
    found = {call.id: (call.due_ns - first_ns, call.detail["scenario"]) for call in calls}
    assert len(found) == len(calls), "a call is there twice"
    return found


def test_two_processes_have_exactly_the_arrivals_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one.journal", tmp_path / "two.journal"
    assert run(SHARED, one, 1) == 0
    assert run(SHARED, two, 2) == 0
    assert calls_of(one) == calls_of(two)
    assert len(calls_of(one)) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.journal", "two.journal"]
    with open_run(one) as alone, open_run(two) as shared:
        for kind in ("greeting", "turn", "speech"):
            assert ids(alone.operations(kind)) == ids(shared.operations(kind))
        assert shared.meta["harnesses"] == ["harness/1", "harness/2"]
        assert "harnesses" not in alone.meta
        assert [m.kind for m in shared.marks("run.ended")] == ["run.ended"]
        for source in ("harness", "harness/1", "harness/2"):
            assert shared.samples(source, "loop_lag_ms")
    assert "PASS" in capsys.readouterr().out


def ids(found: object) -> list[str]:
    assert isinstance(found, list)
    return sorted(one.id for one in found if isinstance(one, Operation))


def test_bulk_requests_are_shared_and_none_is_asked_twice(tmp_path: Path) -> None:
    one, two = tmp_path / "one.journal", tmp_path / "two.journal"
    for journal, processes in ((one, 1), (two, 2)):
        assert run(SHARED, journal, processes, "-o", "kind=requests") == 0
    with open_run(one) as alone, open_run(two) as shared:
        assert ids(alone.operations("request")) == ids(shared.operations("request"))
        asked = [sum(s.count for s in found.samples("requests", "latency_ms", "ask")) for found in (alone, shared)]
        assert asked == [60, 60]


def test_held_calls_and_drops_are_those_of_the_whole(tmp_path: Path) -> None:
    journal = tmp_path / "run.journal"
    assert run(SHARED, journal, 3, "-o", "kind=held") == 0
    (ended,) = marks(journal, "phase.ended")
    calls = operations(journal, "call")
    assert ended.detail == {"started": len(calls), "dropped": 0}
    steps = sorted(step for c in calls for step in ((c.began_ns or 0, 1), (c.ended_ns or 0, -1)))
    in_progress = most = 0
    for _, step in steps:
        in_progress += step
        most = max(most, in_progress)
    assert most == 4  # of Hold(4): two in one process, one in each of the others


def test_a_fault_of_the_carrier_is_injected_in_every_worker(journal: Path, traces: Traces) -> None:
    assert run(SHARED, journal, 2, "-o", "kind=disturbed") == 0
    (proof,) = marks(journal, "fault.proof")
    assert proof.detail["effective"] is True
    assert "worker 1: " in str(proof.detail["because"])
    assert "worker 2: " in str(proof.detail["because"])
    assert [m.kind for m in (*marks(journal, "fault.began"), *marks(journal, "fault.ended"))] == [
        "fault.began",
        "fault.ended",
    ]
    calls = operations(journal, "call")
    assert {call.outcome for call in calls} == {"hung up early"}
    assert len(calls) == 12
    assert traces.left() == []


@pytest.mark.parametrize("carrier", ["telnyx", "texml", "twilio"])
def test_the_agents_commands_reach_the_worker_that_has_the_call(carrier: str, journal: Path, traces: Traces) -> None:
    assert run(SHARED, journal, 2, "-o", "kind=commands", "-o", f"carrier={carrier}") == 0
    calls = operations(journal, "call")
    assert [(call.outcome, call.detail["ended_by"]) for call in calls] == [("hung up early", "agent")] * 12
    assert traces.left() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--processes", "0"], "busyhour: --processes 0: give 1 or more\n"),
        (["--processes", "2", "-o", "at_once=1"], f"busyhour: {TOO_SMALL}; raise its at_once, or lower --processes\n"),
    ],
)
def test_bad_numbers_are_one_sentence(  # type: ignore[no-untyped-def]
    words, said, journal, capsys
) -> None:
    assert main(["run", str(MEMORY), "--journal", str(journal), *words]) == 64
    assert capsys.readouterr().err == said
    assert not journal.exists()


def test_a_carrier_that_cannot_be_divided_is_said_with_those_that_can(journal: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    crowded = MEMORY.with_name("crowded.py")
    assert main(["run", str(crowded), "--journal", str(journal), "--processes", "2"]) == 64
    err = capsys.readouterr().err
    assert err.startswith("busyhour: the carrier 'carrier' (Crowded) cannot be 2 processes at the same time; Telnyx, ")
    assert err.count("\n") == 1


def test_more_processes_than_cores_is_warned_of(journal: Path, traces: Traces, capsys) -> None:  # type: ignore[no-untyped-def]
    cores = len(os.sched_getaffinity(0))
    assert run(MEMORY, journal, cores + 1, "-o", "limit_ms=2000") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"note: --processes {cores + 1}: we may use {cores} core" in said
