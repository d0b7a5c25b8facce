"""Understanding the real API's answers, while they are passed on: what they say, call and cost.

Source: the API reference of GenerateContentResponse. What a model thinks to itself is no token that anybody hears;
it is billed as output. The usage is told with every response of a stream, of all that went before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from busyhour.emulators.language_model import Heard, Piece, count, objects, written


class ReplyEar:
    """Of one reply; a whole one has the form of an event."""

    def __init__(self) -> None:
        self._calls = 0

    def event(self, form: Mapping[str, Any]) -> Heard:
        candidate = next(objects(form.get("candidates")), {})
        content, feedback, usage = candidate.get("content"), form.get("promptFeedback"), form.get("usageMetadata")
        blocked = isinstance(feedback, dict) and feedback.get("blockReason") is not None
        return Heard(
            list(self._pieces(content.get("parts"))) if isinstance(content, dict) else (),
            tokens=count(usage, "candidatesTokenCount", "thoughtsTokenCount"),
            prompt_tokens=count(usage, "promptTokenCount", "toolUsePromptTokenCount"),
            ended=blocked or candidate.get("finishReason") is not None,
            failed=form.get("error") is not None,
        )

    def whole(self, form: Mapping[str, Any]) -> Heard:
        return self.event(form)

    def _pieces(self, parts: object) -> Iterator[Piece]:
        for part in objects(parts):
            call = part.get("functionCall")
            if isinstance(call, dict):
                yield Piece(json.dumps(call.get("args", {})), str(self._calls), written(call.get("name")) or "function")
                self._calls += 1
            elif part.get("thought") is not True and (text := written(part.get("text"))):
                yield Piece(text)
