"""What costs more than the rest is read less often than the rest."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from busyhour.model import MS, SECOND

_EARLY_NS = 100 * MS  # readings come once a second, a little early or late: these must not make it eleven out of ten


@runtime_checkable
class Thorough(Protocol):
    """A probe or meter that reads what is costly less often than the rest."""

    def read_all_next(self) -> None:
        """The next read is of everything: a phase is over, and what it has left behind is to be seen."""
        ...


class Schedule:
    """When something is due that is done every so many seconds, by whoever asks now and then. The first time is now.

    every_seconds: 0 for whenever it is asked. share: what it may take of all time, else; if it takes longer than that,
    it is due less often.
    """

    def __init__(self, every_seconds: float, *, share: float = 1.0) -> None:
        self._every_ns = round(every_seconds * SECOND)
        self._share = share
        self._due_ns: int | None = None
        self._took_ns = 0

    def due(self, now_ns: int) -> bool:
        """Whether it is due; it is then expected to be done."""
        if not self._every_ns:
            return True
        every_ns = max(self._every_ns, round(self._took_ns / self._share))
        if self._due_ns is not None and now_ns < self._due_ns - min(_EARLY_NS, every_ns // 10):
            return False
        if self._due_ns is None or now_ns >= self._due_ns + every_ns:
            self._due_ns = now_ns
        self._due_ns += every_ns
        return True

    def took(self, ns: int) -> None:
        """How long it took the last time."""
        self._took_ns = ns

    def at_once(self) -> None:
        """It is due whenever it is asked for next."""
        self._due_ns = None
