"""What a person sees while a run is going on."""

from __future__ import annotations

from rich.console import Console

from busyhour.arrivals import Burst
from busyhour.live import render
from busyhour.model import MS, SECOND, Operation, Phase
from busyhour.performing import Progress
from busyhour.workloads.idle import Idle


def panel(progress: Progress) -> dict[str, str]:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(render(progress, 75 * SECOND, "telephone"))
    lines = capture.get().splitlines()
    return {name: rest.strip() for name, _, rest in (line.strip().partition(" ") for line in lines)}


def entered() -> Progress:
    progress = Progress(phases=3)
    progress.enter(Phase("steady", Burst(1), Idle(seconds=1)), 2, 0)
    progress.started, progress.finished = 5, 2
    return progress


def test_before_the_first_phase_it_says_what_is_being_done() -> None:
    assert panel(Progress()) == {"telephone": "starting"}


def test_what_only_calls_have_is_not_told_of_requests() -> None:
    told = panel(entered())
    assert list(told) == ["telephone", "phase", "arrivals"]
    assert told["phase"] == "steady (2 of 3), 1:15"
    assert told["arrivals"] == "3 in progress, 2 over, 0 failed, 0 dropped"


def test_turns_and_lateness_are_told_when_there_are_any() -> None:
    progress = entered()
    progress.note(Operation(id="1", kind="turn", phase="steady", due_ns=0, ended_ns=500 * MS))
    progress.note(Operation(id="2", kind="turn", phase="steady", due_ns=0))
    progress.note_lateness([(0.25, 10)])
    told = panel(progress)
    assert told["turns"] == "2 turns, 1 unanswered, response p50 500 ms, p95 500 ms"
    assert told["harness"] == "frames sent p99 0.25 ms late"
