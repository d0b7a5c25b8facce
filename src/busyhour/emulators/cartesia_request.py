"""Reading what is asked of the voice API, cutting text into what is spoken at once, and encoding the audio.

Source: Cartesia's API reference (WebSocket, contexts, buffering, API errors) and the types of the cartesia SDK 4.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from busyhour.media.codec import codec
from busyhour.media.utterances import PAUSE_MS, sentences, spoken
from busyhour.model import Samples

RATES_HZ = (8000, 16000, 22050, 24000, 44100, 48000)
ENCODINGS = ("pcm_f32le", "pcm_s16le", "pcm_mulaw", "pcm_alaw")
MAX_BUFFER_DELAY_MS = 3000
"""How long text that ends in mid-sentence waits for more, unless the request says otherwise (documented default)."""
_PIECE_CHARACTERS = 300
"""Text without an end is spoken in stretches of this length, which bounds the audio made at once."""
_TRANSCRIPT_CHARACTERS = 10_000
_SENTENCE = re.compile(r".*?[.!?\u2026]+[\"')\]]*(?:\s+|$)", re.DOTALL)
_WAV_FORMATS = {"pcm_s16le": 1, "pcm_f32le": 3, "pcm_alaw": 6, "pcm_mulaw": 7}


class Refused(Exception):
    """A request is answered with an error: over HTTP as a body with a status, over a socket as an event."""

    def __init__(self, message: str, *, status: int = 400, title: str = "Bad request", code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.title = title
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class Format:
    """An output format. container: "raw" or "wav"."""

    container: str
    encoding: str
    rate_hz: int

    @property
    def sample_bytes(self) -> int:
        return {"pcm_f32le": 4, "pcm_s16le": 2}.get(self.encoding, 1)

    def octets(self, ms: float) -> int:
        """How many bytes `ms` of audio take, in whole samples."""
        return int(self.rate_hz * ms / 1000) * self.sample_bytes

    def ms(self, octets: int) -> float:
        return octets / self.sample_bytes / self.rate_hz * 1000

    def wav_header(self, octets: int) -> bytes:
        """The RIFF header of so many bytes of audio, mono."""
        size = self.sample_bytes
        form = struct.pack("<HHIIHH", _WAV_FORMATS[self.encoding], 1, self.rate_hz, self.rate_hz * size, size, size * 8)
        chunks = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", octets)
        return b"RIFF" + struct.pack("<I", len(chunks) + octets) + chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A well-formed generation request. goes_on: more inputs of the context may follow ("continue")."""

    context_id: str
    transcript: str
    format: Format
    goes_on: bool
    flush: bool
    add_timestamps: bool
    max_buffer_delay_ms: float


@dataclass(frozen=True, slots=True)
class Cancel:
    context_id: str


def read_event(text: str) -> Asked | Cancel:
    """A message on the socket. Raises Refused, which bears the context's id in `context_of`."""
    body = _object(text)
    context_id = body.get("context_id")
    if not isinstance(context_id, str) or not context_id or len(context_id) > 200:
        raise Refused("context_id is required: a string of at most 200 characters.", title="Invalid context ID")
    if body.get("cancel") is True:
        return Cancel(context_id)
    return asked(body, context_id, containers=("raw",))


def context_of(text: str) -> str | None:
    """The context id of a message that was refused, if it has one."""
    try:
        context_id = _object(text).get("context_id")
    except Refused:
        return None
    return context_id if isinstance(context_id, str) else None


def read_body(raw: bytes, *, containers: Sequence[str]) -> Asked:
    """The body of an HTTP request. Raises Refused."""
    body = _object(raw)
    context_id = body.get("context_id")
    read = asked(body, context_id if isinstance(context_id, str) else "", containers=containers)
    if not read.transcript.strip():
        raise Refused("transcript must not be empty.", title="Invalid transcript")
    return read


def asked(body: Mapping[str, Any], context_id: str, *, containers: Sequence[str]) -> Asked:
    transcript = body.get("transcript")
    if not isinstance(transcript, str):
        raise Refused("transcript is required and must be a string.", title="Invalid transcript")
    if len(transcript) > _TRANSCRIPT_CHARACTERS:
        message = f"transcript must be at most {_TRANSCRIPT_CHARACTERS} characters."
        raise Refused(message, title="Invalid transcript")
    if not isinstance(body.get("model_id"), str) or not body["model_id"]:
        raise Refused("model_id is required and must be a model's ID.", title="Invalid model", code="model_not_found")
    voice = body.get("voice")
    named = voice.get("id") if isinstance(voice, dict) else voice
    if not isinstance(named, str) or not named:
        raise Refused("voice is required: a voice's ID, or an object with an id.", title="Invalid voice")
    delay_ms = body.get("max_buffer_delay_ms")
    if delay_ms is None:
        delay_ms = MAX_BUFFER_DELAY_MS
    if isinstance(delay_ms, bool) or not isinstance(delay_ms, int | float) or not 0 <= delay_ms <= 5000:
        raise Refused("max_buffer_delay_ms must be from 0 to 5000.", title="Invalid max_buffer_delay_ms")
    return Asked(
        context_id=context_id,
        transcript=transcript,
        format=_format(body.get("output_format"), containers),
        goes_on=_flag(body, "continue"),
        flush=_flag(body, "flush"),
        add_timestamps=_flag(body, "add_timestamps"),
        max_buffer_delay_ms=delay_ms,
    )


