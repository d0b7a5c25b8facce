"""What a worker tells of its operations as they come, for somebody's live statistics; the journal has all of them."""

from __future__ import annotations

from collections import Counter, deque
from math import isinf

from busyhour.distributed.lines import Message
from busyhour.model import MS, Mark, Operation, Sample

_KINDS = frozenset({"call", "turn", "greeting", "function"})
_WAITING_MAX = 10_000  # between two tellings, a quarter of a second apart


class News:
    """Calls and turns one by one, requests as counts of each latency.

    [kind, phase, ms or None, outcome] and [ms, count].
    """

    def __init__(self) -> None:
        self._operations: deque[list[object]] = deque(maxlen=_WAITING_MAX)
        self._requests: Counter[float] = Counter()
        self._failed: Counter[str] = Counter()

    def note(self, entry: Operation | Sample | Mark) -> None:
        if isinstance(entry, Operation) and entry.kind in _KINDS:
            ms = None if entry.ended_ns is None else max(0, entry.ended_ns - entry.due_ns) / MS
            self._operations.append([entry.kind, entry.phase, ms, entry.outcome])
        elif isinstance(entry, Sample) and entry.name == "latency_ms" and not isinf(entry.value):
            self._requests[entry.value] += entry.count
        elif isinstance(entry, Mark) and entry.kind == "requests.failed":
            self._failed.update({reason: count for reason, count in entry.detail.items() if isinstance(count, int)})

    def taken(self) -> Message:
        """Since the last time."""
        told = {
            "operations": list(self._operations),
            "requests": [[ms, count] for ms, count in sorted(self._requests.items())],
            "failed": dict(self._failed),
        }
        self._operations.clear()
        self._requests.clear()
        self._failed.clear()
        return told
