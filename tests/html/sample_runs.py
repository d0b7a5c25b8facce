"""Runs that never were, with something in them for each section of the page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from random import Random
from typing import Any, cast

from busyhour.gates import AtLeast, AtMost, Judgement, judge
from busyhour.indicators import call_success, dead_air, dropped, missed_turns, recovery_time, response_latency
from busyhour.model import JSON, SECOND, Gate, Indicator, Mark, Operation, Plan, Run, Sample, Table
from busyhour.reports import html
from busyhour.testing import MemoryRun, answered, greeting, whole_run, witnessed

HACK = "<script>window.hacked = 1</script></script><!--"
META: dict[str, JSON] = {
    "plan": "plans/telephone.py",
    "started_at": "2026-11-20T10:15:00.000+00:00",
    "seed": 7,
    "commit": "0123456789ab+",
    "machine": "Linux x86_64, 2 cores",
    "version": "0.1.0",
    "python": "3.11.7",
    "libraries": {"numpy": "2.3.1"},
    "carrier": "telnyx",
    "proofs": {"p95 response latency in steady <= 800 ms": "proven"},
}
SECONDS = 600.0


def latencies(count: int, *, seed: int = 1, missed: float = 0.02) -> list[float | None]:
    random = Random(seed)
    return [None if random.random() < missed else random.lognormvariate(6.2, 0.25) for _ in range(count)]


def calls(count: int, *, phase: str = "steady", since_s: float = 20, every_s: float = 4) -> list[Operation]:
    """Of four turns each; every seventh was hung up early."""
    found: list[Operation] = []
    for number in range(1, count + 1):
        at_s = since_s + every_s * number
        call, *turns = answered(latencies(4, seed=number), number=number, phase=phase, at_s=at_s)
        ended = replace(call, outcome=call.outcome if number % 7 else "hung up")
        found += [ended, *turns, greeting(90.0 + number, call=call.id, at_s=at_s)]
    return found


def samples(seconds: float = SECONDS, *, every_s: float = 2) -> list[Sample]:
    """A service that grows by 40 MB an hour, and a harness that is late now and then."""
    found = []
    for i in range(int(seconds / every_s)):
        at_ns = round(i * every_s * SECOND)
        found += [
            Sample(at_ns, "agent", "rss_mb", 90 + i * every_s / 90),
            Sample(at_ns, "agent", "cpu_pct", 20.0 + i % 5),
            Sample(at_ns, "agent", "fds", 20.0 + i % 7),
            Sample(at_ns, "agent", "threads", 6.0),
            Sample(at_ns, "harness", "cpu_pct", 10.0),
            Sample(at_ns, "harness", "loop_lag_ms", 0.2, 99),
            Sample(at_ns, "harness", "loop_lag_ms", 7.0, 1),
            Sample(at_ns, "harness", "send_lateness_ms", 0.3, 50),
        ]
    return found


def whole(*, meta: dict[str, JSON] | None = None, phases: Sequence[str] = ("steady", "llm down")) -> MemoryRun:
    """A run of ten minutes: calls, a fault that was proven, all that is watched."""
    half_ns = round(SECONDS / 2 * SECOND)
    marks = [
        Mark(0, "service.started", "llm"),
        Mark(0, "service.started", "agent"),
        Mark(half_ns, "fault.began", "llm no_token", {"phase": "llm down", "service": "llm"}),
        Mark(half_ns + 60 * SECOND, "fault.ended", "llm no_token", {"phase": "llm down", "service": "llm"}),
        Mark(
            half_ns + 60 * SECOND,
            "fault.proof",
            "llm no_token",
            {"phase": "llm down", "effective": True, "because": "12 of 12 requests met it"},
        ),
    ]
    return whole_run(
        calls(50),
        calls(12, phase="llm down", since_s=310),
        [witnessed("llm", "llm", at_s, phase="llm down") for at_s in (305.0, 372.5, 380.0)],
        phases=phases,
        samples=samples(),
        marks=marks,
        meta=META if meta is None else meta,
        seconds=SECONDS,
    )


def gates() -> list[Gate]:
    return [
        AtMost(response_latency("steady", 0.5), 600, "ms"),
        AtMost(response_latency("steady", 0.95), 800, "ms"),
        AtLeast(call_success("steady"), 70, "%"),
        AtMost(missed_turns("steady"), 20, "%"),
        AtMost(dead_air("steady"), 60, "s"),
        AtMost(response_latency("nowhere", 0.95), 800, "ms"),
    ]


def plan(some: Sequence[Gate] | None = None, *, tables: Sequence[Table] = ()) -> Plan:
    return Plan(
        target=cast(Any, None),
        carrier=None,
        phases=(),
        gates=gates() if some is None else some,
        valid_if=[AtMost(dropped(), 0)],
        tables=tables,
    )


def table() -> Table:
    columns = ["worst silence", "success", "recovered"]
    indicators: list[Indicator | None] = [
        dead_air("llm down"),
        call_success("llm down"),
        recovery_time("llm down", "llm"),
    ]
    return Table(title="Outages", columns=columns, rows={"llm down": indicators, "none": [None, None, None]})


def judged(run: Run, *, some: Sequence[Gate] | None = None) -> Judgement:
    return judge(plan(some, tables=[table()]), run)


def page(run: Run, judgement: Judgement | None = None) -> str:
    out = io.StringIO()
    html.report(run, judgement or judged(run), out)
    return out.getvalue()


def requests(seconds: int = 120, *, phase: str = "load") -> MemoryRun:
    """Requests in bulk, as histograms: some of each second fail."""
    found = []
    for second in range(seconds):
        at_ns = second * SECOND
        found += [Sample(at_ns, "requests", "latency_ms", 4.0 + i, 100 - 10 * i) for i in range(8)]
        found.append(Sample(at_ns, "requests", "latency_ms", inf, 2))
    failed = Mark(50 * SECOND, "requests.failed", phase, {"refused": 200, "late": 40})
    return whole_run(phases=[phase], samples=found, marks=[failed], meta=META, seconds=seconds)


def absent(run: MemoryRun, *, from_s: float, seconds: float) -> MemoryRun:
    """The same, while the machine slept for so long."""
    until_ns = round((from_s + seconds) * SECOND)
    asleep = Mark(until_ns, "machine.suspended", "", {"from_ns": round(from_s * SECOND), "seconds": seconds})
    return replace(run, marked=[*run.marked, asleep])


def silent(count: int) -> list[Operation]:
    """Turns that were never answered."""
    return answered([None] * count, number=1)
