"""What open-loop HTTP costs, and whether it tells the truth, beside the tools of the field, in a run of two minutes.

    pip install -r benchmarks/peers_requirements.txt     (in an environment of their own, or this one)
    python benchmarks/http_load.py [--peers PYTHON] [--seconds 3]

Requests for each second of the *client's* processor, on 100 connections of keep-alive, the client on one core, one
server on another; wrk and hey too where they are on the PATH. A rate *holds* when all that was due is answered, and the
p99 of how late a request was taken up is below 5 ms. Then the freeze test: a server that stands still for 500 ms in
every 5 s, at 200 requests a second, whose true P99 is known.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import aiohttp
import httptools
import uvloop
from rich.console import Console
from rich.table import Table

from busyhour.arrivals import Constant
from busyhour.bulk import Counts, Stretch
from busyhour.clock import SystemClock
from busyhour.eventloop import quiet_collector
from busyhour.model import SECOND, Endpoint, Mark, Operation, Sample
from busyhour.statistics.exact import weighted_quantile
from busyhour.workloads.http import Get, Http

CLOCK = SystemClock()
CONNECTIONS = 100
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
FROZEN_NS, EVERY_NS, PER_SECOND = SECOND // 2, 5 * SECOND, 200
OWN_LATENCY_MS = 10.0
CLIENT_CPU, SERVER_CPU = 0, 1
LATE_MS_MAX = 5.0
RATES = (1_000, 20_000, 60_000, 80_000, 100_000, 120_000, 140_000, 160_000)
LOCUST = Path(__file__).with_name("peers") / "locust_http.py"


# ---------------------------------------------------------------- the servers


class Freezing(asyncio.Protocol):
    """Answers 10 ms later, or when it no longer stands still: in the first 500 ms of every 5 s it does."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        into_ns = CLOCK.now_ns() % EVERY_NS
        wait_ns = max(0, FROZEN_NS - into_ns)
        write = self._transport.write  # type: ignore[attr-defined]  # a transport that writes
        asyncio.get_running_loop().call_later(wait_ns / SECOND + OWN_LATENCY_MS / 1000, write, ANSWER)


def serve_freezing(listener: socket.socket) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Freezing, sock=listener)
        await server.serve_forever()

    uvloop.run(main())


def serve_quick(listener: socket.socket) -> None:
    import_module("http_far_end").serve(listener.fileno(), ANSWER)  # which `main` has compiled


def serve(listener: socket.socket, by: Callable[[socket.socket], None]) -> None:
    os.sched_setaffinity(0, {SERVER_CPU})
    by(listener)


@contextmanager
def serving(by: Callable[[socket.socket], None]) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(listener, by), daemon=True)
    process.start()
    try:
        with socket.create_connection(listener.getsockname()) as first:  # it answers: it has started
            first.sendall(REQUEST)
            first.recv(len(ANSWER))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        process.terminate()
        process.join()


# ---------------------------------------------------------------- the clients


@dataclass(frozen=True)
class Cost:
    requests: int
    processor_seconds: float
    seconds: float


@dataclass(frozen=True)
class Open:
    """An open-loop run: what it cost, of how many requests, how long they took, and how late they were taken up."""

    cost: Cost
    due: int
    latencies_ms: Sequence[tuple[float, int]]
    late_ms: Sequence[tuple[float, int]]

    @property
    def holds(self) -> bool:
        return self.cost.requests == self.due and quantile(self.late_ms, 0.99) < LATE_MS_MAX


def quantile(weighted: Sequence[tuple[float, int]], q: float) -> float:
    values, counts = zip(*weighted, strict=True)
    return weighted_quantile(values, counts, q) or 0.0


def spent(who: int = resource.RUSAGE_SELF) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


async def measured(work: Callable[[], Awaitable[int]]) -> Cost:
    began_ns, before = CLOCK.now_ns(), spent()
    requests = await work()
    return Cost(requests, spent() - before, (CLOCK.now_ns() - began_ns) / SECOND)


