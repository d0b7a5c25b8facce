"""A stream of samples in, words out: where speech begins and pauses, what it said so far, and what it said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from busyhour.emulators.listening.alignment import Alignment, Match
from busyhour.emulators.listening.references import PATCH, PATCH_HOP, Reference, Vocabulary
from busyhour.emulators.listening.spectra import (
    ENVELOPE_AHEAD,
    ENVELOPE_BACK,
    FRAMES_PER_SECOND,
    SILENT,
    Activity,
    Flags,
    Floats,
    Frames,
    Spectra,
    feed_together,
    nothing,
    peaks,
    relative,
)
from busyhour.model import Samples

SHORTLIST = 3
"""References aligned at once."""
ONSET, ONSET_OF = 3, 5
"""Speech has begun when three frames of five are active: a click is shorter."""
LEAD_IN = 30
"""Frames kept from before it: onsets are soft, and a patch is as long."""
SHORTEST_PAUSE = 16
"""Frames: a plosive in mid-word is silent for up to 150 ms, and no setting may split words."""
BREATH, BREATH_AFTER = 20, 300
"""Without endpointing a segment ends at a pause of 200 ms once it is 3 s long."""
LULLS = ((1000, 12), (1250, 6), (1500, 0))
"""A segment of so many frames ends at the next stretch of so many without sound."""
STEP = 10
"""Frames taken at once when a client sends audio in long pieces."""

LOUD = 0.01
"""Frames within 20 dB of the loudest must be accounted for."""
ASUNDER = 25
"""Loud frames further apart than this belong to different bursts of speech."""
LEAST_SCORE, LEAST_PARTIAL_SCORE = 15.0, 30.0
LEAST_DENSITY, SHORT_DENSITY = 0.45, 6.0
"""A match is believed from 0.45 + 6 / score per loud frame of the bursts it lies in: short ones must be better."""
ALONG = 5
"""While the best path ended among the last frames, the stream goes along with its reference."""
COMMITTED_AFTER = 25
"""Frames after the end of a reference until what follows is looked at on its own."""
HEARD_SHARE, GARBLED_SHARE, CUT_SHARE = 0.5, 0.25, 0.65
"""Share of a word's frames from which it is understood, misunderstood, and understood though it was cut off."""

_SILENCE_AHEAD = peaks(nothing(ENVELOPE_AHEAD))


