"""How true is what we measure? Latency against an agent of known delay, and against one that is frozen for 2 s.

    python benchmarks/measurement.py

Table 1: 10 calls at once, 200 turns, delays of 100-1000 ms known beforehand; nothing is subtracted by hand.
Table 2: calls arrive by an open schedule, the agent answers after 200 ms and is stopped (SIGSTOP) for 2 s; the truth is
computed from when each caller stopped speaking and when the process was stopped and continued.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import numpy as np
import uvloop
from known_delay_agent import delays_ms

from busyhour.arrivals import Poisson
from busyhour.carriers.telnyx import TelnyxStream
from busyhour.clock import SystemClock
from busyhour.model import MS, SECOND, Arrival, Audio, CallSetup, Due, Endpoint, Operation
from busyhour.processes import Child, child
from busyhour.workloads.call import Call, Say, Scenario

AGENT = Path(__file__).with_name("known_delay_agent.py")
CLOCK = SystemClock()


def beep(milliseconds: int) -> Audio:
    """An utterance without pauses whose end lies in mid-frame, as real ones do."""
    count = 8 * milliseconds
    noise = np.random.default_rng(milliseconds).normal(0, 3000, count).astype(np.int16)
    samples = np.concatenate([noise, np.zeros(800, np.int16)])
    return Audio("beep", "beep", samples, 8000, 0, count)


@asynccontextmanager
async def agent(low_ms: int, high_ms: int) -> AsyncIterator[Child]:
    environment = {"LOW": str(low_ms), "HIGH": str(high_ms)}
    command = [sys.executable, str(AGENT)]

    async def ready(process: Child) -> str:
        return (await process.first_line()).removeprefix("READY ")

    async with child(command, name="known-delay agent", ready=ready, env=environment) as process:
        yield process


async def place(carrier: TelnyxStream, url: str, number: int, turns: int, notes: list[Operation]) -> None:
    """One call of `turns` turns to the agent's own path for it."""
    steps = [Say(beep(400 + 37 * (turn % 9)), patience_seconds=10) for turn in range(turns)]
    arrival = Arrival(
        id=f"measure/{number}",
        phase="measure",
        due_ns=CLOCK.now_ns(),
        clock=CLOCK,
        random=Random(number),
        dial=lambda setup: carrier.dial(Endpoint(f"{url}/{number}"), setup),
        record=notes.append,
    )
    await Call([Scenario("beeps", steps, think_ms=(520, 700))], CallSetup(id="")).perform(arrival)


def quantiles(errors: Sequence[float]) -> str:
    p50, p99, worst = np.quantile(np.abs(errors), [0.5, 0.99, 1.0], method="higher")
    return f"p50 {p50:6.2f}   p99 {p99:6.2f}   max {worst:6.2f}   mean {np.mean(errors):+6.2f}"


async def against_known_delays(calls: int, turns: int) -> None:
    notes: list[Operation] = []
    carrier = TelnyxStream()
    async with agent(100, 1000) as process, carrier.running({}):
        began, cpu = CLOCK.now_ns(), os.times()
        await asyncio.gather(*(place(carrier, process.url, n, turns, notes) for n in range(calls)))
        used = os.times()
        seconds = (CLOCK.now_ns() - began) / SECOND
    errors: list[float] = []
    for number in range(calls):
        heard = sorted(
            (o for o in notes if o.kind == "turn" and o.parent == f"measure/{number}"), key=lambda o: o.due_ns
        )
        answered = [(o.ended_ns - o.due_ns) / MS for o in heard if o.ended_ns is not None]
        assert len(answered) == turns, f"call {number}: {len(answered)} of {turns} turns were answered"
        errors += [got - want for got, want in zip(answered, delays_ms(number), strict=False)]
    share = 100 * (used.user + used.system - cpu.user - cpu.system) / seconds
    print(f"known delay, {calls} calls, {len(errors)} turns, error in ms:  {quantiles(errors)}")
    print(f"    harness {share:.1f} % of a core")


async def frozen(seconds: float = 2.0) -> None:
    notes: list[Operation] = []
    carrier = TelnyxStream()
    windows: list[tuple[int, int]] = []

    async def freeze(process: Child) -> None:
        await CLOCK.sleep_until(CLOCK.now_ns() + 10 * SECOND)
        stopped = CLOCK.now_ns()
        os.kill(process.pid, signal.SIGSTOP)
        await CLOCK.sleep_until(stopped + round(seconds * SECOND))
        os.kill(process.pid, signal.SIGCONT)
        windows.append((stopped, CLOCK.now_ns()))

    async with agent(200, 200) as process, carrier.running({}), asyncio.TaskGroup() as group:
        group.create_task(freeze(process))
        schedule, began, number = Poisson(per_second=2, seconds=20, seed=5), CLOCK.now_ns(), 0
        while not isinstance(due := schedule.due_ns(number, 0, 0), Due):
            await CLOCK.sleep_until(began + due)
            group.create_task(place(carrier, process.url, number, 3, notes))
            number += 1
    turns = [o for o in notes if o.kind == "turn" and o.ended_ns is not None]
    ((stopped, continued),) = windows

    def true_ms(turn: Operation) -> float:
        answer_ns = turn.due_ns + 200 * MS
        held = stopped <= answer_ns < continued or stopped <= turn.due_ns < continued
        # what it did not receive before it was stopped it receives when it goes on, and answers 200 ms later
        late_ns = continued + 200 * MS if stopped <= turn.due_ns < continued else continued
        return ((late_ns if held else answer_ns) - turn.due_ns) / MS

    measured = [((o.ended_ns or 0) - o.due_ns) / MS for o in turns]
    got, want = (float(np.quantile(v, 0.99, method="higher")) for v in (measured, [true_ms(t) for t in turns]))
    print(f"frozen for {seconds:.0f} s, {number} calls, {len(turns)} turns:  ", end="")
    print(f"p99 {got:.0f} ms, truth {want:.0f} ms, difference {100 * (got / want - 1):+.1f} %")


async def main() -> None:
    await against_known_delays(calls=10, turns=20)
    await frozen()


if __name__ == "__main__":
    uvloop.run(main())
