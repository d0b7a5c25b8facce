"""busyhour's own end of `benchmarks/calls.py`: calls by the real carrier and workload, with everything switched on.

    python benchmarks/calls_engine.py URL CALLS SECONDS [BURST]

Every call is dialled by `TelnyxStream` and performed by the workload `Call`: the caller speaks, the far end answers,
speech is detected in every frame, and each turn is recorded. It then says what `peers/measuring.py` says of every
client, and: frames skipped or unread, how long each turn took, by how much memory has grown for each call, and, if
BURST calls were dialled at once at the end, how late the frames were meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import cast

import numpy as np
import uvloop
from peers.measuring import LINGER_SECONDS, SETTLE_SECONDS, cpu_seconds, rss_kb

from busyhour.carriers.line import CallerLine
from busyhour.carriers.media_socket import Counts
from busyhour.carriers.telnyx import TelnyxStream
from busyhour.carriers.telnyx.call import Call as TelnyxCall
from busyhour.clock import SystemClock
from busyhour.descriptors import widened
from busyhour.model import MS, SECOND, Arrival, Audio, CallSetup, Endpoint, Operation, Sample
from busyhour.statistics.exact import weighted_quantile
from busyhour.workloads.call import Call, Say, Scenario, Silence

CLOCK = SystemClock()
COUNTING_SECONDS = 0.5  # to look into a thousand calls takes 10 ms, which are not to be found in the figures


def beep() -> Audio:
    """1.8 s of sound and 0.1 s of silence."""
    count = 14_400
    noise = np.random.default_rng(1).normal(0, 3000, count).astype(np.int16)
    return Audio("beep", "beep", np.concatenate([noise, np.zeros(800, np.int16)]), 8000, 0, count)


TURN_SECONDS = 5.7  # as in plans/telephone.py: there a caller speaks for 1.9 s, the agent for 2.6
SAYING = [Say(beep())] * 100


def conversation(random: Random) -> Call:
    """It begins anywhere within a turn: calls that were dialled one after another do not speak in unison."""
    steps = [Silence(random.uniform(0, TURN_SECONDS)), *SAYING]
    return Call([Scenario("talk", steps, think_ms=(500, 1300))], CallSetup(id=""))


class Calls:
    """Calls of one carrier to one far end, in progress until they are cancelled."""

    def __init__(self, carrier: TelnyxStream, url: str) -> None:
        self.turns: list[tuple[int, float]] = []  # call number, and response in ms; infinite if it was not answered
        self._last: Operation | None = None
        self._carrier, self._url = carrier, url
        self._tasks: list[asyncio.Task[None]] = []
        self._lines: list[CallerLine] = []

    async def add(self, count: int) -> None:
        """Dial so many more at once, and return when their media streams are open."""
        first = len(self._tasks)
        for number in range(first, first + count):
            self._tasks.append(asyncio.create_task(self._perform(number)))
            await asyncio.sleep(0)  # as the engine does
        while len(self._lines) < first + count:
            await asyncio.sleep(0.02)
            for task in self._tasks:
                if task.done():
                    task.result()
                    raise RuntimeError(f"a call ended: {self._last}")

    async def _perform(self, number: int) -> None:
        @asynccontextmanager
        async def dial(setup: CallSetup) -> AsyncIterator[CallerLine]:
            async with self._carrier.dial(Endpoint(f"{self._url}/{number}"), setup) as line:
                self._lines.append(line)
                yield line

        random = Random(number)
        arrival = Arrival(
            id=f"calls/{number}",
            phase="calls",
            due_ns=CLOCK.now_ns(),
            clock=CLOCK,
            random=random,
            dial=dial,
            record=self._record,
        )
        await conversation(random).perform(arrival)

    def _record(self, operation: Operation) -> None:
        """Nothing is kept of it but what is told: a run writes it to its journal."""
        self._last = operation
        if operation.kind == "turn" and operation.outcome != "lost":
            response_ns = None if operation.ended_ns is None else operation.ended_ns - operation.due_ns
            number = int(operation.parent.rpartition("/")[2])
            self.turns.append((number, float("inf") if response_ns is None else response_ns / MS))

    def counts(self) -> Counts:
        """Of all media sockets, since their calls began."""
        return sum((cast("TelnyxCall", line._call).media.counts() for line in self._lines), Counts())

    async def cancel(self) -> int:
        """How many had ended before."""
        ended = sum(task.done() for task in self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return ended


def lateness(samples: Sequence[Sample]) -> dict[str, object]:
    late = [sample for sample in samples if sample.name == "send_lateness_ms"]
    values, counts = [sample.value for sample in late], [sample.count for sample in late]
    skipped = sum(sample.value for sample in samples if sample.name == "frames_skipped")
    quantiles = {str(q): weighted_quantile(values, counts, q) for q in (0.5, 0.95, 0.99, 0.999)}
    return {"late_ms": quantiles, "skipped": skipped}


async def main() -> None:
    url, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    burst = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    carrier = TelnyxStream()
    with widened():
        async with carrier.running({}):
            await measured(carrier, url, count, seconds, burst)


async def measured(carrier: TelnyxStream, url: str, count: int, seconds: float, burst: int) -> None:
    calls = Calls(carrier, url)
    await calls.add(1)
    gc.collect()
    base_kb = rss_kb()
    await calls.add(count - 1)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as the engine has it during a run
    await asyncio.sleep(SETTLE_SECONDS)
    counted_ns, counts_before = CLOCK.now_ns(), calls.counts()
    await asyncio.sleep(COUNTING_SECONDS)
    carrier.drain(0)
    print(json.dumps({"begin": True}), flush=True)
    began_ns, cpu = CLOCK.now_ns(), cpu_seconds()
    turns_before = len(calls.turns)
    await asyncio.sleep(seconds)
    elapsed = (CLOCK.now_ns() - began_ns) / SECOND
    cpu = cpu_seconds() - cpu
    print(json.dumps({"end": True}), flush=True)
    told = lateness(carrier.drain(0))
    counted, counts = (CLOCK.now_ns() - counted_ns) / SECOND, calls.counts()
    told["sent_per_second"] = (counts.sent - counts_before.sent) / counted
    told["received_per_second"] = (counts.received - counts_before.received) / counted
    told["unread"] = counts.skipped - counts_before.skipped
    told["cpu"] = cpu / elapsed
    told["rss_kb"] = rss_kb()
    told["kb_per_call"] = (rss_kb() - base_kb) / max(1, count - 1)
    told["turns"] = calls.turns[turns_before:]
    print(json.dumps(told), flush=True)
    await asyncio.sleep(LINGER_SECONDS)
    if burst:
        carrier.drain(0)
        await calls.add(burst)
        print(json.dumps(lateness(carrier.drain(0))), flush=True)
    ended = await calls.cancel()
    print(json.dumps({"ended": ended}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
