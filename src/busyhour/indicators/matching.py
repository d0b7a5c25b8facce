"""Which requests may be those of a turn: found by words, weighed by times.

A twin's row does not know its call (docs/decisions/0008). But the words of a turn are in its transcript, the
transcript is in the prompt, the reply is in what the voice was given; and each of these follows the one before it after
a time that is much the same from turn to turn. What fits by words is weighed by how far its times are from the usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np

from busyhour.columns import NEVER, Ints
from busyhour.indicators.waits import Wait, Waits
from busyhour.indicators.witnessed import Places, Texts, Witnessed
from busyhour.model import MS, SECOND, Run

ALIKE_NS = 50 * MS
"""Times that are as near as this are the same: an agent under load takes some 10 ms more or less for the same thing."""
_BEFORE_NS, _AFTER_NS = 500 * MS, 2 * SECOND
"""A transcriber takes speech for over so much before its last sample was sent, and so much after: it was sent anew."""
_LATE_NS = 250 * MS
"""An unanswered turn's request is looked for so near to where it would usually be."""
_VAIN_NS = 10 * SECOND
"""So long before a request that was served another may have been made for the same, in vain."""
_NEAREST = 6
_USUAL_OF = 50
_ENOUGH = 5
_ALL_OF = 10_000
"""Of so many waits all that the twins saw is read: it takes a moment, and reading by windows as long."""


@dataclass(frozen=True, slots=True)
class Usual:
    """How much later, usually, the end of speech arrives than it was sent; the model is asked than the final came; the
    voice asked than the first sentence was there; the sound heard than it left the voice."""

    said_ns: int = 0
    asked_ns: int = 0
    spoken_ns: int = 0
    heard_ns: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """Rows that may be those of a turn; None for what is not there. asked, given: the first of several requests, the
    last of which was served. score: how far its times are from the usual ones, in all."""

    final: int | None
    model: int | None
    asked: int | None
    voice: int
    given: int
    lags: tuple[int, int, int, int]  # as in `Usual`
    score: int


