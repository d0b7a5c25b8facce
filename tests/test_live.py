"""What a person sees while a run is going on."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from busyhour.arrivals import Burst
from busyhour.clock import VirtualClock
from busyhour.live import render, shown
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


def busy(phase: str) -> Progress:
    progress = Progress(phases=12)
    progress.enter(Phase(phase, Burst(1), Idle(seconds=1)), 11, 0)
    progress.started, progress.finished, progress.failed, progress.dropped = 123456, 123400, 12345, 1234
    progress.note(Operation(id="1", kind="turn", phase=phase, due_ns=0, ended_ns=12345 * MS))
    progress.note_lateness([(1234.56, 10)])
    return progress


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize(
    "phase", ["llm brown-out with a name that is as long as a line of a terminal may be", "[/red] [1]"]
)
def test_the_panel_fits_the_terminal_and_loses_no_word(columns: int, phase: str) -> None:
    console = Console(width=columns)
    with console.capture() as capture:
        console.print(render(busy(phase), 75 * SECOND, "telephone"))
    told = capture.get()
    assert max(map(len, told.splitlines())) <= columns
    for words in (phase, "56 in progress, 123400 over, 12345 failed, 1234 dropped", "p95 12345 ms", "1234.56 ms late"):
        assert set(words.split()) <= set(told.replace(",\n", ", \n").split()), words


@pytest.mark.parametrize(
    ("environment", "terminal"),
    [({}, False), ({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, True)],
    ids=["a pipe", "NO_COLOR", "a dumb terminal"],
)
async def test_without_a_terminal_to_draw_on_it_is_lines(environment: dict[str, str], terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80, _environ={"TERM": "xterm", **environment})
    async with shown(busy("[/red]"), console=console, clock=VirtualClock(), title="telephone"):
        await asyncio.sleep(0)  # its first line comes at once
    told = out.getvalue()
    assert "\x1b" not in told
    assert told.startswith("telephone: [/red] (11 of 12), 0:00; 56 in progress, 123400 over, 12345 failed")
    assert (max(map(len, told.splitlines())) <= 80) is terminal


async def test_a_terminal_has_a_panel_which_is_gone_in_the_end() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    async with shown(busy("steady"), console=console, clock=VirtualClock(), title="telephone"):
        await asyncio.sleep(0)
    assert "steady (11 of 12)" in out.getvalue()
    assert out.getvalue().count("\x1b[2K") >= 5  # each of its lines is erased
