"""Kills a run at random moments and looks at what is left: every journal opens, and holds what was handed to it.

    .venv/bin/python benchmarks/crashes.py                 # 100 kills, about 4 minutes
    .venv/bin/python benchmarks/crashes.py --kills 5

Each run is a process that performs calls of five turns, sixty a second, and tells through a pipe what it has handed to
its journal, and when. It is killed (SIGKILL) at a moment drawn from the seed. Of every journal it is asked that it
opens, that it holds a *beginning* of what was told, without a gap (nothing half written, nothing out of order), all of
what was told more than a second before the kill, no id twice, and each turn with the call that it names.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from busyhour.arrivals import Poisson
from busyhour.carriers.memory import MemoryService
from busyhour.clock import SystemClock
from busyhour.engine import Execution
from busyhour.errors import JournalError
from busyhour.gates import judge
from busyhour.journal import Journal, open_run
from busyhour.model import MS, SECOND, Arrival, Mark, Operation, Outcome, Phase, Plan, Sample

TURNS = 5
TURN_NS = 40 * MS
TABLES = {Operation: "operations", Sample: "samples", Mark: "marks"}


@dataclass(frozen=True)
class Talk:
    """A call of five turns of 40 ms."""

    async def perform(self, arrival: Arrival) -> None:
        for number in range(1, TURNS + 1):
            at_ns = arrival.due_ns + number * TURN_NS
            await arrival.clock.sleep_until(at_ns)
            turn = Operation(
                id=f"{arrival.id}/turn/{number}",
                kind="turn",
                phase=arrival.phase,
                due_ns=at_ns - TURN_NS,
                ended_ns=at_ns,
                parent=arrival.id,
            )
            arrival.record(turn)
        ended_ns = arrival.due_ns + TURNS * TURN_NS
        about = {"scenario": "five turns", "ended_by": "caller"}
        arrival.record(
            Operation(
                id=arrival.id, kind="call", phase=arrival.phase, due_ns=arrival.due_ns, ended_ns=ended_ns, detail=about
            )
        )


def plan(seed: int) -> Plan:
    return Plan(
        target=MemoryService("agent"),
        phases=[Phase("steady", Poisson(60, seconds=60, seed=seed), Talk(), at_once=1000)],
        gates=[],
    )


@dataclass
class Telling:
    """A journal that says of each entry when it had been handed over."""

    journal: Journal
    pipe: int
    clock: SystemClock = field(default_factory=SystemClock)

    def append(self, entry: Operation | Sample | Mark) -> None:
        self.journal.append(entry)
        name = entry.id if isinstance(entry, Operation) else ""
        os.write(self.pipe, f"{TABLES[type(entry)]} {self.clock.now_ns()} {name}\n".encode())


def perform(path: Path, pipe: int, seed: int) -> None:
    """In the process that is to be killed."""

    async def main() -> None:
        await Execution(plan(seed), Telling(Journal.create(path, {"seed": seed}), pipe)).execute()

    asyncio.run(main())


@dataclass(frozen=True)
class Told:
    table: str
    at_ns: int
    id: str


@dataclass(frozen=True)
class Killed:
    """One that was killed: when, and what it had told."""

    at_ns: int
    told: list[Told]


def kill(path: Path, seed: int, after_seconds: float) -> Killed:
    """Begin a run in a process of its own, kill it so long after, and hear it out."""
    clock = SystemClock()
    hearing, telling = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hearing)
        try:
            perform(path, telling, seed)
        finally:
            os._exit(1)  # never back into who forks
    os.close(telling)
    heard = bytearray()
    kill_ns = clock.now_ns() + round(after_seconds * SECOND)
    try:
        while (left_ns := kill_ns - clock.now_ns()) > 0:
            if select.select([hearing], [], [], left_ns / SECOND)[0]:
                heard += os.read(hearing, 65_536)
        os.kill(pid, signal.SIGKILL)
        killed_ns = clock.now_ns()
        while chunk := os.read(hearing, 65_536):
            heard += chunk
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(hearing)
    lines = heard.decode().split("\n")[:-1]  # behind the last newline is one that was not told whole
    return Killed(killed_ns, [Told(table, int(at), name) for table, at, name in (line.split(" ") for line in lines)])


@dataclass
class Found:
    """Of all that were killed."""

    kills: int = 0
    not_begun: int = 0
    opened: int = 0
    told: int = 0
    kept: int = 0
    lost_ms: float = 0.0
    lost_rows: int = 0
    faults: list[str] = field(default_factory=list)


def look(path: Path, seed: int, killed: Killed, found: Found, lost_seconds_max: float) -> None:
    """What is wrong with one journal is added to the faults."""
    found.kills += 1
    found.told += len(killed.told)
    try:
        with open_run(path) as run:
            outcome = judge(plan(seed), run).outcome
    except JournalError as error:
        if not killed.told:  # it was killed before it had a journal
            found.not_begun += 1
        else:
            found.faults.append(f"kill {seed}: it does not open: {error}")
        return
    found.opened += 1
    faults = [] if outcome is Outcome.INVALID else [f"it is judged {outcome}, though it breaks off"]
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as journal:
        counts = {table: journal.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES.values()}
        rows = journal.execute("SELECT id, kind, parent FROM operations ORDER BY rowid").fetchall()
    found.kept += sum(counts.values())
    faults += _of_the_beginning(killed, counts, [row[0] for row in rows], found, lost_seconds_max)
    faults += _of_calls(rows)
    found.faults += [f"kill {seed}: {fault}" for fault in faults]


def _of_the_beginning(
    killed: Killed, counts: dict[str, int], ids: list[str], found: Found, lost_seconds_max: float
) -> list[str]:
    kept = sum(counts.values())
    beginning, rest = killed.told[:kept], killed.told[kept:]
    faults = []
    # What was handed over last may have been written before it was told: one row, of any table.
    beyond = kept - len(beginning)
    told = Counter(one.table for one in beginning)
    if beyond > 1 or sum(abs(counts[table] - told[table]) for table in counts) != beyond:
        faults.append(f"it holds {counts}, which is no beginning of what was handed to it ({dict(told)})")
    operations = [one.id for one in beginning if one.table == "operations"]
    if ids[: len(operations)] != operations:
        faults.append("its operations are not those that were handed to it, in that order")
    if rest:
        found.lost_rows = max(found.lost_rows, len(rest))
        lost_ms = (killed.at_ns - rest[0].at_ns) / MS
        found.lost_ms = max(found.lost_ms, lost_ms)
        if lost_ms > lost_seconds_max * 1000:
            faults.append(f"{len(rest)} entries are lost, the first of them handed over {lost_ms:.0f} ms before")
    return faults


def _of_calls(rows: list[tuple[str, str, str]]) -> list[str]:
    """A call is written after its turns: where it is, they are."""
    names = Counter(name for name, _, _ in rows)
    turns = Counter(parent for _, kind, parent in rows if kind == "turn")
    faults = [f"the id {name} is there {count} times" for name, count in names.items() if count > 1]
    faults += [
        f"{n} names {parent} as its call" for n, kind, parent in rows if kind == "turn" and n[: len(parent)] != parent
    ]
    calls = [name for name, kind, _ in rows if kind == "call"]
    return faults + [f"the call {name} has {turns[name]} turns" for name in calls if turns[name] != TURNS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0, help="within which a run is killed (default 3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--lost-seconds-max", type=float, default=1.0, help="more than that lost is a fault (default 1)"
    )
    chosen = parser.parse_args()
    random, found = Random(chosen.seed), Found()
    with tempfile.TemporaryDirectory(prefix="busyhour-crashes-") as folder:
        for number in range(chosen.kills):
            path = Path(folder) / f"{number}.journal"
            killed = kill(path, number, random.uniform(0, chosen.seconds))
            look(path, number, killed, found, chosen.lost_seconds_max)
    _print(found)
    return 1 if found.faults or not found.opened else 0


def _print(found: Found) -> None:
    table = Table("", "found")
    table.add_row("runs killed", f"{found.kills}")
    table.add_row("... before they had a journal", f"{found.not_begun}")
    table.add_row("journals that open, and are judged INVALID", f"{found.opened}")
    table.add_row("entries handed over", f"{found.told:,}")
    table.add_row("entries there", f"{found.kept:,}")
    table.add_row("most that was lost", f"{found.lost_ms:.0f} ms, {found.lost_rows} entries")
    table.add_row("inconsistent", f"{len(found.faults)}")
    console = Console()
    console.print(table)
    for fault in found.faults[:20]:
        console.print(fault)


if __name__ == "__main__":
    sys.exit(main())
