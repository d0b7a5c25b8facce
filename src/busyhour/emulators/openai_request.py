"""Reading a chat completion request as the vendor does: what is accepted, and the error each mistake is answered with.

Source: the API reference of POST /v1/chat/completions, and the parameter types of the openai SDK. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from busyhour.emulators.receptionist import Said, Tool

_ROLES = ("developer", "system", "user", "assistant", "tool", "function")
_PARTS = ("text", "refusal", "image_url", "input_audio", "file")
_TOKEN = re.compile(r"\s*[^\W\d_]{1,10}|\s*\d{1,3}|\s*[^\w\s]|\s+|.", re.DOTALL)


class Refused(Exception):
    """A request is answered with an error of the vendor's shape."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "invalid_request_error", param: str = "", code: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param or None, "code": code or None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A well-formed request. force_tool: None when no function must be called, "" when any must, else its name."""

    model: str
    conversation: Sequence[Said]
    tools: Sequence[Tool]
    force_tool: str | None
    stream: bool
    include_usage: bool
    tokens_at_most: int | None
    stops: Sequence[str]
    prompt_tokens: int


def tokens_of(text: str) -> list[str]:
    """The text cut into pieces of the size of tokens: up to 10 letters, 3 digits or one sign, each with the space
    before it. An approximation (the vendor's vocabulary is not here); English comes out within some 15 %. Joined,
    the pieces are the text."""
    return _TOKEN.findall(text)


