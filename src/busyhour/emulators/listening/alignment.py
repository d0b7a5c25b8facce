"""Which stretch of which utterance arrived: a local alignment (Smith and Waterman, 1981) of sound with references.

A frame scores up to +1 against the same frame of its reference and down to -0.8 against a stranger; frames left out on
either side cost a little, so that the path runs on over lost frames, late starts and cut-off ends. Rows are added as
the stream goes on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from busyhour.emulators.listening.references import Reference, ReferenceWord
from busyhour.emulators.listening.spectra import BANDS, Flags, Floats, product

FRAME_SCALE = 4.0
"""Squared distance at which a frame is neither like nor unlike; the mean of two at random is 20."""
MISMATCH, LOST, PAUSE, SKIPPED = -0.8, -0.15, -0.02, 0.4
"""Scores: of a stranger; of an empty stream frame where the reference sounds; where the reference is silent; minus, of
each frame left out."""
HEARD = 0.15
"""Score from which a frame of a word counts as heard."""


@dataclass(frozen=True, slots=True)
class Match:
    """A stretch of a reference in the stream. `pairs`: (stream frame, reference frame, score), in order."""

    reference: Reference
    score: float
    pairs: tuple[tuple[int, int, float], ...]

    @property
    def began(self) -> int:
        return self.pairs[0][0]

    @property
    def ended(self) -> int:
        """Exclusive."""
        return self.pairs[-1][0] + 1

    @property
    def likeness(self) -> float:
        """The mean score of the pairs in which the reference sounds: 0.9 for the same sound."""
        scores = [score for _, frame, score in self.pairs if self.reference.sounding[frame]]
        return sum(scores) / len(scores) if scores else 0.0

    def reached(self, word: ReferenceWord) -> bool:
        """Whether the stream went on to the end of the word."""
        return self.pairs[-1][1] >= word.last - 2

    def heard(self, word: ReferenceWord) -> tuple[float, float]:
        """The share of the word's sounding frames that were heard, and their mean score (0.0 if none was)."""
        sounding = int(self.reference.sounding[word.first : word.last].sum())
        scores = [
            score
            for _, frame, score in self.pairs
            if word.first <= frame < word.last and score >= HEARD and self.reference.sounding[frame]
        ]
        return (len(scores) / sounding, sum(scores) / len(scores)) if scores else (0.0, 0.0)

    def fragment(self, word: ReferenceWord) -> str:
        """The letters of the word whose part of its sound was heard (of silence within it: the sound next to that)."""
        heard = {frame for _, frame, score in self.pairs if score >= HEARD}
        sounding = word.first + np.flatnonzero(self.reference.sounding[word.first : word.last])
        step = (word.last - word.first) / max(len(word.text), 1)
        places = (word.first + step * (index + 0.5) for index in range(len(word.text)))
        nearest = (int(sounding[np.abs(sounding - place).argmin()]) for place in places)
        return "".join(letter for letter, frame in zip(word.text, nearest, strict=True) if frame in heard)

    def frame_of(self, reference_frame: int) -> int:
        """The stream frame in which a frame of the reference sounds (by its nearest pair, if it was left out)."""
        after = bisect_left(self.pairs, reference_frame, key=itemgetter(1))
        near = self.pairs[max(0, after - 1) : after + 1]
        at, frame, _ = min(near, key=lambda pair: abs(pair[1] - reference_frame))
        return at + reference_frame - frame


