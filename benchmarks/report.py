"""What the HTML report of a long run takes: a journal of a million operations is made, judged and rendered.

    python benchmarks/report.py [OPERATIONS]

Times are of processor, not of the clock; the memory is the most that the process had at any time, Python and its
libraries included. Required: under 10 s and 500 MB for a million.
"""

from __future__ import annotations

import io
import resource
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from busyhour.arrivals import Constant
from busyhour.gates import AtLeast, AtMost, judge
from busyhour.indicators import (
    agent_interruptions,
    call_setup,
    call_success,
    dead_air,
    dropped,
    first_audio_latency,
    loop_lag,
    missed_turns,
    response_latency,
    send_lateness,
)
from busyhour.journal import Journal, open_run
from busyhour.model import MS, SECOND, Mark, Phase, Plan
from busyhour.reports import html
from busyhour.services import Command
from busyhour.workloads.idle import Idle

MILLION = 1_000_000
TURNS = 20
PARTS = 2 + 3 * TURNS  # of a call: itself, its greeting; a turn, and a stretch of speech on either side
SECONDS = 3600
SAMPLES = 700_000


def plan() -> Plan:
    phase = Phase("steady", Constant(1, seconds=SECONDS), Idle(seconds=1))
    return Plan(
        target=Command("true", name="agent"),
        phases=[phase],
        gates=[
            AtMost(response_latency(phase, q=0.5), 650, "ms"),
            AtMost(response_latency(phase, q=0.95), 1000, "ms"),
            AtMost(response_latency(phase, q=0.99), 2000, "ms"),
            AtMost(first_audio_latency(phase), 1000, "ms"),
            AtMost(call_setup(phase), 1000, "ms"),
            AtMost(dead_air(phase), 30, "s"),
            AtMost(missed_turns(phase), 1, "%"),
            AtMost(agent_interruptions(phase), 5, "%"),
            AtLeast(call_success(phase), 95, "%"),
        ],
        valid_if=[AtMost(dropped(), 0), AtMost(send_lateness(q=0.99), 5, "ms"), AtMost(loop_lag(q=0.99), 20, "ms")],
    )


def made(path: Path, operations: int) -> None:
    """Written past the journal's thread, which would take minutes."""
    marks = [Mark(0, "run.began"), Mark(1, "service.started", "agent"), Mark(2, "phase.began", "steady")]
    marks += [Mark(SECONDS * SECOND, "phase.ended", "steady"), Mark(SECONDS * SECOND + 1, "run.ended")]
    with Journal.create(path, {"plan": "benchmarks/report.py"}) as journal:
        for mark in marks:
            journal.append(mark)
    random, calls = Random(1), operations // PARTS
    with closing(sqlite3.connect(path)) as connection, connection:
        for number in range(1, calls + 1):
            connection.executemany(
                "INSERT INTO operations VALUES (?, ?, 'steady', ?, ?, ?, ?, ?, ?, ?)",
                call(random, number, random.randrange((SECONDS - 120) * SECOND)),
            )
        connection.executemany(
            "INSERT INTO samples VALUES (?, 'harness', ?, ?, ?)",
            (
                (i * SECONDS * SECOND // SAMPLES, "send_lateness_ms" if i % 20 else "loop_lag_ms", random.random(), 60)
                for i in range(SAMPLES * operations // MILLION)
            ),
        )


def call(random: Random, number: int, at_ns: int) -> list[tuple[object, ...]]:
    name, ended_ns = f"steady/{number}", at_ns + 5 * SECOND * TURNS
    outcome = "ok" if random.random() < 0.99 else "hung up"
    detail = f'{{"scenario":"talk","why":"","answered_ns":{at_ns + 20 * MS},"opened_ns":{at_ns + 25 * MS}}}'
    rows: list[tuple[object, ...]] = [
        (name, "call", at_ns, at_ns, ended_ns, outcome, "", "", detail),
        (f"{name}/greeting/1", "greeting", at_ns, at_ns, at_ns + 100 * MS, "ok", name, "", "{}"),
    ]
    for turn in range(1, TURNS + 1):
        began_ns = at_ns + 5 * SECOND * turn
        due_ns = began_ns + 2 * SECOND
        answer_ns = None if random.random() < 0.001 else due_ns + round(random.lognormvariate(6.2, 0.25) * MS)
        detail = f'{{"utterance":"beep","text":"beep","gave_up_ns":{due_ns + 6 * SECOND}}}'
        missed = "ok" if answer_ns else "missed"
        rows += [
            (f"{name}/speech/{2 * turn}", "speech", began_ns, began_ns, due_ns, "ok", name, "caller", "{}"),
            (f"{name}/turn/{turn}", "turn", due_ns, began_ns, answer_ns, missed, name, "", detail),
        ]
        if answer_ns is not None:
            spoken = (answer_ns, answer_ns, answer_ns + SECOND, "ok", name, "agent", "{}")
            rows.append((f"{name}/speech/{2 * turn + 1}", "speech", *spoken))
    return rows


def main() -> None:
    operations = int(sys.argv[1]) if len(sys.argv) > 1 else MILLION
    with TemporaryDirectory() as folder:
        path = Path(folder) / "long.journal"
        made(path, operations)
        out, began = io.StringIO(), time.process_time()
        with open_run(path) as run:
            judgement = judge(plan(), run)
            judged = time.process_time()
            html.report(run, judgement, out)
        ended = time.process_time()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{operations:,} operations, judged {judgement.outcome.value.upper()} by {len(judgement.verdicts)} gates")
    print(f"  opened and judged  {judged - began:6.1f} s")
    print(f"  rendered           {ended - judged:6.1f} s, a page of {len(out.getvalue()) / 1e6:.1f} MB")
    print(f"  at the most        {most:6} MB")


if __name__ == "__main__":
    main()
