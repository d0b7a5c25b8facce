"""Understanding the real API's answers, while they are passed on: what they say, call and cost.

Source: the API reference of streamed messages, and the event types of the anthropic SDK. What a model thinks to itself
is no token that anybody hears, and a tool that the vendor runs is none of the agent's; both are in the usage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from busyhour.emulators.language_model import Heard, Piece, count, objects, written

_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
"""The first does not contain the others."""


class MessageEar:
    """Of one message."""

    def __init__(self) -> None:
        self._called: dict[str, str] = {}  # the index of a block -> its function

    def event(self, form: Mapping[str, Any]) -> Heard:
        key = str(form.get("index"))
        heard = Heard()
        match form:
            case {"type": "content_block_delta", "delta": {"type": "text_delta", "text": str(text)}} if text:
                heard = Heard([Piece(text)])
            case {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": str(text)}}:
                heard = Heard([Piece(text, key, self._called[key])] if key in self._called else ())
            case {"type": "content_block_start", "content_block": {"type": "tool_use", **block}}:
                self._called[key] = written(block.get("name")) or "function"
                heard = Heard([Piece("", key, self._called[key])])
            case {"type": "message_start", "message": {"usage": usage}}:
                heard = Heard(prompt_tokens=count(usage, *_PROMPT))
            case {"type": "message_delta", "delta": dict(delta)}:
                tokens = count(form.get("usage"), "output_tokens")
                heard = Heard(tokens=tokens, ended=delta.get("stop_reason") is not None)
            case {"type": "message_stop"}:
                heard = Heard(ended=True)
            case {"type": "error"}:
                heard = Heard(failed=True)
        return heard

    def whole(self, form: Mapping[str, Any]) -> Heard:
        usage = form.get("usage")
        return Heard(
            list(_pieces(form)),
            tokens=count(usage, "output_tokens"),
            prompt_tokens=count(usage, *_PROMPT),
            ended=True,
            failed=form.get("type") == "error",
        )


def _pieces(form: Mapping[str, Any]) -> Iterator[Piece]:
    for index, block in enumerate(objects(form.get("content"))):
        if block.get("type") == "text" and (text := written(block.get("text"))):
            yield Piece(text)
        elif block.get("type") == "tool_use":
            yield Piece(json.dumps(block.get("input")), str(index), written(block.get("name")) or "function")
