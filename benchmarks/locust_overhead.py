"""What Locust costs where it carries a plan: the processor of its own processes, per 1,000 calls at once.

    python benchmarks/locust_overhead.py [--calls 500] [--seconds 60]

A master and a worker of Locust, each with our engine as its child, hold so many calls of about a minute, whose every
turn is a row of Locust's statistics. What is read is the processor time of the two Locust processes alone, over the
middle of the time; the same with one call is what they cost standing by.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from busyhour.services import free_port

PLAN = Path(__file__).with_name("locust_plan.py")
SERVER_CPU = 1
SETTLED_SECONDS = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Spent:
    """Processor seconds of a Locust process and of our engine below it."""

    locust: float
    ours: float


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def tree(pid: int) -> list[int]:
    return [pid, *(below for child in children(pid) for below in tree(child))]


def seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def is_locust(pid: int) -> bool:
    return b"\0locust\0-f\0" in Path(f"/proc/{pid}/cmdline").read_bytes()


def spent(pid: int) -> Spent:
    locust = next(one for one in tree(pid) if is_locust(one))
    return Spent(seconds_of(locust), sum(seconds_of(below) for below in tree(locust)[1:]))


@contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, str(PLAN.with_name("calls_server.py")), str(SERVER_CPU)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"ws://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.kill()


def measured(url: str, calls: int, seconds: float, folder: Path) -> tuple[float, float, str]:
    """Percent of a core of the Locust processes, of ours below them, and how the run ended."""
    port = str(free_port())
    words = [sys.executable, "-m", "busyhour", "locust", str(PLAN)]
    words += ["-o", f"url={url}", "-o", f"calls={calls}", "-o", f"seconds={seconds}"]
    master = ["--headless", "--master", "--expect-workers", "1", "--master-bind-port", port, "-u", "1"]
    worker = ["--worker", "--master-port", port]
    with ExitStack() as stack:
        log = stack.enter_context((folder / f"{calls}.log").open("w"))
        journal = folder / f"{calls}.journal"
        processes = [
            stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
            for command in ([*words, "--", *worker], [*words, "--journal", str(journal), "--", *master])
        ]
        stack.callback(lambda: [process.kill() for process in processes if process.poll() is None])
        while not journal.exists():
            if processes[1].poll() is not None:
                sys.exit(Path(log.name).read_text())
            time.sleep(0.1)
        time.sleep(SETTLED_SECONDS)
        began, before = time.monotonic(), [spent(process.pid) for process in processes]
        time.sleep(seconds - SETTLED_SECONDS - 5)
        after, over = [spent(process.pid) for process in processes], time.monotonic() - began
        processes[1].wait(120)
        locust = sum(b.locust - a.locust for a, b in zip(before, after, strict=True)) / over
        ours = sum(b.ours - a.ours for a, b in zip(before, after, strict=True)) / over
        last = [line for line in Path(log.name).read_text().splitlines() if "turn in held" in line]
        return 100 * locust, 100 * ours, last[-1] if last else "no turns"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    table = Table("calls at once", "Locust, % of a core", "our engine below it", "per 1,000 calls, beyond standing by")
    with tempfile.TemporaryDirectory() as folder, server() as url:
        idle, ours, _ = measured(url, 1, chosen.seconds, Path(folder))
        table.add_row("1", f"{idle:.1f}", f"{ours:.1f}", "")
        busy, ours, told = measured(url, chosen.calls, chosen.seconds, Path(folder))
        table.add_row(f"{chosen.calls}", f"{busy:.1f}", f"{ours:.1f}", f"{(busy - idle) * 1000 / chosen.calls:.1f}")
    Console().print(table, told, sep="\n")


if __name__ == "__main__":
    main()
