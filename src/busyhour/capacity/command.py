"""`busyhour capacity`: the flags, what is checked before anything is started, and what is printed as it is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console

from busyhour.capacity.finding import Capacity, Settings, find
from busyhour.capacity.level import phase_of
from busyhour.capacity.telling import document, lines_of, report, told
from busyhour.clock import wall_time
from busyhour.errors import JournalError, PlanError
from busyhour.model import EXIT_CODE, Outcome
from busyhour.planfile import PlanFile
from busyhour.preflight import DESCRIPTORS_A_CALL, room
from busyhour.statistics.capacity import Limit, Search

EXAMPLE = "busyhour capacity plans/telephone.py --phase steady --json capacity.json"
INTERRUPTED = 130
_MOST = 1000


def arguments(sub: argparse.ArgumentParser, plan_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """The flags."""
    sub.add_argument("plan", help="the plan file")
    plan_options(sub)
    sub.add_argument("--phase", default="", help="whose calls and gates (default: the first conversation)")
    sub.add_argument(
        "--most",
        type=int,
        metavar="CALLS",
        help=f"try no more (default {_MOST}, or as many as the machine has room for)",
    )
    sub.add_argument("--start", type=int, default=4, metavar="CALLS", help="where the ramp begins (default 4)")
    sub.add_argument("--seconds", type=float, default=60.0, help="to measure at each level, warm-up apart (default 60)")
    sub.add_argument(
        "--calls", type=int, default=30, help="to measure at each level at least, however long (default 30)"
    )
    sub.add_argument(
        "--warm-up", type=float, default=0.0, metavar="SECONDS", help="of each level (default: as long as a call is)"
    )
    sub.add_argument(
        "--resolution", type=float, default=0.05, metavar="SHARE", help="how near the two ends must be (default 0.05)"
    )
    sub.add_argument(
        "--confirm", type=int, default=2, metavar="RUNS", help="runs that must agree on either end (default 2)"
    )
    sub.add_argument("--at-least", type=int, metavar="CALLS", help="fail (1) when the capacity is below this")
    sub.add_argument("--journals", metavar="FOLDER", help="where to keep them (default: runs/capacity-PLAN-TIME)")
    sub.add_argument("--seed", type=int, default=0, help="of the callers' random choices (default 0)")
    sub.add_argument("--json", metavar="FILE", help="write the result as JSON too")
    sub.add_argument("--html", metavar="FILE", help="write the curve to look at: one HTML file")


def capacity(
    chosen: argparse.Namespace, file: PlanFile, files: Sequence[tuple[str, TextIO]], *, console: Console
) -> int:
    """Search, print each level as it is known, then what it all came to; returns the exit code.

    files: where else to write the result, as "json" or "html".

    Raises PlanError before anything is started for what is wrong with plan or flags; JournalError, ServiceError.
    """
    phase = phase_of(file.plan, chosen.phase)
    fits = room(DESCRIPTORS_A_CALL)
    if fits.count < (chosen.most or 1):
        raise PlanError(f"--most {chosen.most or 1}: only {fits.count} calls at once fit: {fits.because}")
    settings = Settings(
        search=Search(
            min(_MOST, fits.count) if chosen.most is None else chosen.most,
            start=chosen.start,
            resolution=chosen.resolution,
            confirm=chosen.confirm,
        ),
        window_seconds=chosen.seconds,
        calls=chosen.calls,
        warm_up_seconds=chosen.warm_up,
        seed=chosen.seed,
        fits=fits,
    )
    folder = Path(chosen.journals or f"runs/capacity-{file.path.stem}-{_stamp()}")
    _make(folder)
    found = None
    sys.stdout.write(f"phase {phase.name}, up to {settings.search.most} calls at once\n")
    for news in find(file, phase, settings, folder=folder, console=console):
        if isinstance(news, Capacity):
            found = news
            _conclude(news, files)
        else:
            sys.stdout.writelines(f"{line}\n" for line in told(news, file.plan.target.name))
        sys.stdout.flush()
    assert found is not None, "a search ends with what it found, or raises"
    return exit_code(found, chosen.at_least)


def _conclude(found: Capacity, files: Sequence[tuple[str, TextIO]]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in ("", *lines_of(found)))
    sys.stdout.write(f"\njournals: {found.folder}\n")
    for form, out in files:
        try:
            (_page if form == "html" else report)(found, out)
            out.flush()
        except OSError as error:
            raise JournalError(f"{out.name}: the result cannot be written there: {error.strerror}") from None


def _page(found: Capacity, out: TextIO) -> None:
    from busyhour.reports.html import page, tabled  # noqa: PLC0415  (templates and codecs, which few searches need)

    page.write_sections(f"Capacity of {found.target} in {found.phase}", [tabled.capacity(document(found))], out)


def exit_code(found: Capacity, at_least: int | None) -> int:
    """As of a verdict; with `at_least`, of the demand that the capacity be no less."""
    answer = found.answer
    if answer.limit is Limit.UNFINISHED and not found.seen:
        return INTERRUPTED
    if at_least is None:
        return EXIT_CODE[found.outcome]
    if answer.passed >= at_least and _believed(found, answer.passed, Outcome.PASS):
        return EXIT_CODE[Outcome.PASS]
    if answer.failed is not None and answer.failed <= at_least and _believed(found, answer.failed, Outcome.FAIL):
        return EXIT_CODE[Outcome.FAIL]
    return EXIT_CODE[max(found.outcome, Outcome.INCONCLUSIVE, key=list(Outcome).index)]


def _believed(found: Capacity, at_once: int, outcome: Outcome) -> bool:
    """A search that was cut short has not confirmed what it saw last."""
    times = sum(one.outcome is outcome for one in found.at(at_once))
    return found.answer.limit is not Limit.UNFINISHED or times >= found.confirm


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{folder} cannot be made a folder for the journals: {error.strerror}") from None


def _stamp() -> str:
    return wall_time()[:19].translate({ord("-"): None, ord(":"): None})
