"""In a worker of Locust: one of our workers, as a child; its words for the leader, its news for Locust's statistics."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gevent.event import AsyncResult, Event
from locust.env import Environment

from busyhour.clock import unix_seconds
from busyhour.distributed.lines import Message
from busyhour.swarm.children import Program
from busyhour.swarm.settings import settings

CHUNK_BYTES = 256 * 1024
CHUNKS_UNDER_WAY_MAX = 4
ACKNOWLEDGED_SECONDS = 60.0
ERRORS_LOGGED_MAX = 1000  # of one reason in a quarter of a second: Locust takes them one by one
HISTOGRAM = "busyhour_latency_ms"


class Failure(Exception):
    """What Locust shows as the reason: an operation's outcome."""


class Working:
    """One for each of Locust's workers; `over` is set when the run is. Each run has a child of its own."""

    def __init__(self, environment: Environment) -> None:
        self.over: AsyncResult[None] = AsyncResult()
        self._environment, self._runner = environment, environment.runner
        self._child: Program | None = None
        self._folder: Path | None = None
        self._run = 0  # its number, by the leader's word: what is left of an earlier one is not for this
        self._histogram: dict[tuple[str, str], dict[float, int]] = {}
        self._acknowledged, self._news = 0, Event()
        self._runner.register_message("busyhour.order", self._obey)
        self._runner.register_message("busyhour.fetch", self._bring, concurrent=True)
        self._runner.register_message("busyhour.got", self._got)
        environment.events.test_start.add_listener(self._test_starts)
        environment.events.report_to_master.add_listener(self._report)
        environment.events.quitting.add_listener(self._quit)

    def _test_starts(self, **_: Any) -> None:
        if self.over.ready():
            self.over = AsyncResult()

    def _obey(self, msg: Any, **_: Any) -> None:
        message, run = msg.data["message"], msg.data["run"]
        if "begin" in message:
            self._quit()
            self._run = run
            self._folder = Path(tempfile.mkdtemp(prefix="busyhour-"))
            own = {"plan": settings().plan, "journal": str(self._folder / "journal")}
            self._child = Program(
                "busyhour.distributed.worker",
                on_message=lambda told: self._pass_on(run, told),
                on_end=lambda why: self._ended(run, why),
            )
            self._child.send({"begin": message["begin"] | own})
        elif self._child is not None and run == self._run:
            self._child.send(message)

    def _pass_on(self, run: int, message: Message) -> None:
        news = message.get("news")
        if news is not None:
            self._tell_locust(news)
            message = {name: value for name, value in message.items() if name != "news"}
        self._runner.send_message("busyhour.word", {"run": run, "message": message})

    def _ended(self, run: int, why: str) -> None:
        self._runner.send_message("busyhour.word", {"run": run, "gone": why})
        if run == self._run and not self.over.ready():
            self.over.set(None)

    def _quit(self, **_: Any) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    # ---------------------------------------------------------------- the journal

    def _bring(self, msg: Any, **_: Any) -> None:
        """In pieces, a few under way at a time. What a killed worker left is two files, which belong together."""
        run, self._acknowledged = msg.data["run"], 0
        if self._folder is None:
            return
        sent = 0
        for last, suffix in ((False, ""), (True, "-wal")):
            path = Path(f"{self._folder / 'journal'}{suffix}")
            for piece in _pieces(path):
                if not self._room_for(sent):
                    return
                self._runner.send_message("busyhour.piece", {"run": run, "suffix": suffix, "bytes": piece})
                sent += 1
            if last:
                self._runner.send_message("busyhour.piece", {"run": run, "suffix": "", "bytes": b"", "last": True})

    def _room_for(self, sent: int) -> bool:
        """Wait until no more than a few are under way; False when the master has not taken any for long."""
        while sent - self._acknowledged >= CHUNKS_UNDER_WAY_MAX:
            self._news.clear()
            if not self._news.wait(ACKNOWLEDGED_SECONDS):
                return False
        return True

    def _got(self, msg: Any, **_: Any) -> None:
        self._acknowledged += 1
        self._news.set()

    # ---------------------------------------------------------------- Locust's statistics

    def _tell_locust(self, news: Message) -> None:
        request = self._environment.events.request
        for kind, phase, ms, outcome in news["operations"]:
            failure = None if outcome == "ok" else Failure(outcome)
            request.fire(
                request_type=kind, name=phase, response_time=ms, response_length=0, exception=failure, context={}
            )
            if ms is not None:
                self._count(kind, phase, [(ms, 1)])
        self._count_requests(news)

    def _count_requests(self, news: Message) -> None:
        """By the hundred thousand: straight into Locust's own tables, where each of its events costs as much as ten
        requests do."""
        counts = [(float(ms), int(count)) for ms, count in news["requests"]]
        stats, second = self._environment.stats, unix_seconds()
        failed = sum(news["failed"].values())
        for entry in (stats.get("requests", "http"), stats.total) if counts or failed else ():
            for ms, count in counts:
                _log(entry, ms, count, second)
            entry.num_requests += failed
            entry.num_none_requests += failed  # they have no response time
        for reason, count in news["failed"].items():
            for _ in range(min(count, ERRORS_LOGGED_MAX)):
                stats.log_error("http", "requests", Failure(reason))
        self._count("http", "requests", counts)

    def _count(self, kind: str, name: str, counts: Iterable[tuple[float, int]]) -> None:
        histogram = self._histogram.setdefault((kind, name), {})
        for ms, count in counts:
            histogram[ms] = histogram.get(ms, 0) + count

    def _report(self, client_id: str, data: dict[str, Any]) -> None:
        """Every latency with its count, as it was measured: Locust rounds what it sends."""
        histogram, self._histogram = self._histogram, {}
        data[HISTOGRAM] = [[kind, name, list(counts.items())] for (kind, name), counts in histogram.items() if counts]


def _log(entry: Any, ms: float, count: int, second: int) -> None:
    """So many requests of one response time, as `StatsEntry.log` has them one by one."""
    entry.num_requests += count
    entry.num_reqs_per_sec[second] = entry.num_reqs_per_sec.get(second, 0) + count
    entry.last_request_timestamp = second
    entry.total_response_time += ms * count
    entry.min_response_time = ms if entry.min_response_time is None else min(entry.min_response_time, ms)
    entry.max_response_time = max(entry.max_response_time, ms)
    bucket = round(ms) if ms < 100 else int(float(f"{ms:.2g}"))  # as Locust rounds: 147 is 150, 3432 is 3400
    entry.response_times[bucket] = entry.response_times.get(bucket, 0) + count


def _pieces(path: Path) -> Iterable[bytes]:
    if not path.exists():
        return
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece
