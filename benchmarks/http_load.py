"""What open-loop HTTP costs, and whether it tells the truth, beside the tools of the field, in a run of about a minute.

    pip install -r benchmarks/http_load_requirements.txt      (Locust; without it, it is left out)
    python benchmarks/http_load.py [SECONDS]

Requests for each second of the *client's* processor, on 100 connections of keep-alive, against one server in a process
of its own; wrk and hey too where they are on the PATH. Then the freeze test: a server that stands still for 500 ms in
every 5 s, at 200 requests a second, whose true P99 is known.
"""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import httptools
import uvloop
from rich.console import Console
from rich.table import Table

from busyhour.arrivals import Constant
from busyhour.bulk import Counts, Stretch
from busyhour.clock import SystemClock
from busyhour.model import SECOND, Endpoint, Mark, Operation, Sample
from busyhour.statistics.exact import weighted_quantile
from busyhour.workloads.http import Get, Http

CLOCK = SystemClock()
CONNECTIONS = 100
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
FROZEN_NS, EVERY_NS, PER_SECOND = SECOND // 2, 5 * SECOND, 200
OWN_LATENCY_MS = 10.0


# ---------------------------------------------------------------- the servers


class Quick(asyncio.Protocol):
    """Answers at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER * data.count(b"\r\n\r\n"))  # type: ignore[attr-defined]  # a transport that writes


class Freezing(Quick):
    """Answers 10 ms later, or when it no longer stands still: in the first 500 ms of every 5 s it does."""

    def data_received(self, data: bytes) -> None:
        now_ns = CLOCK.now_ns()
        into_ns = now_ns % EVERY_NS
        wait_ns = max(0, FROZEN_NS - into_ns)
        loop = asyncio.get_running_loop()
        loop.call_later(wait_ns / SECOND + OWN_LATENCY_MS / 1000, super().data_received, data)


def serve(link: Connection, protocol: type[Quick]) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, backlog=1024)
        link.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


@contextmanager
def serving(protocol: type[Quick]) -> Iterator[str]:
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(far, protocol), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{near.recv()}"
    finally:
        process.terminate()
        process.join()


# ---------------------------------------------------------------- the clients


@dataclass(frozen=True)
class Cost:
    requests: int
    processor_seconds: float
    seconds: float
    p99_ms: float | None = None


def spent(who: int = resource.RUSAGE_SELF) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


async def measured(work: Callable[[], Awaitable[int]]) -> Cost:
    began_ns, before = CLOCK.now_ns(), spent()
    requests = await work()
    return Cost(requests, spent() - before, (CLOCK.now_ns() - began_ns) / SECOND)


async def ours(url: str, per_second: float, seconds: float) -> tuple[Cost, list[tuple[float, int]]]:
    """Open-loop, with histograms from the schedule: the cost, and the latencies in ms."""
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

    cost = await measured(work)
    samples = [entry for entry in written if isinstance(entry, Sample) and entry.name == "latency_ms"]
    return cost, [(sample.value, sample.count) for sample in samples]


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


LOCUST = """
from locust import FastHttpUser, constant, task
class User(FastHttpUser):
    wait_time = constant(0)
    @task
    def get(self):
        self.client.get("/")
