"""A plan carried out for a test: a plan file by `busyhour run` in a process of its own, a Plan in this one.

A file's run is the run that the command line makes: nothing that slows or changes the process of the tests (coverage,
patches, filters of warnings, a big heap) reaches what it measures. A Plan that a test has made may hold what cannot
leave the process, a function under test or an agent on a thread of it; it is carried out here, and its own demands on
the harness say whether that was good enough.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from busyhour.conduct import surroundings
from busyhour.engine import Execution, Stopped
from busyhour.errors import BusyhourError
from busyhour.eventloop import quiet_collector
from busyhour.gates import Judgement
from busyhour.journal import Journal
from busyhour.model import EXIT_CODE, Outcome, Plan, Verdict
from busyhour.processes import Child, child

STOP_SECONDS = 30.0  # for a run that is asked to end to do so in order
_COMPLAINT = "busyhour: "


@dataclass(frozen=True)
class Judged:
    """A run, and what is said of it."""

    judgement: Judgement
    journal: Path

    def verdict(self, gate: str) -> Verdict:
        """Of the one gate whose name has `gate` in it, or is it; where there is not exactly one, the test fails, told
        the names of the gates."""
        __tracebackhide__ = True
        verdicts = (*self.judgement.verdicts, *self.judgement.validity)
        found = [verdict for verdict in verdicts if gate in verdict.gate]
        exact = [verdict for verdict in found if verdict.gate == gate]
        if len(exact or found) != 1:
            there_are = "; ".join(verdict.gate for verdict in verdicts)
            many = "no gate has" if not found else f"{len(found)} gates have"
            raise pytest.fail.Exception(f"{many} {gate!r} in the name; their names are: {there_are}")
        return (exact or found)[0]


def failing(judgement: Judgement) -> list[str]:
    """The sentence of each gate that is not PASS; of an invalid run those that say why it says nothing."""
    if judgement.outcome is not Outcome.INVALID:
        missed = [v for v in (*judgement.validity, *judgement.verdicts) if v.outcome is not Outcome.PASS]
        return [f"{v.outcome.value.upper()}: {v.because}" for v in missed]
    why = [v.because for v in judgement.validity if v.outcome is not Outcome.PASS]
    unsaid = f"nothing is said of the target: {len(judgement.verdicts)} gates not judged"
    return [f"INVALID: {words}" for words in (*why, unsaid)]


def expected(error: Exception) -> str:
    """The message of a failure that was to be expected, or of the first of a group of them; raises any other."""
    if isinstance(error, BusyhourError):
        return str(error)
    if isinstance(error, ExceptionGroup):
        told = [expected(one) for one in error.exceptions]  # of all of them: one that is not expected is a bug
        return told[0]
    raise error


async def in_a_process(plan: Path, options: Mapping[str, str], *, seed: int, journal: Path) -> None:
    """`busyhour run`. Cancelled, it ends in order. Raises BusyhourError with its complaint where it leaves no run."""
    chosen = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    argv = [sys.executable, "-m", "busyhour", "run", str(plan), "--journal", str(journal), "--seed", str(seed), *chosen]
    running = child(argv, name="busyhour run", ready=_at_once, stop_within_seconds=STOP_SECONDS)
    async with running as process:
        code = await process.over()
    if code not in EXIT_CODE.values() or not await asyncio.to_thread(journal.exists):
        raise BusyhourError(_complaint(process, code))


async def _at_once(_: Child) -> str:
    return ""


def _complaint(process: Child, code: int | None) -> str:
    """What it said last: the complaint of an expected failure, else all there is."""
    lines = process.last_lines()
    begun = [number for number, line in enumerate(lines) if line.startswith(_COMPLAINT)]
    if begun and code != BusyhourError.exit_code:
        return "\n".join(lines[begun[-1] :]).removeprefix(_COMPLAINT)
    return "\n".join([f"busyhour run ended with {code}, and said last:", *lines])


async def in_this_process(plan: Plan, *, seed: int, journal: Path, folder: Path) -> None:
    """Execute it here. folder: of the test. Cancelled, it ends in order. Raises as `Execution.execute` does."""
    loop = asyncio.get_running_loop()
    notebook = Journal.create(journal, surroundings(plan, folder, seed=seed))
    try:
        execution = Execution(plan, notebook, seed=seed)

        def journal_failed(error: BaseException) -> None:  # in the writer's thread; closing the journal raises it
            loop.call_soon_threadsafe(execution.stop, str(error).partition("; ")[0])

        notebook.on_failure = journal_failed
        with quiet_collector():
            await _executed(execution)
    finally:
        notebook.close()


async def _executed(execution: Execution) -> None:
    executing = asyncio.create_task(execution.execute())
    try:
        await asyncio.shield(executing)
    except asyncio.CancelledError:
        execution.stop("stopped with its test")
        await asyncio.wait({executing})
        if not executing.cancelled():
            executing.exception()  # Stopped: seen
        raise
    except Stopped:
        return  # the journal says why, and its verdicts