def _object(raw: str | bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refused("The message is not valid JSON.", title="Invalid JSON") from None
    if not isinstance(body, dict):
        raise Refused("The message must be a JSON object.", title="Invalid JSON")
    return body


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refused(f"{name} must be a boolean.", title=f"Invalid {name}")
    return bool(value)


def _format(form: object, containers: Sequence[str]) -> Format:
    title = "Invalid output format"
    if not isinstance(form, dict):
        raise Refused("output_format is required and must be an object.", title=title)
    container, encoding, rate_hz = form.get("container"), form.get("encoding"), form.get("sample_rate")
    if container not in containers:
        raise Refused(f"output_format.container must be one of {', '.join(containers)} here.", title=title)
    if encoding not in ENCODINGS:
        raise Refused(f"output_format.encoding must be one of {', '.join(ENCODINGS)}.", title=title)
    if isinstance(rate_hz, bool) or rate_hz not in RATES_HZ:
        raise Refused(f"output_format.sample_rate must be one of {', '.join(map(str, RATES_HZ))}.", title=title)
    return Format(str(container), str(encoding), int(rate_hz))


def cut(text: str, *, whole: bool) -> tuple[list[str], str]:
    """The pieces of a text that are spoken now, each a sentence, and what waits for more of it.

    Nothing waits when `whole`. The pieces and the rest, joined, are the text.
    """
    pieces = []
    at = 0
    while match := _SENTENCE.match(text, at):
        pieces += _stretches(match.group())
        at = match.end()
    pieces += _stretches(text[at:])
    waits = not whole and at < len(text)
    return (pieces[:-1], pieces[-1]) if waits else (pieces, "")


def _stretches(text: str) -> list[str]:
    """The text in parts of bounded length, cut behind a space where there is one."""
    parts = []
    while len(text) > _PIECE_CHARACTERS:
        end = text.rfind(" ", 0, _PIECE_CHARACTERS) + 1 or _PIECE_CHARACTERS
        parts.append(text[:end])
        text = text[end:]
    return [*parts, text] if text else parts


@lru_cache(maxsize=128)
def audio_of(text: str, form: Format, *, pause: bool = False) -> bytes:
    """The twin's voice saying the text, behind a pause if it goes on after another sentence; b"" for nothing to say.

    Always the same bytes for the same text.
    """
    speech = spoken(text, form.rate_hz)
    if not len(speech):
        return b""
    before = PAUSE_MS * form.rate_hz // 1000 if pause else 0
    return _encoded(np.concatenate((np.zeros(before, np.int16), speech)), form)


def ends_sentence(piece: str) -> bool:
    return _SENTENCE.fullmatch(piece) is not None


def _encoded(samples: Samples, form: Format) -> bytes:
    if form.encoding == "pcm_f32le":
        return (samples / 32768).astype("<f4").tobytes()
    if form.encoding == "pcm_s16le":
        return samples.astype("<i2").tobytes()
    # G.711 maps sample to octet; the rate that the codec is named for in telephony does not enter.
    return codec("PCMU" if form.encoding == "pcm_mulaw" else "PCMA").encode(samples)


def word_timestamps(text: str, *, began_ms: float, lasts_ms: float) -> dict[str, Any]:
    """When each word of a piece is spoken, in seconds since the context's first audio.

    Exact for recorded sentences; else the time is shared out by the length of the words, which is near.
    """
    words = text.split()
    spans = _recorded_ms(" ".join(words)) or _shared_ms(words, lasts_ms)
    return {
        "words": words,
        "start": [round((began_ms + start) / 1000, 3) for start, _ in spans],
        "end": [round((began_ms + end) / 1000, 3) for _, end in spans],
    }


def _recorded_ms(text: str) -> Sequence[tuple[float, float]]:
    return next((spans for sentence, spans in _recordings() if sentence == text), ())


@lru_cache(maxsize=1)
def _recordings() -> Sequence[tuple[str, Sequence[tuple[float, float]]]]:
    """Each recorded sentence with the beginning and end of its words, in ms since the first."""
    recorded = []
    for audio in sentences(8000).values():
        per_ms = audio.rate_hz / 1000
        spans = [
            ((word.began - audio.speech_began) / per_ms, (word.ended - audio.speech_began) / per_ms)
            for word in audio.words
        ]
        if len(spans) == len(audio.text.split()):
            recorded.append((audio.text, spans))
    return recorded


def _shared_ms(words: Sequence[str], lasts_ms: float) -> Sequence[tuple[float, float]]:
    total = sum(len(word) + 1 for word in words)
    ends = list(accumulate(len(word) + 1 for word in words))
    return [
        (lasts_ms * (end - len(word) - 1) / total, lasts_ms * (end - 1) / total)
        for word, end in zip(words, ends, strict=True)
    ]
