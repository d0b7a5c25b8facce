"""What callers waited for: the answers to their turns, and greetings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import overload

import numpy as np

from busyhour.columns import NEVER, Ints, OperationColumns, operations_of
from busyhour.indicators.witnessed import Places, Texts
from busyhour.model import Run


@dataclass(frozen=True, slots=True)
class Wait:
    """What a caller waited for: the answer to a turn, or the greeting (text 0, and nothing heard before)."""

    call: str
    began_ns: int
    due_ns: int
    ended_ns: int | None  # None: it never came, and at `gave_up_ns` the caller gave up
    gave_up_ns: int
    text: int = 0
    greeting: bool = False

    @property
    def latency_ns(self) -> int | None:
        return None if self.ended_ns is None else max(0, self.ended_ns - self.due_ns)

    @property
    def until_ns(self) -> int:
        return self.gave_up_ns if self.ended_ns is None else self.ended_ns


@dataclass(frozen=True, eq=False, slots=True)
class Waits(Sequence[Wait]):
    """Many, as columns, in order of time."""

    of_what: OperationColumns
    text: Ints
    greetings: bool

    @classmethod
    def of(cls, run: Run, phase: str, texts: Texts, *, greetings: bool) -> Waits:
        if greetings:
            found = operations_of(run, "greeting", phase, instants=("gave_up_ns",))
            return cls(found, np.zeros(len(found), dtype=np.int64), greetings)
        found = operations_of(run, "turn", phase, instants=("gave_up_ns",), texts=("text",))
        return cls(found, texts.numbers(found.texts["text"]), greetings)

    @property
    def late_ns(self) -> Ints:
        """How late each was; `NEVER` what never came."""
        waits = self.of_what
        return np.where(waits.ended, np.maximum(0, waits.ended_ns - waits.due_ns), NEVER)

    @property
    def owed_ns(self) -> Ints:
        """The same; what never came is as late as it was given up, if that is known."""
        gave_up_ns = self.of_what.instants["gave_up_ns"]
        given_up = (self.late_ns == NEVER) & (gave_up_ns != NEVER)
        return np.where(given_up, gave_up_ns - self.of_what.due_ns, self.late_ns)

    def __len__(self) -> int:
        return len(self.of_what)

    @overload
    def __getitem__(self, index: int) -> Wait: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Wait]: ...
    def __getitem__(self, index: int | slice) -> Wait | Sequence[Wait]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        waits = self.of_what
        ended_ns, gave_up_ns = int(waits.ended_ns[index]), int(waits.instants["gave_up_ns"][index])
        return Wait(
            call=waits.call[index],
            began_ns=int(waits.due_ns[index] if self.greetings else waits.since_ns[index]),
            due_ns=int(waits.due_ns[index]),
            ended_ns=None if ended_ns == NEVER else ended_ns,
            gave_up_ns=int(waits.due_ns[index]) if gave_up_ns == NEVER else gave_up_ns,
            text=int(self.text[index]),
            greeting=self.greetings,
        )

    def onsets(self) -> Iterator[tuple[int, Places]]:
        """Those that were answered, in order of the answers, by what had been said."""
        heard = np.flatnonzero(self.of_what.ended)
        order = heard[np.lexsort((self.of_what.ended_ns[heard], self.text[heard]))]
        said, first = np.unique(self.text[order], return_index=True)
        for text, (begin, end) in zip(said.tolist(), pairwise([*first.tolist(), len(order)]), strict=True):
            yield text, order[begin:end]
