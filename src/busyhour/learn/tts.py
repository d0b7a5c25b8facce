"""Synthesisers: from a text that can be spoken to its first audio, and how much faster than life the rest comes.

A text can be spoken when its sentence has ended, when the client flushes, or says that no more comes: until then the
vendor may wait, which is not its slowness. Cartesia's contexts and ElevenLabs' streams; their HTTP endpoints too. What
is cancelled, or left, before its first audio has waited so far in vain: `waits`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from busyhour.learn.lessons import Lessons, outcome_of
from busyhour.learn.student import Conversation, End, Events, Exchange, is_stream, read_object
from busyhour.model import MS, SECOND

_CONTEXTS_AT_MOST = 1_000
_SENTENCE_END = re.compile(r"[.!?](\s|$)")
_CHARACTERS_UNTIL_SPOKEN = 120
"""ElevenLabs' first `chunk_length_schedule`: so much text is spoken without being asked to."""
_SHORTEST_NS = 50 * MS
"""A shorter stretch of audio says little of its speed."""


class _Speech:
    """One text and its audio."""

    def __init__(self, lessons: Lessons, bytes_per_second: float) -> None:
        self._lessons = lessons
        self._bytes_per_second = bytes_per_second
        self._text = ""
        self._due_ns = 0
        self._first_ns = 0
        self._last_ns = 0
        self._bytes_since = 0
        self._late_text = False

    def text(self, text: str, *, spoken_now: bool, at_ns: int) -> None:
        self._text = (self._text + text)[-4 * _CHARACTERS_UNTIL_SPOKEN :]
        if self._first_ns:
            self._late_text = self._late_text or bool(text.strip())
        elif not self._due_ns and self._text.strip() and spoken_now:
            self._due_ns = at_ns

    @property
    def said(self) -> str:
        return self._text

    @property
    def sounded(self) -> bool:
        return self._first_ns > 0

    def audio(self, size: int, at_ns: int) -> None:
        if not size:
            return
        if self._first_ns:
            self._bytes_since += size
        else:
            self._first_ns = at_ns
            if self._due_ns:
                self._lessons.delay("first_audio", at_ns - self._due_ns)
        self._last_ns = at_ns

    def left(self, at_ns: int) -> None:
        """Nobody listens any more: its audio had been awaited so far, unless it had come."""
        if self._due_ns and not self._first_ns:
            self._lessons.abandoned("first_audio", at_ns - self._due_ns)

    def over(self) -> None:
        took_ns = self._last_ns - self._first_ns
        # While text still came, the vendor may have waited for it.
        if not self._late_text and took_ns >= _SHORTEST_NS and self._bytes_per_second:
            self._lessons.number("realtime_factor", self._bytes_since / self._bytes_per_second / (took_ns / SECOND))


# ---------------------------------------------------------------- over HTTP


class _Spoken:
    """A request whose answer is audio: bare, or in events."""

    def __init__(self, lessons: Lessons, speech: _Speech) -> None:
        self._lessons = lessons
        self._speech = speech
        self._events: Events | None = None
        self._status = 0

    def sent(self, at_ns: int) -> None:
        self._speech.text("all of it", spoken_now=True, at_ns=at_ns)

    def answered(self, status: int, headers: Mapping[str, str], at_ns: int) -> None:
        self._status = status
        self._events = Events(headers) if is_stream(headers) else None

    def chunk(self, data: bytes, at_ns: int) -> None:
        if self._status != 200:
            return
        if self._events is None:
            self._speech.audio(len(data), at_ns)
            return
        for event in self._events.of(data):
            self._speech.audio(_audio_bytes((event.form or {}).get("data")), at_ns)

    def ended(self, how: End, at_ns: int) -> None:
        outcome = outcome_of(self._status)
        if how is End.LEFT and not outcome and not self._speech.sounded:
            if self._status in (0, 200):
                self._speech.left(at_ns)
            return
        self._lessons.request()
        self._lessons.finished += 1
        if self._status == 0 or how is End.BROKEN:
            self._lessons.met("reset")
        elif outcome:
            self._lessons.met(outcome)
        elif self._status == 200 and not self._speech.sounded:
            self._lessons.met("zero_audio")
        elif how is End.WHOLE:
            self._speech.over()


# ---------------------------------------------------------------- over WebSockets


class _Contexts:
    """The speeches of one socket, by the name of their context ("" where there is but one)."""

    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons
        self._open: dict[str, _Speech] = {}

    def of(self, name: str, bytes_per_second: float) -> _Speech:
        """The speech of that context; a new one begins with its first text."""
        if name not in self._open:
            self._open[name] = _Speech(self._lessons, bytes_per_second)
            if len(self._open) > _CONTEXTS_AT_MOST:
                del self._open[next(iter(self._open))]
        return self._open[name]

    def known(self, name: str) -> _Speech | None:
        return self._open.get(name)

    def over(self, name: str, outcome: str = "") -> None:
        speech = self._open.pop(name, None)
        if speech is None:
            return
        self._lessons.work()
        self._lessons.finished += 1
        if outcome:
            self._lessons.met(outcome)
        elif not speech.sounded:
            self._lessons.met("zero_audio")
        else:
            speech.over()

    def drop(self, name: str, at_ns: int) -> None:
        """The client lost interest: what would have come is not known."""
        if (speech := self._open.pop(name, None)) is None:
            return
        speech.left(at_ns)
        if speech.sounded:
            self._lessons.work()

    def closed(self, how: End, at_ns: int) -> None:
        for name in list(self._open):
            if how is End.BROKEN:
                self.over(name, "reset")
            else:
                self.drop(name, at_ns)


