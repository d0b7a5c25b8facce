"""Counters that come and go with the processes, threads and sockets they are of, made into one that only grows."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from busyhour.model import SECOND
from busyhour.proc import Key, Stat

K = TypeVar("K", bound=Hashable)

Counters: TypeAlias = tuple[int, ...]

_LOOKS = 2  # after which a parent that has not grown by what its child had used will not do so any more


class Growth(Generic[K]):
    """Sums how much counters have grown since the first time.

    What is new later counts from nothing; what is gone has no more to give, and what it did after it was last looked
    at is missing: the sum is never too large. `total` has as many numbers as each counter.
    """

    def __init__(self, numbers: int) -> None:
        self.total: Counters = (0,) * numbers
        self._nothing = self.total
        self._last: Mapping[K, Counters] | None = None

    def add(self, now: Mapping[K, Counters]) -> Counters:
        """Takes each counter as it is now; gives the sum."""
        if self._last is not None:
            for key, counter in now.items():
                last = self._last.get(key, self._nothing)
                if any(a < b for a, b in zip(counter, last, strict=True)):
                    last = self._nothing  # another has its name by now
                self.total = _plus(self.total, _minus(counter, last))
        self._last = dict(now)
        return self.total


class TreeGrowth:
    """As `Growth`, of processes whose use the kernel adds to that of their parent once that has waited for them.

    So nothing is missing of a process that began and ended between two looks, as the kernel adds it to one that is
    still there; and what was counted while it lived is not counted again.
    """

    def __init__(self, numbers: int) -> None:
        self.total: Counters = (0,) * numbers
        self._nothing = self.total
        self._last: dict[Key, Counters] | None = None
        self._parents: dict[Key, int] = {}
        self._debts: list[_Debt] = []

    def add(self, processes: Sequence[Stat], used: Sequence[Counters], uncollected: Collection[Key] = ()) -> Counters:
        """Takes each process with what it has used, and which have ended without being waited for; gives the sum."""
        now = {one.key: counters for one, counters in zip(processes, used, strict=True)}
        if self._last is not None:
            self._note_debts(self._last, {one.pid: one.key for one in processes}, now)
            for key, counters in now.items():
                grown = self._settled(key, _minus(counters, self._last.get(key, self._nothing)))
                self.total = _plus(self.total, tuple(max(0, number) for number in grown))
            self._forget_debts(uncollected)
        self._last = now
        self._parents |= {one.key: one.parent for one in processes}
        self._parents = {key: self._parents[key] for key in now}
        return self.total

    def _note_debts(self, last: Mapping[Key, Counters], living: Mapping[int, Key], now: Mapping[Key, Counters]) -> None:
        """What was counted of those that have ended will come again with the next above them that lives."""
        pids = {pid: (pid, began) for pid, began in last}
        for key in last.keys() - now.keys():
            above = self._parents[key]
            while above not in living and above in pids:
                above = self._parents[pids[above]]
            if above in living:
                self._debts.append(_Debt(child=key, parent=living[above], used=last[key]))

    def _settled(self, parent: Key, grown: Counters) -> Counters:
        """What a parent has grown by on its own. Where it has grown by less, it has not waited for the child yet."""
        for debt in [one for one in self._debts if one.parent == parent]:
            if all(a >= b for a, b in zip(grown, debt.used, strict=True)):
                grown = _minus(grown, debt.used)
                self._debts.remove(debt)
        return grown

    def _forget_debts(self, uncollected: Collection[Key]) -> None:
        """A parent that ignores its children's ends is never given what they have used."""
        for debt in self._debts:
            debt.looks += debt.child not in uncollected
        self._debts = [debt for debt in self._debts if debt.looks < _LOOKS]


@dataclass
class _Debt:
    """What was counted of a child, and will be added to its parent."""

    child: Key
    parent: Key
    used: Counters
    looks: int = 0


class Rates:
    """Totals and instants into rates."""

    def __init__(self) -> None:
        self._last: tuple[int, Mapping[str, float]] | None = None

    def per_second(self, totals: Mapping[str, float], now_ns: int) -> dict[str, float]:
        """By how much each has grown for each second since the last time; nothing the first time."""
        last, self._last = self._last, (now_ns, dict(totals))
        if last is None or now_ns <= last[0]:
            return {}
        elapsed_seconds = (now_ns - last[0]) / SECOND
        return {name: (total - last[1][name]) / elapsed_seconds for name, total in totals.items() if name in last[1]}


def _plus(a: Counters, b: Counters) -> Counters:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _minus(a: Counters, b: Counters) -> Counters:
    return tuple(x - y for x, y in zip(a, b, strict=True))
