"""Calls in memory that are over in a second; nothing in it is tight but what an option makes so."""

import numpy as np

from busyhour import AtMost, Audio, Burst, Call, Greeting, Phase, Plan, Say, Scenario, SystemClock
from busyhour.indicators import dropped, response_latency
from busyhour.testing import Manner, MemoryCarrier, MemoryService

WORD = Audio("word", "word", np.zeros(400, np.int16), 8000, 0, 400)


def plan(limit_ms: float = 20_000, calls: int = 8, at_once: int = 100) -> Plan:
    manner = Manner(greets_after_ms=10, answers_after_ms=50, speaks_ms=20, hangover_ms=20)
    talk = Scenario("talk", [Greeting(60), Say(WORD, patience_seconds=60)], think_ms=(30, 40))
    phase = Phase("talk", Burst(calls), Call([talk]), at_once=at_once, drain_seconds=60)
    return Plan(
        target=MemoryService("agent"),
        carrier=MemoryCarrier(clock=SystemClock(), manner=manner),
        phases=[phase],
        gates=[AtMost(response_latency(phase, q=0.5), limit_ms, "ms")],
        valid_if=[AtMost(dropped(phase), 0)],
    )