"""


def by_another(argv: Sequence[str], counted: Callable[[str], int]) -> Cost:
    """Another program: what it says it did, and what the kernel says it used."""
    began_ns, before = CLOCK.now_ns(), spent(resource.RUSAGE_CHILDREN)
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    requests = counted(done.stdout + done.stderr)
    return Cost(requests, spent(resource.RUSAGE_CHILDREN) - before, (CLOCK.now_ns() - began_ns) / SECOND)


def others(url: str, seconds: float, folder: Path) -> Iterator[tuple[str, Cost]]:
    if importlib.util.find_spec("locust") is not None:
        plan = folder / "locustfile.py"
        plan.write_text(LOCUST)
        argv = [sys.executable, "-m", "locust", "-f", str(plan), "--headless", "--host", url, "--only-summary"]
        argv += [
            "-u",
            str(CONNECTIONS),
            "-r",
            str(CONNECTIONS),
            "-t",
            f"{max(5, round(seconds))}s",
            "--csv",
            str(folder / "l"),
        ]

        def of_locust(_: str) -> int:
            lines = (folder / "l_stats.csv").read_text().splitlines()
            return int(lines[-1].split(",")[2])

        yield "Locust FastHttpUser (its start-up included)", by_another(argv, of_locust)
    if wrk := shutil.which("wrk"):
        argv = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{round(seconds)}s", url]
        yield "wrk", by_another(argv, lambda told: int(told.partition(" requests in ")[0].split()[-1]))
    if hey := shutil.which("hey"):
        argv = [hey, "-c", str(CONNECTIONS), "-z", f"{round(seconds)}s", "-cpus", "1", url]
        yield "hey", by_another(argv, lambda told: int(told.partition("[200]")[2].split()[0]))


# ---------------------------------------------------------------- the tables


def costs(console: Console, seconds: float, folder: Path) -> None:
    table = Table(title=f"requests for each second of the client's processor ({CONNECTIONS} connections)")
    for column in ("client", "requests/CPU s", "us each", "requests/s", "of a core"):
        table.add_column(column, justify="left" if column == "client" else "right")

    def row(name: str, cost: Cost) -> None:
        each = cost.processor_seconds / cost.requests
        table.add_row(
            name, f"{1 / each:,.0f}", f"{1e6 * each:.2f}", f"{cost.requests / cost.seconds:,.0f}",
            f"{cost.processor_seconds / cost.seconds:.0%}",
        )  # fmt: skip

    with serving(Quick) as url:
        row("uvloop + httptools, closed loop, nothing measured (the bound)", uvloop.run(least(url, seconds)))
        for per_second in (1_000, 20_000, 60_000, 100_000):
            cost, latencies = uvloop.run(ours(url, per_second, seconds))
            values, counts = zip(*latencies, strict=True)
            p99 = weighted_quantile(values, counts, 0.99)
            row(f"busyhour, open loop at {per_second:,}/s, p99 {p99:.3g} ms", cost)
        row("aiohttp, closed loop", uvloop.run(by_aiohttp(url, seconds)))
        for name, cost in others(url, seconds, folder):
            row(name, cost)
    console.print(table)


def true_quantile(q: float) -> float:
    """Of arrivals spread evenly over the period: those that come in the frozen part wait for its end."""
    latencies = sorted(
        OWN_LATENCY_MS + max(0.0, (FROZEN_NS - at_ns) / 1e6) for at_ns in range(0, EVERY_NS, EVERY_NS // 10_000)
    )
    return latencies[int(q * len(latencies))]


def freezing(console: Console) -> None:
    table = Table(title="a server that stands still for 500 ms in every 5 s, 200 requests/s, 20 s")
    for column in ("", "p50 ms", "p99 ms", "error of p99"):
        table.add_column(column, justify="right" if column else "left")
    with serving(Freezing) as url:
        _, latencies = uvloop.run(ours(url, PER_SECOND, 20))
    values, counts = zip(*latencies, strict=True)
    truth = true_quantile(0.99)
    table.add_row("the truth", f"{true_quantile(0.5):.1f}", f"{truth:.1f}", "")
    p50, p99 = (weighted_quantile(values, counts, q) or 0.0 for q in (0.5, 0.99))
    table.add_row("busyhour", f"{p50:.1f}", f"{p99:.1f}", f"{abs(p99 - truth) / truth:.1%}")
    console.print(table)


def main() -> None:

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    console = Console(width=130)
    with tempfile.TemporaryDirectory() as folder:
        costs(console, seconds, Path(folder))
    freezing(console)


if __name__ == "__main__":
    main()
