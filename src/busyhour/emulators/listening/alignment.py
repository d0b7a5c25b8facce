"""Which stretch of which utterance arrived: a local alignment (Smith and Waterman, 1981) of sound with references.

A frame scores up to +1 against the same frame of its reference and down to -0.8 against a stranger; frames left out on
either side cost a little, so that the path runs on over lost frames, late starts and cut-off ends. Rows are added as
the stream goes on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from busyhour.emulators.listening.references import Reference, ReferenceWord
from busyhour.emulators.listening.spectra import BANDS, Flags, Floats, product, with_squares

FRAME_SCALE = 4.0
"""Squared distance at which a frame is neither like nor unlike; the mean of two at random is 20."""
MISMATCH, LOST, PAUSE, SKIPPED = -0.8, -0.15, -0.02, 0.4
"""Scores: of a stranger; of an empty stream frame where the reference sounds; where the reference is silent; minus, of
each frame left out."""
HEARD = 0.15
"""Score from which a frame of a word counts as heard."""

_ONE = 1 << 16
"""Scores are kept as whole numbers of this part of one: sums are exact, and equal where a path has come from."""
_SKIPPED = round(SKIPPED * _ONE)
_STRETCH = 64
"""Steps of a path that are looked at together."""

Integers = npt.NDArray[np.intp]
Scores = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Match:
    """A stretch of a reference in the stream: pairs of a stream frame and a reference frame, in order, with a score."""

    reference: Reference
    score: float
    frames: Integers
    columns: Integers
    gains: npt.NDArray[np.float64]

    @property
    def began(self) -> int:
        return int(self.frames[0])

    @property
    def ended(self) -> int:
        """Exclusive."""
        return int(self.frames[-1]) + 1

    @property
    def first(self) -> int:
        """The first frame of the reference that is in the stream."""
        return self._columns[0]

    @property
    def last(self) -> int:
        return self._columns[-1]

    def reached(self, word: ReferenceWord) -> bool:
        """Whether the stream went on to the end of the word."""
        return self.last >= word.last - 2

    def heard(self, word: ReferenceWord) -> tuple[float, float]:
        """The share of the word's sounding frames that were heard, and their mean score (0.0 if none was)."""
        counts, sums = self._heard
        first, last = bisect_left(self._columns, word.first), bisect_left(self._columns, word.last)
        count = counts[last] - counts[first]
        if not count:
            return 0.0, 0.0
        return count / self.reference.sounding_in(word.first, word.last), (sums[last] - sums[first]) / count

    def fragment(self, word: ReferenceWord) -> str:
        """The letters of the word whose part of its sound was heard (of silence within it: the sound next to that)."""
        heard = set(self.columns[self.gains >= HEARD].tolist())
        sounding = word.first + np.flatnonzero(self.reference.sounding[word.first : word.last])
        step = (word.last - word.first) / max(len(word.text), 1)
        places = (word.first + step * (index + 0.5) for index in range(len(word.text)))
        nearest = (int(sounding[np.abs(sounding - place).argmin()]) for place in places)
        return "".join(letter for letter, frame in zip(word.text, nearest, strict=True) if frame in heard)

    def frame_of(self, reference_frame: int) -> int:
        """The stream frame in which a frame of the reference sounds (by its nearest pair, if it was left out)."""
        after = bisect_left(self._columns, reference_frame)
        if after < len(self._columns) and self._columns[after] == reference_frame:
            return int(self.frames[after])
        near = range(max(0, after - 1), min(after + 1, len(self._columns)))
        index = min(near, key=lambda index: abs(self._columns[index] - reference_frame))
        return int(self.frames[index]) + reference_frame - self._columns[index]

    @cached_property
    def _columns(self) -> list[int]:
        columns: list[int] = self.columns.tolist()
        return columns

    @cached_property
    def _heard(self) -> tuple[list[int], list[float]]:
        """Of the pairs before each: how many were heard, and the sum of their scores."""
        heard = (self.gains >= HEARD) & self.reference.sounding[self.columns]
        return [0, *np.cumsum(heard).tolist()], [0.0, *np.cumsum(np.where(heard, self.gains, 0.0)).tolist()]


