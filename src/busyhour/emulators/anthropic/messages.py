"""A reply as a message: whole, or as the events of a stream.

message_start, ping, (content_block_start, content_block_delta ..., content_block_stop) for each block,
message_delta with the reason and the usage, message_stop
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from busyhour.emulators.language_model import EVENT_STREAM, Finished, Part
from busyhour.model import JSON

_STOP_REASONS = {"stop": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens", "tool": "tool_use"}


class MessageEvents:
    """The shape of one message."""

    content_type = EVENT_STREAM

    def __init__(self, finished: Finished) -> None:
        self._finished = finished

    def opening(self) -> bytes:
        begun: JSON = {
            **self._message(),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(1),
        }
        return _event("message_start", message=begun) + _event("ping")

    def deltas(self) -> Iterator[bytes]:
        before = b""
        for index, part in enumerate(self._finished.parts):
            before += _event("content_block_start", index=index, content_block=_block_begun(part))
            for piece in part.pieces:
                delta: JSON = {"type": "text_delta", "text": piece}
                if part.tool:
                    delta = {"type": "input_json_delta", "partial_json": piece}
                yield before + _event("content_block_delta", index=index, delta=delta)
                before = b""
            before += _event("content_block_stop", index=index)
        yield before

    def closing(self) -> bytes:
        usage: JSON = {"output_tokens": self._finished.tokens}
        return _event("message_delta", delta=self._ended(), usage=usage) + _event("message_stop")

    def whole(self) -> bytes:
        content = [_block(part) for part in self._finished.parts]
        message = {**self._message(), "content": content, **self._ended(), "usage": self._usage(self._finished.tokens)}
        return json.dumps(message).encode()

    def _message(self) -> dict[str, JSON]:
        return {
            "id": f"msg_{self._finished.key[:24]}",
            "type": "message",
            "role": "assistant",
            "model": self._finished.asked.model,
        }

    def _ended(self) -> Mapping[str, JSON]:
        finished = self._finished
        return {"stop_reason": _STOP_REASONS[finished.finish], "stop_sequence": finished.stopped_by or None}

    def _usage(self, output_tokens: int) -> JSON:
        return {
            "input_tokens": self._finished.asked.prompt_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
            "service_tier": "standard",
        }


def _event(kind: str, /, **more: JSON) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


def _block_begun(part: Part) -> JSON:
    if part.tool:
        return {"type": "tool_use", "id": _call_id(part), "name": part.tool, "input": {}}
    return {"type": "text", "text": ""}


def _block(part: Part) -> JSON:
    if not part.tool:
        return {"type": "text", "text": part.text}
    try:
        arguments: JSON = json.loads(part.text)
    except ValueError:
        arguments = {}  # the token limit cut it
    return {"type": "tool_use", "id": _call_id(part), "name": part.tool, "input": arguments}


def _call_id(part: Part) -> str:
    return f"toolu_{part.key}"
