"""What the twins of the vendors saw: which requests failed and who answered instead, what was said, and what it cost.

A row is an operation that a twin witnessed (kind "llm", "tts", "stt", "vector"; `who` is the service). It does not know
the call it belongs to, so these readings are of requests, not of calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from busyhour.columns import NEVER, operations_of
from busyhour.indicators.readings import Reading
from busyhour.indicators.transcripts import words
from busyhour.model import MS, SECOND, Operation, Run

_SPEAKING = ("llm", "tts")
_SENSIBLE_WORDS = 2
_RUBBISH = re.compile(
    r"traceback|exception|\bnull\b|\bundefined\b|\bnan\b|[{}<>\\]|\b(http|error)\s*[45]\d\d\b", re.IGNORECASE
)
_ENDING = re.compile(r"[.?!\u2026][\"')\]]*$")


# ---------------------------------------------------------------- who answered


def served(row: Operation) -> bool:
    """Whether the request got something: all of it, or the beginning before the client itself left."""
    return row.outcome == "ok" or (row.outcome == "client closed" and first_ns(row) is not None)


def first_ns(row: Operation) -> int | None:
    """When its first token or sound left the twin."""
    at_ns = row.detail.get("first_token_ns", row.detail.get("first_audio_ns"))
    return at_ns if isinstance(at_ns, int) else None


_AT_ONCE_NS = 50 * MS
"""A client that leaves tells nobody: the twin sees it a moment after the next vendor was asked."""


@dataclass(slots=True)
class _Attempt:
    """Something that was asked for and not served yet; `left`: nothing was done to the client, it went away by itself,
    from what was slow or because its caller spoke on."""

    words: tuple[str, ...]
    who: str
    asked_ns: int
    failed_ns: int
    left: bool


@dataclass(frozen=True)
class Failover:
    """Seconds from a failed request to the first token or sound of what was served instead, by any of `services`.

    What is served instead is known by its words (the same prompt, or a text that goes on in the other) and by its time:
    it is asked for when the failed one is over, and of several in progress it belongs to the one that failed nearest to
    that. A client that went away by itself has failed over only if it asks elsewhere at once. What was never served is
    infinitely long, unless the run was cut off in mid-phase. A vendor that refuses the connection leaves no row, and so
    no reading here.
    """

    services: frozenset[str]

    def __call__(self, run: Run, phase: str) -> list[Reading]:
        finished = any(mark.name == phase for mark in run.marks("phase.ended"))
        return [
            reading
            for kind in _SPEAKING
            for reading in self._of([row for row in run.operations(kind, phase) if row.who in self.services], finished)
        ]

    def _of(self, rows: Sequence[Operation], finished: bool) -> Iterator[Reading]:
        waiting: list[_Attempt] = []
        for row in rows:
            asked = tuple(words(str(row.detail.get("prompt") or row.detail.get("text") or "")))
            over = [one for one in waiting if _asked_after(row, one) and _goes_on(one.words, asked)]
            last = min(over, key=lambda one: abs(row.due_ns - one.failed_ns), default=None)
            if last is not None and last.left and not _at_once(row, last):
                waiting.remove(last)  # its caller had spoken on
                last = None
            if not served(row):
                self._failed(row, asked, last, waiting)
            elif last is not None:
                # An utterance may have failed sentence by sentence: all of it is served by this one. What has the very
                # same words is another call's.
                done = [one for one in over if one is last or (_at_once(row, one) and one.words != last.words)]
                waiting = [one for one in waiting if not any(one is other for other in done)]
                since_ns = min(one.asked_ns for one in done)
                yield Reading(max(0, (first_ns(row) or row.due_ns) - since_ns) / SECOND, row.id)
        if finished:
            yield from (Reading(inf, " ".join(one.words)) for one in waiting if not one.left)

    @staticmethod
    def _failed(row: Operation, asked: tuple[str, ...], last: _Attempt | None, waiting: list[_Attempt]) -> None:
        """Another failure of what was waiting, if it came at once (a retry, the next vendor); else a new one's."""
        failed_ns, left = row.ended_ns or row.due_ns, row.outcome == "client closed"
        if last is None or not _at_once(row, last):
            waiting.append(_Attempt(asked, row.who, row.due_ns, failed_ns, left))
        else:
            last.who, last.failed_ns, last.left = row.who, failed_ns, last.left and left


def _asked_after(row: Operation, one: _Attempt) -> bool:
    slack_ns = 0 if row.who == one.who else _AT_ONCE_NS  # of another vendor the twin hears first
    return row.due_ns + slack_ns >= one.failed_ns


def _at_once(row: Operation, one: _Attempt) -> bool:
    return row.due_ns <= one.failed_ns + _AT_ONCE_NS


