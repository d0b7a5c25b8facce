"""What was said and what was understood: which connection heard which call, and how many words went wrong.

A transcriber does not know the caller's call, only its own connection. But a caller's speech reaches it a moment after
it was spoken, so the pattern of speech and silence tells whose connection it was, at any load.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from busyhour.model import MS, SECOND

_APOSTROPHES = re.compile(r"['\u2018\u2019\u02bc]")
_SLOT_NS = 10 * MS
_DELAYS = range(0, SECOND // _SLOT_NS + 1, 5)
_NOT_WORD = re.compile(r"[^\w]+|_+")


@dataclass(frozen=True, slots=True)
class Heard:
    """A stretch of speech, and its text: as the caller said it, or as the transcriber understood it."""

    began_ns: int
    ended_ns: int
    text: str


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Speech and silence as the bits of an integer, from `first` on: two patterns are compared in a few instructions,
    which matters where hundreds of calls are in progress around each connection."""

    first: int
    length: int
    bits: int

    @classmethod
    def of(cls, heard: Sequence[Heard], margin: int = 0) -> _Pattern:
        first = min(h.began_ns for h in heard) // _SLOT_NS - margin
        last = max(h.ended_ns for h in heard) // _SLOT_NS + margin
        bits = 0
        for h in heard:
            bits |= (1 << h.ended_ns // _SLOT_NS - first) - (1 << h.began_ns // _SLOT_NS - first)
        return cls(first, last - first, bits)

    def earlier(self, slots: int) -> _Pattern:
        return replace(self, first=self.first - slots)

    def likeness(self, other: _Pattern) -> float:
        """Intersection over union, within the time of this pattern."""
        shift = other.first - self.first
        theirs = (other.bits << shift if shift >= 0 else other.bits >> -shift) & ((1 << self.length) - 1)
        either = (self.bits | theirs).bit_count()
        return (self.bits & theirs).bit_count() / either if either else 0.0


class _Calls:
    """The calls' patterns in order of their beginning, to ask only those near a connection."""

    def __init__(self, calls: Mapping[str, Sequence[Heard]]) -> None:
        patterns = [(_Pattern.of(said), call) for call, said in calls.items() if said]
        self._patterns = sorted(patterns, key=lambda pair: pair[0].first)
        self._longest = max((pattern.length for pattern, _ in patterns), default=0)

    def likest(self, mine: _Pattern) -> tuple[float, str]:
        begin = bisect_left(self._patterns, mine.first - self._longest, key=lambda pair: pair[0].first)
        end = bisect_left(self._patterns, mine.first + mine.length, key=lambda pair: pair[0].first)
        return max(((mine.likeness(said), call) for said, call in self._patterns[begin:end]), default=(0.0, ""))


def matched(calls: Mapping[str, Sequence[Heard]], connections: Mapping[str, Sequence[Heard]]) -> dict[str, str]:
    """Connection -> the call whose speech it shares the most of; a connection that shares none is left out.

    Shared is told as intersection over union, within the time of the connection and a second around it: a call may
    have had several connections, and one that heard little must not go to the call that talked all the time. How long
    speech takes from the caller to the transcriber, up to a second, is found from some of the connections first: among
    hundreds of calls at once a delay of half a word would mislead.
    """
    among = _Calls(calls)
    patterns = {name: _Pattern.of(heard, margin=SECOND // _SLOT_NS) for name, heard in connections.items() if heard}
    some = list(patterns.values())[:: max(1, len(patterns) // 20)]
    delay = max(_DELAYS, key=lambda slots: sum(among.likest(pattern.earlier(slots))[0] for pattern in some))
    likest = {name: among.likest(pattern.earlier(delay)) for name, pattern in patterns.items()}
    return {name: call for name, (likeness, call) in likest.items() if likeness > 0}


def words(text: str) -> list[str]:
    """The words of a text as the word error rate compares them: without case, punctuation and apostrophes."""
    plain = _APOSTROPHES.sub("", unicodedata.normalize("NFKC", text)).casefold()
    return _NOT_WORD.sub(" ", plain).split()


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """The least number of words to substitute, delete or insert (Levenshtein)."""
    if not hypothesis:
        return len(reference)
    number: dict[str, int] = {}
    heard = np.array([number.setdefault(word, len(number)) for word in hypothesis], dtype=np.int64)
    columns = np.arange(len(hypothesis) + 1, dtype=np.int64)
    row = columns
    for word in reference:
        unlike = (heard != number.get(word, -1)).astype(np.int64)
        best = np.concatenate(([row[0] + 1], np.minimum(row[:-1] + unlike, row[1:] + 1)))
        # An insertion costs one per column: the running minimum, with the columns taken out, finds the cheapest chain.
        row = np.minimum.accumulate(best - columns) + columns
    return int(row[-1])
