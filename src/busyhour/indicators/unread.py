"""Why a probe did not read something: what it said of that itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from busyhour.model import Run


@runtime_checkable
class Sensing(Protocol):
    """An indicator that is made of a probe's samples."""

    @property
    def reads(self) -> Sequence[tuple[str, str]]:
        """The source and the name of each."""
        ...


def why_unread(run: Run, source: str, names: Collection[str]) -> str:
    """The clause with which a probe of `source` said that it cannot read one of `names`; "" if it never did."""
    for mark in run.marks("probe.missing"):
        readings = mark.detail.get("readings", [])
        if mark.name == source and isinstance(readings, Sequence) and not set(names).isdisjoint(map(str, readings)):
            return str(mark.detail.get("why", ""))
    return ""


def why_unmeasured(run: Run, indicator: object) -> str:
    """The same of an indicator, if it is made of samples."""
    reads = indicator.reads if isinstance(indicator, Sensing) else ()
    return next((why for source, name in reads if (why := why_unread(run, source, [name]))), "")