async def ours(url: str, per_second: float, seconds: float) -> Open:
    """Open-loop, with histograms from the schedule."""
    written: list[Operation | Sample | Mark] = []

    async def work() -> int:
        counts = Counts()
        stretch = Stretch(
            phase="load",
            arrivals=Constant(per_second, seconds),
            at_once=round(per_second * 5),
            drain_seconds=5,
            began_ns=CLOCK.now_ns(),
            clock=CLOCK,
            target=Endpoint(url),
            write=written.append,
            counts=counts,
        )
        await Http([Get("/")], connections=CONNECTIONS).perform_all(stretch)
        return counts.finished - counts.failed

    def readings(name: str) -> list[tuple[float, int]]:
        samples = [entry for entry in written if isinstance(entry, Sample) and entry.name == name]
        return sorted((sample.value, sample.count) for sample in samples)

    with quiet_collector():  # as the engine has it during a run
        cost = await measured(work)
    return Open(cost, round(per_second * seconds), readings("latency_ms"), readings("send_lateness_ms"))


class _Closed(asyncio.Protocol):
    """As little as a client can do in Python with the same parts: asks again as soon as it is answered."""

    answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        _Closed.answered += 1
        self._ask()

    def _ask(self) -> None:
        self._transport.write(REQUEST)  # type: ignore[attr-defined]  # a transport that writes


async def least(url: str, seconds: float) -> Cost:
    async def work() -> int:
        before = _Closed.answered
        await asyncio.sleep(seconds)
        return _Closed.answered - before

    port = int(url.rpartition(":")[2])
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(_Closed, "127.0.0.1", port) for _ in range(CONNECTIONS)]
    try:
        return await measured(work)
    finally:
        for transport, _ in made:
            transport.abort()


async def by_aiohttp(url: str, seconds: float) -> Cost:
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    until_ns = CLOCK.now_ns() + round(seconds * SECOND)

    async def user(session: aiohttp.ClientSession) -> int:
        done = 0
        while CLOCK.now_ns() < until_ns:
            async with session.get(url) as answer:
                await answer.read()
            done += 1
        return done

    async with aiohttp.ClientSession(connector=connector) as session:
        return await measured(lambda: _sum(user(session) for _ in range(CONNECTIONS)))


async def _sum(users: Iterator[Awaitable[int]]) -> int:
    return sum(await asyncio.gather(*users))


def by_another(argv: Sequence[str], counted: Callable[[str], int]) -> Cost:
    """Another program: what it says it did, and what the kernel says it used."""
    began_ns, before = CLOCK.now_ns(), spent(resource.RUSAGE_CHILDREN)
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    requests = counted(done.stdout + done.stderr)
    return Cost(requests, spent(resource.RUSAGE_CHILDREN) - before, (CLOCK.now_ns() - began_ns) / SECOND)


