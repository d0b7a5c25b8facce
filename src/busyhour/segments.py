"""A run that was cut and continued: its parts are segments, and where one of them takes up the plan is a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from busyhour.model import JSON, SECOND, Operation


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Where segment `segment` (from 2) takes up the plan.

    done: the phases that had ended. phase: the one that was cut, "" if none was; of its schedule `elapsed_ns` had
    passed, and `after` arrivals. cut_ns: the last instant of the segment before, on the clock of this one.
    moved_ns: what the clock of this segment lacks to be the journal's. at: the wall clock, for people. boot: of which
    start of the machine the clock is.
    """

    segment: int
    cut_ns: int
    done: frozenset[str] = frozenset()
    phase: str = ""
    elapsed_ns: int = 0
    after: int = 0
    moved_ns: int = 0
    why: str = ""
    at: str = ""
    boot: str = ""

    def of(self, phase: str) -> tuple[int, int]:
        """What has passed of a phase: time, and arrivals."""
        return (self.elapsed_ns, self.after) if phase == self.phase else (0, 0)

    def told(self) -> Mapping[str, JSON]:
        """For the mark "run.resumed"."""
        return {
            "segment": self.segment,
            "cut_ns": self.cut_ns,
            "why": self.why,
            "phase": self.phase,
            "elapsed_seconds": self.elapsed_ns / SECOND,
            "after": self.after,
            "at": self.at,
            "boot": self.boot,
            "moved": self.moved_ns,  # a length of time: what ends in "_ns" is an instant
        }


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """What is to be done to a journal to continue its run. cut_off: the calls that were in progress when it was cut, of
    which only parts are there."""

    continuation: Continuation
    cut_off: Sequence[Operation] = ()
