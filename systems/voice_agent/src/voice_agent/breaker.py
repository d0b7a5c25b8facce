"""Circuit breakers: a vendor that fails again and again is left alone for a while. One a vendor, shared by all calls.

    closed --so many failures in a row, or one that will not heal--> open --so many seconds--> half-open
    half-open: one attempt at a time is let through; it closes the breaker by its success, or opens it again

Whoever is the only one of its kind is asked all the same (`usable`): there is nobody else to ask, and an attempt that
may succeed is better than an apology for certain. Its breaker is kept, and shown, but bars nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from enum import IntEnum
from types import TracebackType
from typing import Protocol, TypeVar

from voice_agent.defects import Defects
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.settings import Settings

_INCURABLE = re.compile(r"\b40[123]\b|quota|credit|api_key|auth|permission", re.IGNORECASE)


def incurable(reason: str) -> bool:
    """Whether a failure will be there in a second still: a wrong key (401, 403), an empty account (402, quota)."""
    return _INCURABLE.search(reason) is not None


class State(IntEnum):
    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


class Breaker:
    """Of one vendor. Ask `admits`, then try within an `attempt`."""

    def __init__(self, provider: str, settings: Settings, *, metrics: Metrics, defects: Defects) -> None:
        self.provider = provider
        self.state = State.CLOSED
        self._most_failures, self._open_seconds = settings.breaker_failures, settings.breaker_open_seconds
        self._metrics, self._defects = metrics, defects
        self._loop = asyncio.get_running_loop()
        self._failures = 0  # in a row
        self._open_until = 0.0
        self._probe: Attempt | None = None
        metrics.breaker(provider, self.state)

    def admits(self) -> bool:
        """Whether the vendor may be asked now."""
        if self.state is State.CLOSED:
            return True
        if self._defects.strikes("breaker_never_closes"):
            return False
        return self._probe is None and self._loop.time() >= self._open_until

    def attempt(self, log: Log) -> Attempt:
        """`with` it, and tell how it went; without a word (it was cancelled) it counts for nothing."""
        attempt = Attempt(self, log, probing=self.state is not State.CLOSED)
        if self.state is State.OPEN and self.admits():
            self._turn(State.HALF_OPEN, "time to try again", log)
            self._probe = attempt
        elif self.state is State.HALF_OPEN and self._probe is None:
            self._probe = attempt
        return attempt

    def failed(self, reason: str, log: Log) -> None:
        """The vendor failed outside of any attempt: a connection that is kept could not be made."""
        if self.state is State.CLOSED:
            self._failures += 1
            if self._failures >= self._most_failures or incurable(reason):
                self._open(reason, log)

    def trip(self, reason: str, log: Log) -> None:
        """Open it, whatever the count."""
        if self.state is not State.OPEN:
            self._open(reason, log)

    # What an attempt tells.

    def ended(self, attempt: Attempt, problem: str | None, log: Log) -> None:
        """`problem`: "" is success, None is no verdict."""
        if self._probe is attempt:
            self._probe = None
        elif self._probe is not None:
            return  # begun before the breaker opened: the probe's word counts
        if problem is None:
            return
        if problem and attempt.probing and self.state is not State.CLOSED:
            self._open(problem, log)
        elif problem:
            self.failed(problem, log)
        elif self.state is State.CLOSED or attempt.probing:
            self._failures = 0
            self._turn(State.CLOSED, "success", log)

    def _open(self, reason: str, log: Log) -> None:
        if self._defects.strikes("breaker_off"):
            return
        self._failures, self._open_until = 0, self._loop.time() + self._open_seconds
        self._turn(State.OPEN, reason, log)

    def _turn(self, state: State, reason: str, log: Log) -> None:
        if state is self.state:
            return
        log.trouble(
            "breaker", provider=self.provider, state=state.name.lower(), was=self.state.name.lower(), reason=reason
        )
        self.state = state
        self._metrics.breaker(self.provider, state)
        self._metrics.breaker_turned(self.provider, state.name.lower())


class Attempt:
    """One try of a vendor."""

    def __init__(self, breaker: Breaker, log: Log, *, probing: bool) -> None:
        self.probing = probing  # begun when the breaker was not closed
        self._breaker, self._log = breaker, log
        self._problem: str | None = None

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._breaker.ended(self, self._problem, self._log)

    def succeeded(self) -> None:
        self._problem = ""

    def failed(self, reason: str) -> None:
        self._problem = reason


class Guarded(Protocol):
    @property
    def breaker(self) -> Breaker: ...


G = TypeVar("G", bound=Guarded)


def usable(chain: Sequence[G]) -> list[G]:
    """Those of a chain that may be asked now, in order; one that is alone always may."""
    return list(chain) if len(chain) == 1 else [one for one in chain if one.breaker.admits()]
