"""Verdicts on the way: a run so far is judged by its own plan, and ended only when a gate is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from busyhour import checkpoints
from busyhour.checkpoint import judged_so_far, main
from busyhour.checkpoints import CheckFailed, Checking, Checkpoints, judged
from busyhour.clock import VirtualClock
from busyhour.errors import PlanError
from busyhour.journal import Journal
from busyhour.model import SECOND, Mark, Operation, Sample
from busyhour.testing import call

PLAN = """
from busyhour.arrivals import Burst
from busyhour.carriers.memory import MemoryService
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import call_success, dropped
from busyhour.model import Phase, Plan
from busyhour.workloads.idle import Idle

first, second = (Phase(name, Burst(1), Idle(1)) for name in ("first", "second"))
plan = Plan(
    target=MemoryService("agent"),
    phases=[first, second],
    gates=[AtLeast(call_success(phase), 90, "%") for phase in (first, second)],
    valid_if=[AtMost(dropped(), 0)],
)
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Of a run in its second phase: in the first most calls failed, in the second all so far."""
    plan, path = tmp_path / "plan.py", tmp_path / "run.journal"
    plan.write_text(PLAN)
    with Journal.create(path, {"plan": str(plan), "options": {}, "source": PLAN}) as notebook:
        marks = [("run.began", ""), ("phase.began", "first"), ("phase.ended", "first"), ("phase.began", "second")]
        for at, (kind, name) in enumerate(marks):
            notebook.append(Mark(at * 100 * SECOND, kind, name))
        for number in range(1, 61):
            notebook.append(call(number, phase="first", outcome="lost" if number % 2 else "ok", at_s=number, seconds=9))
            notebook.append(call(number, phase="second", outcome="lost", at_s=300 + number, seconds=9))
    return path


def test_a_run_that_goes_on_is_judged_as_if_it_were_stopped_now(journal: Path) -> None:
    verdicts = {str(one["gate"]): one for one in judged_so_far(journal)}
    first, second = (verdicts[f"rate of successful calls in {phase} >= 90 %"] for phase in ("first", "second"))
    assert (first["outcome"], first["over"]) == ("fail", True)
    assert (second["outcome"], second["over"]) == ("fail", False)
    assert "50 %" in str(first["because"])
    assert verdicts["count of dropped arrivals <= 0"]["outcome"] == "pass"
    assert not verdicts["count of dropped arrivals <= 0"]["over"]
    assert len(verdicts) == 3


def test_it_is_judged_by_a_process_of_its_own_also_while_it_is_written(journal: Path) -> None:
    with Journal.reopen(journal) as writing:
        writing.append(Mark(500 * SECOND, "service.started", "agent"))
        assert asyncio.run(judged(journal)) == judged_so_far(journal)


def test_what_cannot_be_judged_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckFailed, match="there is no journal"):
        asyncio.run(judged(tmp_path / "none.journal"))
    path = tmp_path / "planless.journal"
    Journal.create(path, {}).close()
    with pytest.raises(CheckFailed, match="it does not say which plan made it"):
        asyncio.run(judged(path))
    assert main([str(tmp_path / "none.journal")]) == 66
    assert "there is no journal" in capsys.readouterr().err


# ---------------------------------------------------------------- when a run is lost


def verdict(gate: str, outcome: str, *, over: bool = False) -> dict[str, Any]:
    return {"gate": gate, "outcome": outcome, "because": f"{gate} is bad", "over": over}


def checked(
    monkeypatch: pytest.MonkeyPatch, looks: Sequence[list[dict[str, Any]] | CheckFailed], *, stop_on_fail: bool = True
) -> tuple[list[Mark], list[str], list[str]]:
    """The marks, the lines and the stops of a run with these looks at it, ten seconds apart."""
    clock, at = VirtualClock(), iter(looks)
    written: list[Operation | Sample | Mark] = []
    said, stopped = list[str](), list[str]()

    async def look(_journal: Path) -> list[dict[str, Any]]:
        found = next(at)
        if isinstance(found, CheckFailed):
            raise found
        return found

    monkeypatch.setattr(checkpoints, "judged", look)
    asked = Checkpoints(every_seconds=10, stop_on_fail=stop_on_fail)
    checking = Checking(asked, Path("run.journal"), clock, written.append, said.append, stopped.append)

    async def run() -> None:
        async with checking.running():
            await clock.sleep_until(10 * SECOND * len(looks) + SECOND)

    clock.run(run())
    return [mark for mark in written if isinstance(mark, Mark)], said, stopped


def test_each_checkpoint_is_written_down_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [[verdict("a", "pass"), verdict("b", "inconclusive")], [verdict("a", "pass"), verdict("b", "fail")]]
    marks, said, stopped = checked(monkeypatch, looks)
    assert [mark.at_ns / SECOND for mark in marks] == pytest.approx([10, 20], abs=0.01)
    assert [mark.kind for mark in marks] == ["checkpoint"] * 2
    assert marks[1].detail["verdicts"] == looks[1]
    assert said == [
        "checkpoint after 10 s: 1 pass, 1 inconclusive",
        "checkpoint after 20 s: 1 pass, 1 fail; b is bad",
    ]
    assert stopped == []


PASS, FAIL, LAST = verdict("a", "pass"), verdict("a", "fail"), verdict("a", "fail", over=True)


@pytest.mark.parametrize(
    ("looks", "stop_at"),
    [
        ([[PASS], [LAST]], 20),
        ([[FAIL], [FAIL]], 20),
        ([[FAIL], [PASS], [FAIL]], None),  # many looks: one of them may fail by chance
        ([[FAIL], [verdict("b", "fail")]], None),
        ([[verdict("a", "invalid", over=True)]], None),
        ([[FAIL], CheckFailed("no"), [FAIL]], 30),
    ],
    ids=["over", "twice", "now and then", "another", "invalid", "with a look missed"],
)
def test_a_gate_is_lost_when_it_is_over_or_failed_twice(
    monkeypatch: pytest.MonkeyPatch, looks: list[list[dict[str, Any]] | CheckFailed], stop_at: int | None
) -> None:
    _, _, stopped = checked(monkeypatch, looks)
    if stop_at is None:
        assert stopped == []
    else:
        assert stopped[0] == f"stopped at the checkpoint after {stop_at} s, for this can no longer pass: a is bad"
    assert checked(monkeypatch, looks, stop_on_fail=False)[2] == []


def test_a_look_that_failed_is_told_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    marks, said, stopped = checked(monkeypatch, [CheckFailed("judging took too long"), [PASS]])
    assert marks[0].detail == {"why": "judging took too long"}
    assert said[0] == "checkpoint after 10 s: there are no verdicts: judging took too long"
    assert len(marks) == 2
    assert stopped == []


@pytest.mark.parametrize("every_seconds", [0, -1, 0.5, float("nan"), float("inf")])
def test_checkpoints_have_a_distance(every_seconds: float) -> None:
    with pytest.raises(PlanError, match="give 1 s or more; 3600 is an hour"):
        Checkpoints(every_seconds=every_seconds)
