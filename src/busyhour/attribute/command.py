"""`busyhour attribute`: the flags, the sequence, and what is printed."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from rich.console import Console

from busyhour import preflight
from busyhour.attribute import rounds
from busyhour.attribute.commands import EXTRA, check_memray, python_of, tracked
from busyhour.attribute.desk import Desk
from busyhour.attribute.reading import Held, Line, held, named
from busyhour.attribute.rounds import Counted, Rounds
from busyhour.conduct import conduct
from busyhour.errors import JournalError, PlanError, ServiceError
from busyhour.planfile import PlanFile
from busyhour.services import Command

EXAMPLE = "busyhour attribute plans/telephone.py -o scale=0.5 --calls 20 --native"
INTERRUPTED = 130
_MOST_CALLS = 500  # a capture is some MB a call
_SHOWN = 15
_LEAST_BYTES = 1000  # of a line that is shown
_MB = 1_000_000
_KB = 1000


def arguments(sub: argparse.ArgumentParser, plan_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """The flags."""
    sub.add_argument("plan", help="the plan file")
    plan_options(sub)
    sub.add_argument("--phase", default="", help="whose calls (default: the first conversation without faults)")
    sub.add_argument("--calls", type=int, default=20, help="to attribute (default 20)")
    sub.add_argument("--warm-up", type=int, default=10, metavar="CALLS", help="before them (default 10)")
    sub.add_argument("--at-once", type=int, default=5, metavar="CALLS", help="in progress at once (default 5)")
    sub.add_argument(
        "--settle", type=float, default=3.0, metavar="SECONDS", help="for the target to come to rest (default 3)"
    )
    sub.add_argument("--native", action="store_true", help="name the functions of C as well (slower)")
    sub.add_argument("--capture", metavar="FILE", help="keep memray's capture, for its own reports")
    sub.add_argument("--seed", type=int, default=0, help="of the callers' random choices (default 0)")


def attribute(chosen: argparse.Namespace, file: PlanFile, out: TextIO, *, console: Console) -> int:
    """Call the target, and print which lines held memory; returns the exit code.

    Raises PlanError before anything is started for what is wrong with plan, flags or installation; ServiceError when
    the target does not start, dies, or cannot be tracked; JournalError when the capture cannot be kept.
    """
    asked = _rounds(chosen)
    phase = rounds.phase_of(file.plan, chosen.phase)
    target = file.plan.target
    python = python_of(target)
    assert isinstance(target, Command), "or there were no Python in it"
    if find_spec("memray") is None:
        raise PlanError(f"memray is not installed; install it with busyhour's extra: {EXTRA}")
    check_memray(target, python)
    with tempfile.TemporaryDirectory(prefix="busyhour-attribute-") as temporary:
        folder = Path(temporary)
        desk = Desk(folder=folder, native=chosen.native)
        plan, counted = rounds.plan_of(file.plan, phase, tracked(target, python, desk.socket), desk, asked)
        preflight.check(plan)
        ended = conduct(
            file, plan, journal=folder / "journal", seed=chosen.seed, console=console, title=f"attribute {phase.name}"
        )
        if ended.interrupted:
            console.print("interrupted; nothing is attributed")
            return INTERRUPTED
        if ended.stopped is not None:
            raise ServiceError(f"the run was cut short: {ended.stopped}")
        if chosen.capture is not None:
            _keep(desk.captures, Path(chosen.capture))
        found = held(desk.captures, package=python.package, native=chosen.native)
    out.writelines(f"{line}\n" for line in told(found, counted, asked, phase.name, target.name))
    return 0


def _rounds(chosen: argparse.Namespace) -> Rounds:
    wrong = []
    if not 2 <= chosen.calls <= _MOST_CALLS:
        wrong.append(f"--calls {chosen.calls}: give 2 to {_MOST_CALLS}")
    if not 0 <= chosen.warm_up <= _MOST_CALLS:
        wrong.append(f"--warm-up {chosen.warm_up}: give 0 to {_MOST_CALLS}")
    if not 1 <= chosen.at_once <= _MOST_CALLS:
        wrong.append(f"--at-once {chosen.at_once}: give 1 to {_MOST_CALLS}")
    if not 0 <= chosen.settle <= 600:
        wrong.append(f"--settle {chosen.settle:g}: give 0 to 600 seconds")
    if wrong:
        raise PlanError(wrong)
    return Rounds(warm_up=chosen.warm_up, calls=chosen.calls, at_once=chosen.at_once, settle_seconds=chosen.settle)


def _keep(captures: Sequence[Path], to: Path) -> None:
    """One under the name that was given; those of further processes beside it, by their pid."""
    try:
        for number, capture in enumerate(captures):
            shutil.copyfile(capture, to if number == 0 else to.with_name(f"{to.name}.{capture.stem}"))
    except OSError as error:
        raise JournalError(f"{to}: the capture cannot be written there: {error.strerror}; give another place") from None


# ---------------------------------------------------------------- what is said


def told(found: Held, counted: Counted, asked: Rounds, phase: str, target: str) -> Iterator[str]:
    """The lines to print."""
    calls = counted.outcomes.total()
    others = ", ".join(f"{number} {outcome}" for outcome, number in counted.outcomes.items() if outcome != "ok")
    yield (
        f"{target}: in {calls} calls of {phase} ({others or 'all ok'}), after {asked.warm_up} to warm up, it allocated "
        f"{found.held_bytes / _MB:.2f} MB that it held when they were over"
    )
    late = asked.halves[1]
    yield (
        f"{found.held_bytes / _KB / calls:.1f} KB a call; {found.late_bytes / _KB / late:.1f} KB a call in the second "
        "half: what is once only, such as a pool or a cache, is in the first"
    )
    shown = [line for line in found.lines if line.held_bytes >= _LEAST_BYTES][:_SHOWN]
    if not shown:
        yield f"no line held {_LEAST_BYTES} bytes"
        return
    for own in (True, False):
        mine = [line for line in shown if line.own is own]
        if mine:
            yield ""
            yield f"{'own code' if own else 'libraries':9} {'MB':>7} {'KB/call':>9} {'2nd half':>9} {'blocks/call':>12}"
            for line in mine:
                yield from _row(line, calls, late)
    yield ""
    yield "a leak has as much in the second half as in both; KB are 1000 bytes"


def _row(line: Line, calls: int, late: int) -> Iterator[str]:
    yield (
        f"{'':9} {line.held_bytes / _MB:7.3f} {line.held_bytes / _KB / calls:9.1f} {line.late_bytes / _KB / late:9.1f} "
        f"{line.blocks / calls:12.1f}  {named(line.frame)}"
    )
    if line.via:
        yield f"{'':50}  by {line.via}"
    if line.in_c:
        yield f"{'':50}  in C by {line.in_c}"