def _goes_on(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether one of the texts begins somewhere in the other, and says the same up to the end of one of them: what was
    left to say of it, what has been written since, a word before it. One word alike at the seam is chance. A request
    that was refused unread has no words: what is served next is taken for it."""
    return not first or _begins_in(first, second) or _begins_in(second, first)


def _begins_in(first: Sequence[str], second: Sequence[str]) -> bool:
    least = min(2, len(first), len(second))
    return least > 0 and any(
        all(a == b for a, b in zip(first[at:], second, strict=False)) for at in range(len(first) - least + 1)
    )


@dataclass(frozen=True)
class Recovery:
    """Seconds from the end of a phase's faults to the next request that `service` served; infinite if it never did.

    Unknown, and so no reading, if nobody called after the faults, it was harmed anew, or the run was stopped before.
    """

    service: str

    def __call__(self, run: Run, phase: str) -> list[Reading]:
        ended = [mark.at_ns for mark in run.marks("fault.ended") if mark.detail.get("phase") == phase]
        if not ended:
            return []
        again_ns = min((self._next_ns(run, kind, max(ended)) for kind in (*_SPEAKING, "stt", "vector")), default=inf)
        next_ns = (m.at_ns for m in run.marks("fault.began") if m.detail.get("service") == self.service)
        if any(max(ended) <= at_ns < again_ns for at_ns in next_ns):
            return []  # it failed again before it was asked
        called = bool((operations_of(run, "call").due_ns >= max(ended)).any())
        if again_ns == inf and (run.marks("run.stopped") or not called):
            return []
        return [Reading((again_ns - max(ended)) / SECOND, phase)]

    def _next_ns(self, run: Run, kind: str, since_ns: int) -> float:
        """When the next request was due that it served: as `served` has it, of many."""
        rows = operations_of(run, kind, instants=("first_token_ns", "first_audio_ns"))
        begun = (rows.instants["first_token_ns"] != NEVER) | (rows.instants["first_audio_ns"] != NEVER)
        found = rows.who.are(self.service) & (rows.outcome.are("ok") | (rows.outcome.are("client closed") & begun))
        later = rows.due_ns[found & (rows.due_ns >= since_ns)]
        return int(later.min()) if len(later) else inf


# ---------------------------------------------------------------- what was said


@dataclass(frozen=True, slots=True)
class Utterance:
    """Words that became the agent's sound: by its synthesiser, or by the carrier's own voice."""

    id: str
    text: str


def utterances(run: Run, phase: str) -> list[Utterance]:
    """All that the agent had said in a phase; what was asked for and gave no sound is not among it."""
    synthesised = [
        Utterance(row.id, str(row.detail.get("text") or "")) for row in run.operations("tts", phase) if _sounded(row)
    ]
    by_carrier = [
        Utterance(call.id, text)
        for call in run.operations("call", phase)
        if isinstance(texts := call.detail.get("carrier_said"), Sequence)
        for text in texts
        if isinstance(text, str)
    ]
    return synthesised + by_carrier


def _sounded(row: Operation) -> bool:
    return first_ns(row) is not None or bool(row.detail.get("audio_ms"))


def is_sensible(text: str) -> bool:
    """Whether it could be said to a caller: at least two words, a whole sentence, no innards of a program."""
    return len(words(text)) >= _SENSIBLE_WORDS and not _RUBBISH.search(text) and bool(_ENDING.search(text.strip()))


def sensible(run: Run, phase: str) -> list[Reading]:
    return [Reading(is_sensible(one.text), one.id) for one in utterances(run, phase)]


@dataclass(frozen=True)
class Said:
    """Whether each utterance of the agent matches the regular expression; case does not matter."""

    pattern: str

    def __call__(self, run: Run, phase: str) -> list[Reading]:
        found = re.compile(self.pattern, re.IGNORECASE)
        return [Reading(found.search(one.text) is not None, one.text) for one in utterances(run, phase)]


@dataclass(frozen=True)
class Called:
    """Whether each answer of the language model was a call of one of `tools` (none named: of any)."""

    tools: Collection[str]

    def __call__(self, run: Run, phase: str) -> list[Reading]:
        return [
            Reading(bool(called & set(self.tools or called)), f"{told}({row.detail.get('arguments', '')})")
            for row in run.operations("llm", phase)
            if served(row)
            for told in [str(row.detail.get("tool") or "")]
            for called in [set(filter(None, told.split(", ")))]  # several at once are one answer
        ]


@dataclass(frozen=True)
class Structured:
    """Whether each answer of the language model was one to a schema, and a JSON object that has `keys` and `values`."""

    keys: Collection[str]
    values: tuple[tuple[str, object], ...]

    def __call__(self, run: Run, phase: str) -> list[Reading]:
        return [Reading(self._holds(row), row.id) for row in run.operations("llm", phase) if served(row)]

    def _holds(self, row: Operation) -> bool:
        if not row.detail.get("structured"):
            return False
        try:
            answer = json.loads(str(row.detail.get("reply") or row.detail.get("arguments") or ""))
        except (ValueError, RecursionError):
            return False
        if not isinstance(answer, dict) or not answer.keys() >= set(self.keys):
            return False
        return all(answer.get(key) == value for key, value in self.values)
