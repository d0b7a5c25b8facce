"""Vector databases: from the request to the answer, reads and writes apart."""

from __future__ import annotations

from collections.abc import Mapping

from busyhour.learn.lessons import Lessons, outcome_of
from busyhour.learn.student import Conversation, End, Exchange


class Vectors:
    """Pinecone's paths."""

    _LATENCIES: Mapping[str, str] = {"/query": "query", "/vectors/upsert": "upsert"}

    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons

    def exchange(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Exchange | None:
        name = self._LATENCIES.get(path)
        return _Answer(self._lessons, name) if method == "POST" and name else None

    def conversation(self, path: str, query: Mapping[str, str]) -> Conversation | None:
        return None


class _Answer:
    def __init__(self, lessons: Lessons, latency: str) -> None:
        self._lessons = lessons
        self._latency = latency
        self._sent_ns = 0
        self._status = 0

    def sent(self, at_ns: int) -> None:
        self._sent_ns = at_ns

    def answered(self, status: int, headers: Mapping[str, str], at_ns: int) -> None:
        self._status = status

    def chunk(self, data: bytes, at_ns: int) -> None:
        pass

    def ended(self, how: End, at_ns: int) -> None:
        if how is End.LEFT:
            if self._sent_ns and self._status in (0, 200):
                self._lessons.abandoned(self._latency, at_ns - self._sent_ns)
            return
        self._lessons.request()
        self._lessons.finished += 1
        if self._status == 0 or how is End.BROKEN:
            self._lessons.met("reset")
        elif outcome := outcome_of(self._status):
            self._lessons.met(outcome)
        elif self._status == 200:
            self._lessons.delay(self._latency, at_ns - self._sent_ns)
