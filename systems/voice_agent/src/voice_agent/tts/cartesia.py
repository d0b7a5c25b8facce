"""Cartesia's WebSocket (https://docs.cartesia.ai/api-reference/tts/websocket)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from voice_agent.audio import RATE_HZ
from voice_agent.settings import Settings
from voice_agent.tts.voice import Told


class Cartesia:
    name = "cartesia"

    def __init__(self, settings: Settings) -> None:
        self.url = f"{settings.cartesia_url}/tts/websocket"
        self.headers: Mapping[str, str] = {
            "Authorization": f"Bearer {settings.cartesia_api_key}",
            "Cartesia-Version": settings.cartesia_version,
        }
        self._request = {
            "model_id": settings.cartesia_model,
            "voice": {"mode": "id", "id": settings.cartesia_voice},
            "language": "en",
            "output_format": {"container": "raw", "encoding": "pcm_mulaw", "sample_rate": RATE_HZ},
            "add_timestamps": True,
            "max_buffer_delay_ms": 0,  # we feed whole sentences: there is nothing to wait for
        }

    def say(self, context: str, text: str, *, first: bool) -> Sequence[Mapping[str, Any]]:
        return [{**self._request, "context_id": context, "transcript": text, "continue": True}]

    def finish(self, context: str) -> Sequence[Mapping[str, Any]]:
        return [{**self._request, "context_id": context, "transcript": "", "continue": False}]

    def cancel(self, context: str) -> Sequence[Mapping[str, Any]]:
        return [{"context_id": context, "cancel": True}]

    def read(self, message: str | bytes) -> Sequence[Told]:
        told = json.loads(message)
        context = str(told.get("context_id") or "")
        match str(told["type"]):
            case "chunk":
                return [Told(context, "sound", base64.b64decode(told["data"]))]
            case "timestamps":
                timed = told["word_timestamps"]
                words = [(str(w), float(end)) for w, end in zip(timed["words"], timed["end"], strict=True)]
                return [Told(context, "words", words)]
            case "error":
                return [Told(context, "error", f"error {told.get('status_code', '')}".strip())]
            case "done":
                return [Told(context, "done")]
        return []
