"""Half an hour of 500 calls at once: does busyhour itself grow?

    python benchmarks/held_calls.py [--calls 500] [--minutes 30] [--journal FILE]

Calls of about a minute come and go, by the real engine, with recordings and journal, against the server of
`benchmarks/calls.py`. The harness has one core and the server another. It tells the harness's memory over time, what
its own leak rule says of it, by the hour and by the call, and how late the frames were.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import uvloop
from peers.measuring import raise_limit
from rich.console import Console
from rich.table import Table

from busyhour.arrivals import Hold
from busyhour.carriers.telnyx import TelnyxStream
from busyhour.engine import Execution
from busyhour.gates import NoLeak
from busyhour.indicators import dropped, send_lateness
from busyhour.journal import Journal, StoredRun, open_run
from busyhour.model import SECOND, Audio, Phase, Plan
from busyhour.services import AlreadyRunning
from busyhour.workloads.call import Call, Say, Scenario

HARNESS_CPU, SERVER_CPU = 0, 1
TURNS = 20  # about a minute
KB_PER_CALL_MAX = 1.0
SETTLING_HOURS = 0.1


def beep() -> Audio:
    """0.9 s of sound and 0.1 s of silence."""
    noise = np.random.default_rng(1).normal(0, 3000, 7200).astype(np.int16)
    return Audio("beep", "beep", np.concatenate([noise, np.zeros(800, np.int16)]), 8000, 0, len(noise))


@contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("calls_server.py")), str(SERVER_CPU)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"ws://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.kill()


def plan(url: str, calls: int, minutes: float) -> Plan:
    talk = Scenario("talk", [Say(beep())] * TURNS, think_ms=(700, 1700))
    phase = Phase("held", Hold(calls, minutes * 60), Call([talk]), at_once=calls)
    return Plan(target=AlreadyRunning(name="server", url=url), carrier=TelnyxStream(), phases=[phase], gates=[])


def report(run: StoredRun, calls: int, minutes: float) -> None:
    samples = run.samples("harness", "rss_mb", "held")
    table = Table("minutes", "MB, median", "calls ended")
    ended_ns = sorted(call.ended_ns for call in run.operations("call", "held") if call.ended_ns is not None)
    began_ns = samples[0].at_ns
    for since, until in pairwise(np.linspace(0, minutes * 60, 11)):
        part = [s.value for s in samples if since <= (s.at_ns - began_ns) / SECOND < until]
        over = sum(at_ns <= began_ns + until * SECOND for at_ns in ended_ns)
        table.add_row(f"{since / 60:.0f} to {until / 60:.0f}", f"{np.median(part):.1f}" if part else "", f"{over:,}")
    lateness, lost = send_lateness(0.99)(run), dropped("held")(run)
    turns = len(run.operations("turn", "held"))
    limit = KB_PER_CALL_MAX * 60 * calls / 1000
    verdict = NoLeak("harness", limit, settling_hours=SETTLING_HOURS).judge(run)
    Console().print(
        table,
        f"{KB_PER_CALL_MAX:g} KB per call would be {limit:g} MB/h: {verdict.outcome.upper()}, {verdict.because}",
        f"{turns:,} turns; frames left p99 {lateness.value:.2f} ms late; {lost.value:.0f} arrivals dropped",
        sep="\n",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--journal", type=Path, help="where to keep it (default: it is not kept)")
    chosen = parser.parse_args()
    raise_limit()
    with tempfile.TemporaryDirectory() as folder, server() as url:
        path = chosen.journal or Path(folder) / "held.journal"
        os.sched_setaffinity(0, {HARNESS_CPU})
        with Journal.create(path, {}) as journal:
            uvloop.run(Execution(plan(url, chosen.calls, chosen.minutes), journal).execute())
        with open_run(path) as run:
            report(run, chosen.calls, chosen.minutes)


if __name__ == "__main__":
    main()
