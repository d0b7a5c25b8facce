"""Whose words they are: the twins of the vendors witness what was spoken and understood, but not in which call.

Both are found by timing. An agent's voice reaches the caller a moment after its first audio was sent, and lasts as long
as that; a transcriber's final begins and ends where the caller's speech did, a moment later.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from busyhour.indicators.transcripts import words
from busyhour.model import MS, SECOND, Operation

_EARLY_NS = 20 * MS  # of an onset before the audio it is of: detectors and clocks are that inexact
_LATE_NS = 400 * MS  # through an agent, a network and a jitter buffer
_ALIKE_NS = 15 * MS  # candidates that fit about as well
_EXPECTED_NS = 100 * MS  # what it weighs that a voice says what was to be replied
_OFF_NS = 300 * MS  # a final may begin and end so far from the speech it is of
_GAP_NS = 150 * MS  # a stretch of speech goes on through a silence this short
_SENTENCES_MOST = 20


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the caller said, and when."""

    began_ns: int
    ended_ns: int
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """What the agent said in a stretch of its speech; "" if nobody witnessed it."""

    text: str = ""
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class _Voice:
    """A stretch of speech that a voice's twin made."""

    first_ns: int
    lasting_ns: int
    text: str
    cancelled: bool

    def says(self, expected: str) -> bool:
        """Whether its words are among those."""
        return bool(self.text) and " ".join(words(self.text)) in expected


class Witnessed:
    """What the twins wrote down while a call was in progress, of this call and of others.

    tts, stt, llm: their rows, as ARCHITECTURE.md has them.
    """

    def __init__(self, tts: Sequence[Operation], stt: Sequence[Operation], llm: Sequence[Operation] = ()) -> None:
        self._voices = sorted(_voices(tts), key=lambda voice: voice.first_ns)
        self._firsts = [voice.first_ns for voice in self._voices]
        self._finals: dict[str, list[Spoken]] = defaultdict(list)
        for row in stt:
            began_ns = row.due_ns if row.began_ns is None else row.began_ns
            heard = Spoken(began_ns, max(began_ns, row.due_ns), str(row.detail.get("transcript") or ""))
            self._finals[str(row.detail.get("connection") or "")].append(heard)
        self._replies: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for row in llm:
            reply = " ".join(words(str(row.detail.get("reply") or "")))
            self._replies[" ".join(words(str(row.detail.get("prompt") or "")))].append((row.due_ns, reply))

    # ---------------------------------------------------------------- the agent

    def said(self, stretches: Sequence[tuple[int, int]], caller: Sequence[Spoken] = ()) -> list[Said]:
        """What the agent said in each stretch of its speech, of one call, in order; `caller`: what it was answering.

        Where several voices began at once, it is the one that says what a model was to reply to the caller.
        """
        late_ns = self._usual_delay_ns(stretches)
        return [
            self._in_stretch(began_ns, ended_ns, late_ns, self._expected(caller, began_ns, ended_ns))
            for began_ns, ended_ns in stretches
        ]

    def _expected(self, caller: Sequence[Spoken], began_ns: int, until_ns: int) -> str:
        """The replies to what the caller had said last when a stretch began."""
        last = max((said for said in caller if said.began_ns < began_ns), key=lambda said: said.began_ns, default=None)
        if last is None:
            return ""
        asked = self._replies.get(" ".join(words(last.text)), ())
        return "\n".join(reply for at_ns, reply in asked if last.began_ns < at_ns < until_ns)

    def _usual_delay_ns(self, stretches: Sequence[tuple[int, int]]) -> int:
        """How long after a voice's first audio this agent is heard: the same on every line, nearly."""
        delays = [
            min(abs(began_ns - voice.first_ns) for voice in near)
            for began_ns, _ in stretches
            if (near := self._between(began_ns - _LATE_NS, began_ns + _EARLY_NS))
        ]
        return int(median(delays)) if delays else 0

    def _in_stretch(self, began_ns: int, ended_ns: int, late_ns: int, expected: str) -> Said:
        lasting_ns = ended_ns - began_ns
        first, unsure = _best(
            self._between(began_ns - _LATE_NS, began_ns + _EARLY_NS),
            lambda voice: (
                abs(began_ns - voice.first_ns - late_ns)
                + _misfit_ns(voice, lasting_ns)
                - _EXPECTED_NS * voice.says(expected)
            ),
        )
        if first is None:
            return Said()
        chain, left_ns = [first], lasting_ns - first.lasting_ns
        while not chain[-1].cancelled and left_ns > _GAP_NS and len(chain) < _SENTENCES_MOST:
            following, doubtful = self._behind(chain[-1], left_ns, ended_ns - left_ns + _LATE_NS, expected)
            if following is None:
                break
            chain.append(following)
            left_ns, unsure = left_ns - following.lasting_ns, unsure or doubtful
        return Said(" ".join(voice.text for voice in chain), unsure)

    def _behind(self, before: _Voice, left_ns: int, until_ns: int, expected: str) -> tuple[_Voice | None, bool]:
        """The sentence that was queued behind another one: what fills the rest of the stretch, or else the next."""
        fitting = [
            voice
            for voice in self._between(before.first_ns + 1, until_ns)
            if voice.lasting_ns <= left_ns + _GAP_NS and voice.lasting_ns > 0
        ]
        return _best(
            [voice for voice in fitting if voice.says(expected)] or fitting,
            lambda voice: (
                0 if abs(left_ns - voice.lasting_ns) < _GAP_NS else voice.first_ns - before.first_ns + _GAP_NS
            ),
        )

    def _between(self, since_ns: int, until_ns: int) -> list[_Voice]:
        return self._voices[bisect_left(self._firsts, since_ns) : bisect_right(self._firsts, until_ns)]

    # ---------------------------------------------------------------- the caller

    def understood(self, caller: Sequence[Spoken]) -> list[str]:
        """What the call's transcriber made of each utterance, where it made something else of it than was said."""
        finals = max(self._finals.values(), key=lambda finals: _nearness(caller, finals), default=[])
        if not _nearness(caller, finals)[0]:
            return [""] * len(caller)
        found = []
        for said, following in zip(caller, [*caller[1:], None], strict=True):
            until_ns = said.ended_ns + _OFF_NS if following is None else following.began_ns
            within = [final.text for final in finals if said.began_ns - _OFF_NS <= final.began_ns < until_ns - _OFF_NS]
            heard = " ".join(within)
            found.append("" if not heard or words(heard) == words(said.text) else heard)
        return found


