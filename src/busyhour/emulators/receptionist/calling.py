"""Functions: which one an answer needs, what its arguments are, and what its result is answered with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile

from busyhour.emulators.receptionist.filling import Known, Unfillable, filled
from busyhour.emulators.receptionist.nouns import Said, Tool
from busyhour.model import JSON

_TOOL_SENTENCES = {
    "availab": "booking.offer",
    "book": "booking.confirm",
    "transfer": "transfer",
    "cancel": "booking.cancelled",
}
"""What is in a function's name -> the sentence it must be called for, and that its success is answered with."""


def _is_for(tool: Tool, kind: str) -> bool:
    name = tool.name.lower()
    return kind in name and not (kind == "book" and "cancel" in name)


def wanted(names: Sequence[str], tools: Sequence[Tool]) -> Tool | None:
    """The function of `tools` that must be called before these sentences may be said."""
    kind = {name: kind for kind, name in _TOOL_SENTENCES.items()}.get(names[0])
    return next((tool for tool in tools if kind and _is_for(tool, kind)), None)


def after(conversation: Sequence[Said]) -> Sequence[str]:
    """What to say to the functions' results that end the conversation: trouble if there is any, else to the first
    that brought something."""
    results = list(takewhile(lambda said: said.role == "tool", reversed(conversation)))[::-1]
    answers = [_after(said) for said in results]
    return min(answers, key=lambda names: _AFTER_SEVERAL.get(names[0], 1))


_AFTER_SEVERAL = {"trouble": 0, "booking.move": 2, "anything_else": 3}


def _after(said: Said) -> Sequence[str]:
    kind = next((kind for kind in _TOOL_SENTENCES if _is_for(Tool(name=said.tool), kind)), "")
    if _failed(said.text):
        return ("trouble",)
    if not kind:
        return ("anything_else",)
    if kind == "availab" and _none_free(said.text):
        return ("booking.move",)
    more = ("anything_else",) if kind == "cancel" else ()
    return (_TOOL_SENTENCES[kind], *more)


def arguments(tool: Tool, conversation: Sequence[Said]) -> Mapping[str, JSON]:
    """Values for the tool's schema, from what the caller said; optional unknown ones are left out."""
    if not isinstance(tool.parameters.get("properties"), Mapping):
        return {}
    try:
        value = filled({**tool.parameters, "type": "object"}, Known.of(conversation))
    except Unfillable:
        return {}
    return value if isinstance(value, Mapping) else {}


def _failed(result: str) -> bool:
    value = _json(result)
    if isinstance(value, dict):
        return bool(value.get("error")) or any(value.get(key) is False for key in ("ok", "success"))
    return result.strip().lower().startswith(("error", "failed", "traceback"))


def _none_free(result: str) -> bool:
    value = _json(result)
    if isinstance(value, dict):
        return any(value[key] in (False, [], None, 0) for key in ("available", "availability", "slots") if key in value)
    return value == []


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
