"""What is kept of one leg while its call lasts, and the two channels it is made into afterwards.

The way of each frame is left almost alone: what was heard is kept as it came, in base64, beside the end that the
playout gave it; what was said as references to frames that all calls share. Every few seconds what was heard is made
octets, so that a long call takes no more memory than its sound.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import repeat

import numpy as np
import numpy.typing as npt

from busyhour.media.codec import FRAME_NS
from busyhour.media.studio import Batch
from busyhour.model import SECOND, Samples
from busyhour.recording import Sound, Track, at_sample

COMPACT_FRAMES = 128  # sent, between one compaction and the next
EVENTS_MAX = 1_000  # marks, and as many clears
_TOUCHING_NS = 10  # the playout rounds to whole nanoseconds
_UNEVEN_NS = FRAME_NS // 2  # a frame that left by less early or late was said where the one before it ended


class Tape:
    """Of a leg whose frames are decoded in `batch`; the first `most_ns` of the call are kept.

    The leg appends to `heard` what it is given, in order, and to `heard_until` when each of them will have been played,
    as soon as that is known; to `said` and `said_ns` each frame of an utterance and when it was handed to the network.
    """

    def __init__(self, batch: Batch, most_ns: int) -> None:
        self._most_ns = most_ns
        self.heard: list[bytes | Samples] = []  # not yet compacted
        self.heard_until = array("q")
        self.said: list[bytes] = []
        self.said_ns = array("q")
        self._batch, self._codec = batch, batch.codec
        self._octets = bytearray()
        self._sizes = array("q")  # in samples, of each that is compacted
        self._clears_ns: list[int] = []
        self._marks: list[tuple[int, str]] = []

    def compact(self) -> None:
        """Make octets of what was heard and has its place."""
        count = len(self.heard_until) - len(self._sizes)
        pieces = self.heard[:count]
        del self.heard[:count]
        frames = [piece for piece in pieces if isinstance(piece, bytes) and len(piece) == self._codec.frame_bytes]
        if len(frames) == count:
            self._octets += b"".join(frames)
            self._sizes.extend(repeat(self._codec.frame_samples, count))
            return
        for piece in pieces:
            self._take(piece if isinstance(piece, bytes) else self._codec.encode(piece))

    def _take(self, octets: bytes) -> None:
        samples = len(octets) // self._codec.sample_bytes
        self._octets += octets[: samples * self._codec.sample_bytes]
        self._sizes.append(samples)

    def is_full(self, now_ns: int, opened_ns: int) -> bool:
        """Whether nothing that comes now will be kept."""
        return now_ns - (opened_ns or next(iter(self.heard_until), now_ns)) > self._most_ns

    def clear(self, at_ns: int) -> None:
        """The far end took back what would have been played after `at_ns`."""
        if len(self._clears_ns) < EVENTS_MAX:
            self._clears_ns.append(at_ns)
        self.cut(at_ns)

    def mark(self, name: str, due_ns: int) -> None:
        if len(self._marks) < EVENTS_MAX:
            self._marks.append((due_ns, name))

    def cut(self, at_ns: int) -> None:
        """Nothing was played after `at_ns` of what has been heard so far."""
        self.compact()
        self._marks = [mark for mark in self._marks if mark[0] <= at_ns]
        at = bisect_right(self.heard_until, at_ns)
        if at == len(self.heard_until):
            return
        began_ns = self.heard_until[at] - self._sizes[at] * SECOND // self._codec.rate_hz
        samples = max(0, at_sample(at_ns - began_ns, self._codec.rate_hz))
        gone = sum(self._sizes[at:]) - samples
        del self._octets[len(self._octets) - gone * self._codec.sample_bytes :]
        del self._sizes[at:], self.heard_until[at:]
        if samples:
            self._sizes.append(samples)
            self.heard_until.append(began_ns + samples * SECOND // self._codec.rate_hz)

    def sound(self, opened_ns: int, ended_ns: int) -> Sound | None:
        """Both channels of a call whose media were open from `opened_ns` (0: never), and that ended then; None if there
        is nothing to hear. Once, after the last was heard and said."""
        self.compact()
        begins = [opened_ns] if opened_ns else []
        if self.heard_until:
            begins.append(self.heard_until[0] - self._sizes[0] * SECOND // self._codec.rate_hz)
        if self.said_ns:
            begins.append(self.said_ns[0] - FRAME_NS)
        if not begins or ended_ns <= min(begins):
            return None
        began_ns = min(begins)
        if cut := ended_ns - began_ns > self._most_ns:
            ended_ns = began_ns + self._most_ns
        self.cut(ended_ns)
        return Sound(
            began_ns=began_ns,
            ended_ns=ended_ns,
            codec=self._codec.name,
            rate_hz=self._codec.rate_hz,
            silence=self._plain(self._codec.silence[: self._codec.sample_bytes]),
            caller=self._caller(began_ns, ended_ns),
            agent=self._agent(began_ns),
            clears_ns=tuple(at_ns for at_ns in self._clears_ns if at_ns <= ended_ns),
            marks=tuple(self._marks),
            cut=cut,
        )

    def _agent(self, began_ns: int) -> Track:
        """Pieces that touch are one run."""
        rate_hz, count = self._codec.rate_hz, len(self._sizes)
        if not count:
            return Track(b"", np.empty((0, 2), np.int64))
        sizes = np.array(self._sizes, np.int64)
        ends_ns = np.array(self.heard_until[:count], np.int64)
        starts_ns = ends_ns - sizes * SECOND // rate_hz
        apart = starts_ns[1:] - ends_ns[:-1] > _TOUCHING_NS
        firsts = np.concatenate(([0], np.flatnonzero(apart) + 1))
        begins = ((starts_ns[firsts] - began_ns) * rate_hz + SECOND // 2) // SECOND
        runs: npt.NDArray[np.int64] = np.stack((begins, np.add.reduceat(sizes, firsts)), axis=1)
        return Track(self._plain(self._octets), runs)

    def _caller(self, began_ns: int, ended_ns: int) -> Track:
        """A frame ends when it was handed over: nobody can have one before all of it was spoken. Those of an utterance
        follow each other without a seam, unless the caller was held up."""
        said_ns = self.said_ns[: bisect_right(self.said_ns, ended_ns)]
        if not said_ns:
            return Track(b"", np.empty((0, 2), np.int64))
        firsts, next_ns = list[int](), 0
        for number, handed_ns in enumerate(said_ns):
            if not -_UNEVEN_NS < handed_ns - next_ns < _UNEVEN_NS:
                firsts.append(number)
                next_ns = handed_ns
            next_ns += FRAME_NS
        counts = np.diff([*firsts, len(said_ns)]) * self._codec.frame_samples
        begins = [at_sample(said_ns[first] - FRAME_NS - began_ns, self._codec.rate_hz) for first in firsts]
        octets = self._batch.octets(self.said[: len(said_ns)]).tobytes()
        return Track(self._plain(octets), np.stack((np.array(begins, np.int64), counts), axis=1))

    def _plain(self, octets: bytes | bytearray) -> bytes:
        if self._codec.name != "L16" or self._codec.little_endian:
            return bytes(octets)
        return np.frombuffer(octets, ">i2").astype("<i2").tobytes()