def by_locust(peers: str, url: str, seconds: float) -> Cost | str:
    """From when all its users ask; or why not."""
    options = ["--headless", "--only-summary", "--skip-log", "--users", f"{CONNECTIONS}"]
    options += ["--spawn-rate", f"{CONNECTIONS}", "--seconds", f"{seconds:g}"]
    argv = [peers, "-m", "locust", "-f", str(LOCUST), "--host", url, *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    told = next((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), None)
    if told is None:
        return f"{peers} has no Locust: install benchmarks/peers_requirements.txt, and name it with --peers"
    return Cost(told["requests"], told["cpu"], told["seconds"])


def others(url: str, seconds: float) -> Iterator[tuple[str, Cost]]:
    if wrk := shutil.which("wrk"):
        argv = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{round(seconds)}s", url]
        yield "wrk", by_another(argv, lambda told: int(told.partition(" requests in ")[0].split()[-1]))
    if hey := shutil.which("hey"):
        argv = [hey, "-c", str(CONNECTIONS), "-z", f"{round(seconds)}s", "-cpus", "1", url]
        yield "hey", by_another(argv, lambda told: int(told.partition("[200]")[2].split()[0]))


# ---------------------------------------------------------------- the tables


@dataclass(frozen=True)
class Figure:
    what: str
    got: str
    target: str
    met: bool


def costs(console: Console, seconds: float, peers: str) -> Iterator[Figure]:
    table = Table(title=f"requests for each second of the client's processor ({CONNECTIONS} connections)")
    for column in ("client", "requests/CPU s", "us each", "requests/s", "of a core"):
        table.add_column(column, justify="left" if column == "client" else "right")

    def row(name: str, cost: Cost) -> None:
        each = cost.processor_seconds / cost.requests
        table.add_row(
            name, f"{1 / each:,.0f}", f"{1e6 * each:.2f}", f"{cost.requests / cost.seconds:,.0f}",
            f"{cost.processor_seconds / cost.seconds:.0%}",
        )  # fmt: skip

    with serving(serve_quick) as url:
        row("uvloop + httptools, closed loop, nothing measured (the bound)", uvloop.run(least(url, seconds)))
        best, most = 0, 0.0
        for per_second in RATES:
            found = uvloop.run(ours(url, per_second, seconds))
            p99, late = quantile(found.latencies_ms, 0.99), quantile(found.late_ms, 0.99)
            holds = "" if found.holds else ": does not hold"
            row(f"busyhour, open at {per_second:,}/s, p99 {p99:.3g} ms, late {late:.2g} ms{holds}", found.cost)
            if not found.holds:
                break
            best, most = per_second, max(most, found.cost.requests / found.cost.processor_seconds)
        row("aiohttp, closed loop", uvloop.run(by_aiohttp(url, seconds)))
        locust = by_locust(peers, url, seconds)
        if isinstance(locust, Cost):
            row("Locust FastHttpUser", locust)
        for name, cost in others(url, seconds):
            row(name, cost)
    console.print(table)
    yield Figure(
        "open-loop requests/s that hold on a core", f"{best:,}", ">= 100,000, stretch 140,000", best >= 100_000
    )
    if isinstance(locust, Cost):
        times = most / (locust.requests / locust.processor_seconds)
        yield Figure("beside Locust FastHttpUser, per CPU second", f"{times:.1f}x", ">= 10x", times >= 10)
    else:
        console.print(locust)


def true_quantile(q: float) -> float:
    """Of arrivals spread evenly over the period: those that come in the frozen part wait for its end."""
    latencies = sorted(
        OWN_LATENCY_MS + max(0.0, (FROZEN_NS - at_ns) / 1e6) for at_ns in range(0, EVERY_NS, EVERY_NS // 10_000)
    )
    return latencies[int(q * len(latencies))]


def freezing(console: Console) -> Figure:
    table = Table(title="a server that stands still for 500 ms in every 5 s, 200 requests/s, 20 s")
    for column in ("", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right" if column else "left")
    with serving(serve_freezing) as url:
        found = uvloop.run(ours(url, PER_SECOND, 20))
    truth = true_quantile(0.99)
    table.add_row("the truth", f"{true_quantile(0.5):.1f}", f"{truth:.1f}")
    p50, p99 = (quantile(found.latencies_ms, q) for q in (0.5, 0.99))
    table.add_row("busyhour", f"{p50:.1f}", f"{p99:.1f}")
    console.print(table)
    error = abs(p99 - truth) / truth
    return Figure("freeze test: error of P99", f"{error:.1%}", "<= 2 %", error <= 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="which has Locust installed")
    parser.add_argument("--seconds", type=float, default=3, help="measured of each client")
    wanted = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("Two processors are needed, one for the client and one for the server.")
    here = Path(__file__).resolve().parent
    subprocess.run([sys.executable, here.parent / "hatch_build.py", here / "http_far_end.pyx"], check=True)
    os.sched_setaffinity(0, {CLIENT_CPU})
    console = Console(width=110)
    table = Table(title="busyhour's figures, one core")
    for column in ("figure", "measured", "target", ""):
        table.add_column(column)
    for figure in [*costs(console, wanted.seconds, wanted.peers), freezing(console)]:
        table.add_row(figure.what, figure.got, figure.target, "met" if figure.met else "missed")
    console.print(table)


if __name__ == "__main__":
    main()
