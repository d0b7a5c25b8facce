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

from busyhour.indicators.readings import Reading
from busyhour.indicators.transcripts import words
from busyhour.model import SECOND, Operation, Run

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


@dataclass(frozen=True)
class Failover:
    """Seconds from a failed request to the first token or sound of what was served instead, by any of `services`.

    What is served instead is known by its words: the same prompt, or a text that goes on in the other. Several failures
    in a row of the same words are one, timed from the first; one that nothing was served for is infinitely long.
    """

    services: frozenset[str]

    def __call__(self, run: Run, phase: str) -> list[Reading]:
        return [reading for kind in _SPEAKING for reading in self._of(run, phase, kind)]

    def _of(self, run: Run, phase: str, kind: str) -> Iterator[Reading]:
        waiting: dict[tuple[str, ...], int] = {}  # words -> when they were first asked for
        for row in run.operations(kind, phase):
            if row.who not in self.services:
                continue
            asked = tuple(words(str(row.detail.get("prompt") or row.detail.get("text") or "")))
            known = next((other for other in waiting if _goes_on(other, asked)), asked)
            if not served(row):
                waiting.setdefault(known, row.due_ns)
            elif known in waiting:
                began_ns = waiting.pop(known)
                yield Reading(max(0, (first_ns(row) or row.due_ns) - began_ns) / SECOND, row.id)
        yield from (Reading(inf, " ".join(asked)) for asked in waiting)


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

    Unknown, and so no reading, if nobody called after the faults, or the run was stopped before.
    """

    service: str

    def __call__(self, run: Run, phase: str) -> list[Reading]:
        ended = [mark.at_ns for mark in run.marks("fault.ended") if mark.detail.get("phase") == phase]
        if not ended:
            return []
        rows = [
            row for kind in (*_SPEAKING, "stt", "vector") for row in run.operations(kind) if row.who == self.service
        ]
        again_ns = min((row.due_ns for row in rows if served(row) and row.due_ns >= max(ended)), default=inf)
        called = any(call.due_ns >= max(ended) for call in run.operations("call"))
        if again_ns == inf and (run.marks("run.stopped") or not called):
            return []
        return [Reading((again_ns - max(ended)) / SECOND, phase)]


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
            Reading(bool(tool) and (not self.tools or tool in self.tools), f"{tool}({row.detail.get('arguments', '')})")
            for row in run.operations("llm", phase)
            if served(row)
            for tool in [str(row.detail.get("tool") or "")]
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
        except ValueError:
            return False
        if not isinstance(answer, dict) or not answer.keys() >= set(self.keys):
            return False
        return all(answer.get(key) == value for key, value in self.values)
