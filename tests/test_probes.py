"""Probes: readings of real processes whose size, threads and load are known."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.histogram import LogHistogram
from busyhour.model import MS, SECOND, Endpoint, Metered, Sample
from busyhour.probes.loop import LoopMeter
from busyhour.probes.process import Process
from busyhour.services import AlreadyRunning, Child, child

AGENT = AlreadyRunning(name="voice-agent", url="http://127.0.0.1:1")
# It touches MB of its own, opens files, starts threads and a child that does the same, and then works or waits.
PROGRAM = """
import os, signal, sys, threading
megabytes, files, threads, children, busy = map(int, sys.argv[1:])
pids = []
for _ in range(children):
    if (pid := os.fork()) == 0:
        break
    pids.append(pid)
memory = bytearray(os.urandom(1) * (megabytes * 1_000_000))
opened = [open(os.devnull) for _ in range(files)]
for _ in range(threads):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("READY x", flush=True)
while busy:
    pass
signal.pause()
"""


@asynccontextmanager
async def program(
    *, megabytes: int = 0, files: int = 0, threads: int = 0, children: int = 0, busy: bool = False
) -> AsyncIterator[Endpoint]:
    async def all_are_up(child: Child) -> str:
        while len(child.last_lines()) < 1 + children:  # noqa: ASYNC110  (processes set no events)
            await asyncio.sleep(0.005)
        return "x"

    numbers = [str(int(value)) for value in (megabytes, files, threads, children, busy)]
    async with child([sys.executable, "-c", PROGRAM, *numbers], name="voice-agent", ready=all_are_up) as running:
        yield Endpoint("x", (running.pid,))


# ---------------------------------------------------------------- processes


async def test_a_tree_is_read_as_a_whole() -> None:
    async with program() as small:
        one = Process(AGENT).read(small)
    async with program(megabytes=50, files=20, threads=3, children=2) as large:
        probe = Process(AGENT)
        assert probe.service == "voice-agent"
        three = probe.read(large)
    assert (one["processes"], three["processes"]) == (1, 3)
    assert (one["threads"], three["threads"]) == (1, 3 * 4)
    assert three["fds"] == 3 * (one["fds"] + 20)
    assert three["rss_mb"] > one["rss_mb"] + 150
    assert 150 < three["private_dirty_mb"] <= three["uss_mb"] < three["rss_mb"]


async def test_cpu_is_read_since_the_last_time() -> None:
    clock = SystemClock()
    async with program(busy=True) as busy, program() as idle:
        probes = {"busy": Process(AGENT), "idle": Process(AGENT)}
        endpoints = {"busy": busy, "idle": idle}
        assert all("cpu_pct" not in probe.read(endpoints[name]) for name, probe in probes.items())
        await clock.sleep_until(clock.now_ns() + SECOND // 2)
        second = {name: probe.read(endpoints[name])["cpu_pct"] for name, probe in probes.items()}
    assert 10 < second["busy"] <= 110, "the machine is shared, but one thread has one core at most"
    assert second["idle"] <= 4


async def test_the_memory_map_is_walked_only_now_and_then() -> None:
    async with program() as endpoint:
        seldom, always = Process(AGENT), Process(AGENT, memory_map_seconds=0)
        assert ["uss_mb" in seldom.read(endpoint) for _ in range(3)] == [True, False, False]
        assert ["uss_mb" in always.read(endpoint) for _ in range(3)] == [True, True, True]


async def test_what_is_gone_has_no_readings() -> None:
    async with program() as endpoint:
        pass
    assert Process(AGENT).read(endpoint) == {}
    assert Process(AGENT).read(Endpoint("http://elsewhere")) == {}


def test_the_slow_way_through_proc_finds_the_same_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    async def trees() -> tuple[set[int], set[int]]:
        async with program(children=2) as endpoint:
            quick = {one.pid for one in proc.tree(endpoint.pids)}
            monkeypatch.setattr(proc, "_below", proc._children_among_all)
            return quick, {one.pid for one in proc.tree(endpoint.pids)}

    quick, slow = asyncio.run(trees())
    assert quick == slow
    assert len(quick) == 3


def test_our_own_process_is_as_we_know_it() -> None:
    own = proc.stat(os.getpid())
    assert own is not None
    assert (own.parent, own.threads) == (os.getppid(), len(os.listdir("/proc/self/task")))
    assert own.state == "R"


# ---------------------------------------------------------------- the loop


def weighted(samples: list[Sample], name: str) -> list[float]:
    return [sample.value for sample in samples if sample.name == name for _ in range(sample.count)]


async def test_an_idle_loop_is_hardly_late() -> None:
    clock = SystemClock()
    began_ns = clock.now_ns()
    async with LoopMeter().running() as meter:
        assert isinstance(meter, Metered)
        await clock.sleep_until(began_ns + SECOND // 2)
        ended_ns = clock.now_ns()
        samples = list(meter.drain(ended_ns))
        lags = sorted(weighted(samples, "loop_lag_ms"))
        assert abs(len(lags) - (ended_ns - began_ns) // (10 * MS)) <= 2, "one reading for every timer that was due"
        assert lags[len(lags) // 2] < 20
        assert {sample.source for sample in samples} == {"harness"}
        assert 10 < weighted(samples, "rss_mb")[0] < 5000
        assert weighted(samples, "cpu_pct") == [], "there is nothing to compare with yet"
        await clock.sleep_until(clock.now_ns() + SECOND // 10)
        assert 0 <= weighted(list(meter.drain(clock.now_ns())), "cpu_pct")[0] < 400


async def test_every_timer_that_a_block_made_late_is_counted() -> None:
    clock = SystemClock()
    async with LoopMeter().running() as meter:
        await asyncio.sleep(0.05)
        meter.drain(clock.now_ns())
        threading.Event().wait(0.2)  # blocks the loop on purpose
        await asyncio.sleep(0.02)
        lags = weighted(list(meter.drain(clock.now_ns())), "loop_lag_ms")
    late = sorted(lag for lag in lags if lag > 15)
    assert len(late) >= 17, "each of the twenty timers, but those that were late by less than 15 ms"
    assert late[-1] > 185
    assert late[len(late) // 2] < 0.7 * late[-1], "from the whole block down to nothing, not twenty times the worst"


async def test_a_meter_that_has_stopped_measures_no_more() -> None:
    clock = SystemClock()
    async with LoopMeter(every_ms=1).running() as meter:
        await asyncio.sleep(0.02)
    assert weighted(list(meter.drain(clock.now_ns())), "loop_lag_ms")
    await asyncio.sleep(0.02)
    assert not weighted(list(meter.drain(clock.now_ns())), "loop_lag_ms")


async def test_what_a_leak_of_ours_would_show_in_is_always_read_now_and_then() -> None:
    meter = LoopMeter()
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    try:
        first = {sample.name: sample.value for sample in meter.drain(0)}
    finally:
        for descriptor in opened:
            os.close(descriptor)
    meter.read_all_next()
    second = {sample.name: sample.value for sample in meter.drain(SECOND)}
    assert first["fds"] == second["fds"] + 5
    assert first["threads"] == len(os.listdir("/proc/self/task"))
    assert first["python_blocks"] == pytest.approx(sys.getallocatedblocks(), rel=0.1)
    assert 5 < first["private_mb"] <= first["rss_mb"] + 1
    assert 0 < first["process_probe_ms"] < 1000
    assert "private_mb" not in {sample.name for sample in meter.drain(2 * SECOND)}
    assert "private_mb" in {sample.name for sample in meter.drain(11 * SECOND)}
    assert meter.missing() == []


# ---------------------------------------------------------------- the histogram


@given(st.integers(-10, 10**14))
def test_a_bucket_is_narrow_and_never_below_its_value(ns: int) -> None:
    histogram = LogHistogram()
    histogram.add(ns)
    (sample,) = histogram.drain(7, "harness", "lag_ms")
    upper_ns = round(sample.value * MS)
    assert max(ns, 0) <= upper_ns <= max(ns, 0) * 1.02
    assert (sample.at_ns, sample.source, sample.name, sample.count) == (7, "harness", "lag_ms", 1)


@given(st.lists(st.tuples(st.integers(0, 10**11), st.integers(1, 1000)), max_size=50))
def test_nothing_is_lost_and_a_drain_empties(readings: list[tuple[int, int]]) -> None:
    histogram = LogHistogram()
    for ns, count in readings:
        histogram.add(ns, count)
    samples = histogram.drain(0, "a", "b")
    assert sum(sample.count for sample in samples) == sum(count for _, count in readings)
    values = [sample.value for sample in samples]
    assert values == sorted(set(values))
    assert histogram.drain(0, "a", "b") == []


def test_a_million_readings_are_a_few_samples() -> None:
    histogram = LogHistogram()
    for ns in range(1, 10**9, 10_007):
        histogram.add(ns)
    assert len(histogram.drain(0, "a", "b")) < 1500