class CartesiaStudent:
    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons

    def exchange(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Exchange | None:
        if method != "POST" or not path.endswith(("/tts/bytes", "/tts/sse")):
            return None
        return _Spoken(self._lessons, _Speech(self._lessons, _cartesia_rate(read_object(body).get("output_format"))))

    def conversation(self, path: str, query: Mapping[str, str]) -> Conversation | None:
        return _CartesiaSocket(self._lessons) if path.endswith("/tts/websocket") else None


class _CartesiaSocket:
    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons
        self._contexts = _Contexts(lessons)

    def answered(self, status: int) -> None:
        self._lessons.connection(status)

    def asked(self, message: str | bytes, at_ns: int) -> None:
        form = read_object(message)
        name = str(form.get("context_id", ""))
        if form.get("cancel"):
            self._contexts.drop(name, at_ns)
        elif isinstance(text := form.get("transcript"), str):
            speech = self._contexts.of(name, _cartesia_rate(form.get("output_format")))
            last = not form.get("continue") or bool(form.get("flush"))
            speech.text(text, spoken_now=last or _SENTENCE_END.search(speech.said + text) is not None, at_ns=at_ns)

    def told(self, message: str | bytes, at_ns: int) -> None:
        form = read_object(message)
        name = str(form.get("context_id", ""))
        match form.get("type"):
            case "chunk":
                if speech := self._contexts.known(name):
                    speech.audio(_audio_bytes(form.get("data")), at_ns)
            case "done":
                self._contexts.over(name)
            case "error":
                self._contexts.over(name, "error")

    def ended(self, how: End, at_ns: int) -> None:
        self._contexts.closed(how, at_ns)


class ElevenLabsStudent:
    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons

    def exchange(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Exchange | None:
        if method != "POST" or "/text-to-speech/" not in path or path.endswith("/with-timestamps"):
            return None
        return _Spoken(self._lessons, _Speech(self._lessons, _elevenlabs_rate(query)))

    def conversation(self, path: str, query: Mapping[str, str]) -> Conversation | None:
        return _ElevenLabsSocket(self._lessons, query) if path.endswith("stream-input") else None


class _ElevenLabsSocket:
    """`multi-stream-input` names its contexts; `stream-input` has one."""

    def __init__(self, lessons: Lessons, query: Mapping[str, str]) -> None:
        self._lessons = lessons
        self._contexts = _Contexts(lessons)
        self._bytes_per_second = _elevenlabs_rate(query)
        self._by_sentence = query.get("auto_mode", "").lower() == "true"

    def answered(self, status: int) -> None:
        self._lessons.connection(status)

    def asked(self, message: str | bytes, at_ns: int) -> None:
        form = read_object(message)
        name = str(form.get("context_id") or "")
        text = form.get("text")
        text = text if isinstance(text, str) else ""
        flushes = bool(form.get("flush") or form.get("close_context")) or form.get("text") == ""
        if not text.strip() and self._contexts.known(name) is None:
            return  # a socket begins with a text of one space: settings, and nothing to speak
        speech = self._contexts.of(name, self._bytes_per_second)
        so_far = speech.said + text
        enough = _SENTENCE_END.search(so_far) if self._by_sentence else len(so_far) >= _CHARACTERS_UNTIL_SPOKEN
        speech.text(text, spoken_now=flushes or bool(enough), at_ns=at_ns)

    def told(self, message: str | bytes, at_ns: int) -> None:
        form = read_object(message)
        name = str(form.get("contextId") or "")
        if form.get("error"):
            self._contexts.over(name, "error")
            return
        if speech := self._contexts.known(name):
            speech.audio(_audio_bytes(form.get("audio")), at_ns)
        if form.get("isFinal") or form.get("is_final"):
            self._contexts.over(name)

    def ended(self, how: End, at_ns: int) -> None:
        self._contexts.closed(how, at_ns)


# ---------------------------------------------------------------- audio formats


def _audio_bytes(data: object) -> int:
    """How many bytes a text of base64 stands for."""
    return (len(data) - data[-2:].count("=")) * 3 // 4 if isinstance(data, str) else 0


def _cartesia_rate(output_format: Any) -> float:
    """Bytes a second; 0 for what is not raw."""
    match output_format:
        case {"container": "raw", "encoding": str(encoding), "sample_rate": int(rate)}:
            return rate * {"pcm_f32le": 4, "pcm_s16le": 2, "pcm_mulaw": 1, "pcm_alaw": 1}.get(encoding, 0)
    return 0


def _elevenlabs_rate(query: Mapping[str, str]) -> float:
    """Bytes a second of "pcm_16000", "ulaw_8000", "mp3_44100_128"; the vendor's default is the last."""
    kind, *numbers = query.get("output_format", "mp3_44100_128").split("_")
    if not numbers or not all(number.isdigit() for number in numbers):
        return 0
    if kind == "pcm":
        return 2 * int(numbers[0])
    return int(numbers[0]) if kind in ("ulaw", "alaw") else int(numbers[-1]) * 1000 / 8
