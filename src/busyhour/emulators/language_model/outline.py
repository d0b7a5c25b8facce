"""A request in outline: what can be told of one that is not this twin's to judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from busyhour.emulators.language_model.hearing import objects
from busyhour.emulators.language_model.nouns import Asked, Finished, Shape
from busyhour.emulators.language_model.tokens import prompt_tokens
from busyhour.emulators.receptionist import Said


def outline(
    raw: bytes,
    *,
    turns: str,
    content: str,
    structured: Callable[[Mapping[str, Any]], bool],
    shape: Callable[[Finished], Shape],
    model: str = "",
    stream: bool = False,
) -> Asked:
    """Model, words, streamed or not, structured or not. Raises nothing, whatever the body is.

    turns: the name of the list of messages; content: that of the text, or list of texts, in a message; structured:
    whether a body asks for JSON. model, stream: where they are not in the body.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    form: Mapping[str, Any] = body if isinstance(body, dict) else {}
    said = list(_said(form.get(turns), content))
    return Asked(
        model=model or (form["model"] if isinstance(form.get("model"), str) else ""),
        conversation=said,
        stream=stream or form.get("stream") is True,
        schema={} if structured(form) else None,
        prompt_tokens=prompt_tokens(said),
        shape=shape,
    )


def _said(turns: object, content: str) -> Iterator[Said]:
    if isinstance(turns, str):
        yield Said(role="user", text=turns)
    for turn in objects([turns] if isinstance(turns, dict) else turns):
        yield Said(role=str(turn.get("role", "user")), text=_text(turn.get(content)))


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in objects(content) if isinstance(part.get("text"), str))
