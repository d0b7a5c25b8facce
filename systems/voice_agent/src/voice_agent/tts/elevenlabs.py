"""ElevenLabs' multi-context WebSocket
(https://elevenlabs.io/docs/api-reference/text-to-speech/v-1-text-to-speech-voice-id-multi-stream-input)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from voice_agent.audio import RATE_HZ
from voice_agent.settings import Settings
from voice_agent.tts.voice import Told

_IDLE_SECONDS = 180  # the most that the vendor allows before it closes a connection that is not used


class ElevenLabs:
    name = "elevenlabs"

    def __init__(self, settings: Settings) -> None:
        query = {
            "model_id": settings.elevenlabs_model,
            "output_format": f"ulaw_{RATE_HZ}",
            "sync_alignment": "true",
            "auto_mode": "true",  # we feed whole sentences: there is nothing to wait for
            "inactivity_timeout": _IDLE_SECONDS,
        }
        voice = quote(settings.elevenlabs_voice, safe="")
        self.url = f"{settings.elevenlabs_url}/v1/text-to-speech/{voice}/multi-stream-input?{urlencode(query)}"
        self.headers: Mapping[str, str] = {"xi-api-key": settings.elevenlabs_api_key}

    def say(self, context: str, text: str, *, first: bool) -> Sequence[Mapping[str, Any]]:
        opening = [{"context_id": context, "text": " "}] if first else []
        return [*opening, {"context_id": context, "text": text, "flush": True}]

    def finish(self, context: str) -> Sequence[Mapping[str, Any]]:
        return self.cancel(context)  # what was flushed is said all the same

    def cancel(self, context: str) -> Sequence[Mapping[str, Any]]:
        return [{"context_id": context, "close_context": True}]

    def read(self, message: str | bytes) -> Sequence[Told]:
        told = json.loads(message)
        context = str(told.get("contextId") or told.get("context_id") or "")
        if told.get("error"):
            return [Told(context, "error", f"error {_plain(told['error'])}")]
        news: list[Told] = []
        if alignment := told.get("alignment"):
            news.append(Told(context, "words from here", _words(alignment)))
        if audio := told.get("audio"):
            news.append(Told(context, "sound", base64.b64decode(audio)))
        if told.get("isFinal") or told.get("is_final"):
            news.append(Told(context, "done"))
        return news


def _plain(code: object) -> str:
    """A code of the vendor's, fit for a label."""
    return re.sub(r"[^a-z0-9_]+", "_", str(code).lower())[:40]


def _words(alignment: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Words, or the parts of words that a message begins or ends with, and when each has been said, in seconds from the
    beginning of the message's sound: the vendor times characters, from zero in each message."""
    words: list[tuple[str, float]] = []
    word, until_ms = "", 0.0
    times = zip(alignment["chars"], alignment["charStartTimesMs"], alignment["charDurationsMs"], strict=True)
    for character, start_ms, duration_ms in times:
        if str(character).isspace():
            if word:
                words.append((word, until_ms / 1000))
            word = ""
        else:
            word, until_ms = word + str(character), float(start_ms) + float(duration_ms)
    return [*words, (word, until_ms / 1000)] if word else words