def _voices(tts: Sequence[Operation]) -> Iterator[_Voice]:
    for row in tts:
        first_ns, lasting_ms = row.detail.get("first_audio_ns"), row.detail.get("audio_ms")
        if isinstance(first_ns, int) and first_ns and isinstance(lasting_ms, int | float):
            text, cancelled = str(row.detail.get("text") or "").strip(), bool(row.detail.get("cancelled"))
            yield _Voice(first_ns, round(lasting_ms * MS), text, cancelled)


def _misfit_ns(voice: _Voice, lasting_ns: int) -> int:
    """Much less than what a wrong onset weighs: the agent may be cut off, or go on with another sentence."""
    return min(abs(voice.lasting_ns - lasting_ns), SECOND) // 20


def _best(voices: Sequence[_Voice], cost: Callable[[_Voice], int]) -> tuple[_Voice | None, bool]:
    """The voice that costs the least, and whether one with another text costs about as little."""
    ranked = sorted(voices, key=cost)
    if not ranked:
        return None, False
    least = cost(ranked[0])
    others = (voice for voice in ranked[1:] if voice.text != ranked[0].text)
    return ranked[0], any(cost(voice) - least < _ALIKE_NS for voice in others)


def _nearness(caller: Sequence[Spoken], finals: Sequence[Spoken]) -> tuple[int, int]:
    """How many utterances begin where a final does, and how far off these are together, less being nearer."""
    off = [min((abs(final.began_ns - said.began_ns) for final in finals), default=_OFF_NS) for said in caller]
    near = [distance for distance in off if distance < _OFF_NS]
    return len(near), -sum(near)
