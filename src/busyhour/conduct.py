"""One run from beginning to end: event loop, signals, journal, live view. It executes; judging is done elsewhere."""

from __future__ import annotations

import asyncio
import platform
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from busyhour import __version__, proofs, provenance
from busyhour.checkpoints import Checking, Checkpoints
from busyhour.clock import SystemClock, boot_id, wall_time
from busyhour.descriptors import widened
from busyhour.distributed.crew import Crew
from busyhour.distributed.hiring import hired, parts_of
from busyhour.distributed.merging import merged
from busyhour.engine import Execution, Stopped
from busyhour.errors import JournalError
from busyhour.eventloop import loop_factory, quiet_collector
from busyhour.exporting.counting import Tally, Tapped
from busyhour.exporting.telling import Exports, exported
from busyhour.journal import Journal
from busyhour.live import shown
from busyhour.model import JSON, Plan
from busyhour.planfile import PlanFile
from busyhour.segments import Continuation, Resumption

SIGNALS = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}


@dataclass(frozen=True)
class Conducted:
    journal: Path
    stopped: str | None  # why, if the plan was not carried out to its end
    interrupted: bool  # a person or a supervisor wanted it to end, be it too late to stop it


def conduct(
    file: PlanFile,
    plan: Plan,
    *,
    journal: Path,
    seed: int,
    console: Console,
    title: str,
    processes: int = 1,
    resuming: Resumption | None = None,
    checkpoints: Checkpoints | None = None,
    exports: Exports | None = None,
) -> Conducted:
    """Execute `plan` (the file's own, or a variation of it; with several processes, the file's own) into a new journal.

    processes: that share the arrivals; one is this one, more are workers that it leads. resuming: the journal is there,
    and its run is continued, by one process. checkpoints: verdicts on the way. exports: where its figures are told
    while it goes on. Ctrl-C and SIGTERM end the run in order.
    Raises ServiceError, JournalError; whatever happens, the services are gone and the journal is closed when this
    returns or raises.
    """
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{journal.parent} cannot be made a folder for the journal: {error.strerror}") from None
    with _Signals() as signals, widened(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        conducting = _Conducting(
            written=partial(_written, file, journal, seed, processes, resuming),
            seed=seed,
            console=console,
            title=title,
            signals=signals,
            continuing=None if resuming is None else resuming.continuation,
            checkpoints=checkpoints,
            exports=exports,
        )
        if processes == 1:
            stopped = runner.run(conducting.carried_out(plan))
        else:
            parts = parts_of(journal, processes)
            plan = Crew(partial(hired, file, parts=parts, seed=seed)).divided(plan)
            with merged(journal, parts):
                stopped = runner.run(conducting.carried_out(plan))
    return Conducted(journal, stopped, signals.told is not None)


def _written(file: PlanFile, path: Path, seed: int, processes: int, resuming: Resumption | None) -> Journal:
    """The journal that is written: a new one, or the one whose run is continued."""
    if resuming is None:
        return Journal.create(path, _meta(file, seed, processes))
    notebook = Journal.reopen(path, shift_ns=resuming.continuation.moved_ns)
    for call in resuming.cut_off:
        notebook.append(call)
    return notebook


@dataclass(frozen=True, kw_only=True)
class _Conducting:
    """An execution, and all that goes on around it. written: opens the journal."""

    written: Callable[[], Journal]
    seed: int
    console: Console
    title: str
    signals: _Signals
    continuing: Continuation | None
    checkpoints: Checkpoints | None
    exports: Exports | None

    async def carried_out(self, plan: Plan) -> str | None:
        """Why the run was stopped, if it was."""
        tally = None if self.exports is None else Tally(plan=self.title, seed=self.seed, clock=SystemClock())
        # Outermost: a port that cannot be had is known before there is a journal; the last figures are told after it.
        async with exported(self.exports, tally, clock=SystemClock(), say=self._say):
            journal = self.written()
            try:
                return await self._executed(plan, journal, tally)
            finally:
                journal.close()

    async def _executed(self, plan: Plan, journal: Journal, tally: Tally | None) -> str | None:
        loop = asyncio.get_running_loop()
        counted = journal if tally is None else Tapped(journal, tally)
        execution = Execution(plan, counted, seed=self.seed, continuing=self.continuing)
        if tally is not None:
            tally.follow(execution.progress)

        def journal_failed(error: BaseException) -> None:  # in the writer's thread; closing the journal raises it
            loop.call_soon_threadsafe(execution.stop, str(error).partition("; ")[0])

        journal.on_failure = journal_failed
        with self.signals.given_to(lambda why: loop.call_soon_threadsafe(execution.stop, why)), quiet_collector():
            async with (
                shown(execution.progress, console=self.console, clock=SystemClock(), title=self.title),
                self._checked(journal, execution),
            ):
                try:
                    await execution.execute()
                except Stopped as stop:
                    return stop.why
        return None

    @asynccontextmanager
    async def _checked(self, journal: Journal, execution: Execution) -> AsyncIterator[None]:
        if self.checkpoints is None:
            yield
            return
        checking = Checking(
            asked=self.checkpoints,
            journal=journal.path,
            clock=SystemClock(),
            write=journal.append,
            say=self._say,
            stop=execution.stop,
        )
        async with checking.running():
            yield

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)


class _Signals:
    """Ctrl-C and SIGTERM, from before there is a loop until after it is closed: nothing is interrupted half-way.

    One that comes before there is a run ends it as soon as there is one; one that comes after it is only remembered.
    """

    def __init__(self) -> None:
        self.told: str | None = None
        self._stop: Callable[[str], object] | None = None
        self._restoring = ExitStack()

    def __enter__(self) -> _Signals:
        for number in SIGNALS:
            before = signal.signal(number, self._hear)
            self._restoring.callback(signal.signal, number, signal.SIG_DFL if before is None else before)
        return self

    def __exit__(self, *_: object) -> None:
        self._restoring.close()

    @contextmanager
    def given_to(self, stop: Callable[[str], object]) -> Iterator[None]:
        """Have `stop(why)` called, from the handler, while the body runs."""
        self._stop = stop
        if self.told is not None:
            stop(self.told)
        try:
            yield
        finally:
            self._stop = None

    def _hear(self, number: int, _frame: object) -> None:
        self.told = self.told or SIGNALS[signal.Signals(number)]
        if self._stop is not None:
            self._stop(self.told)


def _meta(file: PlanFile, seed: int, processes: int) -> dict[str, JSON]:
    return {
        "plan": str(file.path.resolve()),
        "options": dict(file.options),
        "source": file.source,
        **surroundings(file.plan, file.path.parent, seed=seed, processes=processes),
        "proofs": dict(proofs.known(file)),
    }


def surroundings(plan: Plan, folder: Path, *, seed: int, processes: int = 1) -> dict[str, JSON]:
    """What a journal says of a run beside its plan file: who ran, when, on what. folder: where the plan is written."""
    return {
        "seed": seed,
        "processes": processes,
        "recording": asdict(plan.recording),
        "boot": boot_id(),
        "version": __version__,
        "started_at": wall_time(),
        "commit": provenance.commit_of(folder),
        "machine": provenance.machine(),
        "python": platform.python_version(),
        "libraries": dict(provenance.libraries()),
        "carrier": "" if plan.carrier is None else type(plan.carrier).__name__.lower(),
    }
