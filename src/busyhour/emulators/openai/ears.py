"""Understanding the real API's answers, while they are passed on: what they say, call and cost.

Source: the API reference, and the event types of the openai SDK. What a model thinks to itself is no token that anybody
hears; it is billed, and so it is in the usage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from busyhour.emulators.language_model import Heard, Piece, count, objects, written

_TEXTS = ("response.output_text.delta", "response.refusal.delta")
_ARGUMENTS = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")
_CALLS = ("function_call", "custom_tool_call")


class ChatEar:
    """Of one chat completion."""

    def __init__(self) -> None:
        self._called: dict[str, str] = {}  # the index of a call -> its function

    def event(self, form: Mapping[str, Any]) -> Heard:
        return self._heard(form, "delta")

    def whole(self, form: Mapping[str, Any]) -> Heard:
        return self._heard(form, "message")

    def _heard(self, form: Mapping[str, Any], within: str) -> Heard:
        choice = next(objects(form.get("choices")), {})
        said = choice.get(within)
        usage = form.get("usage")
        return Heard(
            self._pieces(said) if isinstance(said, dict) else (),
            tokens=count(usage, "completion_tokens"),
            prompt_tokens=count(usage, "prompt_tokens"),
            ended=choice.get("finish_reason") is not None,
            failed=form.get("error") is not None,
        )

    def _pieces(self, said: Mapping[str, Any]) -> list[Piece]:
        pieces = [Piece(text) for text in (written(said.get("content")), written(said.get("refusal"))) if text]
        for place, call in enumerate(objects(said.get("tool_calls"))):
            function = call.get("function")
            if isinstance(function, dict):
                key = str(call.get("index", place))
                tool = self._called.setdefault(key, written(function.get("name")) or "function")
                pieces.append(Piece(written(function.get("arguments")), key, tool))
        return pieces


class ResponseEar:
    """Of one response."""

    def __init__(self) -> None:
        self._called: dict[str, str] = {}  # the index of an output item -> its function

    def event(self, form: Mapping[str, Any]) -> Heard:
        kind, key, delta = form.get("type"), str(form.get("output_index")), written(form.get("delta"))
        if kind in _TEXTS:
            return Heard([Piece(delta)] if delta else ())
        if kind in _ARGUMENTS:
            return Heard([Piece(delta, key, self._called.get(key, "function"))])
        if kind == "response.output_item.added":
            item = form.get("item")
            if isinstance(item, dict) and item.get("type") in _CALLS:
                self._called[key] = written(item.get("name")) or "function"
                return Heard([Piece("", key, self._called[key])])
        elif kind in ("response.completed", "response.incomplete"):
            return Heard(**_usage(form.get("response")), ended=True)
        elif kind in ("response.failed", "error"):
            return Heard(**_usage(form.get("response")), failed=True)
        return Heard()

    def whole(self, form: Mapping[str, Any]) -> Heard:
        pieces = [piece for index, item in enumerate(objects(form.get("output"))) for piece in _item(index, item)]
        return Heard(pieces, **_usage(form), ended=True, failed=form.get("error") is not None)


def _item(index: int, item: Mapping[str, Any]) -> Iterator[Piece]:
    if item.get("type") in _CALLS:
        text = written(item.get("arguments")) or written(item.get("input"))
        yield Piece(text, str(index), written(item.get("name")) or "function")
    elif item.get("type") == "message":
        for part in objects(item.get("content")):
            if text := written(part.get("text")) or written(part.get("refusal")):
                yield Piece(text)


def _usage(response: object) -> dict[str, Any]:
    usage = response.get("usage") if isinstance(response, dict) else None
    return {"tokens": count(usage, "output_tokens"), "prompt_tokens": count(usage, "input_tokens")}
