"""Requests over HTTP/1.1 as a workload, open-loop: what is due is asked, however the target fares.

    Http([Get("/health"), Post("/slots", json={"day": "Tuesday"}, status=201, checks=[JSONEquals("free", True)])])

Arrivals take the requests in turn; those of an InTurn, which come one by one, draw theirs. Where one is a sequence of
requests, its arrival performs them one after another and ends at the first that fails. Time runs from when a request
was due: what it waited for a connection, and for that to be made, is in its latency.

Outcomes: "ok", "http_503", "wrong answer: ...", "timeout", "connect refused", "reset", "closed early", "malformed
answer", "headers too large", "certificate refused: ...", "not reached" (of a sequence), "cut off".
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from busyhour.bulk import Counts, Stretch
from busyhour.errors import ServiceError
from busyhour.model import SECOND, Arrival, Due, Operation
from busyhour.workloads.http.asking import Check, Contains, Delete, Get, JSONEquals, Patch, Post, Put, Request
from busyhour.workloads.http.flood import Address, Flood

__all__ = ["Check", "Contains", "Delete", "Get", "Http", "JSONEquals", "Patch", "Post", "Put", "Request"]


@dataclass(frozen=True)
class Http:
    """Requests to the plan's target, at most `connections` kept alive at a time.

    timeout_seconds: from when a request was due; one that has no answer by then has failed. tls: the context for an
    https target (none: the system's authorities). A phase has room for `at_once` requests in progress or waiting: give
    it what may pile up while the target stands still, or arrivals are dropped.
    """

    requests: Sequence[Request | Sequence[Request]]
    connections: int = field(default=100, kw_only=True)
    timeout_seconds: float = field(default=10, kw_only=True)
    tls: ssl.SSLContext | None = field(default=None, kw_only=True)

    @cached_property
    def _scripts(self) -> list[tuple[Request, ...]]:
        return [(one,) if isinstance(one, Request) else tuple(one) for one in self.requests]

    def problems(self) -> list[str]:
        found = [] if self._scripts and all(self._scripts) else ["Http: give at least one request"]
        found += [problem for script in self._scripts for request in script for problem in request.problems()]
        if not 0 < self.timeout_seconds <= 3600:
            found.append(f"Http: timeout_seconds={self.timeout_seconds:g}: it must be more than 0 and at most 3600")
        if self.connections < 1:
            found.append(f"Http: connections={self.connections}: give at least 1")
        return found

    async def perform_all(self, stretch: Stretch) -> None:
        """Raises ServiceError when the target's URL is not one of HTTP."""
        await self._flood(stretch, self._scripts)

    async def _flood(self, stretch: Stretch, scripts: Sequence[tuple[Request, ...]]) -> None:
        try:
            address = Address.of(stretch.target.url, self.tls)
        except ValueError as error:
            raise ServiceError(f"the target cannot be asked over HTTP: {error}") from None
        timeout_ns = round(self.timeout_seconds * SECOND)
        connections = max(1, stretch.share.part(self.connections))
        await Flood(stretch, scripts, address, connections=connections, timeout_ns=timeout_ns).run()

    async def perform(self, arrival: Arrival) -> None:
        """One arrival on a connection of its own; its requests become operations, and no samples. Which of them it
        asks is drawn by the arrival's own random numbers: it does not know whose turn it is."""
        script = self._scripts[0] if len(self._scripts) == 1 else arrival.random.choice(self._scripts)

        def record(entry: object) -> None:
            if isinstance(entry, Operation):
                arrival.record(replace(entry, id=arrival.id + entry.id.removeprefix(f"{arrival.phase}/1")))

        stretch = Stretch(
            phase=arrival.phase,
            arrivals=_Once(),
            at_once=1,
            drain_seconds=2 * self.timeout_seconds * len(script),
            began_ns=arrival.due_ns,
            clock=arrival.clock,
            target=arrival.target,
            write=record,
            counts=Counts(),
        )
        await self._flood(stretch, [script])


@dataclass(frozen=True)
class _Once:
    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        del finished, elapsed_ns
        return Due.ENDED if started else 0
