"""One run from beginning to end: event loop, signals, journal, live view. It executes; judging is done elsewhere."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from busyhour import __version__
from busyhour.clock import SystemClock, wall_time
from busyhour.engine import Execution, Stopped
from busyhour.journal import Journal
from busyhour.live import shown
from busyhour.model import JSON, Plan
from busyhour.planfile import PlanFile

PROOFS_SUFFIX = ".proofs.json"
SIGNALS = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}


@dataclass(frozen=True)
class Conducted:
    journal: Path
    stopped: str | None  # why, if the plan was not carried out to its end

    @property
    def interrupted(self) -> bool:
        """It was a person or a supervisor who stopped it, not a service that died."""
        return self.stopped in SIGNALS.values()


def conduct(file: PlanFile, plan: Plan, *, journal: Path, seed: int, console: Console, title: str) -> Conducted:
    """Execute `plan` (the file's own, or a variation of it) into a new journal.

    Ctrl-C and SIGTERM end the run in order. Raises ServiceError, JournalError; whatever happens, the services are gone
    and the journal is closed when this returns or raises.
    """
    journal.parent.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_conduct(file, plan, journal, seed, console, title))


async def _conduct(file: PlanFile, plan: Plan, path: Path, seed: int, console: Console, title: str) -> Conducted:
    loop = asyncio.get_running_loop()
    notebook = Journal.create(path, _meta(file, seed))
    try:
        execution = Execution(plan, notebook, seed=seed)

        def journal_failed(error: BaseException) -> None:  # in the writer's thread; the next append raises the error
            loop.call_soon_threadsafe(execution.stop, str(error))

        notebook.on_failure = journal_failed
        with _signals(loop, execution), _quiet_collector():
            stopped = None
            async with shown(execution.progress, console=console, clock=SystemClock(), title=title):
                try:
                    await execution.execute()
                except Stopped as stop:
                    stopped = stop.why
    finally:
        notebook.close()
    return Conducted(path, stopped)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform != "linux":
        return None
    import uvloop  # noqa: PLC0415  (a dependency on Linux only)

    return uvloop.new_event_loop


def _signals(loop: asyncio.AbstractEventLoop, execution: Execution) -> ExitStack:
    """Ctrl-C and SIGTERM stop the run until the stack is closed."""
    stack = ExitStack()
    for sign, words in SIGNALS.items():
        loop.add_signal_handler(sign, execution.stop, words)
        stack.callback(loop.remove_signal_handler, sign)
    return stack


def _quiet_collector() -> ExitStack:
    """What lives now lives for the run: keep the garbage collector from walking it between two frames."""
    stack = ExitStack()
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    stack.callback(gc.set_threshold, *thresholds)
    stack.callback(gc.unfreeze)
    return stack


def _meta(file: PlanFile, seed: int) -> dict[str, JSON]:
    return {
        "plan": str(file.path.resolve()),
        "options": dict(file.options),
        "source": file.source,
        "seed": seed,
        "version": __version__,
        "started_at": wall_time(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "proofs": dict(proofs_of(file.path)),
    }


def proofs_of(plan: Path) -> Mapping[str, str]:
    """What the last `busyhour prove` of this plan said: gate name -> "proven" or "unproven"."""
    path = plan.with_name(plan.stem + PROOFS_SUFFIX)
    try:
        return {name: str(gate["status"]) for name, gate in json.loads(path.read_text())["gates"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # A spoilt proofs file proves nothing; every gate is then marked unproven, which says so in every report.
        return {}
