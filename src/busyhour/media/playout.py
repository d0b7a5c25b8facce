"""What the caller hears, and when: the queue between the carrier's media stream and the caller's ear.

Audio plays at the speed of time. What arrives while earlier audio still plays is queued behind it; what arrives at a
dry queue plays at once (or after the jitter buffer). Nothing is told before it has been played, because `clear` may
still drop it. Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from busyhour.errors import ProtocolError
from busyhour.fastlane import NO_TAIL, PlayoutState
from busyhour.media.codec import FRAME_NS
from busyhour.media.speech import WINDOW_NS, WINDOWS_PER_SECOND, loud_windows
from busyhour.model import SECOND, Samples

QUEUED_NS_MAX = 30 * SECOND
MARKS_MAX = 1_000
_NEVER_NS = 1 << 62
_SILENT, _LOUD = b"\0", b"\1"


Stretch: TypeAlias = tuple[int, int, bytes]
"""(began_ns, ended_ns, loud): windows of 2.5 ms that were played one after the other, one octet each, 1 if loud. The
last may be cut short. Plain, for there may be one for each frame of a call: a named one takes six times as long."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """What a `clear` came upon: the rest of what was played, the marks not reached, how much audio was dropped."""

    played: list[Stretch]
    marks: list[str]
    dropped_ns: int


@dataclass(frozen=True, slots=True)
class _Mark:
    name: str
    due_ns: int
    on_played: Callable[[str], None]


class Playout(PlayoutState):
    """The queue of one call. Calls must come in order of time; a time before an earlier one counts as that one.

    Windows are counted from the beginning of each *run*, the audio from a dry queue to the next, so that they do not
    depend on how the far end cut its audio into chunks.
    """

    def __init__(self, rate_hz: int, jitter_buffer_ns: int = 0) -> None:
        if rate_hz % WINDOWS_PER_SECOND:
            raise ValueError(f"{rate_hz} Hz is no multiple of {WINDOWS_PER_SECOND} Hz: no whole window of 2.5 ms")
        self._rate_hz = rate_hz
        self._window_samples = rate_hz // WINDOWS_PER_SECOND
        self._jitter_buffer_ns = jitter_buffer_ns
        self._queue: deque[Stretch] = deque()  # what is to be played, in order
        self._taken = 0  # windows of the first stretch that `played` has already told
        self._rest: Samples | None = None  # the unfinished window at the end of the run
        self._whole_ns = 0  # the end of the run's last whole window: where the rest begins
        self._tail_ns = NO_TAIL  # behind the queue all is loud, or nothing is, from here to `_whole_ns`:
        self._tail_loud = False  # most of a sentence, and most of what is none, is neither stored nor copied
        self.tells_ns = _NEVER_NS  # before this `played(loud_only=True)` has nothing to tell, as the queue is now
        self.ended_ns = 0  # when all that is queued will have been played; in the past if the queue is dry
        self.run_ns = 0  # when the run began, or will begin, to play
        self._dry = True  # whatever the time is: nothing was queued yet, or nothing since a clear
        self._now_ns = 0
        self._marks: deque[_Mark] = deque()
        self.marks: Collection[object] = self._marks  # those that wait

    def push_windows(self, loud: bytes, arrived_ns: int) -> bool:
        """Queue whole windows that have been judged already; False, and nothing done, if the run is inside a window."""
        if self._rest is not None and arrived_ns <= self.ended_ns:
            return False
        self._admit(arrived_ns)
        began_ns = self._whole_ns
        ended_ns = began_ns + len(loud) * WINDOW_NS
        some_loud, all_loud = 1 in loud, 0 not in loud
        if some_loud and not all_loud:
            self._end_tail()
            self._queue.append((began_ns, ended_ns, loud))
        elif self._tail_ns == NO_TAIL or self._tail_loud != all_loud:
            self._end_tail()
            self._tail_ns, self._tail_loud = began_ns, all_loud
        if some_loud:
            self.tells_ns = 0
        self._whole_ns = self.ended_ns = ended_ns
        return True

    def gap_ns(self, arrived_ns: int) -> int:
        """Of silence before what arrives then, if it is pushed: 0 if it comes in time."""
        arrived_ns = max(arrived_ns, self._now_ns)
        dry_ns = arrived_ns - self.ended_ns
        return dry_ns + self._jitter_buffer_ns if dry_ns > 0 or self._dry else 0

    def push_silence(self, arrived_ns: int) -> bool:
        """The short cut for most frames of a call: 20 ms of silence behind silence. False, and nothing done, if it is
        not that."""
        ended_ns = self.ended_ns
        if self._tail_ns == NO_TAIL or self._tail_loud or ended_ns < self._now_ns:
            return False
        if not 0 <= ended_ns - arrived_ns <= QUEUED_NS_MAX:
            return False
        self._whole_ns = self.ended_ns = ended_ns + FRAME_NS
        return True

    def push(self, samples: Samples, arrived_ns: int) -> None:
        """Queue any number of samples. Raises ProtocolError when more than 30 s are waiting already."""
        if not len(samples):  # else a jitter buffer would wait for nothing, and the queue be empty while it does
            return
        self._admit(arrived_ns)
        self._end_tail()
        if self._rest is not None:
            samples = np.concatenate((self._rest, samples))
        windows, left = divmod(len(samples), self._window_samples)
        whole = len(samples) - left
        if windows:
            began_ns = self._whole_ns
            self._whole_ns = began_ns + windows * WINDOW_NS
            loud = loud_windows(samples[:whole], self._window_samples).tobytes()
            self._queue.append((began_ns, self._whole_ns, loud))
        self._rest = samples[whole:].copy() if left else None
        self.tells_ns = 0
        self.ended_ns = self._whole_ns + left * SECOND // self._rate_hz

    def played(self, now_ns: int, *, loud_only: bool = False) -> list[Stretch]:
        """The windows that ended by `now_ns` and were not told before, in order.

        loud_only: a stretch in which nothing is loud may wait until it is over, and something is behind it.
        """
        now_ns = max(now_ns, self._now_ns)
        self._now_ns = now_ns
        if self._tail_loud or not loud_only:
            self._end_tail()
        # An unfinished window can still be finished by audio that arrives just now; a moment later it cannot.
        if self._rest is not None and now_ns > self.ended_ns:
            self._finish_rest()
        taken = self._take(now_ns, loud_only)
        if self._rest is not None:
            self.tells_ns = 0
        elif self._queue:
            _, ended_ns, loud = self._queue[0]
            self.tells_ns = 0 if 1 in loud else ended_ns
        else:
            self.tells_ns = _NEVER_NS
        return taken

    def clear(self, at_ns: int) -> Cleared:
        """Drop what has not been played at `at_ns`. The window in play is cut short, and stays as loud as it was."""
        played = self.played(at_ns)
        now_ns = self._now_ns
        dropped_ns = 0
        if now_ns < self.ended_ns:
            dropped_ns = self._dropped_ns(now_ns)
            self._finish_rest()
            began_ns, _, loud = self._queue[0]
            began_ns += self._taken * WINDOW_NS
            if began_ns < now_ns:
                played.append((began_ns, now_ns, loud[self._taken : self._taken + 1]))
            self._queue.clear()
            self._taken, self._dry = 0, True
            self._whole_ns = self.ended_ns = now_ns
        names = [mark.name for mark in self._marks]
        self._marks.clear()
        return Cleared(played, names, dropped_ns)

    def mark(self, name: str, at_ns: int, on_played: Callable[[str], None]) -> None:
        """Have `reached` call `on_played(name)` when the audio queued so far has been played; at once if none is.

        Raises ProtocolError when 1,000 marks are waiting.
        """
        if len(self._marks) >= MARKS_MAX:
            raise ProtocolError(f"more than {MARKS_MAX} marks are waiting for audio to be played")
        self._marks.append(_Mark(name, max(at_ns, self.ended_ns), on_played))

    def reached(self, now_ns: int) -> None:
        """Call back for each mark whose audio has been played by `now_ns`."""
        while self._marks and self._marks[0].due_ns <= now_ns:
            mark = self._marks.popleft()
            mark.on_played(mark.name)

    def _admit(self, arrived_ns: int) -> None:
        """Make the end of the queue the place where audio that arrived then will play."""
        arrived_ns = max(arrived_ns, self._now_ns)
        if arrived_ns > self.ended_ns or self._dry:
            self._finish_rest()
            self._end_tail()
            self._dry = False
            self._whole_ns = self.ended_ns = self.run_ns = arrived_ns + self._jitter_buffer_ns
        elif self.ended_ns - arrived_ns > QUEUED_NS_MAX:
            raise ProtocolError(f"more than {QUEUED_NS_MAX // SECOND} s of audio are waiting to be played")

    def _end_tail(self) -> None:
        """What is behind the queue becomes part of it."""
        if self._tail_ns != NO_TAIL:
            windows = (self._whole_ns - self._tail_ns) // WINDOW_NS
            self._queue.append((self._tail_ns, self._whole_ns, (_LOUD if self._tail_loud else _SILENT) * windows))
            self._tail_ns, self._tail_loud = NO_TAIL, False

    def _finish_rest(self) -> None:
        """The run is over, maybe inside a window: judge what there is of it."""
        if self._rest is None:
            return
        loud = loud_windows(self._rest, len(self._rest)).tobytes()
        self._queue.append((self._whole_ns, self.ended_ns, loud))
        self._rest, self._whole_ns = None, self.ended_ns

    def _take(self, now_ns: int, loud_only: bool) -> list[Stretch]:
        taken: list[Stretch] = []
        queue = self._queue
        while queue:
            head = began_ns, ended_ns, loud = queue[0]
            if ended_ns <= now_ns:
                queue.popleft()
                if self._taken:
                    head = began_ns + self._taken * WINDOW_NS, ended_ns, loud[self._taken :]
                    self._taken = 0
                taken.append(head)
                continue
            if loud_only and 1 not in loud:
                break
            windows = (now_ns - began_ns) // WINDOW_NS
            if windows > self._taken:
                since_ns, until_ns = began_ns + self._taken * WINDOW_NS, began_ns + windows * WINDOW_NS
                taken.append((since_ns, until_ns, loud[self._taken : windows]))
                self._taken = windows
            break
        return taken

    def _dropped_ns(self, now_ns: int) -> int:
        """How much of what is queued lies after now: the queue's runs touch, but for the dry time between them."""
        queued = [(began_ns, ended_ns) for began_ns, ended_ns, _ in self._queue]
        queued.append((self._whole_ns, self.ended_ns))
        return sum(ended_ns - max(began_ns, now_ns) for began_ns, ended_ns in queued if ended_ns > now_ns)
