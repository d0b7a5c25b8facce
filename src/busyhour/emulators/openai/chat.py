"""A reply as a chat completion: whole, or as the chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from busyhour.emulators.language_model import EVENT_STREAM, Finished, Part
from busyhour.model import JSON

_FINISH_REASONS = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tool": "tool_calls"}


class ChatEvents:
    """The shape of one completion; usage: the last chunk but [DONE] tells it, and the others say null."""

    content_type = EVENT_STREAM

    def __init__(self, finished: Finished, *, usage: bool) -> None:
        self._finished = finished
        self._usage = usage
        self._calls = [part for part in finished.parts if part.tool]
        head = json.dumps(self._head("chat.completion.chunk"))
        # Composed once: what is around a delta is the same in every chunk, and there is one for every token.
        self._before = f'data: {head[:-1]}, "choices": [{{"index": 0, "delta": '
        self._after = '}], "usage": null}\n\n' if usage else "}]}\n\n"

    def opening(self) -> bytes:
        """The role, and which function is called first."""
        if not self._calls:
            return self._chunk({"role": "assistant", "content": "", "refusal": None})
        calls = [self._call(0, self._calls[0])]
        return self._chunk({"role": "assistant", "content": None, "tool_calls": calls, "refusal": None})

    def deltas(self) -> Iterator[bytes]:
        for index, part in enumerate(self._finished.parts):
            begins = self._chunk({"tool_calls": [self._call(index, part)]}) if part.tool and index else b""
            for piece in part.pieces:
                delta: Mapping[str, JSON] = {"content": piece}
                if part.tool:
                    delta = {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
                yield begins + self._chunk(delta)
                begins = b""

    def closing(self) -> bytes:
        last = self._chunk({}, finish=_FINISH_REASONS[self._finished.finish])
        if self._usage:
            told = {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(self._finished)}
            last += f"data: {json.dumps(told)}\n\n".encode()
        return last + b"data: [DONE]\n\n"

    def whole(self) -> bytes:
        message: dict[str, JSON] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
        if self._calls:
            message["tool_calls"] = [_called(part) for part in self._calls]
        else:
            message["content"] = self._finished.parts[0].text
        reason = _FINISH_REASONS[self._finished.finish]
        choices: Sequence[JSON] = [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}]
        whole = {**self._head("chat.completion"), "choices": choices, "usage": _usage(self._finished)}
        return json.dumps(whole).encode()

    def _call(self, index: int, part: Part) -> JSON:
        function: JSON = {"name": part.tool, "arguments": ""}
        return {"index": index, "id": _call_id(part), "type": "function", "function": function}

    def _chunk(self, delta: Mapping[str, JSON], *, finish: str | None = None) -> bytes:
        reason = json.dumps(finish)
        return f'{self._before}{json.dumps(delta)}, "logprobs": null, "finish_reason": {reason}{self._after}'.encode()

    def _head(self, kind: str) -> dict[str, JSON]:
        return {
            "id": f"chatcmpl-{self._finished.key[:28]}",
            "object": kind,
            "created": self._finished.created,
            "model": self._finished.asked.model,
            "service_tier": "default",
            "system_fingerprint": "fp_busyhour",
        }


def _call_id(part: Part) -> str:
    return f"call_{part.key}"


def _called(part: Part) -> JSON:
    return {"id": _call_id(part), "type": "function", "function": {"name": part.tool, "arguments": part.text}}


def _usage(finished: Finished) -> JSON:
    prompt, completion = finished.asked.prompt_tokens, finished.tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
