"""The utterances that can be recognised, as features, and the shortlist of those that may be sounding.

A patch of 300 ms is 48 terms of its cosine transform. Its distance to the patches at every frame of every reference is
one matrix product; how near the nearest of a reference is counts as evidence for that reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from busyhour.emulators.listening.spectra import (
    BANDS,
    ENVELOPE_AHEAD,
    ENVELOPE_BACK,
    FRAMES_PER_SECOND,
    SILENT,
    WINDOW_MS,
    Flags,
    Floats,
    Spectra,
    nothing,
    peaks,
    product,
    relative,
    strided,
    with_squares,
)
from busyhour.model import Audio, Word

PATCH, PATCH_HOP, REFERENCE_HOP = 30, 10, 2
"""Frames in a patch, and from one to the next, in a stream and in a reference."""
LONGEST_PART, SHORTEST_PART = 600, 200
"""Frames: a longer utterance is cut in parts, at its longest pauses, so that what an alignment costs has a limit."""
TERMS = (6, 8)
"""Terms of the cosine transform that are kept: in time, in frequency."""
PATCH_SCALE = 160.0
"""Squared distance of two patches that are neither alike nor different; the mean of two at random is 480."""
SOUNDING = 0.01
"""A frame 20 dB below the loudest of its utterance carries no evidence."""
MARGIN = 30
"""Frames of silence around a reference: its first patch begins before it does."""


@dataclass(frozen=True, slots=True)
class ReferenceWord:
    text: str
    first: int  # frame
    last: int  # exclusive


@dataclass(frozen=True, eq=False)
class Reference:
    """One utterance, or a part of a long one: its features, which of its frames sound, and its words by frame."""

    name: str
    features: Floats
    sounding: Flags
    words: tuple[ReferenceWord, ...]

    def sounding_in(self, first: int, last: int) -> int:
        """How many of these frames sound."""
        return self._sounding_before[last] - self._sounding_before[first]

    @cached_property
    def span(self) -> tuple[int, int]:
        """From its first frame that sounds to behind the last; (0, 0) if none does."""
        places = np.flatnonzero(self.sounding)
        return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)

    @cached_property
    def _sounding_before(self) -> list[int]:
        return [0, *np.cumsum(self.sounding).tolist()]


class Vocabulary:
    """The references of a process: computed once, shared by all its streams, never changed."""

    def __init__(self, utterances: Iterable[Audio]) -> None:
        self.references: Sequence[Reference] = [part for audio in utterances for part in _parts(_reference(audio))]
        self._basis = _cosines()
        patches = [self.patches(reference.features, REFERENCE_HOP) for reference in self.references]
        self._first = np.cumsum([0, *(len(p) for p in patches[:-1])], dtype=np.intp)
        together = np.concatenate(patches) if patches else np.zeros((0, TERMS[0] * TERMS[1]), np.float32)
        # One product gives all of (p - q)^2: q^2 for the 1, -2 p q for p, and 1 for the p^2 behind each p.
        ones, squares = with_squares(together)[:, -2:].T
        self._patches = np.ascontiguousarray(np.vstack([-2 * together.T, squares, ones]))

    def patches(self, features: Floats, hop: int) -> Floats:
        """The patches that begin at every `hop`-th frame: count x terms."""
        if len(features) < PATCH:
            return np.zeros((0, TERMS[0] * TERMS[1]), np.float32)
        shape = ((len(features) - PATCH) // hop + 1, BANDS, PATCH)
        return product(strided(features, shape, (hop * BANDS, 1, BANDS)).reshape(shape[0], -1), self._basis)

    def evidence(self, patches: Floats) -> Floats:
        """For each patch and reference, from 0 (nothing in it is like it) to 1 (the same): count x references."""
        if not len(self.references):
            return np.zeros((len(patches), 0), np.float32)
        distances = product(with_squares(patches), self._patches)
        nearest = np.minimum.reduceat(distances, self._first, axis=1)
        return np.minimum(np.maximum(1 - nearest / np.float32(PATCH_SCALE), 0), 1)


def _reference(audio: Audio) -> Reference:
    rate = audio.rate_hz
    silence = np.zeros(MARGIN * rate // FRAMES_PER_SECOND, np.int16)
    padded = np.concatenate([silence, audio.samples, silence])
    frames = Spectra(rate).feed(padded)
    surrounded = np.concatenate([nothing(ENVELOPE_BACK), frames.energies, nothing(ENVELOPE_AHEAD)])
    features = relative(surrounded, peaks(surrounded))
    sounding = frames.peaks > max(SOUNDING * float(frames.peaks.max()), SILENT)
    # A frame stands for its middle: the frame of a sample is the one whose middle is nearest.
    back = MARGIN - WINDOW_MS * FRAMES_PER_SECOND / 2000
    words = tuple(
        ReferenceWord(
            word.text,
            round(word.began * FRAMES_PER_SECOND / rate + back),
            round(word.ended * FRAMES_PER_SECOND / rate + back),
        )
        for word in _words(audio)
    )
    return Reference(audio.name, features, sounding, words)


def _parts(whole: Reference) -> list[Reference]:
    """The reference, or if it is long its parts, one beginning where the other ends: between two words."""
    parts: list[Reference] = []
    first, words = 0, list(whole.words)
    while len(whole.features) - first > LONGEST_PART:
        gaps = [
            (after.first - before.last, (before.last + after.first) // 2)
            for before, after in pairwise(words)
            if first + SHORTEST_PART <= (before.last + after.first) // 2 <= first + LONGEST_PART
        ]
        if not gaps:
            break
        cut = max(gaps)[1]
        parts.append(_part(whole, len(parts), first, cut))
        words = [word for word in words if word.first >= cut]
        first = cut
    return [*parts, _part(whole, len(parts), first, len(whole.features))] if parts else [whole]


def _part(whole: Reference, number: int, first: int, last: int) -> Reference:
    words = tuple(
        ReferenceWord(word.text, word.first - first, min(word.last, last) - first)
        for word in whole.words
        if first <= word.first < last
    )
    return Reference(f"{whole.name}/{number}", whole.features[first:last], whole.sounding[first:last], words)


def _words(audio: Audio) -> Sequence[Word]:
    """The words as the text writes them; where their places are unknown, by the share of letters in the speech."""
    written = audio.text.split()
    if len(audio.words) == len(written):
        return [Word(text, word.began, word.ended) for text, word in zip(written, audio.words, strict=True)]
    if audio.words:
        return audio.words
    letters = np.cumsum([0, *(len(text) + 1 for text in written)])
    places = audio.speech_began + letters * (audio.speech_ended - audio.speech_began) / max(int(letters[-1]), 1)
    return [Word(text, int(places[i]), int(places[i + 1])) for i, text in enumerate(written)]


def _cosines() -> Floats:
    """The basis of the patches' cosine transform: (bands x frames) x terms, orthonormal (DCT-II)."""
    in_time = _cosine_rows(PATCH, TERMS[0])
    in_frequency = _cosine_rows(BANDS, TERMS[1])
    return np.asarray(np.kron(in_frequency, in_time).T, np.float32)


def _cosine_rows(length: int, terms: int) -> Floats:
    rows = np.cos(np.pi / length * np.arange(terms)[:, None] * (np.arange(length) + 0.5)) * np.sqrt(2 / length)
    rows[0] /= np.sqrt(2)
    return np.asarray(rows, np.float32)
