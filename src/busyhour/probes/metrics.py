"""What a service says of itself: gauges and counters from its `/metrics`.

The text format of Prometheus, and OpenMetrics: lines of `name{label="value",...} number [timestamp] [# exemplar]`
(https://prometheus.io/docs/instrumenting/exposition_formats/,
https://prometheus.io/docs/specs/om/open_metrics_spec/).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isnan

import aiohttp
import yarl

from busyhour.clock import SystemClock
from busyhour.errors import PlanError
from busyhour.model import MS, Clock, Endpoint, Service
from busyhour.probes.missing import Absences, Missing
from busyhour.probes.schedule import Schedule

RUNTIME = {
    "python_blocks": "process_python_blocks",
    "heap_bytes": "process_heap_bytes",
    "asyncio_tasks": "process_asyncio_tasks",
    "open_connections": "process_open_connections",
}
"""What a program can tell of its own memory that cannot be seen from outside: reading -> metric.

Memory blocks of Python's allocator, bytes in use of the C heap, tasks of the event loop that are not done, connections
in its pools. Not what the garbage collector tracks: to count a million objects holds a program up for 50 ms.
"""

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_LINE = re.compile(
    r"([a-zA-Z_:][\w:]*)(?:\{((?:[^\"{}]|" + _QUOTED + r")*)\})?"  # name and labels
    r"\s+(\S+)(?:\s+[^\s#]\S*)?(?:\s+#\s.*)?$"  # value, timestamp, and an exemplar, which has labels and a value too
)
_LABEL = re.compile(r'([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_ACCEPT = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}
_WITHIN_SECONDS = 2.0
_BYTES_AT_MOST = 4 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class Metrics:
    """Watches the named metrics of a service; each becomes a sample of its own name, or of the one it is given.

    names: metrics, or reading -> metric. A name alone stands for the sum over all labels;
    'breaker_state{provider="openai"}' for those with that label. A counter has the `_total` at its end that the page
    has. A service that does not answer within 2 s gives no reading then; a metric that its page does not have is told
    of by `missing`. "metrics_probe_ms" is how long the read took, from the question to the last number.
    """

    watched: Service
    names: Sequence[str] | Mapping[str, str]
    path: str = field(default="/metrics", kw_only=True)
    every_seconds: float = field(default=0.0, kw_only=True)  # 0: every time that probes are read
    clock: Clock = field(default_factory=SystemClock, kw_only=True, repr=False)
    _schedule: Schedule = field(init=False, repr=False)
    _absences: Absences = field(default_factory=Absences, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise PlanError(f"Metrics: {self.names!r} is one name; write [{self.names!r}]")
        wrong = [name for name in self._metrics.values() if _parsed(name + " 0") is None]
        if wrong or not self.names:
            raise PlanError(f"Metrics: {', '.join(map(repr, wrong)) or 'no name'} is no name of a metric")
        if not self.every_seconds >= 0:
            raise PlanError(f"Metrics: every_seconds is {self.every_seconds}; it must be 0 or more")
        object.__setattr__(self, "_schedule", Schedule(self.every_seconds))

    @property
    def service(self) -> str:
        return self.watched.name

    async def read(self, endpoint: Endpoint) -> Mapping[str, float]:
        began_ns = self.clock.now_ns()
        if not self._schedule.due(began_ns):
            return {}
        url = yarl.URL(endpoint.url).origin().with_path(self.path)
        page = await self._page(url)
        if page is None:
            return {}
        found = list(_found(page))
        readings = dict(_sums(found, self._metrics))
        known = {name for name, _, _ in found} | set(_declared(page))
        for reading in self._metrics.keys() - readings.keys():
            self._note_absence(reading, url, known)
        return readings | {"metrics_probe_ms": (self.clock.now_ns() - began_ns) / MS}

    def read_all_next(self) -> None:
        """The next read is one, whenever the last one was."""
        self._schedule.at_once()

    def missing(self) -> Sequence[Missing]:
        """What was found missing on the page, since the last call."""
        return self._absences.taken()

    @property
    def _metrics(self) -> Mapping[str, str]:
        return self.names if isinstance(self.names, Mapping) else {name: name for name in self.names}

    async def _page(self, url: yarl.URL) -> str | None:
        """None if it has none for us just now."""
        timeout = aiohttp.ClientTimeout(total=_WITHIN_SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, headers=_ACCEPT) as answer:
                if answer.status != 200:
                    self._note_no_page(url, f"is answered with {answer.status}")
                    return None
                body = b""
                async for chunk in answer.content.iter_chunked(65_536):
                    body += chunk
                    if len(body) > _BYTES_AT_MOST:
                        self._note_no_page(url, f"has more than {_BYTES_AT_MOST // 1024**2} MiB")
                        return None
        except (aiohttp.ClientError, OSError, TimeoutError):  # it is down, or too busy to say
            return None
        return body.decode("utf-8", "replace")

    def _note_no_page(self, url: yarl.URL, why: str) -> None:
        self._absences.note(tuple(self._metrics), f"{url} {why}; correct the probe's `path`, or watch fewer metrics")

    def _note_absence(self, reading: str, url: yarl.URL, names: set[str]) -> None:
        """One that is declared, or has other labels only, has had no cause to count yet: it is not missing."""
        metric = self._metrics[reading].partition("{")[0]
        if metric in names:
            return
        near = get_close_matches(metric, sorted(names), n=1, cutoff=0.7)
        instead = f"did you mean {near[0]}?" if near else "have the service export it"
        self._absences.note((reading,), f"{url} has no metric {metric}; {instead}")


def runtime(service: Service, *, path: str = "/metrics", every_seconds: float = 10.0) -> Metrics:
    """Watches what a Python program tells of its own memory: the readings of `RUNTIME` that its page has."""
    return Metrics(service, RUNTIME, path=path, every_seconds=every_seconds)


def _found(page: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    return (parsed for line in page.splitlines() if (parsed := _parsed(line)) is not None)


def _declared(page: str) -> Iterator[str]:
    """The names of the lines that what is said to be there may have; OpenMetrics declares a counter without _total."""
    for line in page.splitlines():
        words = line.split()
        if words[:2] == ["#", "TYPE"] and len(words) == 4:
            yield words[2]
            yield from (words[2] + end for end in ("_total", "_sum", "_count", "_bucket"))


def _sums(
    found: Iterable[tuple[str, Mapping[str, str], float]], metrics: Mapping[str, str]
) -> Iterator[tuple[str, float]]:
    found = list(found)
    for reading, metric in metrics.items():
        asked = _parsed(metric + " 0")
        assert asked is not None
        values = [value for name, labels, value in found if name == asked[0] and asked[1].items() <= labels.items()]
        if values:
            yield reading, sum(values)


def _parsed(line: str) -> tuple[str, Mapping[str, str], float] | None:
    """Name, labels and value; None for a comment, or what is no such line."""
    match = _LINE.match(line.strip())
    if match is None:
        return None
    try:
        value = float(match[3])
    except ValueError:
        return None
    return None if isnan(value) else (match[1], dict(_LABEL.findall(match[2] or "")), value)
