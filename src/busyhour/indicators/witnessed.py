"""What the twins saw in a phase: columns in order of time, whose texts are compared once however often they occur.

The rows are of requests: whose they were has to be found by their words and their times (`attribution`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from busyhour.columns import NEVER, Bools, Ints, OperationColumns, Words, columns_of, operations_of
from busyhour.indicators.transcripts import words
from busyhour.model import Operation, Run

Places: TypeAlias = "npt.NDArray[np.intp]"
Window: TypeAlias = tuple[int, int]
_ALIKE_SHARE = 0.5
_SENTENCE = re.compile(r"[.?!\u2026]+[\"')\]]*\s")


@runtime_checkable
class Timed(Protocol):
    """A Run that can be read by time."""

    def during(self, kind: str, since_ns: int, until_ns: int) -> Sequence[Operation]: ...


@dataclass(eq=False)
class Texts:
    """Texts by number: 0 is "". They are compared by their words, without case and punctuation."""

    _numbers: dict[str, int] = field(default_factory=lambda: {"": 0})
    _texts: list[str] = field(default_factory=lambda: [""])
    _words: dict[int, tuple[str, ...]] = field(default_factory=dict)
    _told: dict[tuple[str, int, int], bool] = field(default_factory=dict)

    def numbers(self, column: Words) -> Ints:
        own = column.numbered()
        known = np.array([self._number(text) for text in own.words], dtype=np.int64)
        return known[own.codes] if len(own) else np.empty(0, dtype=np.int64)

    def _number(self, text: str) -> int:
        number = self._numbers.setdefault(text, len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
        return number

    def words(self, text: int) -> tuple[str, ...]:
        if text not in self._words:
            self._words[text] = tuple(words(self._texts[text]))
        return self._words[text]

    def ends_with(self, text: int, end: int) -> bool:
        """Whether a text is the other, or goes on to it."""
        if text == end:
            return True
        ending = self.words(end)
        return bool(ending) and self.words(text)[-len(ending) :] == ending

    def alike(self, one: int, other: int) -> bool:
        """Whether at least half of the words of the longer are words of both: a transcript with errors in it."""
        key = ("alike", one, other)
        if key not in self._told:
            first, second = Counter(self.words(one)), Counter(self.words(other))
            longer = max(first.total(), second.total())
            self._told[key] = longer > 0 and (first & second).total() >= _ALIKE_SHARE * longer
        return self._told[key]

    def says(self, spoken: int, written: int) -> bool:
        """Whether what was given to a voice is of a reply: one begins somewhere in the other, with two words alike at
        least, and they agree to the end of one. What is spoken may be the rest of a reply, or begin with a filler."""
        key = ("says", spoken, written)
        if key not in self._told:
            a, b = self.words(spoken), self.words(written)
            self._told[key] = bool(a and b) and (_begins_in(a, b) or _begins_in(b, a))
        return self._told[key]


def _begins_in(text: Sequence[str], other: Sequence[str]) -> bool:
    least = min(2, len(text), len(other))
    places = (at for at in range(len(other) - least + 1) if other[at] == text[0])
    return any(all(a == b for a, b in zip(text, other[at:], strict=False)) for at in places)


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Rows of one kind, by when they were asked for (of finals: by when their speech had arrived).

    began_ns: of finals, the beginning of their speech. first_ns: the first token or sound; of finals, when they were
    closed. said, heard: numbers of texts; of a model the reply and the prompt, of a voice and a final the same.
    Instants that never came are `NEVER`.
    """

    at_ns: Ints
    began_ns: Ints
    first_ns: Ints
    ended_ns: Ints
    said: Ints
    heard: Ints
    written_ns: Ints  # when the first sentence of a reply was complete: its tokens come evenly
    vain: Bools  # it failed, or called for a tool
    tool: Bools

    def __len__(self) -> int:
        return len(self.at_ns)

    def between(self, began_ns: int, ended_ns: int) -> Places:
        """The rows from one instant to another, both included."""
        low = int(np.searchsorted(self.at_ns, began_ns))
        return np.arange(low, max(low, int(np.searchsorted(self.at_ns, ended_ns, side="right"))), dtype=np.intp)

    def of(self, rows: Places, column: Ints, fits: Callable[[int], bool]) -> Places:
        """Those of these rows whose text fits."""
        texts, own = np.unique(column[rows], return_inverse=True)
        fitting = np.fromiter(map(fits, texts.tolist()), dtype=np.bool_, count=len(texts))
        return rows[fitting[own]] if len(rows) else rows


