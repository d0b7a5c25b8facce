"""Reading a chat completion request as the vendor does: what is accepted, and the error each mistake is answered with.

Source: the API reference of POST /v1/chat/completions, and the parameter types of the openai SDK. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from busyhour.emulators.language_model import Asked, Finished, Refused, Shape, outline, prompt_tokens
from busyhour.emulators.openai.chat import ChatEvents
from busyhour.emulators.openai.reading import (
    invalid_value,
    kind_of,
    missing,
    object_of,
    ranged,
    schema_of,
    typed,
    wrong_type,
)
from busyhour.emulators.receptionist import Said, Tool
from busyhour.model import JSON

_ROLES = ("developer", "system", "user", "assistant", "tool", "function")
_PARTS = ("text", "refusal", "image_url", "input_audio", "file")


def asked(raw: bytes) -> Asked:
    """Read a request body. Raises Refused."""
    body = object_of(raw)
    model = typed(body, "model", str)
    if not model:
        raise Refused("you must provide a model parameter")
    conversation = _conversation(body)
    stream = bool(typed(body, "stream", bool))
    ranged(body, "temperature", 0, 2)
    ranged(body, "top_p", 0, 1)
    if (ranged(body, "n", 1, 128, whole=True) or 1) != 1:
        raise Refused("This twin makes one choice: 'n' must be 1.", param="n", code="unsupported_value")
    limits = [ranged(body, name, 1, 10**7, whole=True) for name in ("max_completion_tokens", "max_tokens")]
    tools = _tools(body)
    usage = _include_usage(body, stream)

    def shape(finished: Finished) -> Shape:
        return ChatEvents(finished, usage=usage)

    return Asked(
        model=model,
        conversation=conversation,
        tools=() if body.get("tool_choice") == "none" else tools,
        force_tool=_force_tool(body, tools),
        parallel=_parallel(body, tools),
        stream=stream,
        tokens_at_most=next((int(limit) for limit in limits if limit is not None), None),
        stops=_stops(body),
        schema=_schema(body, conversation),
        prompt_tokens=prompt_tokens(conversation, body.get("tools")),
        shape=shape,
    )


def outlined(raw: bytes) -> Asked:
    """A request body in outline, whatever it is."""

    def structured(body: Mapping[str, Any]) -> bool:
        form = body.get("response_format")
        return isinstance(form, dict) and form.get("type") != "text"

    def shape(finished: Finished) -> Shape:
        return ChatEvents(finished, usage=False)

    return outline(raw, turns="messages", content="content", structured=structured, shape=shape)


def _schema(body: Mapping[str, Any], conversation: Sequence[Said]) -> Mapping[str, JSON] | None:
    form = body.get("response_format")
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return schema_of(form, "response_format", conversation)
    inner = form.get("json_schema")
    if inner is None:
        raise missing("response_format.json_schema")
    if not isinstance(inner, dict):
        raise wrong_type("response_format.json_schema", "an object", inner)
    return schema_of({**inner, "type": "json_schema"}, "response_format.json_schema", conversation)


def _parallel(body: Mapping[str, Any], tools: Sequence[Tool]) -> bool:
    parallel = typed(body, "parallel_tool_calls", bool)
    if parallel is not None and not tools:
        raise Refused(
            "Invalid value for 'parallel_tool_calls': 'parallel_tool_calls' is only allowed when 'tools' are "
            "specified.",
            param="parallel_tool_calls",
        )
    return parallel is not False


def _conversation(body: Mapping[str, Any]) -> list[Said]:
    messages = body.get("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects", messages)
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
            raise wrong_type(where, "an object", message)
        role = message.get("role")
        if role not in _ROLES:
            raise invalid_value(role, f"{where}.role", _ROLES)
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
            raise missing(f"{where}.content")
        raise Refused(
            f"Invalid value for 'content': expected a string, got {kind_of(content)}.", param=f"{where}.content"
        )
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") not in _PARTS:
            raise invalid_value(part, f"{where}.content[{index}].type", _PARTS)
        if part["type"] == "text":
            if not isinstance(part.get("text"), str):
                raise wrong_type(f"{where}.content[{index}].text", "a string", part.get("text"))
            texts.append(part["text"])
    return " ".join(texts)


def _calls(message: Mapping[str, Any], where: str) -> dict[str, str]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise wrong_type(f"{where}.tool_calls", "an array of objects", calls)
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
        raise wrong_type("tools", "an array of objects", tools)
    if not tools:
        raise Refused("[] is too short - 'tools'", param="tools", code="empty_array")
    offered = []
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            raise missing(f"tools[{index}].function")
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
        raise wrong_type("stream_options", "an object", options)
    if not stream:
        raise Refused(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )
    return bool(typed(options, "include_usage", bool))


def _stops(body: Mapping[str, Any]) -> list[str]:
    stop = body.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(item, str) for item in stops):
        raise wrong_type("stop", "a string or an array of at most 4 strings", stop)
    return [item for item in stops if item]
