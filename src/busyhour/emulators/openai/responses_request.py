"""Reading a request to the responses API: what is accepted, and the error each mistake is answered with.

Source: the API reference of POST /v1/responses, and the parameter types of the openai SDK. Pure but for the memory of
earlier responses. Hosted tools (web search and the like) are refused: there is nothing here that could do their work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from busyhour.emulators.language_model import Asked, Finished, Refused, Shape, outline, prompt_tokens
from busyhour.emulators.openai.memory import History, Memory
from busyhour.emulators.openai.reading import (
    invalid_value,
    missing,
    object_of,
    ranged,
    schema_of,
    typed,
    wrong_type,
)
from busyhour.emulators.openai.responses import ResponseEvents
from busyhour.emulators.receptionist import Said, Tool
from busyhour.model import JSON

_ROLES = ("assistant", "system", "developer", "user")
_PARTS = ("input_text", "input_image", "input_file", "output_text", "refusal", "text", "summary_text")
_ITEMS = ("message", "function_call", "function_call_output", "reasoning")
_FEWEST_TOKENS = 16
"""The vendor's least max_output_tokens."""


def asked(raw: bytes, *, memory: Memory) -> Asked:
    """Read a request body. Raises Refused."""
    body = object_of(raw)
    model = typed(body, "model", str)
    if not model:
        raise missing("model")
    if typed(body, "background", bool):
        raise Refused("This twin answers while you wait: 'background' must be false.", param="background")
    ranged(body, "temperature", 0, 2)
    ranged(body, "top_p", 0, 1)
    limit = ranged(body, "max_output_tokens", _FEWEST_TOKENS, 10**7, whole=True)
    previous = typed(body, "previous_response_id", str)
    history = _History(memory.history(previous) if previous else History())
    history.read(body)
    instructions = typed(body, "instructions", str)
    conversation = [*([Said(role="system", text=instructions)] if instructions else []), *history.conversation]
    text = typed(body, "text", dict) or {}
    tools = _tools(body)
    echo = _echo(body, text)
    store = typed(body, "store", bool) is not False

    def shape(finished: Finished) -> Shape:
        return ResponseEvents(finished, echo=echo, kept=(memory, history.conversation) if store else None)

    return Asked(
        model=model,
        conversation=conversation,
        tools=() if body.get("tool_choice") == "none" else tools,
        force_tool=_force_tool(body, tools),
        parallel=typed(body, "parallel_tool_calls", bool) is not False,
        stream=bool(typed(body, "stream", bool)),
        tokens_at_most=None if limit is None else int(limit),
        schema=schema_of(text.get("format"), "text.format", conversation),
        prompt_tokens=prompt_tokens(conversation, body.get("tools")),
        shape=shape,
    )


def outlined(raw: bytes) -> Asked:
    """A request body in outline, whatever it is."""

    def structured(body: Mapping[str, Any]) -> bool:
        text = body.get("text")
        form = text.get("format") if isinstance(text, dict) else None
        return isinstance(form, dict) and form.get("type") != "text"

    def shape(finished: Finished) -> Shape:
        return ResponseEvents(finished, echo={}, kept=None)

    return outline(raw, turns="input", content="content", structured=structured, shape=shape)


class _History:
    """The conversation as its items are read."""

    def __init__(self, before: History) -> None:
        self.conversation = list(before.conversation)
        self._called = dict(before.called)

    def read(self, body: Mapping[str, Any]) -> None:
        """Add the request's input. Raises Refused."""
        given = body.get("input")
        if given is None:
            raise missing("input")
        if isinstance(given, str):
            self.conversation.append(Said(role="user", text=given))
        elif not isinstance(given, list):
            raise wrong_type("input", "a string or an array of objects", given)
        else:
            for index, item in enumerate(given):
                self._item(item, f"input[{index}]")
        if self._called:
            raise Refused(f"No tool output found for function call {next(iter(self._called)):.100}.", param="input")
        if not self.conversation:
            raise Refused("Invalid 'input': an empty array and no previous response.", param="input")

    def _item(self, item: object, where: str) -> None:
        if not isinstance(item, dict):
            raise wrong_type(where, "an object", item)
        kind = item.get("type", "message")
        if kind == "message":
            role = item.get("role")
            if role not in _ROLES:
                raise invalid_value(role, f"{where}.role", _ROLES)
            self.conversation.append(Said(role=role, text=_text(item, "content", where)))
        elif kind == "function_call":
            call_id, name = (_needed(item, key, where) for key in ("call_id", "name"))
            _needed(item, "arguments", where)
            self._called[call_id] = name
            self.conversation.append(Said(role="assistant"))
        elif kind == "function_call_output":
            call_id = _needed(item, "call_id", where)
            answered = self._called.pop(call_id, None)
            if answered is None:
                raise Refused(
                    f"No tool call found for function call output with call_id {call_id:.100}.", param="input"
                )
            self.conversation.append(Said(role="tool", text=_text(item, "output", where), tool=answered))
        elif kind != "reasoning":
            raise invalid_value(kind, f"{where}.type", _ITEMS)


def _needed(item: Mapping[str, Any], key: str, where: str) -> str:
    value = item.get(key)
    if value is None:
        raise missing(f"{where}.{key}")
    if not isinstance(value, str):
        raise wrong_type(f"{where}.{key}", "a string", value)
    return value


def _text(item: Mapping[str, Any], key: str, where: str) -> str:
    content = item.get(key)
    if isinstance(content, str):
        return content
    if content is None:
        raise missing(f"{where}.{key}")
    if not isinstance(content, list):
        raise wrong_type(f"{where}.{key}", "a string or an array of objects", content)
    texts = []
    for index, part in enumerate(content):
        place = f"{where}.{key}[{index}]"
        if not isinstance(part, dict) or part.get("type") not in _PARTS:
            raise invalid_value(part.get("type") if isinstance(part, dict) else part, f"{place}.type", _PARTS)
        if part["type"].endswith("text"):
            texts.append(_needed(part, "text", place))
    return " ".join(texts)


def _tools(body: Mapping[str, Any]) -> list[Tool]:
    offered = []
    for index, tool in enumerate(typed(body, "tools", list) or []):
        where = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise wrong_type(where, "an object", tool)
        kind = tool.get("type")
        if kind is None:
            raise missing(f"{where}.type")
        if kind != "function":
            raise Refused(f"Hosted tool '{kind!s:.80}' is not supported with this model.", param="tools")
        name = _needed(tool, "name", where)
        parameters = tool.get("parameters")
        offered.append(Tool(name=name, parameters=parameters if isinstance(parameters, dict) else {}))
    return offered


def _force_tool(body: Mapping[str, Any], tools: Sequence[Tool]) -> str | None:
    choice = body.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return None
    if isinstance(choice, str) and choice != "required":
        raise invalid_value(choice, "tool_choice", ("none", "auto", "required"))
    if not tools:
        raise Refused("Tool choice 'required' must be specified with 'tools' parameter.", param="tool_choice")
    if choice == "required":
        return ""
    name = choice.get("name") if isinstance(choice, dict) else None
    if not any(tool.name == name for tool in tools):
        raise Refused(f"Tool choice {choice!r:.100} not found in 'tools' parameter.", param="tool_choice")
    return str(name)


def _echo(body: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, JSON]:
    """What a response repeats of its request, with the vendor's defaults."""
    metadata = typed(body, "metadata", dict) or {}
    defaults: dict[str, JSON] = {
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "store": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }
    given = {name: body[name] for name in defaults if body.get(name) is not None}
    return {**defaults, **given, "metadata": metadata, "text": {"format": {"type": "text"}, **text}}
