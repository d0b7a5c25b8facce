"""What the proxy adds, and how exact its toxics are, beside the direct connection, in one run of about 40 s.

    python benchmarks/proxy.py

The far end is a process of its own: it echoes each message, and pours zeros to whoever asks for so many. The near end
is this process, which stamps with the monotonic clock. Round trips are of 160 bytes, a frame of telephone audio.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.faults.proxy import Bandwidth, Latency, Proxy
from busyhour.model import MS, SECOND, Endpoint, Fault
from busyhour.services import AlreadyRunning

CLOCK = SystemClock()
FRAME = bytes(160)
STREAMS = 50
RATES = (50, 200, 1000, 8000, 20_000)
POUR = b"POUR"


# ---------------------------------------------------------------- the far end


def far_end(link: Connection) -> None:
    """Echo, and pour: after "POUR" and a number of 8 bytes, so many zeros."""
    server = socket.create_server(("127.0.0.1", 0), backlog=256)
    link.send(server.getsockname()[1])

    def serve(peer: socket.socket) -> None:
        zeros = bytes(256 * 1024)
        with closing(peer):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := peer.recv(65536):
                if not data.startswith(POUR):
                    peer.sendall(data)
                    continue
                left = int.from_bytes(data[4:12], "big")
                while left > 0:
                    left -= peer.send(zeros[: min(left, len(zeros))])

    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


@dataclass(frozen=True)
class Path:
    """A way to the far end."""

    name: str
    port: int

    def connect(self) -> socket.socket:
        near = socket.create_connection(("127.0.0.1", self.port))
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return near


# ---------------------------------------------------------------- measuring


def round_trips_ms(path: Path, count: int) -> list[float]:
    """One after the other, on one connection that is otherwise idle."""
    times = []
    with closing(path.connect()) as near:
        for _ in range(count):
            began = CLOCK.now_ns()
            near.sendall(FRAME)
            left = len(FRAME)
            while left:
                left -= len(near.recv(left))
            times.append((CLOCK.now_ns() - began) / MS)
    return times


async def paced_round_trips_ms(path: Path, seconds: float) -> list[float]:
    """A frame each 20 ms on each of 50 connections, spread over the 20 ms."""
    times: list[float] = []

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", path.port)
        due_ns = CLOCK.now_ns() + number * 20 * MS // STREAMS
        for _ in range(int(seconds * 50)):
            due_ns += 20 * MS
            await CLOCK.sleep_until(due_ns)
            began = CLOCK.now_ns()
            writer.write(FRAME)
            await reader.readexactly(len(FRAME))
            times.append((CLOCK.now_ns() - began) / MS)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(one(number) for number in range(STREAMS)))
    return times


def pour(path: Path, size: int) -> float:
    """Kilobytes a second, from the first bytes to the last."""
    with closing(path.connect()) as near:
        near.sendall(POUR + size.to_bytes(8, "big"))
        buffer = bytearray(1 << 20)
        first = near.recv_into(buffer)
        began, left = CLOCK.now_ns(), size - first
        while left:
            left -= near.recv_into(buffer)
        return (size - first) / 1000 / ((CLOCK.now_ns() - began) / SECOND)


async def pour_together(path: Path, size: int) -> float:
    """Megabytes a second through 50 connections at once."""
    each = size // STREAMS

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", path.port, limit=1 << 20)
        writer.write(POUR + each.to_bytes(8, "big"))
        left = each
        while left:
            left -= len(await reader.read(1 << 20))
        writer.close()
        await writer.wait_closed()

    began = CLOCK.now_ns()
    await asyncio.gather(*(one() for _ in range(STREAMS)))
    return each * STREAMS / 1e6 / ((CLOCK.now_ns() - began) / SECOND)


# ---------------------------------------------------------------- the tables


@dataclass
class Bench:
    proxy: Proxy
    endpoints: Mapping[str, Endpoint]
    direct: Path
    proxied: Path
    console: Console

    @asynccontextmanager
    async def under(self, fault: Fault) -> AsyncIterator[None]:
        """With its proof: a figure taken without the fault would be worth nothing."""
        async with fault.injected(self.endpoints, CLOCK) as proof:
            yield
            effective, because = await proof.effect()
            assert effective, because

    async def round_trips(self) -> None:
        table = Table("round trip of 160 bytes, ms", "p50", "p99", "max", "added at p50", title="latency")
        bases: dict[str, float] = {}

        def row(name: str, kind: str, times: Sequence[float]) -> None:
            p50, p99, worst = (float(np.quantile(times, q)) for q in (0.5, 0.99, 1))
            added = p50 - bases.setdefault(kind, p50)
            table.add_row(name, f"{p50:.3f}", f"{p99:.3f}", f"{worst:.3f}", f"{added:+.3f}")

        for path in (self.direct, self.proxied):
            row(f"{path.name}, idle", "idle", await asyncio.to_thread(round_trips_ms, path, 2000))
        async with self.under(Latency(self.proxy, 50)):
            row("latency of 50 ms", "idle", await asyncio.to_thread(round_trips_ms, self.proxied, 100))
        for path in (self.direct, self.proxied):
            row(f"{path.name}, {STREAMS} streams", "many", await paced_round_trips_ms(path, 4))
        async with self.under(Latency(self.proxy, 50)):
            row(f"50 ms, {STREAMS} streams", "many", await paced_round_trips_ms(self.proxied, 3))
        self.console.print(table)

    async def rates(self) -> None:
        table = Table("set, kB/s", "measured", "error, %", title="bandwidth, one connection")
        for rate in RATES:
            async with self.under(Bandwidth(self.proxy, rate)):
                measured = await asyncio.to_thread(pour, self.proxied, max(100_000, int(rate * 1500)))
            table.add_row(f"{rate}", f"{measured:.1f}", f"{100 * (measured / rate - 1):+.2f}")
        self.console.print(table)

    async def throughput(self) -> None:
        table = Table("MB/s", "one connection", f"{STREAMS} connections", "proxy's CPU, ms a MB", title="throughput")
        for path in (self.direct, self.proxied):
            pids = self.endpoints[self.proxy.name].pids
            before = sum(one.cpu_seconds for one in proc.tree(pids))
            alone = await asyncio.to_thread(pour, path, 1_500_000_000)
            together = await pour_together(path, 1_500_000_000)
            spent = sum(one.cpu_seconds for one in proc.tree(pids)) - before
            cost = f"{1000 * spent / 3000:.2f}" if path is self.proxied else "-"
            table.add_row(path.name, f"{alone / 1000:.0f}", f"{together:.0f}", cost)
        self.console.print(table)

    def lag(self) -> None:
        samples = self.proxy.drain(CLOCK.now_ns())
        lags = np.repeat([sample.value for sample in samples], [sample.count for sample in samples])
        p50, p99, worst = (float(np.quantile(lags, q)) for q in (0.5, 0.99, 1))
        self.console.print(f"the proxy's own lag in all this: p50 {p50:.3f}, p99 {p99:.3f}, max {worst:.1f} ms")


async def main() -> None:
    here, there = multiprocessing.Pipe()
    far = multiprocessing.get_context("fork").Process(target=far_end, args=(there,), daemon=True)
    far.start()
    port = here.recv()
    proxy = Proxy(AlreadyRunning(name="far", url=f"http://127.0.0.1:{port}"))
    upstream = Endpoint(f"http://127.0.0.1:{port}")
    try:
        async with proxy.running({"far": upstream}) as endpoint:
            proxied = Path("proxied", int(endpoint.url.rpartition(":")[2]))
            endpoints = {"far": upstream, proxy.name: endpoint}
            bench = Bench(proxy, endpoints, Path("direct", port), proxied, Console())
            await bench.round_trips()
            await bench.rates()
            await bench.throughput()
            await asyncio.sleep(1)  # the last lag is heard half a second later
            bench.lag()
    finally:
        far.terminate()
        far.join()


if __name__ == "__main__":
    uvloop.run(main())
