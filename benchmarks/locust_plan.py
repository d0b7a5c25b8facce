"""The plan of `benchmarks/locust_overhead.py`: so many calls at once, each of about a minute, answered at once."""

from __future__ import annotations

import numpy as np

from busyhour.arrivals import Hold
from busyhour.carriers.telnyx import TelnyxStream
from busyhour.gates import AtMost
from busyhour.indicators import send_lateness
from busyhour.model import Audio, Phase, Plan
from busyhour.services import AlreadyRunning
from busyhour.workloads.call import Call, Say, Scenario

TURNS = 20


def beep() -> Audio:
    """0.9 s of sound and 0.1 s of silence."""
    noise = np.random.default_rng(1).normal(0, 3000, 7200).astype(np.int16)
    return Audio("beep", "beep", np.concatenate([noise, np.zeros(800, np.int16)]), 8000, 0, len(noise))


def plan(url: str, calls: int = 500, seconds: float = 60.0) -> Plan:
    talk = Scenario("talk", [Say(beep())] * TURNS, think_ms=(700, 1700))
    phase = Phase("held", Hold(calls, seconds), Call([talk]), at_once=calls, drain_seconds=1)
    late = AtMost(send_lateness(q=0.99), 50, "ms")
    return Plan(target=AlreadyRunning(name="server", url=url), carrier=TelnyxStream(), phases=[phase], gates=[late])
