"""What kind of thing leaks: told by which sensors rise together and which stay as they are.

Python blocks rise, and by as much as explains it: Python objects. The live C heap rises and they do not, or by far
less: a native leak, which no Python tool sees. Only the process grows and what lives in it does not: the allocator
keeps what was freed (RETENTION), and one `malloc_trim` would show it. A sensor that was not read is said to be missing;
nothing is concluded from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from busyhour.statistics.leaks.traces import Trace
from busyhour.statistics.leaks.trend import SETTLING_HOURS, Finding, Trend, judge_trend


class Sensor(StrEnum):
    """What can be read of a process."""

    PRIVATE_DIRTY = "private dirty memory"  # with swap
    RSS = "RSS"
    HEAP = "live C heap"
    BLOCKS = "Python blocks"
    DESCRIPTORS = "descriptors"
    THREADS = "threads"
    TASKS = "tasks"
    SOCKETS = "sockets"
    CHILDREN = "children"


class CauseClass(StrEnum):
    PYTHON_OBJECTS = "Python objects"
    NATIVE_HEAP = "native heap"
    ALLOCATOR_RETENTION = "allocator retention"
    DESCRIPTORS = "descriptors"
    THREADS = "threads"
    TASKS = "tasks"
    SOCKETS = "sockets"
    CHILDREN = "children"


COUNTED = {
    Sensor.DESCRIPTORS: CauseClass.DESCRIPTORS,
    Sensor.THREADS: CauseClass.THREADS,
    Sensor.TASKS: CauseClass.TASKS,
    Sensor.SOCKETS: CauseClass.SOCKETS,
    Sensor.CHILDREN: CauseClass.CHILDREN,
}
BYTES_A_BLOCK = 1000
"""A Python leak is taken to keep at least one block for so many bytes: fewer do not explain the growth of memory."""
_MEMORY = (Sensor.PRIVATE_DIRTY, Sensor.RSS)


@dataclass(frozen=True)
class Cause:
    """`finding` is that of the memory, but RETENTION where only the allocator holds it; INCONCLUSIVE without a trace of
    memory. `classes` are all that were shown to grow; empty where none was, or it could not be told (`because`)."""

    finding: Finding
    classes: Sequence[CauseClass]
    because: str
    missing: Sequence[Sensor]
    trends: Mapping[Sensor, Trend]


def cause(
    traces: Mapping[Sensor, Trace],
    *,
    limit_mb_per_hour: float,
    limit_count_per_hour: float = 1.0,
    alpha: float = 0.01,
    looks: Sequence[float] | None = None,
    settling_hours: float = SETTLING_HOURS,
) -> Cause:
    """The finding on a process's memory and the class of what grows. Memory and heap are in MB (10^6 bytes).

    Of Python blocks so many are asked for as explain the growth of memory that was found, not only the limit: beside a
    large native leak a small one of Python's is not what grows.
    """
    limits = dict.fromkeys(COUNTED, limit_count_per_hour)
    limits |= dict.fromkeys((*_MEMORY, Sensor.HEAP), limit_mb_per_hour)

    def judged(sensor: Sensor, limit: float) -> Trend:
        return judge_trend(
            traces[sensor], limit_per_hour=limit, alpha=alpha, looks=looks, settling_hours=settling_hours
        )

    trends = {sensor: judged(sensor, limit) for sensor, limit in limits.items() if sensor in traces}
    if Sensor.BLOCKS in traces:
        memory = _memory(trends)
        found = trends[memory].slope if memory is not None else None
        growing_mb = max(limit_mb_per_hour, found.low if found is not None else 0.0)
        trends[Sensor.BLOCKS] = judged(Sensor.BLOCKS, growing_mb * 1e6 / BYTES_A_BLOCK)
    return explained(trends)


def explained(trends: Mapping[Sensor, Trend]) -> Cause:
    """The cause, from trends that are judged already."""
    memory = _memory(trends)
    missing = [sensor for sensor in Sensor if sensor not in trends and not (sensor is Sensor.RSS and memory)]
    classes = [COUNTED[sensor] for sensor in COUNTED if _of(trends, sensor) is Finding.LEAK]
    finding, because = Finding.INCONCLUSIVE, "no trace of memory was given"
    if memory is not None:
        finding, because = trends[memory].finding, f"{memory}: {trends[memory].finding}"
        if finding is Finding.LEAK:
            own, because = _of_memory(trends, memory)
            finding = Finding.RETENTION if own is CauseClass.ALLOCATOR_RETENTION else finding
            classes = [*([own] if own else []), *classes]
    return Cause(finding, classes, because, missing, trends)


def _memory(trends: Mapping[Sensor, Trend]) -> Sensor | None:
    """By which its memory is judged."""
    return next((sensor for sensor in _MEMORY if sensor in trends), None)


def _of_memory(trends: Mapping[Sensor, Trend], memory: Sensor) -> tuple[CauseClass | None, str]:
    """Of memory that leaks: by whom it is held."""
    python, heap = _of(trends, Sensor.BLOCKS), _of(trends, Sensor.HEAP)
    if python is Finding.LEAK:
        return CauseClass.PYTHON_OBJECTS, f"{memory} grows and {Sensor.BLOCKS} with it"
    flat = (Finding.NO_LEAK, Finding.STEP)
    if heap is Finding.LEAK and python in flat:
        return CauseClass.NATIVE_HEAP, f"{memory} and {Sensor.HEAP} grow, {Sensor.BLOCKS} not by what would explain it"
    if heap in flat and python in flat:
        return (
            CauseClass.ALLOCATOR_RETENTION,
            f"{memory} grows, but neither {Sensor.HEAP} nor {Sensor.BLOCKS}: malloc_trim would show it",
        )
    unclear = [
        f"{sensor}: {'not read' if found is None else found}"
        for sensor, found in ((Sensor.BLOCKS, python), (Sensor.HEAP, heap))
        if found not in (*flat, Finding.LEAK)
    ]
    return None, f"{memory} grows; by whom it is held cannot be told ({', '.join(unclear)})"


def _of(trends: Mapping[Sensor, Trend], sensor: Sensor) -> Finding | None:
    return trends[sensor].finding if sensor in trends else None
