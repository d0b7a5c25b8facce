"""Runs of tests/plans/wire.py for tests, and how to see that nothing is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from busyhour.clock import SystemClock
from busyhour.errors import JournalError
from busyhour.journal import open_run
from busyhour.model import SECOND, Mark, Operation
from busyhour.proc import Stat, stat

PLAN = Path(__file__).parents[1] / "plans" / "wire.py"
MARKER = "BUSYHOUR_TEST_RUN"


def arguments(journal: Path, **options: object) -> list[str]:
    """Of a run: `busyhour run tests/plans/wire.py ...`."""
    chosen = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["run", str(PLAN), "--journal", str(journal), *chosen]


class Traces:
    """What the processes of one test's runs inherit, so that every one of them can be found, wherever it hides."""

    def __init__(self) -> None:
        self.value = uuid4().hex

    def left(self) -> list[Stat]:
        """The processes of the runs that have not ended."""
        wanted = f"{MARKER}={self.value}".encode()
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    environment = Path("/proc", entry, "environ").read_bytes()
                except OSError:  # it ended while we looked, or is another user's
                    continue
                one = stat(int(entry)) if wanted in environment.split(b"\0") else None
                if one is not None and one.state != "Z":
                    found.append(one)
        return found


def until(holds: Callable[[], object], seconds: float = 90) -> None:
    """Wait until it holds: other processes set no events. Fails when it takes too long."""
    give_up_ns = SystemClock().now_ns() + round(seconds * SECOND)
    while not holds():
        assert SystemClock().now_ns() < give_up_ns, f"it did not come about within {seconds} s"
        threading.Event().wait(0.02)


@contextmanager
def busyhour(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own, and in a process group as a terminal would make it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "busyhour", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        process_group=0,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def marks(journal: Path, kind: str) -> list[Mark]:
    """Those in a journal by now, be it still being written."""
    try:
        with open_run(journal) as run:
            return list(run.marks(kind))
    except JournalError:  # there is no journal yet, or none that can be read at this instant
        return []


def operations(journal: Path, kind: str) -> list[Operation]:
    try:
        with open_run(journal) as run:
            return list(run.operations(kind))
    except JournalError:
        return []


def pid_of(journal: Path, service: str) -> int:
    """The process of a service of a run."""
    pids = next(mark.detail["pids"] for mark in marks(journal, "service.started") if mark.name == service)
    assert isinstance(pids, list)
    return int(str(pids[0]))
