"""The live figures: what each is called, what it counts, and by which labels. Names are kept; more may be added.

Names follow Prometheus (https://prometheus.io/docs/practices/naming/): base units, the unit last, `_total` for what
only grows. A dashboard or a rule written by them goes on working.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_LATENESS_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_REQUEST_SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    *(1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0),
)


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric. `edges`: the upper edges of a histogram's buckets, without the last, which is infinite."""

    name: str  # without the endings of its lines (_total, _bucket, _sum, _count, _info)
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""  # the end of the name
    edges: tuple[float, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """The names that its lines have in an exposition, by which queries know it."""
        endings = {
            Kind.COUNTER: ("_total",),
            Kind.GAUGE: ("",),
            Kind.HISTOGRAM: ("_bucket", "_sum", "_count"),
            Kind.INFO: ("_info",),
        }
        return tuple(self.name + ending for ending in endings[self.kind])


def _counter(name: str, about: str, *labels: str, unit: str = "") -> Family:
    return Family(f"busyhour_{name}", Kind.COUNTER, about, labels, unit)


def _gauge(name: str, about: str, *labels: str, unit: str = "") -> Family:
    return Family(f"busyhour_{name}", Kind.GAUGE, about, labels, unit)


def _histogram(name: str, about: str, edges: tuple[float, ...], *labels: str) -> Family:
    return Family(f"busyhour_{name}", Kind.HISTOGRAM, about, labels, "seconds", edges)


RUN = Family("busyhour_run", Kind.INFO, "The run that this is.", ("plan", "seed", "version"))
ELAPSED = _gauge("run_elapsed_seconds", "Since the run was begun.", unit="seconds")
PHASES = _gauge("phases", "Phases that the plan has.")
PHASE = _gauge("phase_active", "1 for the phase that goes on; a phase that is over has no line.", "phase", "number")

STARTED = _counter("arrivals_started", "Arrivals that were begun: calls, requests or functions.", "phase")
FINISHED = _counter("arrivals_finished", "Arrivals that are over, be it well or not.", "phase")
FAILED = _counter("arrivals_failed", "Arrivals that are over and have failed.", "phase")
DROPPED = _counter("arrivals_dropped", "Arrivals that were due and found no place: load not offered.", "phase")
IN_PROGRESS = _gauge("arrivals_in_progress", "Arrivals that were begun and are not over.", "phase")

TURNS = _counter("turns", "Turns of callers that are over, answered or not.", "phase")
MISSED = _counter("turns_missed", "Turns of callers that were never answered.", "phase")
OPERATIONS = _counter(
    "operations",
    "What was written into the journal, by its kind (call, turn, llm, ...) and its outcome.",
    *("phase", "kind", "outcome"),
)
MARKS = _counter("marks", "What has happened to the run, by its kind: service.died, harness.stopped, ...", "kind")
FAULT = _gauge("fault_active", "1 while a fault is injected.", "fault", "service")


def response(edges_ms: tuple[float, ...]) -> Family:
    """From the end of the caller's speech to the agent's sound. The edges are those by which the engine counts."""
    return _histogram(
        "response_latency_seconds",
        "From the end of a caller's speech to the agent's first sound; a turn never answered is infinitely late. "
        "The sum is of those answered.",
        tuple(edge / 1000 for edge in edges_ms),
        "phase",
    )


REQUESTS = _histogram(
    "request_latency_seconds",
    "From when a request was due to its answer; one that failed is infinitely late. The sum is of those answered.",
    _REQUEST_SECONDS,
    "phase",
)
SEND_LATENESS = _histogram(
    "send_lateness_seconds", "How late the harness put its frames or requests on the wire.", _LATENESS_SECONDS, "source"
)
LOOP_LAG = _histogram(
    "loop_lag_seconds", "How late the harness's own event loop ran its timers.", _LATENESS_SECONDS, "source"
)

CPU = _gauge("process_cpu_ratio", "Processor time per time: 1 is one core.", "service", unit="ratio")
RESIDENT = _gauge("process_resident_memory_bytes", "Resident memory, shared pages included.", "service", unit="bytes")
PRIVATE = _gauge(
    "process_private_memory_bytes", "Memory written and shared with nobody: a leak grows here.", "service", unit="bytes"
)
THREADS = _gauge("process_threads", "Threads.", "service")
DESCRIPTORS = _gauge("process_open_fds", "Open descriptors.", "service")
PROCESSES = _gauge("process_count", "Processes of the tree.", "service")
RESTARTS = _gauge("process_restarts", "How often another process was found in its place.", "service")
READING = _gauge(
    "probe_reading", "The last of any other reading, in the unit that ends its name.", *("service", "reading")
)

EXPORT = _counter("export_seconds", "What telling these figures has taken of the harness's loop.", "by", unit="seconds")
PUSHES = _counter("export_pushes", "Pushes to the collector, by what came of them.", "outcome")

OF_A_PROCESS: dict[str, tuple[Family, float]] = {
    "cpu_pct": (CPU, 0.01),
    "rss_mb": (RESIDENT, 1e6),
    "private_mb": (PRIVATE, 1e6),
    "threads": (THREADS, 1),
    "fds": (DESCRIPTORS, 1),
    "processes": (PROCESSES, 1),
    "restarts": (RESTARTS, 1),
}
"""Readings of probes that have a family of their own, and what they are multiplied by to be in its unit."""
