"""What came of a phase's requests, by the hundred thousand: histograms for the gates, examples for people."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from math import inf

from busyhour.fastlane import TallyState
from busyhour.histogram import DecimalHistogram
from busyhour.model import JSON, MS, Mark, Operation, Sample

_KEPT_FIRST = 100  # operations of a phase that are written in full, and of each reason why one failed
_KEPT_EVERY_NS = 100 * MS  # and from then on, ten a second of either


class Tally(TallyState):
    """Counts every request, and keeps some as operations.

    Written by `write`, as weighted samples of the source "requests": `latency_ms` from when the request was due
    (infinite for one that failed), `service_ms` from when it was sent; of the source "harness": `send_lateness_ms`, how
    late a request was taken up; and a mark "requests.failed" with the count of each reason.
    """

    def __init__(self, phase: str, write: Callable[[Operation | Sample | Mark], None]) -> None:
        self._phase, self._write = phase, write
        self._latency, self._service, self._lateness = DecimalHistogram(), DecimalHistogram(), DecimalHistogram()
        self._latencies, self._services, self._latenesses = array("q"), array("q"), array("q")
        self.late = self._latenesses.append  # takes a lateness in ns
        self._failed: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._keep_from_ns: dict[str, int] = {}
        self.wants_from_ns = 0

    def succeeded(self, latency_ns: int, service_ns: int) -> None:
        self._latencies.append(latency_ns)
        self._services.append(service_ns)

    def failed(self, reason: str) -> None:
        self._failed[reason] += 1

    def wants(self, reason: str, ended_ns: int) -> bool:
        """Whether one of this outcome is to be kept."""
        return ended_ns >= self._keep_from_ns.get(reason, 0)

    def keep(self, operation: Operation, ended_ns: int) -> None:
        self._write(operation)
        self._kept[operation.outcome] += 1
        if self._kept[operation.outcome] >= _KEPT_FIRST:
            self._keep_from_ns[operation.outcome] = ended_ns + _KEPT_EVERY_NS
            if operation.outcome == "ok":
                self.wants_from_ns = ended_ns + _KEPT_EVERY_NS

    def write(self, at_ns: int) -> None:
        """Everything since the last time."""
        self.count()
        failed, self._failed = self._failed, Counter()
        samples = self._latency.drain(at_ns, "requests", "latency_ms")
        if failed:
            samples.append(Sample(at_ns, "requests", "latency_ms", inf, failed.total()))
            reasons: dict[str, JSON] = dict(failed)
            self._write(Mark(at_ns, "requests.failed", self._phase, reasons))
        samples += self._service.drain(at_ns, "requests", "service_ms")
        samples += self._lateness.drain(at_ns, "harness", "send_lateness_ms")
        for sample in samples:
            self._write(sample)

    def count(self) -> None:
        """Sort what has come since the last time into the histograms: often, for it is done at once."""
        for histogram, durations in (
            (self._latency, self._latencies),
            (self._service, self._services),
            (self._lateness, self._latenesses),
        ):
            histogram.add_all(durations)
            del durations[:]