@dataclass(frozen=True, slots=True)
class WordHeard:
    """A word as its utterance writes it, where it sounds in the stream (samples), and how surely (0 to 1)."""

    text: str
    began: int
    ended: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in a segment, in samples of the stream; `speech_*` bound its sound (equal: there was none)."""

    began: int
    ended: int
    speech_began: int
    speech_ended: int
    words: tuple[WordHeard, ...]

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class SpeechBegan:
    at: int  # sample


@dataclass(frozen=True, slots=True)
class Partial:
    """The words so far of a segment that goes on: told when they have changed."""

    transcript: Transcript


@dataclass(frozen=True, slots=True)
class Final:
    """The words of a segment that is over: `paused`, or it had become long."""

    transcript: Transcript
    paused: bool


Event = SpeechBegan | Partial | Final


class Listener:
    """Listens to one stream of `rate_hz`. A pause of `endpoint_ms` ends a segment (None: only a long one ends)."""

    def __init__(self, vocabulary: Vocabulary, rate_hz: int, *, endpoint_ms: int | None = 10) -> None:
        self._vocabulary = vocabulary
        self.spectra = Spectra(rate_hz)
        self._activity = Activity()
        self._step = rate_hz * STEP // FRAMES_PER_SECOND
        self._pause = None if endpoint_ms is None else max(SHORTEST_PAUSE, endpoint_ms * FRAMES_PER_SECOND // 1000)
        self.heard = 0  # samples so far
        self._told = 0  # the sample up to which finals have been given
        self._recent: list[bool] = []
        self._speech: tuple[int, int] | None = None  # first and last active frame of the segment
        self._words: tuple[WordHeard, ...] = ()
        self._sound = _Sound()
        self._search = _Search(vocabulary, self._sound)

    def feed(self, samples: Samples) -> list[Event]:
        """Take any number of samples; what they brought to light, in order."""
        events: list[Event] = []
        for at in range(0, len(samples), self._step):
            piece = samples[at : at + self._step]
            events += hear_together([(self, piece)])[0]
        return events

    def hear(self, frames: Frames, samples: int) -> list[Event]:
        """Take frames as they come from the spectra of this stream, and from so many samples of it."""
        self.heard += samples
        events: list[Event] = []
        if len(frames):
            self._take(frames, events)
        return events

    def flush(self) -> Transcript:
        """End the segment here: everything that has arrived is in it, or was in the finals before."""
        self._sound.look(ahead=True)
        return self._ended(self.heard)

    def so_far(self) -> Transcript:
        """What a flush would give now, without ending the segment."""
        words = self._search.read(final=True) if self._speech is not None else ()
        return self._transcript(self.heard, words)

    @property
    def quiet(self) -> int | None:
        """Samples since the segment last sounded; None before anything does."""
        return None if self._speech is None else max(0, self.heard - self.spectra.middle(self._speech[1]))

    @property
    def untold(self) -> int:
        """Samples that came after the last final."""
        return self.heard - self._told

    def _take(self, frames: Frames, events: list[Event]) -> None:
        active = self._activity.feed(frames.means)
        first = self._sound.end
        self._sound.add(frames)
        for frame, sounds in enumerate(active, first):
            if self._speech is not None:
                if sounds:
                    self._speech = (self._speech[0], frame)
                elif self._is_over(frame):
                    paused = self._pause is not None
                    events.append(Final(self._ended(self.spectra.middle(frame)), paused))
                if self._speech is not None and self._is_long(frame):
                    events.append(Final(self._ended(self.spectra.middle(frame)), False))
            else:
                self._await_onset(frame, sounds, events)
        if self._speech is not None and self._search.advance():
            transcript = self._transcript(self.heard, self._search.read(final=False))
            if transcript.words and transcript.words != self._words:
                self._words = transcript.words
                events.append(Partial(transcript))

    def _await_onset(self, frame: int, sounds: bool, events: list[Event]) -> None:
        self._recent = [*self._recent[1 - ONSET_OF :], sounds]
        if sum(self._recent) >= ONSET:
            began = frame - len(self._recent) + 1 + self._recent.index(True)
            self._speech = (began, frame)
            self._recent.clear()
            self._restart(began - LEAD_IN)
            events.append(SpeechBegan(self.spectra.middle(began)))
        elif self._sound.end - self._sound.first > 4 * LEAD_IN:
            self._restart(frame - LEAD_IN)

    def _is_over(self, frame: int) -> bool:
        assert self._speech is not None
        began, last = self._speech
        if self._pause is not None:
            return frame - last >= self._pause
        return frame - last >= BREATH and frame - began >= BREATH_AFTER

    def _is_long(self, frame: int) -> bool:
        assert self._speech is not None
        length, lull = frame - self._sound.first, frame - self._speech[1]
        return length >= LULLS[0][0] and any(length >= at_least and lull >= needed for at_least, needed in LULLS)

    def _ended(self, until: int) -> Transcript:
        words = self._search.read(final=True) if self._speech is not None else ()
        transcript = self._transcript(until, words)
        self._told = max(until, self._told)
        # What follows may be the rest of a word: its beginning was told, and is not heard twice.
        self._restart(self._sound.end)
        self._speech = None
        self._words = ()
        return transcript

    def _transcript(self, until: int, matches: Sequence[Match]) -> Transcript:
        words = tuple(word for match in matches for word in _words(match, self.spectra))
        speech = (until, until)
        if self._speech is not None:
            speech = (self.spectra.middle(self._speech[0]), self.spectra.middle(self._speech[1]))
        if words:  # soft beginnings and ends are heard by who knows the word
            speech = (min(speech[0], words[0].began), min(max(speech[1], words[-1].ended), until))
        return Transcript(self._told, until, *speech, words)

    def _restart(self, frame: int) -> None:
        self._sound.drop_before(frame)
        self._search = _Search(self._vocabulary, self._sound)


def hear_together(pieces: Sequence[tuple[Listener, Samples]]) -> list[list[Event]]:
    """What `feed` gives of each, for half of the CPU where nobody speaks, and 0.9 of it where all do.

    A piece is of up to 100 ms.
    """
    found = feed_together([(listener.spectra, samples) for listener, samples in pieces])
    return [listener.hear(frames, len(samples)) for (listener, samples), frames in zip(pieces, found, strict=True)]


class _Sound:
    """The frames of a stream that still matter: their energies, and features as far as they have been asked for."""

    def __init__(self) -> None:
        self.first = 0
        self.end = 0  # the frame after the last
        self._energies: Floats = nothing(ENVELOPE_BACK)  # these before `first`, then its own
        self._peaks = peaks(self._energies)
        self._features: Floats = nothing(0)

    @property
    def known(self) -> int:
        """The frame after the last whose features are known."""
        return self.first + len(self._features)

    def add(self, frames: Frames) -> None:
        self._energies = np.concatenate([self._energies, frames.energies])
        self._peaks = np.concatenate([self._peaks, frames.peaks])
        self.end += len(frames)

    def look(self, *, ahead: bool) -> None:
        """Make the features known: those whose surroundings have come, or all, as if silence followed (`ahead`)."""
        energies, tops = self._energies[len(self._features) :], self._peaks[len(self._features) :]
        if ahead:
            energies = np.concatenate([energies, nothing(ENVELOPE_AHEAD)])
            tops = np.concatenate([tops, _SILENCE_AHEAD])
        if len(energies) > ENVELOPE_BACK + ENVELOPE_AHEAD:
            self._features = np.concatenate([self._features, relative(energies, tops)])

    def drop_before(self, frame: int) -> None:
        spent = max(0, min(frame, self.end) - self.first)
        self._energies = self._energies[spent:]
        self._peaks = self._peaks[spent:]
        self._features = self._features[spent:]
        self.first += spent

    def features(self, first: int, last: int) -> Floats:
        return self._features[first - self.first : last - self.first]

    def empty(self, first: int, last: int) -> Flags:
        """Of these frames: in which there is no sound at all."""
        before = self.first - ENVELOPE_BACK
        return np.asarray(self._peaks[first - before : last - before] <= SILENT)

    def loud(self) -> Flags:
        """Of the frames from `first` to `known`: which must be accounted for."""
        tops = self._peaks[ENVELOPE_BACK : ENVELOPE_BACK + len(self._features)]
        return np.asarray(tops > max(LOUD * float(tops.max(initial=0)), SILENT))


class _Search:
    """What the sound of one segment matches. What is found complete is kept; the rest is aligned as it grows."""

    def __init__(self, vocabulary: Vocabulary, sound: _Sound) -> None:
        self._vocabulary = vocabulary
        self._sound = sound
        self._first = sound.first
        self._patches = 0  # that have come
        self._evidence: Floats = np.zeros((0, len(vocabulary.references)), np.float32)  # of the first of them
        self._complete: list[Match] = []
        self._tail = sound.first
        self._alignment: Alignment | None = None
        self._progress = (0, "", 0)

    def advance(self) -> bool:
        """Take in what is new; whether that brought another word to its end."""
        if self._sound.end < self._first + PATCH_HOP * self._patches + PATCH + ENVELOPE_AHEAD:
            return False
        if not self._vocabulary.references:
            return False
        self._sound.look(ahead=False)
        self._patches = (self._sound.known - self._first - PATCH) // PATCH_HOP + 1
        if self._alignment is None or not self._follows(self._alignment):
            shortlist = self._shortlist(self._tail, self._sound.known)
            if self._alignment is None or shortlist[0] not in self._alignment.references:
                self._alignment = Alignment(shortlist, self._tail)
        self._extend(self._alignment, self._sound.known)
        score, ended, reference, column = self._alignment.best
        if score < LEAST_SCORE:
            return False
        over = column >= reference.span[1] - 4
        if over and self._sound.known - ended > COMMITTED_AFTER and (match := self._alignment.match()):
            self._complete.append(match)
            self._tail, self._alignment = match.ended, None
        before = self._progress
        self._progress = (len(self._complete), reference.name, sum(word.last - 2 <= column for word in reference.words))
        return self._progress != before

    def _follows(self, alignment: Alignment) -> bool:
        """Whether the stream goes along with a reference, so that there is no need to look for a better one."""
        score, ended, _, _ = alignment.best
        return score >= LEAST_PARTIAL_SCORE and ended >= alignment.first + alignment.rows - ALONG

    def read(self, *, final: bool) -> list[Match]:
        """The matches that account for what was heard, in order."""
        found = list(self._complete)
        if final:
            self._sound.look(ahead=False)
            edges = [self._first, *(edge for match in found for edge in (match.began, match.ended))]
            for first, last in zip(edges[0:-1:2], edges[1::2], strict=False):
                found += self._find(first, last)
            found += self._find(self._tail, self._sound.known, self._alignment)
        elif self._alignment is not None and self._alignment.best[0] >= LEAST_PARTIAL_SCORE:
            match = self._alignment.match()
            found += [match] if match is not None else []
        return self._accounting(sorted(found, key=lambda match: match.began))

    def _find(self, first: int, last: int, alignment: Alignment | None = None) -> list[Match]:
        """The best match in a stretch of the stream, and what is found before and after it."""
        loud = self._sound.loud()[first - self._sound.first : last - self._sound.first]
        if loud.sum() < LEAST_SCORE or not self._vocabulary.references:
            return []
        shortlist = self._shortlist(first, last)
        if alignment is None or shortlist[0] not in alignment.references:
            alignment = Alignment(shortlist, first)
        self._extend(alignment, last)
        match = alignment.match()
        if match is None or match.score < LEAST_SCORE:
            return []
        return [*self._find(first, match.began), match, *self._find(match.ended, last)]

    def _shortlist(self, first: int, last: int) -> list[Reference]:
        """The references with most evidence in a stretch, best first."""
        self._weigh()
        begin = max(0, (first - self._first - PATCH // 2) // PATCH_HOP)
        end = max(begin + 1, (last - self._first - PATCH // 2) // PATCH_HOP)
        order = np.argsort(-self._evidence[begin:end].sum(axis=0), kind="stable")[:SHORTLIST]
        return [self._vocabulary.references[index] for index in order]

    def _weigh(self) -> None:
        """Make known what the patches so far are evidence for."""
        first = self._first + PATCH_HOP * len(self._evidence)
        last = self._first + PATCH_HOP * (self._patches - 1) + PATCH
        if first + PATCH <= last:
            patches = self._vocabulary.patches(self._sound.features(first, last), PATCH_HOP)
            self._evidence = np.concatenate([self._evidence, self._vocabulary.evidence(patches)])

    def _extend(self, alignment: Alignment, last: int) -> None:
        fresh = alignment.first + alignment.rows
        alignment.extend(self._sound.features(fresh, last), self._sound.empty(fresh, last))

    def _accounting(self, matches: list[Match]) -> list[Match]:
        """Without the matches that leave most of the sound around them unexplained, the worst first."""
        loud = np.flatnonzero(self._sound.loud()) + self._sound.first
        if not len(loud):
            return []
        gaps = (np.flatnonzero(loud[1:] - loud[:-1] > ASUNDER) + 1).tolist()
        bursts = [loud[first:last] for first, last in pairwise([0, *gaps, len(loud)])]
        while matches:
            spare = [_density(match, matches, bursts) - SHORT_DENSITY / match.score for match in matches]
            worst = int(np.argmin(spare))
            if spare[worst] >= LEAST_DENSITY:
                break
            matches = [*matches[:worst], *matches[worst + 1 :]]
        return matches


def _density(match: Match, matches: Sequence[Match], bursts: Sequence[npt.NDArray[np.intp]]) -> float:
    """The score of a match per loud frame of the bursts it lies in, without those frames that others account for."""
    alone = 0
    for burst in bursts:
        if burst[-1] >= match.began and burst[0] < match.ended:
            mine = np.ones(len(burst), np.bool_)
            for other in matches:
                if other is not match:
                    mine &= (burst < other.began) | (burst >= other.ended)
            alone += int(mine.sum())
    return match.score / max(alone, 1)


def _words(match: Match, spectra: Spectra) -> list[WordHeard]:
    """The words of a match: whole where most of their sound arrived, in pieces where less did, else left out."""
    first, last = match.first, match.last
    heard = []
    for word in match.reference.words:
        if word.last <= first or word.first > last:
            continue
        share, confidence = match.heard(word)
        cut = word.first < first - 2 or not match.reached(word)
        if share >= (CUT_SHARE if cut else HEARD_SHARE):
            text = word.text
        elif share >= GARBLED_SHARE and not cut:
            text = match.fragment(word)
        else:
            continue
        if text:
            began, ended = (spectra.middle(match.frame_of(frame)) for frame in (word.first, word.last))
            heard.append(WordHeard(text, began, max(ended, began), round(share * confidence, 4)))
    return heard
