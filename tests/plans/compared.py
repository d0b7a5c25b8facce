"""A plan whose runs are not carried out: its journals are written by hand, to be compared."""

from busyhour.arrivals import Burst
from busyhour.carriers.memory import MemoryCarrier, MemoryService
from busyhour.clock import VirtualClock
from busyhour.gates import AtLeast, AtMost, Between
from busyhour.indicators import call_success, response_latency
from busyhour.model import Phase, Plan
from busyhour.workloads.idle import Idle


def plan(limit_ms: float = 1000, seed: int = 0, band: bool = False) -> Plan:
    steady = Phase("steady", Burst(1), Idle(1))
    gates = [
        AtMost(response_latency(steady, q=0.9), limit_ms, "ms"),
        AtLeast(call_success(steady), 90, "%"),
        *([Between(response_latency(steady, q=0.5), 300, 2000, "ms")] if band else []),
    ]
    return Plan(
        target=MemoryService("agent"), carrier=MemoryCarrier(clock=VirtualClock()), phases=[steady], gates=gates
    )
