"""A plan without a wire, over in about two seconds: for testing what is around a run."""

import numpy as np

from busyhour.arrivals import Burst, Constant
from busyhour.carriers.memory import Manner, MemoryCarrier, MemoryService
from busyhour.clock import SystemClock
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import call_success, dropped, response_latency
from busyhour.model import Audio, Control, Phase, Plan, Variation
from busyhour.workloads.call import Call, Greeting, Say, Scenario

WORD = Audio("word", "word", np.zeros(400, np.int16), 8000, 0, 400)
TALK = Scenario("talk", [Greeting(), Say(WORD, patience_seconds=1)], think_ms=(30, 40))


def carrier(answers_after_ms: int, refuses: str = "") -> MemoryCarrier:
    manner = Manner(
        greets_after_ms=10, answers_after_ms=answers_after_ms, speaks_ms=20, hangover_ms=20, refuses=refuses
    )
    return MemoryCarrier(clock=SystemClock(), manner=manner)


def plan(answers_ms: int = 50, calls: int = 70, at_once: int = 1000, seconds: float = 0, limit_ms: float = 100) -> Plan:
    arrivals = Constant(10, seconds) if seconds else Burst(calls)
    talk = Phase("talk", arrivals, Call([TALK]), at_once=at_once)
    latency = AtMost(response_latency(talk), limit_ms, "ms")
    success = AtLeast(call_success(talk), 90, "%")
    fine = Variation(name="fine", services=[carrier(50)])
    return Plan(
        target=MemoryService("agent"),
        carrier=carrier(answers_ms),
        phases=[talk],
        gates=[latency, success],
        valid_if=[AtMost(dropped(talk), 0)],
        controls=[
            Control(latency, red=Variation(name="slow", services=[carrier(150)]), benign=fine),
            Control(success, red=Variation(name="refused", services=[carrier(50, "rejected")]), benign=fine),
        ],
    )
