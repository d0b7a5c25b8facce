"""What is known of another clock."""

from __future__ import annotations

from dataclasses import dataclass

from busyhour.model import MS

UNCERTAIN_NS = 20 * MS  # a frame: more than that, and what two machines saw cannot be put in order


@dataclass(frozen=True, slots=True)
class Offset:
    """Theirs is `ahead_ns` ahead of ours, give or take `within_ns`."""

    ahead_ns: int
    within_ns: int

    def doubt(self, later: Offset) -> str:
        """Why instants of the two clocks cannot be compared, as a clause; "" if they can. `later`: at the end."""
        apart_ns = abs(later.ahead_ns - self.ahead_ns)
        within_ns = max(self.within_ns, later.within_ns)
        if within_ns > UNCERTAIN_NS:
            return (
                f"has a clock that is known only within {within_ns / MS:.0f} ms: the way to it and back takes too long"
            )
        if apart_ns - self.within_ns - later.within_ns > UNCERTAIN_NS:
            return f"has a clock that has moved by {apart_ns / MS:.0f} ms against ours during the run"
        return ""