class Alignment:
    """The alignment of one stream, from its frame `first` on, with a few references at once."""

    def __init__(self, references: Sequence[Reference], first: int) -> None:
        self.references = references
        self.first = first
        longest = max(len(reference.features) for reference in references)
        shape = (len(references), longest)
        every: Floats = np.zeros((*shape, BANDS), np.float32)
        self._sounding: Floats = np.zeros(shape, np.float32)
        self._silent: Floats = np.full(shape, -1, np.float32)  # -1: the padding of the shorter references
        for index, reference in enumerate(references):
            length = len(reference.features)
            every[index, :length] = reference.features
            self._sounding[index, :length] = reference.sounding
            self._silent[index, :length] = np.where(reference.sounding, 0, PAUSE)
        self._by_band = np.ascontiguousarray(every.reshape(-1, BANDS).T)
        self._squares: Floats = (every**2).sum(axis=2)
        self._ramp = np.arange(longest + 1, dtype=np.float32) * np.float32(SKIPPED)
        # Scores are kept with the ramp added: a frame of the reference left out costs nothing there, and the best over
        # any number of them is a running maximum. Column 0 and row 0 are "nothing aligned yet": a path may begin
        # anywhere with a score of 0.
        self._scores: Floats = np.empty((128, len(references), longest + 1), np.float32)
        self._scores[0] = self._ramp
        self._spare: Floats = np.empty((len(references), longest + 1), np.float32)
        self._rows = 1
        self._best = (0.0, 0, 0, 0)  # score, row, reference, column

    @property
    def rows(self) -> int:
        """Stream frames aligned so far."""
        return self._rows - 1

    @property
    def best(self) -> tuple[float, int, Reference, int]:
        """The score of the best path so far, and the stream frame, reference and reference frame at which it ends."""
        score, row, index, column = self._best
        return score, self.first + row - 1, self.references[index], column - 1

    def extend(self, features: Floats, empty: Flags) -> None:
        """Go on with these frames of the stream; `empty` are those without any sound."""
        if not len(features):
            return
        gains = self._gains(features, empty)
        gains += np.float32(SKIPPED)  # a step along the ramp
        while self._rows + len(features) > len(self._scores):
            self._scores = np.concatenate([self._scores, np.empty_like(self._scores)])
        first = self._rows
        before = self._scores[first - 1]
        for gain in gains:
            row = self._scores[self._rows]
            np.subtract(before, np.float32(SKIPPED), out=self._spare)
            np.maximum(self._spare, self._ramp, out=row)
            np.add(before[:, :-1], gain, out=self._spare[:, 1:])
            np.maximum(row[:, 1:], self._spare[:, 1:], out=row[:, 1:])
            np.maximum.accumulate(row, axis=1, out=row)
            before = row
            self._rows += 1
        fresh = self._scores[first : self._rows] - self._ramp
        top = int(fresh.argmax())
        score = float(fresh.reshape(-1)[top])
        if score > self._best[0]:
            after, place = divmod(top, fresh[0].size)
            self._best = (score, first + after, *divmod(place, fresh.shape[2]))

    def _gains(self, features: Floats, empty: Flags) -> Floats:
        """What each frame of the stream scores against each of each reference: rows x references x frames."""
        products = product(features, self._by_band).reshape(len(features), *self._squares.shape)
        gains: Floats = products * np.float32(2 / FRAME_SCALE)
        gains -= self._squares / np.float32(FRAME_SCALE)
        gains -= ((features**2).sum(axis=1) / np.float32(FRAME_SCALE) - 1)[:, None, None]
        np.clip(gains, MISMATCH, 1, out=gains)
        if empty.any():
            gains[empty] = LOST
        gains *= self._sounding
        gains += self._silent
        return gains

    def match(self) -> Match | None:
        """The best path so far, traced back to where it began; None if nothing fits at all."""
        score, row, index, column = self._best
        if score <= 0:
            return None
        pairs: list[tuple[int, int, float]] = []
        scores = self._scores[: row + 1, index] - self._ramp
        while row > 0 and column > 0 and (here := float(scores[row, column])) > 0:
            left, up = float(scores[row, column - 1]), float(scores[row - 1, column])
            if abs(here - (left - SKIPPED)) < 1e-3:
                column -= 1
            elif abs(here - (up - SKIPPED)) < 1e-3:
                row -= 1
            else:
                row, column = row - 1, column - 1
                pairs.append((self.first + row, column, here - float(scores[row, column])))
        return Match(self.references[index], score, tuple(reversed(pairs))) if pairs else None