class Alignment:
    """The alignment of one stream, from its frame `first` on, with a few references at once.

    The references lie side by side, each behind a column for "nothing aligned yet". A score is kept with a ramp added
    that rises by SKIPPED from frame to frame on both sides: to leave a frame out costs nothing there, and the best over
    any number of them is a running maximum. What is worth nothing is as high as the ramp, so a path may begin anywhere;
    from one reference to the next the ramp rises by more than any score, so that none runs on into the other.
    """

    def __init__(self, references: Sequence[Reference], first: int) -> None:
        self.references = references
        self.first = first
        # No path begins or ends in the silence before and after a reference: it would only lose.
        self._offsets = [reference.span[0] for reference in references]
        self._pads = [0, *accumulate(end - begin + 1 for begin, end in (reference.span for reference in references))]
        width = self._pads[-1]
        # One product gives the scores, 1 - (f - r)^2 / scale: 2 f r, 1 - r^2 for the 1, and -1 for the f^2 behind f.
        self._factors: Floats = np.zeros((BANDS + 2, width), np.float32)
        self._least: Floats = np.zeros(width, np.float32)
        self._most: Floats = np.zeros(width, np.float32)
        self._lost: Floats = np.zeros(width, np.float32)
        self._ramp: Scores = np.zeros(width, np.int32)
        step, height = 2 * SKIPPED, 0
        for reference, pad in zip(references, self._pads, strict=False):
            begin, end = reference.span
            length = end - begin
            here = slice(pad + 1, pad + 1 + length)
            features, sounding = reference.features[begin:end], reference.sounding[begin:end]
            scale = _ONE / FRAME_SCALE
            self._factors[:BANDS, here] = features.T * (2 * scale)
            self._factors[BANDS, here] = _ONE * (1 + step) - np.add.reduce(features**2, axis=1) * scale
            self._factors[BANDS + 1, here] = -scale
            for bound, score in ((self._least, MISMATCH), (self._most, 1.0), (self._lost, LOST)):
                bound[here] = np.where(sounding, (score + step) * _ONE, (PAUSE + step) * _ONE)
            self._ramp[pad : pad + 1 + length] = height + _SKIPPED * np.arange(length + 1)
            height += (_SKIPPED + _ONE) * length + _ONE
        self._scores: Scores = np.empty((128, width), np.int32)
        self._scores[0] = self._ramp
        self._spare: Scores = np.empty(width - 1, np.int32)
        self._rows = 1
        self._best = (0, 0, 0)  # score, row, column

    @property
    def rows(self) -> int:
        """Stream frames aligned so far."""
        return self._rows - 1

    @property
    def best(self) -> tuple[float, int, Reference, int]:
        """The score of the best path so far, and the stream frame, reference and reference frame at which it ends."""
        score, row, column = self._best
        index = bisect_right(self._pads, column) - 1
        place = column - self._pads[index] - 1 + self._offsets[index]
        return score / _ONE, self.first + row - 1, self.references[index], place

    def extend(self, features: Floats, empty: Flags) -> None:
        """Go on with these frames of the stream; `empty` are those without any sound."""
        if not len(features):
            return
        gains = self._gains(features, empty)
        while self._rows + len(features) > len(self._scores):
            self._scores = np.concatenate([self._scores, np.empty_like(self._scores)])
        first, self._rows = self._rows, self._rows + len(features)
        levels = self._levels(first, self._rows)
        before, spare = self._scores[first - 1], self._spare
        for row, gain, level in zip(self._scores[first : self._rows], gains, levels, strict=True):
            np.add(before[:-1], gain, out=spare)
            np.maximum(before, level, out=row)
            after = row[1:]
            np.maximum(after, spare, out=after)
            np.maximum.accumulate(row, out=row)
            before = row
        fresh = self._scores[first : self._rows] - levels
        top = int(fresh.argmax())
        score = int(fresh.reshape(-1)[top])
        if score > self._best[0]:
            after_rows, column = divmod(top, fresh.shape[1])
            self._best = (score, first + after_rows, column)

    def _levels(self, first: int, last: int) -> Scores:
        """The ramp in these rows."""
        return self._ramp + (np.arange(first, last, dtype=np.int32) * np.int32(_SKIPPED))[:, None]

    def _gains(self, features: Floats, empty: Flags) -> Scores:
        """What each frame of the stream scores against each of each reference, and the step along the ramp."""
        gains = product(with_squares(features), self._factors)
        np.maximum(gains, self._least, out=gains)
        np.minimum(gains, self._most, out=gains)
        if empty.any():
            gains[empty] = self._lost
        return gains[:, 1:].astype(np.int32)

    def match(self) -> Match | None:
        """The best path so far, traced back to where it began; None if nothing fits at all."""
        score, row, column = self._best
        if score <= 0:
            return None
        index = bisect_right(self._pads, column) - 1
        pad = self._pads[index]
        frames, columns, gains = [], [], []
        while row > 0 and column > pad and (here := self._scores[row, column]) > self._ramp[column] + row * _SKIPPED:
            if here == self._scores[row, column - 1]:
                column -= 1
            elif here == self._scores[row - 1, column]:
                row -= 1
            else:
                steps = self._diagonal(row, column, min(row, column - pad, _STRETCH))
                frames.append(np.arange(row, row - len(steps), -1))
                columns.append(np.arange(column, column - len(steps), -1))
                gains.append(steps)
                row, column = row - len(steps), column - len(steps)
        return Match(
            self.references[index],
            score / _ONE,
            np.concatenate(frames)[::-1] + (self.first - 1),
            np.concatenate(columns)[::-1] + (self._offsets[index] - pad - 1),
            np.concatenate(gains)[::-1] / _ONE,
        )

    def _diagonal(self, row: int, column: int, steps: int) -> Scores:
        """The scores of the pairs by which a path came there, backwards: until it left something out, or began."""
        flat, width = self._scores.reshape(-1), self._scores.shape[1]
        at, back = row * width + column, width + 1
        path = flat[at - steps * back : at + 1 : back][::-1]
        here = path[:-1]
        left = flat[at - 1 - (steps - 1) * back : at : back][::-1]
        above = flat[at - width - (steps - 1) * back : at - width + 1 : back][::-1]
        levels = self._ramp[column - steps + 1 : column + 1][::-1] + np.arange(row, row - steps, -1) * _SKIPPED
        ends = np.flatnonzero((here <= levels) | (here == left) | (here == above))
        taken = int(ends[0]) if len(ends) else steps
        return path[:taken] - path[1 : taken + 1] - np.int32(2 * _SKIPPED)
