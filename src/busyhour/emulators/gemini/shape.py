"""The wire form of a reply: one GenerateContentResponse, or a stream of them as server-sent events or a JSON array.

Each piece of a text is a response of its own with the usage so far; a function call is one part and never cut. The
last response has no text and says why the stream ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Literal

from busyhour.emulators.language_model import EVENT_STREAM, Finished, Part
from busyhour.model import JSON

Form = Literal["sse", "array"]
_REASONS = {"stop": "STOP", "stop_sequence": "STOP", "tool": "STOP", "length": "MAX_TOKENS", "blocked": "SAFETY"}
_CATEGORIES = ("SEXUALLY_EXPLICIT", "HATE_SPEECH", "HARASSMENT", "DANGEROUS_CONTENT")


class Reply:
    """The Shape of one reply."""

    def __init__(self, finished: Finished, form: Form) -> None:
        self._finished = finished
        self._form = form
        self._begun = False
        self._told = 0  # tokens in the responses so far

    @property
    def content_type(self) -> str:
        return EVENT_STREAM if self._form == "sse" else "application/json; charset=utf-8"

    def opening(self) -> bytes:
        return b"" if self._form == "sse" else b"["

    def deltas(self) -> Iterator[bytes]:
        for part in self._finished.parts:
            for index, piece in enumerate(part.pieces):
                self._told += 1
                if not part.tool:
                    yield self._event([{"text": piece}])
                else:
                    last = index == len(part.pieces) - 1
                    yield self._event(_call(part)) if last and _call(part) else b""

    def closing(self) -> bytes:
        event = self._event([{"text": ""}], reason=_REASONS[self._finished.finish])
        return event if self._form == "sse" else event + b"]"

    def whole(self) -> bytes:
        parts: list[JSON] = []
        for part in self._finished.parts:
            parts += _call(part) if part.tool else [{"text": part.text}]
        self._told = self._finished.tokens
        return json.dumps(self._response(parts, _REASONS[self._finished.finish]), indent=2).encode()

    def _event(self, parts: Sequence[JSON], reason: str = "") -> bytes:
        text = json.dumps(self._response(parts, reason)).encode()
        first, self._begun = not self._begun, True
        if self._form == "sse":
            return b"data: " + text + b"\r\n\r\n"
        return text if first else b",\r\n" + text

    def _response(self, parts: Sequence[JSON], reason: str) -> dict[str, JSON]:
        finished = self._finished
        usage = usage_of(finished.asked.prompt_tokens, self._told)
        tail: dict[str, JSON] = {
            "usageMetadata": usage,
            "modelVersion": finished.asked.model,
            "responseId": finished.key,
        }
        if finished.finish == "blocked":
            # The vendor blocks what is asked as well as what is answered; the reply's own key decides which.
            if int(finished.key[-1], 16) % 2:
                return {"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": _ratings()}, **tail}
            return {"candidates": [{"finishReason": "SAFETY", "index": 0, "safetyRatings": _ratings()}], **tail}
        candidate: dict[str, JSON] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if reason:
            candidate["finishReason"] = reason
        return {"candidates": [candidate], **tail}


def usage_of(prompt: int, candidates: int) -> dict[str, JSON]:
    """usageMetadata, in tokens."""
    return {
        "promptTokenCount": prompt,
        **({"candidatesTokenCount": candidates} if candidates else {}),
        "totalTokenCount": prompt + candidates,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }


def _call(part: Part) -> list[JSON]:
    """The functionCall part; none when the limit has cut its arguments."""
    try:
        arguments: JSON = json.loads(part.text)
    except ValueError:
        return []
    return [{"functionCall": {"id": part.key[:8], "name": part.tool, "args": arguments}}]


def _ratings() -> list[JSON]:
    high = "DANGEROUS_CONTENT"
    return [
        {
            "category": f"HARM_CATEGORY_{name}",
            "probability": "HIGH" if name == high else "NEGLIGIBLE",
            **({"blocked": True} if name == high else {}),
        }
        for name in _CATEGORIES
    ]
