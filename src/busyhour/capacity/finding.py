"""The search carried out: one run and one journal for each level, judged by the plan's own gates."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console

from busyhour.capacity.level import Level, gates_of, plan_at
from busyhour.capacity.reading import Reading, broken, cause, read
from busyhour.conduct import SIGNALS, Conducted, conduct
from busyhour.errors import PlanError, ServiceError
from busyhour.gates import judge
from busyhour.gates.health import TARGET
from busyhour.journal import open_run
from busyhour.model import Outcome, Phase, Plan, Verdict
from busyhour.planfile import PlanFile
from busyhour.preflight import Room
from busyhour.statistics.capacity import Answer, Limit, Search, Tried, Try
from busyhour.statistics.scalability import Scalability, fit

_STAYED_UP = TARGET[0]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """search: how to look. window_seconds: the least that is measured at a held level; calls: as many are measured at
    least. warm_up_seconds: 0: as long as a call is, which the first level tells. fits: what the harness has room for;
    None: whatever is asked for. Raises PlanError."""

    search: Search
    window_seconds: float = 60.0
    calls: int = 30
    warm_up_seconds: float = 0.0
    seed: int = 0
    fits: Room | None = None

    def __post_init__(self) -> None:
        if not 0 < self.window_seconds < 86_400 or self.calls < 1 or not 0 <= self.warm_up_seconds < 86_400:
            raise PlanError("a capacity search needs a window of some seconds, a call to measure, and a warm-up >= 0")

    @property
    def bound(self) -> Room | None:
        """What the most that is tried is due to, if not to whoever asked."""
        return self.fits if self.fits is not None and self.fits.count == self.search.most else None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One level that was run. outcome: of its gates, or INVALID where one failed for want of a twin's CPU. broke: the
    first verdict that did not pass; on: what it broke on."""

    level: Level
    outcome: Outcome
    reading: Reading
    journal: Path
    gates: int
    broke: Verdict | None = None
    on: str = ""

    @property
    def tried(self) -> Tried:
        return Tried(self.level.at_once, self.outcome, self.level.open_loop)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the search came to. confirm: runs that had to agree. room: what
    `most` is due to, if to the harness. law: None for fewer than three
    levels. notes: what else a reader must know."""

    answer: Answer
    phase: str
    target: str
    most: int
    confirm: int
    seen: Sequence[Seen]
    folder: Path
    room: Room | None = None
    law: Scalability | None = None
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """PASS: there is a number. FAIL: not even one call. INVALID: the harness, and not the target, was the limit."""
        if self.answer.limit is Limit.HARNESS:
            return Outcome.INVALID
        if self.answer.limit is Limit.UNFINISHED or (not self.answer.passed and self.answer.failed != 1):
            return Outcome.INCONCLUSIVE
        return Outcome.PASS if self.answer.passed else Outcome.FAIL

    def at(self, at_once: int) -> list[Seen]:
        return [one for one in self.seen if one.level.at_once == at_once and not one.level.open_loop]

    @property
    def held(self) -> list[Seen]:
        return [one for one in self.seen if not one.level.open_loop and one.outcome is not Outcome.INVALID]


class Conducting(Protocol):
    """How a run is carried out: `conduct`, or a stand-in of it in virtual time."""

    def __call__(
        self, file: PlanFile, plan: Plan, *, journal: Path, seed: int, console: Console, title: str
    ) -> Conducted: ...


@dataclass
class _Search:
    """The search as it goes on."""

    file: PlanFile
    phase: Phase
    settings: Settings
    folder: Path
    console: Console
    conducting: Conducting
    seen: list[Seen] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        return self.file.plan

    def following(self) -> Try | Answer:
        silent = not any(one.reading.calls for one in self.seen)
        if self.seen and silent and self.seen[-1].outcome not in {Outcome.FAIL, Outcome.INVALID}:
            self.notes.append(f"the phase {self.phase.name!r} had no calls, so there is no load to raise")
            return self.settings.search.answer([], Limit.UNFINISHED)
        return self.settings.search.next([one.tried for one in self.seen])

    def level(self, wanted: Try) -> Level:
        call_seconds = self._call_seconds()
        if not call_seconds:
            return Level(at_once=wanted.at_once)
        least_seconds = self.settings.calls * call_seconds / wanted.at_once
        share = 0.5 if wanted.open_loop else float(wanted.effort)  # the ramp only steers
        window_seconds = (
            self.settings.window_seconds if wanted.open_loop else max(self.settings.window_seconds, least_seconds)
        )
        return Level(
            at_once=wanted.at_once,
            open_loop=wanted.open_loop,
            call_seconds=call_seconds,
            warm_up_seconds=self.settings.warm_up_seconds or call_seconds,
            window_seconds=share * window_seconds,
        )

    def _call_seconds(self) -> float:
        """The mean of the levels that did not break: what breaks does not tell how long a call is."""
        lengths = [
            (one.reading.call_seconds, one.reading.calls)
            for one in self.seen
            if one.reading.call_seconds and one.outcome not in {Outcome.FAIL, Outcome.INVALID}
        ]
        total = sum(calls for _, calls in lengths)
        return sum(length * calls for length, calls in lengths) / total if total else 0.0

    def carry_out(self, level: Level) -> tuple[Seen | None, bool]:
        """What was seen (None of a level that was stopped), and whether somebody wants it all to end."""
        number = len(self.seen) + 1
        fits = self.settings.fits
        varied = plan_at(self.plan, self.phase, level, places=None if fits is None else fits.count)
        journal = self.folder / f"{number:02}-{level.name.replace(' ', '-')}.journal"
        conducted = self.conducting(
            self.file,
            varied,
            journal=journal,
            seed=self.settings.seed + number,  # what is confirmed is confirmed with other callers
            console=self.console,
            title=f"level {number}: {level.name}",
        )
        if conducted.interrupted and conducted.stopped is not None:
            return None, True
        with open_run(journal) as run:
            judgement = judge(varied, run)
            services = [service.name for service in varied.everyone]
            reading = read(run, self.phase.name, level, services)
        outcome, broke, on = judgement.outcome, broken(judgement), ""
        died = broke is not None and broke.gate == _STAYED_UP.name  # it says itself what of
        if outcome in {Outcome.FAIL, Outcome.INVALID} and not died:
            cores, invalid = len(os.sched_getaffinity(0)), outcome is Outcome.INVALID
            found = cause(reading, self.plan.target.name, machine_cores=cores, invalid=invalid)
            on = found.words
            if found.harness:  # the twins were exhausted, and whoever waits for them is late
                outcome = Outcome.INVALID
        seen = Seen(
            level=level,
            outcome=outcome,
            reading=reading,
            journal=journal,
            gates=len(varied.gates),
            broke=broke,
            on=on,
        )
        self.seen.append(seen)
        return seen, conducted.interrupted

    def capacity(self, answer: Answer) -> Capacity:
        held = [one for one in self.seen if one.outcome is not Outcome.INVALID and not one.level.open_loop]
        # The law is one of what was offered: what a target refuses is in progress no longer than it takes to refuse.
        points = [(one.level.at_once, one.reading.per_second) for one in held]
        return Capacity(
            answer=answer,
            phase=self.phase.name,
            target=self.plan.target.name,
            most=self.settings.search.most,
            confirm=self.settings.search.confirm,
            room=self.settings.bound,
            seen=tuple(self.seen),
            folder=self.folder,
            law=fit([n for n, _ in points], [x for _, x in points]),
            notes=tuple(self.notes),
        )

    def so_far(self) -> Capacity:
        tried = [one.tried for one in self.seen]
        return self.capacity(self.settings.search.answer(tried, Limit.UNFINISHED))


@contextmanager
def _remembered() -> Iterator[list[int]]:
    """The signals that come between two runs end the search and not the program; in a run, `conduct` hears them."""
    told: list[int] = []
    with ExitStack() as restoring:
        for number in SIGNALS:
            before = signal.signal(number, lambda heard, _frame: told.append(heard))
            restoring.callback(signal.signal, number, signal.SIG_DFL if before is None else before)
        yield told


def find(
    file: PlanFile,
    phase: Phase,
    settings: Settings,
    *,
    folder: Path,
    console: Console,
    conducting: Conducting = conduct,
) -> Iterator[Seen | Capacity]:
    """Yields each level as it was seen, and at the end the capacity; after Ctrl-C or SIGTERM what is known by then.

    Raises PlanError, JournalError, and ServiceError when a service does not start; before the latter is raised, what
    is known is yielded, if any level was seen.
    """
    if not gates_of(file.plan, phase):
        raise PlanError(f"no gate of the plan reads the phase {phase.name!r} alone, so every load would pass; add one")
    search = _Search(file, phase, settings, folder, console, conducting)
    with _remembered() as signals:
        while isinstance(following := search.following(), Try):
            try:
                seen, over = search.carry_out(search.level(following))
            except ServiceError:
                if search.seen:
                    yield search.so_far()
                raise
            if seen is not None:
                yield seen
            if over or signals:
                yield search.so_far()
                return
        yield search.capacity(following)