class Matching:
    """Of one phase."""

    def __init__(self, run: Run, phase: str, *, all_of: int = _ALL_OF) -> None:
        self._run, self._phase, self._all_of = run, phase, all_of
        self._texts = Texts()
        self.turns = Waits.of(run, phase, self._texts, greetings=False)
        self.greetings = Waits.of(run, phase, self._texts, greetings=True)
        self._asked: list[Wait] = []
        self._replies: dict[int, bool] = {}

    def look_at(self, waits: Iterable[Wait]) -> None:
        """Say which will be asked about, before any is: of a long run no more is read than they need."""
        self._asked += waits

    @cached_property
    def seen(self) -> Witnessed:
        if len(self.turns) + len(self.greetings) <= self._all_of:
            return Witnessed.of(self._run, self._phase, self._texts)
        usual = [waits[i] for waits in (self.turns, self.greetings) for i in _some(waits)]
        windows = [(wait.due_ns - SECOND, wait.until_ns + SECOND // 2) for wait in (*self._asked, *usual)]
        return Witnessed.of(self._run, self._phase, self._texts, windows)

    # ---------------------------------------------------------------- what is usual

    def usual(self, wait: Wait) -> Usual:
        return self._usual_of_greetings if wait.greeting else self._usual_of_turns

    @cached_property
    def _usual_of_turns(self) -> Usual:
        return self._measured(self.turns)

    @cached_property
    def _usual_of_greetings(self) -> Usual:
        return self._measured(self.greetings)

    def _measured(self, waits: Waits) -> Usual:
        """Of some waits: of those for which one chain alone fits, if there are enough of them."""
        found = [chains for i in _some(waits) if (chains := self.chains(waits[i], Usual()))]
        clear = [chains for chains in found if len(chains) == 1]
        lags = [chains[0].lags for chains in (clear if len(clear) >= _ENOUGH else found)]
        return Usual(*(round(median(lag)) for lag in zip(*lags, strict=True))) if lags else Usual()

    # ---------------------------------------------------------------- what may belong together

    def chains(self, wait: Wait, usual: Usual) -> list[Chain]:
        """Those that fit an answered wait, the best first."""
        finals = [] if wait.greeting else self.finals(wait, usual)
        models = np.empty(0, dtype=np.intp) if wait.greeting else self.models(wait, finals)
        modelless = wait.greeting or (not len(models) and bool(finals or not len(self.seen.finals)))
        found: list[Chain] = []
        fitting = 0
        for voice in self._voices(wait, usual):
            asking = self._asking(voice, models, usual)
            found += [self._chain(wait, usual, model, voice, finals) for model in asking]
            recited = modelless and not self.is_reply(voice)
            if recited:
                found.append(self._recited(wait, usual, voice, finals))
            fitting += bool(asking) or recited
            if fitting == _NEAREST:
                break
        return sorted(found, key=lambda chain: chain.score)

    def _voices(self, wait: Wait, usual: Usual) -> Iterator[int]:
        """The stretches of speech that may be what was heard: the nearest to it first, without those that are clearly
        nearer to what another caller heard who had said the same."""
        assert wait.ended_ns is not None
        rows = self.seen.voices
        near = rows.between(wait.began_ns, wait.ended_ns)
        first_ns = rows.first_ns[near]  # `NEVER` is before all others
        near = near[(first_ns >= wait.due_ns - ALIKE_NS) & (first_ns <= wait.ended_ns + MS)]
        heard_ns = rows.first_ns[near] + usual.heard_ns
        away_ns = np.abs(wait.ended_ns - heard_ns)
        ours = away_ns <= self._nearest_onset(wait, heard_ns) + ALIKE_NS
        yield from near[ours][np.argsort(away_ns[ours], kind="stable")].tolist()

    def _nearest_onset(self, wait: Wait, at_ns: Ints) -> Ints:
        """How far each instant is from the nearest at which a caller heard the answer to the same."""
        onsets = self._onsets[(wait.greeting, wait.text)][0]
        after = np.searchsorted(onsets, at_ns)
        before_ns, after_ns = onsets[np.maximum(after - 1, 0)], onsets[np.minimum(after, len(onsets) - 1)]
        return np.asarray(np.minimum(np.abs(at_ns - before_ns), np.abs(after_ns - at_ns)), dtype=np.int64)

    def rivals(self, wait: Wait, voice: int, usual: Usual) -> list[Wait]:
        """Others who had said the same and heard the answer nearly as near to this stretch of speech, or nearer."""
        assert wait.ended_ns is not None
        onsets, places = self._onsets[(wait.greeting, wait.text)]
        at_ns = int(self.seen.voices.first_ns[voice]) + usual.heard_ns
        within_ns = abs(wait.ended_ns - at_ns) + ALIKE_NS
        low, high = np.searchsorted(onsets, [at_ns - within_ns, at_ns + within_ns + 1])
        waits = self.greetings if wait.greeting else self.turns
        found = sorted((waits[place] for place in places[low:high].tolist()), key=lambda one: abs(one.until_ns - at_ns))
        return [one for one in found if one != wait][:_NEAREST]

    @cached_property
    def _onsets(self) -> Mapping[tuple[bool, int], tuple[Ints, Places]]:
        """When callers heard the answer, by what they had said, in order; and which waits those are."""
        return {
            (waits.greetings, text): (waits.of_what.ended_ns[places], places)
            for waits in (self.turns, self.greetings)
            for text, places in waits.onsets()
        }

    def finals(self, wait: Wait, usual: Usual) -> list[int]:
        """The finals that may be of what was said, by the end of their speech and by their words."""
        rows, texts = self.seen.finals, self.seen.texts
        near = rows.between(wait.due_ns - _BEFORE_NS, min(wait.due_ns + _AFTER_NS, wait.until_ns))
        same = rows.of(near, rows.said, lambda said: not wait.text or texts.ends_with(wait.text, said))
        fitting = same if len(same) else rows.of(near, rows.said, lambda said: texts.alike(wait.text, said))
        away = {row: self._said_apart(wait, row, usual) for row in fitting.tolist()}
        return [row for row, apart in away.items() if apart <= min(away.values()) + ALIKE_NS]

    def _said_apart(self, wait: Wait, final: int, usual: Usual) -> int:
        """How far the speech of a final is from where that of the turn usually is."""
        rows = self.seen.finals
        end_ns = abs(int(rows.at_ns[final]) - wait.due_ns - usual.said_ns)
        whole = self.seen.texts.ends_with(int(rows.said[final]), wait.text)  # else it is the last of several
        return end_ns + (abs(int(rows.began_ns[final]) - wait.began_ns) if whole else 0)

    def models(self, wait: Wait, finals: Sequence[int]) -> Places:
        """The requests to a model that may be of what was said: they ask what was understood."""
        rows, texts = self.seen.models, self.seen.texts
        near = rows.between(wait.began_ns, wait.until_ns)
        understood = {wait.text, *(int(self.seen.finals.said[final]) for final in finals)} - {0}
        same = rows.of(near, rows.heard, lambda heard: any(texts.ends_with(heard, text) for text in understood))
        return same if len(same) else rows.of(near, rows.heard, lambda heard: texts.alike(wait.text, heard))

    def _asking(self, voice: int, models: Places, usual: Usual) -> list[int]:
        """The requests whose reply this stretch of speech may be; or which failed, so that something else was said."""
        rows, texts = self.seen.models, self.seen.texts
        asked_ns, said = int(self.seen.voices.at_ns[voice]), int(self.seen.voices.said[voice])
        before = models[rows.at_ns[models] <= asked_ns + MS]
        fitting = rows.of(before, rows.said, lambda reply: texts.says(said, reply))
        away = np.abs(asked_ns - rows.written_ns[fitting] - usual.spoken_ns)
        vain = np.setdiff1d(before[rows.vain[before]], fitting)
        if len(vain) and not self.is_reply(voice):
            fitting = np.concatenate([fitting, vain])
            away = np.concatenate([away, np.abs(asked_ns - rows.ended_ns[vain])])
        return [int(row) for row in fitting[np.argsort(away, kind="stable")[:_NEAREST]]]

    def is_reply(self, voice: int) -> bool:
        """Whether a stretch of speech begins as a reply does that a model has given of late."""
        if voice not in self._replies:
            rows, texts = self.seen.models, self.seen.texts
            at_ns, opening = int(self.seen.voices.at_ns[voice]), texts.words(int(self.seen.voices.said[voice]))[:2]
            near = np.unique(rows.said[rows.between(at_ns - _VAIN_NS, at_ns)]).tolist()
            self._replies[voice] = any(texts.words(reply)[:2] == opening for reply in near)
        return self._replies[voice]

    # ---------------------------------------------------------------- one choice

    def _chain(self, wait: Wait, usual: Usual, model: int, voice: int, finals: Sequence[int]) -> Chain:
        assert wait.ended_ns is not None
        voices, models = self.seen.voices, self.seen.models
        final, asked = self._first_asked(model, finals, usual)
        given = self._first_given(voice, int(models.at_ns[model]))
        answered = int(models.first_ns[model]) != NEVER
        lags = (
            self._said_lag(wait, final, usual),
            self.lag(final, int(models.at_ns[asked]), usual),
            int(voices.at_ns[given] - models.written_ns[model]) if answered else usual.spoken_ns,
            wait.ended_ns - int(voices.first_ns[voice]),
        )
        away = (lags[1] - usual.asked_ns, lags[2] - usual.spoken_ns, lags[3] - usual.heard_ns)
        return Chain(final, model, asked, voice, given, lags, sum(map(abs, away)))

    def _recited(self, wait: Wait, usual: Usual, voice: int, finals: Sequence[int]) -> Chain:
        """What is said without asking a model."""
        assert wait.ended_ns is not None
        at_ns = int(self.seen.voices.at_ns[voice])
        given = self._first_given(voice, at_ns - _VAIN_NS)
        final = self._final_before(int(self.seen.voices.at_ns[given]), finals, 0)
        heard_ns = wait.ended_ns - int(self.seen.voices.first_ns[voice])
        lags = (self._said_lag(wait, final, usual), usual.asked_ns, usual.spoken_ns, heard_ns)
        return Chain(final, None, None, voice, given, lags, abs(heard_ns - usual.heard_ns))

    def _said_lag(self, wait: Wait, final: int | None, usual: Usual) -> int:
        return usual.said_ns if final is None else int(self.seen.finals.at_ns[final]) - wait.due_ns

    def lag(self, final: int | None, at_ns: int, usual: Usual) -> int:
        """From the final to then; the usual one where there is none."""
        ended_ns = NEVER if final is None else int(self.seen.finals.ended_ns[final])
        return usual.asked_ns if ended_ns == NEVER else at_ns - ended_ns

    def in_time(self, model: int, finals: Sequence[int], usual: Usual) -> bool:
        """Whether it was asked about when it usually is, after one of the finals; without any there is no saying."""
        at_ns = int(self.seen.models.at_ns[model])
        return not finals or any(abs(self.lag(final, at_ns, usual) - usual.asked_ns) <= _LATE_NS for final in finals)

    def _first_asked(self, model: int, finals: Sequence[int], usual: Usual) -> tuple[int | None, int]:
        """The final that was asked about, and the first request of it: this one, or one before it that failed or
        called for a tool, if that is nearer to where it usually is."""
        rows = self.seen.models
        at_ns = int(rows.at_ns[model])
        near = rows.between(at_ns - _VAIN_NS, at_ns)
        alike = rows.vain[near] & (rows.heard[near] == rows.heard[model]) & (rows.ended_ns[near] <= at_ns + ALIKE_NS)
        found = []
        for row in (model, *near[alike].tolist()):
            final = self._final_before(int(rows.at_ns[row]), finals, usual.asked_ns)
            found.append((abs(self.lag(final, int(rows.at_ns[row]), usual) - usual.asked_ns), row, final))
        # Without a final nothing tells them apart: the one that was served alone is sure.
        _, asked, final = min(found, key=lambda one: (one[0], one[1] != model))
        return final, asked

    def _first_given(self, voice: int, since_ns: int) -> int:
        """The first of the requests that were to say it: this one, or one that failed before."""
        rows, texts = self.seen.voices, self.seen.texts
        near = rows.between(since_ns, int(rows.at_ns[voice]))
        silent = near[rows.vain[near] & (rows.first_ns[near] == NEVER)]
        said = int(rows.said[voice])
        return next((row for row in silent.tolist() if row != voice and texts.says(int(rows.said[row]), said)), voice)

    def _final_before(self, at_ns: int, finals: Sequence[int], usual_ns: int) -> int | None:
        """The final that came at the usual time before then, or the nearest to that; else one that never came."""
        rows = self.seen.finals
        there = [row for row in finals if int(rows.ended_ns[row]) != NEVER]
        if there:
            return min(there, key=lambda row: abs(at_ns - int(rows.ended_ns[row]) - usual_ns))
        return max((row for row in finals if int(rows.at_ns[row]) <= at_ns), default=None)


def _some(waits: Waits) -> list[int]:
    """Of those that were answered so many as tell what is usual, evenly chosen."""
    answered = np.flatnonzero(waits.late_ns > 0)
    return [int(place) for place in answered[:: max(1, len(answered) // _USUAL_OF)]]