@dataclass(frozen=True, eq=False, slots=True)
class Witnessed:
    """What the twins saw in a phase."""

    texts: Texts
    finals: Rows
    models: Rows
    voices: Rows

    @classmethod
    def of(cls, run: Run, phase: str, texts: Texts, windows: Sequence[Window] = ()) -> Witnessed:
        """All of it; or what was due in these windows, if they are given and the run can be read so."""
        windows = _merged(windows)
        finals = _columns(run, "stt", phase, windows, instants=("closed_ns",), texts=("transcript",))
        asked = ("prompt", "reply", "tool")
        models = _columns(run, "llm", phase, windows, instants=("first_token_ns",), texts=asked)
        voices = _columns(run, "tts", phase, windows, instants=("first_audio_ns",), texts=("text",))
        return cls(
            texts,
            _rows(texts, finals, "closed_ns", said="transcript", heard="transcript"),
            _rows(texts, models, "first_token_ns", said="reply", heard="prompt"),
            _rows(texts, voices, "first_audio_ns", said="text", heard="text"),
        )

    def __bool__(self) -> bool:
        return bool(len(self.finals) or len(self.models) or len(self.voices))


def _columns(
    run: Run, kind: str, phase: str, windows: Sequence[Window], *, instants: Sequence[str], texts: Sequence[str]
) -> OperationColumns:
    if not windows or not isinstance(run, Timed):
        return operations_of(run, kind, phase, instants=instants, texts=texts)
    rows = [row for window in windows for row in run.during(kind, *window) if row.phase == phase]
    return columns_of(rows, instants=instants, texts=texts)


def _merged(windows: Sequence[Window]) -> list[Window]:
    """In order of time, none overlapping another."""
    found: list[Window] = []
    for since_ns, until_ns in sorted(windows):
        if found and since_ns <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], until_ns))
        else:
            found.append((since_ns, until_ns))
    return found


def _rows(texts: Texts, columns: OperationColumns, first: str, *, said: str, heard: str) -> Rows:
    at_ns = columns.due_ns if first == "closed_ns" else columns.since_ns
    order = np.argsort(at_ns, kind="stable")
    rows = columns.taken(order)
    spoken = rows.texts[said]
    shares = np.array([_first_sentence(text) for text in spoken.words], dtype=np.float64)
    first_ns, ended_ns = rows.instants[first], rows.ended_ns
    came = first_ns != NEVER
    written_ns = np.where(came, first_ns, ended_ns)
    took_ns = np.where(came & rows.ended, ended_ns - written_ns, 0)
    if len(rows):
        written_ns = written_ns + np.rint(took_ns * shares[spoken.codes]).astype(np.int64)
    tool = ~rows.texts["tool"].are("") if "tool" in rows.texts else np.zeros(len(rows), dtype=np.bool_)
    served = rows.outcome.are("ok") | (rows.outcome.are("client closed") & came)
    return Rows(
        at_ns=at_ns[order],
        began_ns=rows.since_ns,
        first_ns=first_ns,
        ended_ns=ended_ns,
        said=texts.numbers(spoken),
        heard=texts.numbers(rows.texts[heard]),
        written_ns=written_ns,
        vain=~served | tool,
        tool=tool,
    )


def _first_sentence(text: str) -> float:
    """Its share of the text, and 1 of a text that is one: whoever reads a stream knows its end by what follows."""
    found = _SENTENCE.search(text)
    return found.end() / len(text) if found else 1.0
