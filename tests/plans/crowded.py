"""A plan without a wire whose target has a capacity that is known: beyond so many calls at once it refuses or slows."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from busyhour.arrivals import Constant
from busyhour.carriers.memory import Manner, MemoryLine, MemoryService
from busyhour.clock import SystemClock
from busyhour.faults.process import BlockLoop
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import call_success, dropped, loop_lag, response_latency
from busyhour.model import Audio, CallFailed, CallSetup, Clock, Endpoint, Line, Phase, Plan
from busyhour.workloads.call import Call, Greeting, Say, Scenario

WORD = Audio("word", "word", np.zeros(400, np.int16), 8000, 0, 400)
MANNER = Manner(greets_after_ms=10, answers_after_ms=50, speaks_ms=20, hangover_ms=20)


@dataclass(kw_only=True, eq=False)
class Crowded:
    """A carrier in memory whose far end takes `capacity` calls at once. beyond: "refuses", "slows" or, to be a harness
    that cannot place more, "blocks" the loop for 60 ms at every call."""

    clock: Clock
    capacity: int
    beyond: str = "refuses"
    lines: int = field(default=0, init=False)
    most: int = field(default=0, init=False)
    name: str = "carrier"

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        yield Endpoint("memory:")

    @asynccontextmanager
    async def dial(self, target: Endpoint, call: CallSetup) -> AsyncIterator[Line]:
        excess = self.lines + 1 - self.capacity
        if excess > 0 and self.beyond == "refuses":
            raise CallFailed("busy")
        if excess > 0 and self.beyond == "blocks":
            threading.Event().wait(0.06)
        slower = 100 if excess > 0 and self.beyond == "slows" else 0
        line = MemoryLine(self.clock, replace(MANNER, answers_after_ms=MANNER.answers_after_ms + slower))
        self.lines += 1
        self.most = max(self.most, self.lines)
        try:
            yield line
        finally:
            self.lines -= 1
            await line.hang_up()


def made(
    carrier: Crowded,
    *,
    turns: int = 1,
    think_ms: int = 30,
    limit_ms: float = 100,
    lag_ms: float = 40,
    blocked: bool = False,
) -> Plan:
    scenario = Scenario(
        "talk", [Greeting(), *[Say(WORD, patience_seconds=1)] * turns], think_ms=(think_ms, think_ms + 10)
    )
    faults = [BlockLoop(milliseconds=60, every_milliseconds=200)] if blocked else []
    greeting = Phase("greeting", Constant(1, 1), Call([Scenario("greeting", [Greeting()])]))
    talk = Phase("talk", Constant(10, 1), Call([scenario]), faults=faults)
    return Plan(
        target=MemoryService("agent"),
        carrier=carrier,
        phases=[greeting, talk],
        gates=[
            AtMost(response_latency(talk, q=0.9), limit_ms, "ms"),
            AtLeast(call_success(talk), 90, "%"),
            AtLeast(call_success(greeting), 90, "%"),
        ],
        valid_if=[AtMost(dropped(talk), 0), AtMost(loop_lag(q=0.99), lag_ms, "ms")],
    )


def plan(
    capacity: int = 6, beyond: str = "refuses", limit_ms: float = 100, lag_ms: float = 40, blocked: int = 0
) -> Plan:
    carrier = Crowded(clock=SystemClock(), capacity=capacity, beyond=beyond)
    return made(carrier, limit_ms=limit_ms, lag_ms=lag_ms, blocked=bool(blocked))
