"""Reading what is asked of Cartesia's voice API, and the shapes of what it answers with.

Source: Cartesia's API reference (WebSocket, contexts, buffering, API errors) and the types of the cartesia SDK 4.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from busyhour.emulators.synthesis import Sound, word_spans
from busyhour.model import JSON

RATES_HZ = (8000, 16000, 22050, 24000, 44100, 48000)
ENCODINGS = ("pcm_f32le", "pcm_s16le", "pcm_mulaw", "pcm_alaw")
_TOLD_AS_STRING_BEFORE = "2026-03-01"
"""Older API versions put an error into one string."""
MAX_BUFFER_DELAY_MS = 3000
"""How long text that ends in mid-sentence waits for more, unless the request says otherwise (documented default)."""
_TRANSCRIPT_CHARACTERS = 10_000
_WAV_FORMATS = {"pcm_s16le": 1, "pcm_f32le": 3, "pcm_alaw": 6, "pcm_mulaw": 7}


class Refused(Exception):
    """A request is answered with an error: over HTTP as a body with a status, over a socket as an event."""

    def __init__(self, message: str, *, status: int = 400, title: str = "Bad request", code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.title = title
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A well-formed request. container: "raw" or "wav". goes_on: more inputs of the context may follow ("continue")."""

    context_id: str
    transcript: str
    model: str
    container: str
    sound: Sound
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
    container, sound = _format(body.get("output_format"), containers)
    return Asked(
        context_id=context_id,
        transcript=transcript,
        model=body["model_id"],
        container=container,
        sound=sound,
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


def _format(form: object, containers: Sequence[str]) -> tuple[str, Sound]:
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
    return str(container), Sound(str(encoding), int(rate_hz))


def word_timestamps(text: str, *, began_ms: float, lasts_ms: float) -> dict[str, Any]:
    """When each word of a piece is spoken, in seconds since the context's first audio."""
    spans = word_spans(text, lasts_ms)
    return {
        "words": text.split(),
        "start": [round((began_ms + start) / 1000, 3) for start, _ in spans],
        "end": [round((began_ms + end) / 1000, 3) for _, end in spans],
    }


def wav_header(sound: Sound, octets: int) -> bytes:
    """The RIFF header of so many bytes of audio, mono."""
    size = sound.sample_bytes
    rate_hz = sound.rate_hz
    form = struct.pack("<HHIIHH", _WAV_FORMATS[sound.encoding], 1, rate_hz, rate_hz * size, size, size * 8)
    chunks = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", octets)
    return b"RIFF" + struct.pack("<I", len(chunks) + octets) + chunks


def error_body(refusal: Refused, request_id: str) -> dict[str, JSON]:
    """An error as an HTTP body."""
    return {
        "error_code": refusal.code,
        "title": refusal.title,
        "message": refusal.message,
        "request_id": request_id,
    }


def error_event(refusal: Refused, request_id: str, context_id: str | None, version: str) -> dict[str, JSON]:
    """An error as an event on a socket; clients of old API versions find it in one string."""
    event: dict[str, JSON] = {"type": "error", "done": True, "status_code": refusal.status}
    if version < _TOLD_AS_STRING_BEFORE:
        event["error"] = f"{refusal.title}: {refusal.message}"
    event |= error_body(refusal, request_id)
    return event if context_id is None else {**event, "context_id": context_id}
