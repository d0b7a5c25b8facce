"""Does the harness itself leak? 100,000 calls, a million operations, in virtual time, with a real journal.

    .venv/bin/python benchmarks/own_memory.py                  # about four minutes of an idle core
    .venv/bin/python benchmarks/own_memory.py --calls 10000

All of a run but sockets and sound: arrivals, calls of a scenario with several turns, an agent in memory, meters and
probes once a second, the journal with its thread. Printed are what the harness holds (Private_Dirty) at eleven points,
what the detector that judges targets says of it, and what a call takes in the journal.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from busyhour import proc
from busyhour.arrivals import Constant
from busyhour.carriers.memory import Manner, MemoryCarrier, MemoryService
from busyhour.clock import VirtualClock
from busyhour.engine import Execution
from busyhour.eventloop import quiet_collector
from busyhour.journal import Journal, open_run
from busyhour.model import SECOND, Audio, Endpoint, Phase, Plan
from busyhour.statistics.leaks import Finding, Trace, judge_trend
from busyhour.workloads.call import BargeIn, Call, Greeting, Say, Scenario

PER_SECOND = 8.0
READINGS = 500
POINTS = 10
SETTLING_HOURS = 0.5
MB = 1_000_000


def spoken(name: str, seconds: float) -> Audio:
    count = round(8000 * seconds)
    return Audio(name, name, np.zeros(count, np.int16), 8000, 0, count)


SCENARIO = Scenario(
    "booking",
    [
        Greeting(),
        Say(spoken("ask", 1.5)),
        BargeIn(spoken("wait", 0.8), asking=spoken("long", 1.2)),
        Say(spoken("bye", 0.7)),
    ],
)


@dataclass
class Own:
    """A probe of ourselves, at evenly spaced times."""

    clock: VirtualClock
    carrier: MemoryCarrier
    every_seconds: int
    service: str = "agent"
    seconds: list[float] = field(default_factory=list)
    held_mb: list[float] = field(default_factory=list)
    asked: int = 0

    def read(self, endpoint: Endpoint) -> Mapping[str, float]:
        threading.Event().wait(0.002)  # virtual time is much faster than a disk: let the journal's thread keep up
        self.carrier.dialled.clear()  # what a fake keeps for those who test by it
        self.asked += 1
        if self.asked % self.every_seconds:
            return {}
        memory = proc.memory_kb(os.getpid())
        assert memory is not None, "it is our own"
        self.seconds.append(self.clock.now_ns() / SECOND)
        self.held_mb.append(memory["Private_Dirty"] * 1024 / MB)
        return {"private_dirty_mb": self.held_mb[-1]}


def perform(path: Path, calls: int) -> Own:
    clock = VirtualClock()
    carrier = MemoryCarrier(clock=clock, manner=Manner(speaks_ms=3000))
    seconds = calls / PER_SECOND
    own = Own(clock, carrier, max(1, round(seconds / READINGS)))
    phase = Phase("steady", Constant(PER_SECOND, seconds), Call([SCENARIO]), at_once=1000)
    plan = Plan(target=MemoryService("agent"), carrier=carrier, phases=[phase], gates=[], probes=[own])
    with Journal.create(path, {}) as journal, quiet_collector():
        clock.run(Execution(plan, journal, clock=clock).execute())
    return own


def rows_of(path: Path) -> dict[str, int]:
    kinds = ("call", "greeting", "turn", "barge_in", "speech", "pause", "underrun")
    with open_run(path) as run:
        return {kind: count for kind in kinds if (count := len(run.operations(kind)))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--limit", type=float, default=1.0, help="MB per virtual hour that are no leak (default 1)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="busyhour-own-") as folder:
        path = Path(folder) / "own.journal"
        own = perform(path, chosen.calls)
        size, kinds = path.stat().st_size, rows_of(path)
    hours = own.seconds[-1] / 3600
    table = Table("calls", "virtual hours", "held, MB")
    for nth in range(POINTS + 1):
        at = min(len(own.seconds) - 1, nth * len(own.seconds) // POINTS)
        started = min(chosen.calls, round(own.seconds[at] * PER_SECOND))
        table.add_row(f"{started:,}", f"{own.seconds[at] / 3600:.2f}", f"{own.held_mb[at]:.1f}")
    console = Console()
    console.print(table)
    trend = judge_trend(
        Trace(own.seconds, own.held_mb), limit_per_hour=chosen.limit, settling_hours=min(SETTLING_HOURS, hours / 4)
    )
    console.print(f"{trend.finding}: {trend.because}")
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    console.print(f"{sum(kinds.values()):,} operations ({counts})")
    console.print(f"the journal: {size / MB:.1f} MB, {size / chosen.calls:,.0f} bytes a call")
    return 1 if trend.finding is Finding.LEAK else 0


if __name__ == "__main__":
    sys.exit(main())
