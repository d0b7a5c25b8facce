"""When the far end began to sound, and when it stopped, judged on what has been played to the caller.

Sound is judged in windows of 2.5 ms. A window is *loud* when the power of its alternating part is at least -42 dBFS
(root mean square 260 of 32,768): telephone speech is nominally at -26 dBFS and text-to-speech between -16 and -30,
while comfort noise (RFC 3389), line hiss and the dither of an encoder stay below -50. A constant, whatever its level,
is no sound: a telephone line does not carry it, and the "silence" of an agent that sends zero octets in mu-law is one.
Mu-law's smallest steps are at -72 dBFS, A-law's at -66: far below the threshold.

The far end *sounds* where at least 10 ms of the last 20 ms were loud; a click is no speech. Onset is the beginning of
the first of those loud windows, offset the end of the last loud window before 500 ms in which it did not sound. Both
are therefore exact to one window, never early for a sound that begins on a window's edge.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from busyhour.fastlane import LEAST_GAP_NS
from busyhour.model import MS, SECOND, Heard, HeardKind, Samples

WINDOW_NS = 2_500_000
WINDOWS_PER_SECOND = SECOND // WINDOW_NS
THRESHOLD_DBFS = -42.0
HANGOVER_NS = 500 * MS

LEAST_POWER = (32_768 * 10 ** (THRESHOLD_DBFS / 20)) ** 2
_MEMORY_NS = 20 * MS  # of these,
_DENSE_NS = 10 * MS  # so much must be loud to be speech
_ABRUPT_NS = 50 * MS  # a hole this close to sound on both sides is inside speech


def loud_windows(samples: Samples, window_samples: int) -> npt.NDArray[np.bool_]:
    """Whether each window of `window_samples` is loud. The number of samples must be a multiple of it."""
    x = samples.astype(np.float32).reshape(-1, window_samples)
    ones = _ones(window_samples)
    total = x @ ones
    # n * variance = sum of squares - (sum)^2 / n: the power without the constant part.
    loud: npt.NDArray[np.bool_] = (x * x) @ ones - total * total / window_samples >= LEAST_POWER * window_samples
    return loud


@lru_cache(maxsize=64)
def _ones(count: int) -> npt.NDArray[np.float32]:
    return np.ones(count, np.float32)


class Speech:
    """Finds onsets, offsets and gaps in stretches of played windows, given in order of time.

    The events do not depend on how the same windows are cut into stretches, nor on how often `passed` is called.
    """

    def __init__(self, hangover_ns: int = HANGOVER_NS) -> None:
        self._hangover_ns = hangover_ns
        self._recent: deque[int] = deque()  # where the loud windows of the last 20 ms began
        self._solid_ns: int | None = None  # all of the 20 ms before this were loud, instead of what `_recent` says
        self.sounding = False  # as far as the windows go that were given
        self._last_ns = 0  # while it sounds: the end of its last loud window
        self.offset_ns = 0  # while it sounds: when `passed` has an offset to tell, if nothing loud comes
        self._played_ns: int | None = None  # the end of the last stretch; None when what follows cannot be a gap
        self._hole: tuple[int, int] | None = None

    def settled_ns(self, now_ns: int) -> int:
        """No event to come is before this time, once all windows that ended by `now_ns` have been given."""
        return self._last_ns if self.sounding else now_ns - _MEMORY_NS

    def played(self, began_ns: int, ended_ns: int, loud: bytes) -> list[Heard]:
        """Take windows that were played from `began_ns`: one octet each, 1 if loud; the last may be cut short."""
        if self._played_ns is not None and self.sounding and began_ns - self._played_ns >= LEAST_GAP_NS:
            self._hole = (self._played_ns, began_ns) if self._played_ns - self._last_ns <= _ABRUPT_NS else None
        self._played_ns = ended_ns
        if 1 not in loud or self._goes_on(began_ns, ended_ns, loud):
            return []
        events: list[Heard] = []
        at = loud.find(1)
        while at >= 0:
            window_ns = began_ns + at * WINDOW_NS
            self._loud(window_ns, min(window_ns + WINDOW_NS, ended_ns), events)
            at = loud.find(1, at + 1)
        return events

    def passed(self, now_ns: int) -> list[Heard]:
        """Tell the offset once the hangover is over. All windows that ended by `now_ns` must have been given."""
        if not self.sounding or now_ns < self.offset_ns:
            return []
        return self.stopped()

    def is_within(self, run_ns: int) -> bool:
        """Whether it sounds in the run of audio that began then: what goes on without a break cannot be a gap."""
        return self.sounding and self._hole is None and self._played_ns is not None and self._played_ns > run_ns

    def cleared(self) -> None:
        """The far end dropped what was queued: the silence that follows is its will and no gap."""
        self._played_ns = None

    def stopped(self) -> list[Heard]:
        """The offset at once, if it sounds: nothing can follow, because the call is over."""
        if not self.sounding:
            return []
        self.sounding, self._hole = False, None
        return [Heard(HeardKind.OFFSET, self._last_ns)]

    def _goes_on(self, began_ns: int, ended_ns: int, loud: bytes) -> bool:
        """The short cut for most of a sentence: what is loud throughout, while it sounds already."""
        if not self.sounding or self._hole is not None or 0 in loud:
            return False
        recent = self._recent
        if self._solid_ns is None and len(recent) == _MEMORY_NS // WINDOW_NS:
            self._solid_ns = recent[-1] + WINDOW_NS
        if began_ns != self._solid_ns and (ended_ns - began_ns < _MEMORY_NS or began_ns + _DENSE_NS > self.offset_ns):
            return False
        self._last_ns, self.offset_ns = ended_ns, ended_ns + self._hangover_ns
        self._solid_ns = began_ns + len(loud) * WINDOW_NS
        return True

    def _loud(self, began_ns: int, ended_ns: int, events: list[Heard]) -> None:
        recent = self._recent
        if self._solid_ns is not None:
            recent.clear()
            recent.extend(range(self._solid_ns - _MEMORY_NS, self._solid_ns, WINDOW_NS))
            self._solid_ns = None
        recent.append(began_ns)
        while recent[0] <= began_ns - _MEMORY_NS:
            recent.popleft()
        if len(recent) * WINDOW_NS < _DENSE_NS:
            return
        # `>`: a window that ended exactly with the hangover was given before `passed` could tell the offset.
        if self.sounding and ended_ns > self.offset_ns:
            events += self.stopped()
        if not self.sounding:
            self.sounding, self._hole = True, None
            events.append(Heard(HeardKind.ONSET, recent[0]))
        elif self._hole is not None:
            self._resumed(max(recent[0], self._hole[1]), events)
        self._last_ns, self.offset_ns = ended_ns, ended_ns + self._hangover_ns

    def _resumed(self, at_ns: int, events: list[Heard]) -> None:
        assert self._hole is not None
        (began_ns, ended_ns), self._hole = self._hole, None
        if at_ns - ended_ns <= _ABRUPT_NS:
            events.append(Heard(HeardKind.GAP, began_ns, ended_ns))
