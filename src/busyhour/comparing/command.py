"""`busyhour compare` and `busyhour history`: the flags, what is refused, and in which order things are done."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TextIO

from rich.console import Console

from busyhour.comparing import differing, metrics, past, telling, telling_past
from busyhour.comparing.metrics import DEATHS, Metric, Tolerance
from busyhour.comparing.reading import Origin, Reading, journals, plan_for, read
from busyhour.comparing.weighing import ALPHA, weighed
from busyhour.errors import JournalError, PlanError
from busyhour.planfile import PlanFile
from busyhour.statistics.shift import LEAST_RUNS, MOST_RUNS, runs_needed, smallest_p

EXAMPLE = "busyhour compare runs/main runs/branch --tolerance 5%"
EXAMPLE_HISTORY = "busyhour history runs/nightly"
AddPlanOptions = Callable[[argparse.ArgumentParser], None]


def arguments(sub: argparse.ArgumentParser, plan_options: AddPlanOptions) -> None:
    """The flags of `compare`."""
    sub.add_argument(
        "runs", nargs="+", metavar="RUN", help="A and B: two journals, or folders of them; with --to, all of A's"
    )
    sub.add_argument("--to", nargs="+", default=[], metavar="RUN", help="B's journals, or folders of them")
    sub.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="[NAME=]N",
        help="how much worse is borne: 5%% of A, 50ms, 2pp (points of a percentage); of all metrics, or of those whose "
        "name contains NAME (default 10%%, of percentages 1pp)",
    )
    sub.add_argument(
        "--even-if-different", action="store_true", help="compare runs of different plans, options, seeds or machines"
    )
    _add_common(sub, plan_options)


def history_arguments(sub: argparse.ArgumentParser, plan_options: AddPlanOptions) -> None:
    """The flags of `history`."""
    sub.add_argument("folder", help="the folder of journals")
    _add_common(sub, plan_options)


def _add_common(sub: argparse.ArgumentParser, plan_options: AddPlanOptions) -> None:
    sub.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="only metrics whose name contains this"
    )
    sub.add_argument(
        "--build",
        action="append",
        default=[],
        metavar="OPTION",
        help="an option of the plan that names the build, and so may differ: --build agent",
    )
    sub.add_argument("--plan", help="judge all runs by this plan (default: the one that made them)")
    sub.add_argument("--json", metavar="FILE", help="write the result as JSON too")
    plan_options(sub)


# ---------------------------------------------------------------- compare


def compare(
    chosen: argparse.Namespace, options: Mapping[str, str], out: TextIO, json: TextIO | None, *, console: Console
) -> int:
    """Judge all runs by one plan, and print what it comes to; returns the exit code: 1 for a regression, 2 where it is
    not decided, else 0.

    options: of the plan, in the place of those that the journals say. console: where progress is shown.
    Raises PlanError for wrong words, for runs that are not comparable, and where the plan is gone; JournalError.
    """
    tolerances = [Tolerance.parsed(text) for text in chosen.tolerance]
    origins = _sides(chosen)
    differing.twice(origins)
    differs = differing.forbidding(origins)
    _forbid(differs, even_if_different=chosen.even_if_different)
    file = plan_for([*origins[0], *origins[1]], chosen.plan, options)
    every = list(_judged([*origins[0], *origins[1]], file, console))
    sides = every[: len(origins[0])], every[len(origins[0]) :]
    if (more := differing.phases(_counted(sides))) and not any(reading.died for reading in every):
        _forbid([more], even_if_different=chosen.even_if_different)
        differs = [*differs, more]
    compared = _metrics(every, file, chosen.only)
    metrics.check(tolerances, compared)
    enough = all(any(not reading.left_out for reading in side) for side in sides)
    rows = weighed(compared, sides, tolerances) if enough else []
    notes = [*_notes(sides, file, len(rows)), *differing.worth_knowing(origins)]
    found = telling.Compared(file, sides, rows, differs, notes)
    telling.tell(found, out)
    if json is not None:
        _write(json, lambda: telling.report(found, json))
    return found.exit_code


def _sides(chosen: argparse.Namespace) -> tuple[list[Origin], list[Origin]]:
    if not chosen.to and len(chosen.runs) != 2:
        count = "only one was" if len(chosen.runs) == 1 else f"{len(chosen.runs)} were"
        raise PlanError(
            f"compare takes two runs, or two folders of runs, and {count} given; of more runs a side write: "
            "busyhour compare A1 A2 ... --to B1 B2 ..."
        )
    before, after = (chosen.runs, chosen.to) if chosen.to else (chosen.runs[:1], chosen.runs[1:])
    sides = tuple([Origin.of(path, chosen.build) for path in journals(places)] for places in (before, after))
    for name, side in zip("AB", sides, strict=True):
        if len(side) > MOST_RUNS:
            raise PlanError(f"{name} has {len(side)} runs; give the latest {MOST_RUNS} or fewer")
    return sides[0], sides[1]


def _forbid(differs: Sequence[str], *, even_if_different: bool) -> None:
    if differs and not even_if_different:
        raise PlanError(
            [
                "these runs differ by more than the build, so that a difference between them need not be its doing:",
                *(f"  {sentence}" for sentence in differs),
                "compare runs of one plan on one machine, or give --even-if-different",
            ]
        )


def _counted(sides: tuple[Sequence[Reading], Sequence[Reading]]) -> differing.Sides:
    before, after = ([one.origin for one in side if not one.left_out and not one.died] for side in sides)
    return before, after


def _judged(origins: Sequence[Origin], file: PlanFile, console: Console) -> Iterator[Reading]:
    """One at a time."""
    with console.status("") as status:
        for number, origin in enumerate(origins, start=1):
            status.update(f"judging {number} of {len(origins)}: {origin.path.name}")
            yield read(origin, file.plan)


def _metrics(readings: Sequence[Reading], file: PlanFile, only: Sequence[str]) -> list[Metric]:
    """Raises PlanError where the plan has none."""
    known = dict.fromkeys(metric for reading in readings for metric in reading.estimates if metric != DEATHS)
    if not known and any(reading.estimates and not reading.died for reading in readings):
        raise PlanError(f"{file.path}: its gates estimate nothing, so that there is nothing to compare")
    return metrics.chosen(known, only)


def _notes(sides: tuple[Sequence[Reading], Sequence[Reading]], file: PlanFile, tested: int) -> Iterator[str]:
    if file.source not in {reading.origin.source for reading in chain(*sides)}:
        yield f"{file.path} has changed since these runs were made; they are judged by the plan as it is now"
    m, n = (sum(not reading.left_out for reading in side) for side in sides)
    if not (m and n):
        which = "neither A nor B has a run" if m == n else f"{'A' if m == 0 else 'B'} has no run"
        yield f"{which} that counts, so that nothing is compared"
    elif m == n == 1:
        yield (
            "the intervals of one run a side know only how much the calls within the two runs differ. How much runs "
            f"differ from each other, and machines, is not in them: make {LEAST_RUNS} runs a side, taking turns"
        )
    elif min(m, n) >= LEAST_RUNS and smallest_p(m, n) * tested > ALPHA:
        needed = runs_needed(ALPHA / tested)
        yield (
            f"{m} v {n} runs cannot show a regression among {tested} metrics, only that there is none: make {needed} "
            "runs a side, or look at fewer metrics (--only)"
        )


def _write(json: TextIO, write: Callable[[], None]) -> None:
    try:
        write()
        json.flush()
    except OSError as error:
        raise JournalError(f"{json.name}: the result cannot be written there: {error.strerror}") from None


# ---------------------------------------------------------------- history


def history(
    chosen: argparse.Namespace, options: Mapping[str, str], out: TextIO, json: TextIO | None, *, console: Console
) -> int:
    """Judge all runs of a folder and print the series of each metric with its changes; returns 0.

    Journals that cannot be read are named and left out. Raises PlanError, JournalError where none is left.
    """
    folder = Path(chosen.folder)
    if not folder.is_dir():
        raise JournalError(f"{folder}: there is no such folder; name the one that holds the journals")
    origins, unread = past.found(journals([chosen.folder]), chosen.build)
    judged: list[tuple[PlanFile, list[Reading]]] = []
    without_plan: list[PlanError] = []
    for group in past.grouped(origins):
        try:
            file = plan_for(group, chosen.plan, options)
        except PlanError as error:
            without_plan.append(error)
            continue
        judged.append((file, list(_judged(group, file, console))))
    if not judged and without_plan:
        raise without_plan[0]
    known = [metric for _, readings in judged for one in readings for metric in one.estimates]
    kept = metrics.chosen(known, chosen.only)
    groups = [past.Group.of(file, readings, kept) for file, readings in judged]
    found = past.History(folder, groups, [*unread, *map(str, without_plan)])
    telling_past.tell(found, out)
    if json is not None:
        _write(json, lambda: telling_past.report(found, json))
    return 0
