"""Recognisers: from the end of an utterance to its final result, and from a word to the interim result that has it.

Results say of which stretch of the audio they speak; when that audio passed here is known. So an utterance ends for the
vendor when its pause has been heard (`endpointing` after the last word), or when the client says `Finalize`; Flux says
itself how much it had heard. Deepgram's live APIs, v1 and v2; audio in containers has no clock that could be read
without decoding, and only `Finalize` is learned from.

A connection that is left while a result is due teaches nothing of it: that it was due would be known only from the
result, and a `Finalize` after silence is answered by none. So the latencies are of results that came; a recogniser that
keeps its results back until its clients leave looks faster than it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from typing import Any

from busyhour.learn.lessons import Lessons
from busyhour.learn.student import Conversation, End, Exchange, read_object
from busyhour.model import MS

_MESSAGES_REMEMBERED = 10_000
_ENDPOINTING_MS = 10
"""Deepgram's default."""
_SAMPLE_BYTES = {"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1}


class DeepgramStudent:
    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons

    def exchange(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Exchange | None:
        return None

    def conversation(self, path: str, query: Mapping[str, str]) -> Conversation | None:
        return _Listening(self._lessons, query) if path.endswith("/listen") else None


class _Listening:
    def __init__(self, lessons: Lessons, query: Mapping[str, str]) -> None:
        self._lessons = lessons
        self._audio = _AudioClock(_bytes_per_second(query))
        self._pause_ns = _pause_ns(query)
        self._finalize_ns: deque[int] = deque(maxlen=100)
        self._words = 0  # of the utterance, in the interim results so far
        self._spoke = False

    def answered(self, status: int) -> None:
        self._lessons.connection(status)

    def asked(self, message: str | bytes, at_ns: int) -> None:
        if isinstance(message, bytes):
            self._audio.heard(len(message), at_ns)
        elif read_object(message).get("type") == "Finalize":
            self._finalize_ns.append(at_ns)

    def told(self, message: str | bytes, at_ns: int) -> None:
        form = read_object(message)
        if form.get("type") == "TurnInfo":
            self._turn(form, at_ns)
        elif form.get("type") == "Results":
            self._result(form, at_ns)
        elif form.get("type") == "Error":
            self._lessons.work()
            self._lessons.met("error")
            self._lessons.finished += 1

    def _turn(self, form: Mapping[str, Any], at_ns: int) -> None:
        """Flux: words without times; each message says how much of the audio it rests on."""
        words, heard = form.get("words"), form.get("audio_window_end")
        if not isinstance(words, list) or not isinstance(heard, int | float):
            return
        if form.get("event") == "EndOfTurn":
            self._after(float(heard), 0, "final", at_ns)
            self._lessons.work()
            self._lessons.finished += 1
            self._words = 0
        elif len(words) > self._words:
            self._after(float(heard), 0, "interim", at_ns)
            self._words = len(words)

    def _result(self, form: Mapping[str, Any], at_ns: int) -> None:
        words = _words(form)
        if form.get("from_finalize"):
            if self._finalize_ns:
                self._lessons.delay("final", at_ns - self._finalize_ns.popleft())
        elif form.get("speech_final") and words:
            self._after(words[-1], self._pause_ns, "final", at_ns)
        elif not form.get("is_final") and len(words) > self._words:
            self._after(words[-1], 0, "interim", at_ns)
        if words and not self._spoke:
            self._spoke = True
            self._lessons.work()
        self._words = 0 if form.get("is_final") else len(words)
        if self._spoke and (form.get("speech_final") or form.get("from_finalize")):
            self._spoke = False
            self._lessons.finished += 1

    def _after(self, word_end_seconds: float, pause_ns: int | None, name: str, at_ns: int) -> None:
        passed_ns = self._audio.passed_ns(word_end_seconds)
        if passed_ns is not None and pause_ns is not None:
            self._lessons.delay(name, at_ns - passed_ns - pause_ns)

    def ended(self, how: End, at_ns: int) -> None:
        if self._spoke:
            self._lessons.finished += 1
            if how is End.BROKEN:
                self._lessons.met("reset")


class _AudioClock:
    """When which second of the audio passed."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._seconds = 0.0
        self._ends: deque[float] = deque(maxlen=_MESSAGES_REMEMBERED)
        self._times: deque[int] = deque(maxlen=_MESSAGES_REMEMBERED)

    def heard(self, size: int, at_ns: int) -> None:
        if self._bytes_per_second:
            self._seconds += size / self._bytes_per_second
            self._ends.append(self._seconds)
            self._times.append(at_ns)

    def passed_ns(self, seconds: float) -> int | None:
        """None for what has not passed, or is long ago."""
        if not self._ends or not self._ends[0] <= seconds <= self._ends[-1]:
            return None
        return self._times[bisect_left(self._ends, seconds)]


def _words(form: Mapping[str, Any]) -> list[float]:
    """When each word ends, in seconds of the audio."""
    match form:
        case {"channel": {"alternatives": [{"words": list(words)}, *_]}}:
            ends = [word.get("end") for word in words if isinstance(word, dict)]
            return [float(end) for end in ends if isinstance(end, int | float)]
    return []


def _bytes_per_second(query: Mapping[str, str]) -> float:
    rate, channels = query.get("sample_rate", ""), query.get("channels", "1")
    size = _SAMPLE_BYTES.get(query.get("encoding", ""), 0)
    return size * int(rate) * int(channels) if rate.isdigit() and channels.isdigit() else 0


def _pause_ns(query: Mapping[str, str]) -> int | None:
    """None where the vendor does not wait for a pause."""
    text = query.get("endpointing", "true").lower()
    if text == "false":
        return None
    return (int(text) if text.isdigit() else _ENDPOINTING_MS) * MS
