"""What became of the calls of a run, told where nothing else can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from busyhour.columns import operations_of
from busyhour.model import Run


@dataclass(frozen=True, slots=True)
class Calls:
    """So many there were, so many of them failed, and so many of those of one reason: the commonest, with what the
    first of them said."""

    count: int
    failed: int = 0
    alike: int = 0
    reason: str = ""

    @classmethod
    def of(cls, run: Run, phases: Sequence[str] = ()) -> Calls:
        """Of some phases; of the whole run, if none is named."""
        found = [operations_of(run, "call", phase, texts=("why",)) for phase in phases or (None,)]
        count = sum(map(len, found))
        reasons: dict[str, list[str]] = {}
        for calls in found:
            failed = calls.taken(np.flatnonzero(~calls.outcome.are("ok")))
            for outcome, why in zip(failed.outcome, failed.texts["why"], strict=True):
                reasons.setdefault(outcome, []).append(why)
        if not reasons:
            return cls(count)
        most, whys = max(reasons.items(), key=lambda reason: len(reason[1]))
        why = whys[0].removeprefix(f"{most}: ")
        return cls(count, sum(map(len, reasons.values())), len(whys), f"{most}{f' ({why})' if why else ''}")

    @property
    def all_failed(self) -> str:
        """The clause that says so, and of what; "" unless they did."""
        if not self.count or self.failed < self.count:
            return ""
        who = "the only call" if self.count == 1 else f"all {self.count} calls"
        most = "" if self.alike == self.failed else f", {self.alike} of them"
        return f"{who} failed{most}: {self.reason}"
