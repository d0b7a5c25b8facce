"""What a probe could not read: said once, not at every read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Missing:
    """Readings that a probe cannot give, and why: a sentence that names the place and the mend."""

    readings: tuple[str, ...]
    why: str


@runtime_checkable
class Candid(Protocol):
    """A probe or meter that can tell what it was not able to read: the engine marks it "probe.missing"."""

    def missing(self) -> Sequence[Missing]:
        """What was found missing since the last call; the same readings only once."""
        ...


class Absences:
    """Keeps what was found missing until it is asked for. Each group of readings is told of once."""

    def __init__(self) -> None:
        self._told: set[tuple[str, ...]] = set()
        self._waiting: list[Missing] = []

    def note(self, readings: Sequence[str], why: str) -> None:
        group = tuple(readings)
        if group not in self._told:
            self._told.add(group)
            self._waiting.append(Missing(group, why))

    def taken(self) -> Sequence[Missing]:
        """What was noted since the last call."""
        waiting, self._waiting = self._waiting, []
        return waiting
