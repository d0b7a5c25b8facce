"""The past of a plan: its runs in order of time, a series for each metric, and where a series changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from busyhour.comparing.metrics import DEATHS, Metric
from busyhour.comparing.reading import Origin, Reading
from busyhour.errors import JournalError
from busyhour.planfile import PlanFile
from busyhour.statistics.changes import LEAST_RUNS, Change, changes, smallest_seen

LEAST, MOST = 2 * LEAST_RUNS, 1000


def found(paths: Iterable[Path], builds: Collection[str] = ()) -> tuple[list[Origin], list[str]]:
    """The journals that can be read and say when they began, in order of that, the last 1000 of them; a sentence for
    each of the others. builds: the plan's options that name the build.

    Raises JournalError, with all of those sentences, when none is left.
    """
    origins, unread = list[Origin](), list[str]()
    for path in paths:
        try:
            origin = Origin.of(path, builds)
        except JournalError as error:
            unread.append(str(error))
            continue
        if origin.started_at:
            origins.append(origin)
        else:
            unread.append(f"{path}: it does not say when it began, so that it has no place in a history")
    if not origins:
        raise JournalError("\n".join(unread))
    ordered = sorted(origins, key=lambda origin: origin.started_at)
    if len(ordered) > MOST:
        unread.append(f"the first {len(ordered) - MOST} runs: a history is of the last {MOST}")
    return ordered[-MOST:], unread


def grouped(origins: Sequence[Origin]) -> list[list[Origin]]:
    """Those that can stand in one series: of one plan by its file's name, with the same options, on one machine, with
    as many processes. That a plan was edited in between does not end its history; it is told where that was."""
    groups: dict[object, list[Origin]] = {}
    for origin in origins:
        alike = (origin.plan_name, tuple(sorted(origin.options.items())), origin.machine, origin.processes)
        groups.setdefault(alike, []).append(origin)
    return list(groups.values())


@dataclass(frozen=True)
class Series:
    """A metric's value in each run of a group, None where it was not measured; `at` of a change is the run's place."""

    metric: Metric
    values: tuple[float | None, ...]
    changes: tuple[Change, ...]
    smallest_seen: float | None

    @property
    def runs(self) -> int:
        return sum(value is not None for value in self.values)

    @classmethod
    def of(cls, metric: Metric, readings: Sequence[Reading], of_series: int) -> Series:
        values = tuple(reading.value(metric) for reading in readings)
        places = [place for place, value in enumerate(values) if value is not None]
        measured = [value for value in values if value is not None]
        at = [
            Change(places[change.at], change.before, change.after, change.p)
            for change in changes(measured, of_series=of_series)
        ]
        return cls(metric, values, tuple(at), smallest_seen(measured, of_series=of_series))


@dataclass(frozen=True)
class Group:
    """Runs of one plan in order of time. `readings` are those that count, `left_out` the others."""

    plan: PlanFile
    readings: Sequence[Reading]
    left_out: Sequence[Reading]
    series: Sequence[Series]

    @classmethod
    def of(cls, plan: PlanFile, readings: Sequence[Reading], metrics: Sequence[Metric]) -> Group:
        """The metrics that any of the runs measured; that its target died is told of a run, and no series."""
        counted = [reading for reading in readings if not reading.left_out]
        measured = [
            metric
            for metric in metrics
            if metric != DEATHS and any(reading.value(metric) is not None for reading in counted)
        ]
        series = [Series.of(metric, counted, len(measured)) for metric in measured]
        return cls(plan, counted, [reading for reading in readings if reading.left_out], series)

    @property
    def origin(self) -> Origin:
        """The first: what makes a group is the same in all."""
        return (self.readings or self.left_out)[0].origin


@dataclass(frozen=True)
class History:
    """All groups of a folder; `unread` has a sentence for each journal, or plan, that could not be read."""

    folder: Path
    groups: Sequence[Group]
    unread: Sequence[str]