def asked(raw: bytes) -> Asked:
    """Read a request body. Raises Refused."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refused(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
        ) from None
    if not isinstance(body, dict):
        raise Refused(f"Invalid type for request body: expected an object, but got {_kind(body)} instead.")
    model = _typed(body, "model", str)
    if not model:
        raise Refused("you must provide a model parameter")
    conversation = _conversation(body)
    stream = bool(_typed(body, "stream", bool))
    _range(body, "temperature", 0, 2)
    _range(body, "top_p", 0, 1)
    if (_range(body, "n", 1, 128, whole=True) or 1) != 1:
        raise Refused("This twin makes one choice: 'n' must be 1.", param="n", code="unsupported_value")
    limits = [_range(body, name, 1, 10**7, whole=True) for name in ("max_completion_tokens", "max_tokens")]
    tools = _tools(body)
    return Asked(
        model=model,
        conversation=conversation,
        tools=() if body.get("tool_choice") == "none" else tools,
        force_tool=_force_tool(body, tools),
        stream=stream,
        include_usage=_include_usage(body, stream),
        tokens_at_most=next((int(limit) for limit in limits if limit is not None), None),
        stops=_stops(body),
        prompt_tokens=_prompt_tokens(conversation, body.get("tools")),
    )


def _conversation(body: Mapping[str, Any]) -> list[Said]:
    messages = body.get("messages")
    if messages is None:
        raise Refused("Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter")
    if not isinstance(messages, list):
        raise _wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise Refused(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="messages",
            code="empty_array",
        )
    conversation = []
    called: dict[str, str] = {}  # the calls that still wait for their result: id -> function
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise _wrong_type(where, "an object", message)
        role = message.get("role")
        if role not in _ROLES:
            raise Refused(
                f"Invalid value: {role!r}. Supported values are: {', '.join(map(repr, _ROLES))}.",
                param=f"{where}.role",
                code="invalid_value",
            )
        answered = _answered(message, called, where) if role == "tool" else ""
        if role != "tool":
            _all_answered(called, where)
        if role == "assistant":
            called = _calls(message, where)
        may_be_absent = role == "assistant" and bool(message.get("tool_calls") or message.get("function_call"))
        text = _text(message, where, may_be_absent=may_be_absent)
        conversation.append(Said(role=role, text=text, tool=answered))
    _all_answered(called, "messages")
    return conversation


def _text(message: Mapping[str, Any], where: str, *, may_be_absent: bool) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and may_be_absent:
        return ""
    if not isinstance(content, list):
        if "content" not in message:
            raise Refused(
                f"Missing required parameter: '{where}.content'.",
                param=f"{where}.content",
                code="missing_required_parameter",
            )
        raise Refused(
            f"Invalid value for 'content': expected a string, got {_kind(content)}.", param=f"{where}.content"
        )
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") not in _PARTS:
            raise Refused(
                f"Invalid value: {part!r:.80}. Supported values are: {', '.join(map(repr, _PARTS))}.",
                param=f"{where}.content[{index}].type",
                code="invalid_value",
            )
        if part["type"] == "text":
            if not isinstance(part.get("text"), str):
                raise _wrong_type(f"{where}.content[{index}].text", "a string", part.get("text"))
            texts.append(part["text"])
    return " ".join(texts)


def _calls(message: Mapping[str, Any], where: str) -> dict[str, str]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise _wrong_type(f"{where}.tool_calls", "an array of objects", calls)
    known = {}
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(call, dict) or not isinstance(call.get("id"), str) or not isinstance(name, str):
            raise Refused(
                f"Missing required parameter: '{where}.tool_calls[{index}]' needs an id and a function with a name.",
                param=f"{where}.tool_calls[{index}]",
                code="missing_required_parameter",
            )
        known[call["id"]] = name
    return known


def _answered(message: Mapping[str, Any], called: dict[str, str], where: str) -> str:
    name = called.pop(str(message.get("tool_call_id")), None)
    if name is None:
        raise Refused(
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
            "'tool_calls'.",
            param=f"{where}.role",
        )
    return name


def _all_answered(called: Mapping[str, str], where: str) -> None:
    if called:
        raise Refused(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(called)}",
            param=where,
        )


def _tools(body: Mapping[str, Any]) -> list[Tool]:
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise _wrong_type("tools", "an array of objects", tools)
    if not tools:
        raise Refused("[] is too short - 'tools'", param="tools", code="empty_array")
    offered = []
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            raise Refused(
                f"Missing required parameter: 'tools[{index}].function'.",
                param=f"tools[{index}].function",
                code="missing_required_parameter",
            )
        parameters = function.get("parameters")
        offered.append(Tool(name=name, parameters=parameters if isinstance(parameters, dict) else {}))
    return offered


def _force_tool(body: Mapping[str, Any], tools: Sequence[Tool]) -> str | None:
    choice = body.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return None
    if not tools:
        raise Refused("Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.")
    if choice == "required":
        return ""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not any(tool.name == name for tool in tools):
        raise Refused(
            f"Invalid value for 'tool_choice': {choice!r:.80}; no such function in 'tools'.", param="tool_choice"
        )
    return str(name)


def _include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise _wrong_type("stream_options", "an object", options)
    if not stream:
        raise Refused(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )
    return bool(_typed(options, "include_usage", bool))


def _stops(body: Mapping[str, Any]) -> list[str]:
    stop = body.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(item, str) for item in stops):
        raise _wrong_type("stop", "a string or an array of at most 4 strings", stop)
    return [item for item in stops if item]


def _prompt_tokens(conversation: Sequence[Said], tools: object) -> int:
    # Each message costs some tokens for its role and its borders (the vendor's cookbook says 3 to 4).
    text = sum(4 + len(tokens_of(said.text)) for said in conversation) + 3
    return text + (len(tokens_of(json.dumps(tools))) if tools else 0)


def _typed(body: Mapping[str, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise _wrong_type(name, "a boolean" if kind is bool else "a string", value)
    return value


def _range(body: Mapping[str, Any], name: str, low: float, high: float, *, whole: bool = False) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise _wrong_type(name, "an integer" if whole else "a number", value)
    if not low <= value <= high:
        raise Refused(
            f"Invalid '{name}': expected a value from {low} to {high}, but got {value} instead.",
            param=name,
            code="integer_below_min_value" if value < low else "integer_above_max_value",
        )
    return float(value)


def _wrong_type(name: str, expected: str, got: object) -> Refused:
    return Refused(
        f"Invalid type for '{name}': expected {expected}, but got {_kind(got)} instead.",
        param=name,
        code="invalid_type",
    )


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
