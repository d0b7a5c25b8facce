"""What reading a process costs, sensor by sensor, in about 20 s.

    python benchmarks/probes.py

Two processes are read: one that has just started, and one with 400 MB that it has written, 20 threads and 200 connected
sockets. The figure is the median of many readings, in microseconds of the reader's processor: what the kernel does for
it, it does on the reader's time.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console
from rich.table import Table

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.model import MS, Endpoint
from busyhour.probes import sockets
from busyhour.probes.loop import LoopMeter
from busyhour.probes.metrics import RUNTIME, runtime
from busyhour.probes.process import Process
from busyhour.services import AlreadyRunning

CLOCK = SystemClock()
AGENT = AlreadyRunning(name="agent", url="http://127.0.0.1:1")
MEGABYTES, THREADS, SOCKETS = 400, 20, 200
BUDGET_NS = 300 * MS  # for each figure
LEAST = 20

PROGRAM = """
import os, signal, socket, sys, threading
megabytes, threads, sockets = map(int, sys.argv[1:])
memory = bytearray(os.urandom(1) * (megabytes * 1_000_000))
listener = socket.create_server(("127.0.0.1", 0), backlog=512)
links = [(socket.create_connection(listener.getsockname()), listener.accept()[0]) for _ in range(sockets // 2)]
for _ in range(threads - 1):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
signal.pause()
"""


@contextmanager
def process(megabytes: int, threads: int, connected: int) -> Iterator[int]:
    """Its pid."""
    argv = [sys.executable, "-c", PROGRAM, str(megabytes), str(threads), str(connected)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        try:
            yield started.pid
        finally:
            started.kill()


def cost_us(read: Callable[[], object]) -> float:
    read()  # what is done once is not what it costs
    times: list[int] = []
    until_ns = CLOCK.now_ns() + BUDGET_NS
    while len(times) < LEAST or CLOCK.now_ns() < until_ns:
        began_ns = time.thread_time_ns()
        read()
        times.append(time.thread_time_ns() - began_ns)
    return statistics.median(times) / 1000


@dataclass(frozen=True)
class Sensor:
    what: str
    how_often: str
    read: Callable[[int], object]


def inodes(pid: int) -> dict[int, set[int]]:
    targets = proc.open_targets(pid) or []
    return {pid: {int(target[8:-1]) for target in targets if target.startswith("socket:[")}}


def from_tables(pid: int) -> object:
    held = inodes(pid)[pid]
    return {inode: state for inode, state in (proc.tcp_states(pid) or {}).items() if inode in held}


def switches(pid: int) -> object:
    return [proc.switches(pid, thread) for thread in proc.threads(pid) or ()]


SENSORS = [
    Sensor("stat: processor, threads, faults, resident memory", "1 s", proc.stat),
    Sensor("the tree: stat and each thread's children", "1 s", lambda pid: proc.family([pid])),
    Sensor("statm: anonymous memory", "10 s", proc.anonymous_bytes),
    Sensor("io: disks", "1 s", proc.disk_bytes),
    Sensor("fd, counted", "1 s", proc.open_files),
    Sensor("fd by kind", "10 s", proc.open_targets),
    Sensor("task/*/status: context switches", "10 s", switches),
    Sensor("net/dev: the namespace's bytes", "10 s", proc.network_bytes),
    Sensor("fd by kind, TCP by state, its bytes: sock_diag", "10 s", lambda pid: sockets.tcp_of(inodes(pid))),
    Sensor("fd by kind, TCP by state: net/tcp, net/tcp6", "(10 s)", from_tables),
    Sensor("smaps_rollup: private, proportional", "10 s", proc.memory_kb),
]


def whole_us(pid: int, *, details: bool, memory_map: bool) -> float:
    """Of a read of `Process`, from the second on."""
    never = 1e9
    probe = Process(
        AGENT, details_seconds=0 if details else never, memory_map_seconds=0 if memory_map else never, clock=CLOCK
    )
    endpoint = Endpoint("http://nowhere", (pid,))
    return cost_us(lambda: probe.read(endpoint))


def own_us() -> tuple[float, float]:
    """Of what the harness reads of itself: each second, and what is added every ten."""
    often, seldom = LoopMeter(details_seconds=1e9), LoopMeter(details_seconds=0)
    each = cost_us(lambda: often.drain(CLOCK.now_ns()))
    return each, cost_us(lambda: seldom.drain(CLOCK.now_ns())) - each


async def page_us() -> float:
    """Of a question to a `/metrics` of 200 lines, its server in this process too."""
    lines = [f"# TYPE {name} gauge\n{name} 1" for name in RUNTIME.values()]
    text = "\n".join([*lines, *(f'calls_total{{outcome="{n}"}} {n}' for n in range(200))])

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get("/metrics", answer)
    async with TestServer(app) as server:
        probe = runtime(AGENT, every_seconds=0)
        endpoint = Endpoint(str(server.make_url("/")))
        return await awaited_us(lambda: probe.read(endpoint))


async def awaited_us(read: Callable[[], Awaitable[object]]) -> float:
    times = []
    for _ in range(100):
        began_ns = time.thread_time_ns()
        await read()
        times.append(time.thread_time_ns() - began_ns)
    return statistics.median(times) / 1000


def main() -> None:
    table = Table("sensor", "every", "small, us", f"{MEGABYTES} MB, us", title="What a reading costs")
    with process(0, 1, 0) as small, process(MEGABYTES, THREADS, SOCKETS) as large:
        rss_mb = [(proc.stat(pid) or sys.exit("it has ended")).rss_bytes / 1e6 for pid in (small, large)]
        for sensor in SENSORS:
            costs = [cost_us(partial(sensor.read, pid)) for pid in (small, large)]
            table.add_row(sensor.what, sensor.how_often, *(f"{cost:,.0f}" for cost in costs))
        table.add_section()
        wholes = [
            ("Process, every read", False, False),
            ("... with details", True, False),
            ("... with all", True, True),
        ]
        totals = {}
        for what, details, memory_map in wholes:
            costs = [whole_us(pid, details=details, memory_map=memory_map) for pid in (small, large)]
            totals[what] = costs
            table.add_row(what, "", *(f"{cost:,.0f}" for cost in costs))
    each, more = own_us()
    table.add_section()
    table.add_row("LoopMeter: the harness, of itself", "1 s", f"{each:,.0f}", "")
    table.add_row("... and its memory, descriptors, Python blocks", "10 s", f"{more:,.0f}", "")
    table.add_row("runtime(): /metrics of 200 lines, answer included", "10 s", f"{asyncio.run(page_us()):,.0f}", "")
    shares = [
        (9 * often + all_) / 10 / 1e6 * 100
        for often, all_ in zip(totals[wholes[0][0]], totals[wholes[2][0]], strict=True)
    ]
    Console(width=110).print(
        table,
        f"Resident: {rss_mb[0]:.0f} and {rss_mb[1]:.0f} MB. Read as by default, Process takes {shares[0]:.3f} % and "
        f"{shares[1]:.3f} % of one core of the harness. Linux {os.uname().release}, {os.cpu_count()} cores, "
        f"{len(proc.tcp_states(os.getpid()) or {})} TCP sockets in the namespace, {Path(__file__).name}.",
    )


if __name__ == "__main__":
    main()
