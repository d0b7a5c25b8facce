"""A share of a run: what falls to one of several processes that carry out the same plan at the same time.

Of arrivals it is every N-th, of a bound the N-th part, of names those whose checksum leaves its number. The shares of
all processes are the whole, without a remainder and without anything twice, and nobody has to be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from zlib import crc32

from busyhour.model import Arrivals, Carrier, Due


@dataclass(frozen=True, slots=True)
class Share:
    """That of process `index` (from 0) of so many; of what comes `after` so many arrivals, which are over."""

    index: int = 0
    of: int = 1
    after: int = 0

    def number(self, nth: int) -> int:
        """The number among all arrivals (from 0) of the share's `nth` (from 0)."""
        return self.after + nth * self.of + self.index

    def part(self, total: int) -> int:
        """Of a bound: the parts of all shares add up to it, and differ by one at most."""
        return -(-(total - self.index) // self.of)

    def holds(self, name: str) -> bool:
        """Whether what bears this name falls to the share."""
        return self.of == 1 or falls_to(name, self.of) == self.index

    def arrivals(self, whole: Arrivals) -> Arrivals:
        """The schedule of the share: those times of the whole that fall to it."""
        return whole if self.of == 1 and not self.after else _SharedArrivals(whole, self)


WHOLE = Share()


def falls_to(name: str, of: int) -> int:
    """The index of the share, of so many, that holds the name."""
    return crc32(name.encode()) % of


@dataclass(frozen=True, slots=True)
class _SharedArrivals:
    """An open schedule is asked for every N-th time. Of one that keeps A in progress, the shares keep A altogether:
    asked as if each operation of ours were N of all, it lets us have ceil((A - index) / N)."""

    whole: Arrivals
    share: Share

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        over = self.share.after + finished * self.share.of
        return self.whole.due_ns(self.share.number(started), over, elapsed_ns)


@runtime_checkable
class Divisible(Protocol):
    """A carrier that several processes can be at the same time.

    What the agent sends it comes by HTTP to one address; it is passed on to the process that `falls_to` says for the
    id of the call, which is the segment of the path behind `calls/` or `Calls/`.
    """

    def of_share(self, share: Share) -> Carrier:
        """The same carrier for one of the processes, at a port of its own: all ids of its calls fall to that share."""
        ...
