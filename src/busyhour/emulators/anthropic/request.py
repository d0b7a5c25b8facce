"""Reading a messages request as the vendor does: what is accepted, and the error each mistake is answered with.

Source: the API reference of POST /v1/messages, and the parameter types of the anthropic SDK. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from busyhour.emulators.anthropic.messages import MessageEvents
from busyhour.emulators.language_model import Asked, Refused, outline, prompt_tokens
from busyhour.emulators.receptionist import Said, Tool, Unfillable, check_schema
from busyhour.model import JSON

_KNOWN = frozenset(
    [
        *("model", "messages", "max_tokens", "system", "stream", "temperature", "top_k", "top_p", "stop_sequences"),
        *("tools", "tool_choice", "metadata", "service_tier", "thinking", "output_config", "output_format"),
        *("cache_control", "container", "context_management", "diagnostics", "inference_geo", "mcp_servers", "speed"),
        *("user_profile_id", "workspace_id"),
    ]
)
_BLOCKS = ("text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result")


def asked(raw: bytes) -> Asked:
    """Read a request body. Raises Refused."""
    body = _object_of(raw)
    model, conversation = _prompt(body)
    if body.get("max_tokens") is None:
        raise Refused("max_tokens: Field required")
    limit = _number(body, "max_tokens", 1, 10**7, whole=True)
    _number(body, "temperature", 0, 1)
    _number(body, "top_p", 0, 1)
    _number(body, "top_k", 0, 10**6, whole=True)
    tools = _tools(body)
    choice = _choice(body, tools)
    stream = _typed(body, "stream", bool)
    return Asked(
        model=model,
        conversation=conversation,
        tools=() if choice.get("type") == "none" else tools,
        force_tool={"any": "", "tool": choice.get("name")}.get(choice.get("type", "auto")),
        parallel=not choice.get("disable_parallel_tool_use"),
        stream=bool(stream),
        tokens_at_most=None if limit is None else int(limit),
        stops=_stops(body),
        schema=_schema(body),
        prompt_tokens=prompt_tokens(conversation, body.get("tools")),
        shape=MessageEvents,
    )


def outlined(raw: bytes) -> Asked:
    """A request body in outline, whatever it is."""

    def structured(body: Mapping[str, Any]) -> bool:
        config = body.get("output_config")
        form = config.get("format") if isinstance(config, dict) else None
        return form is not None or body.get("output_format") is not None

    return outline(raw, turns="messages", content="content", structured=structured, shape=MessageEvents)


def counted(raw: bytes) -> tuple[str, int]:
    """Read a request to count tokens: the model, and how many they are. Raises Refused."""
    body = _object_of(raw)
    model, conversation = _prompt(body)
    _tools(body)
    return model, prompt_tokens(conversation, body.get("tools"))


def _object_of(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refused("The request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise Refused("Input should be a valid dictionary")
    for name in body:
        if name not in _KNOWN:
            raise Refused(f"{name:.100}: Extra inputs are not permitted")
    return body


def _prompt(body: Mapping[str, Any]) -> tuple[str, Sequence[Said]]:
    """The model, and the conversation with the system prompt first."""
    model = _typed(body, "model", str)
    if model is None:
        raise Refused("model: Field required")
    if not model:
        raise Refused("model: String should have at least 1 character")
    messages = _typed(body, "messages", list)
    if messages is None:
        raise Refused("messages: Field required")
    if not messages:
        raise Refused("messages: at least one message is required")
    system = body.get("system")
    said = [] if system is None else [Said(role="system", text=_texts(system, "system"))]
    reading = _Conversation()
    for index, message in enumerate(messages):
        reading.message(message, f"messages.{index}", last=index == len(messages) - 1)
    reading.all_answered(f"messages.{len(messages) - 1}")
    return model, [*said, *reading.said]


class _Conversation:
    """The messages as they are read; the calls of the last one wait for their results."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        self._called: dict[str, str] = {}

    def message(self, message: object, where: str, *, last: bool) -> None:
        """Add one. Raises Refused."""
        if not isinstance(message, dict):
            raise Refused(f"{where}: Input should be a valid dictionary")
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant"):
            raise Refused(f"{where}.role: Input should be 'user' or 'assistant'")
        if content is None:
            raise Refused(f"{where}.content: Field required")
        if not isinstance(content, str | list):
            raise Refused(f"{where}.content: Input should be a valid string or list")
        if not content and not (last and role == "assistant"):
            raise Refused(
                f"{where}: all messages must have non-empty content except for the optional final assistant message"
            )
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        called = self._called
        self._called = {}
        texts = [self._block(block, f"{where}.content.{index}", role, called) for index, block in enumerate(blocks)]
        if called:
            raise Refused(
                f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(called):.300}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                "next message."
            )
        text = " ".join(text for text in texts if text)
        if text or role == "assistant" or not any(said.role == "tool" for said in self.said[-1:]):
            self.said.append(Said(role=role, text=text))

    def all_answered(self, where: str) -> None:
        """Raises Refused when the last message calls functions."""
        if self._called:
            raise Refused(
                f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(self._called):.300}."
            )

    def _block(self, block: object, where: str, role: str, called: dict[str, str]) -> str:
        """The text of a block, "" for one that has none."""
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(block, dict) or kind not in _BLOCKS:
            raise Refused(
                f"{where}: Input tag {kind!r:.80} found using 'type' does not match any of the expected tags: "
                f"{', '.join(map(repr, _BLOCKS))}"
            )
        if kind == "text":
            text = _needed(block, "text", where)
            if not text:
                raise Refused("messages: text content blocks must be non-empty")
            return text
        if kind == "tool_use":
            if role != "assistant":
                raise Refused(f"{where}: `tool_use` blocks can only be in `assistant` messages")
            name = _needed(block, "name", where)
            self._called[_needed(block, "id", where)] = name
        elif kind == "tool_result":
            self.said.append(_result(block, where, role, called))
        return ""


def _result(block: Mapping[str, Any], where: str, role: str, called: dict[str, str]) -> Said:
    if role != "user":
        raise Refused(f"{where}: `tool_result` blocks can only be in `user` messages")
    name = _needed(block, "tool_use_id", where)
    if name not in called:
        raise Refused(
            f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {name:.100}. Each `tool_result` block "
            "must have a corresponding `tool_use` block in the previous message."
        )
    text = "" if block.get("content") is None else _texts(block["content"], f"{where}.content")
    return Said(role="tool", text=f"error: {text}" if block.get("is_error") is True else text, tool=called.pop(name))


def _texts(content: object, where: str) -> str:
    """A string, or a list of blocks of which the texts are taken."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(f"{where}: Input should be a valid string or list")
    texts = []
    for index, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise Refused(f"{where}.{index}.type: Field required")
        if block["type"] == "text":
            texts.append(_needed(block, "text", f"{where}.{index}"))
    return " ".join(texts)


# ---------------------------------------------------------------- tools, schemas, limits


def _tools(body: Mapping[str, Any]) -> list[Tool]:
    offered = []
    for index, tool in enumerate(_typed(body, "tools", list) or []):
        where = f"tools.{index}"
        if not isinstance(tool, dict):
            raise Refused(f"{where}: Input should be a valid dictionary")
        if tool.get("type", "custom") not in ("custom", None):
            raise Refused(f"{where}: this twin has no tools of its own; 'type' must be 'custom'")
        schema = tool.get("input_schema")
        if schema is None:
            raise Refused(f"{where}.custom.input_schema: Field required")
        if not isinstance(schema, dict):
            raise Refused(f"{where}.custom.input_schema: Input should be a valid dictionary")
        name = _needed(tool, "name", f"{where}.custom")
        if not name:
            raise Refused(f"{where}.custom.name: String should have at least 1 character")
        if schema.get("type") != "object":
            raise Refused(f"{where}.custom.input_schema.type: Input should be 'object'")
        offered.append(Tool(name=name, parameters=schema))
    return offered


def _choice(body: Mapping[str, Any], tools: Sequence[Tool]) -> Mapping[str, Any]:
    choice: Mapping[str, Any] = _typed(body, "tool_choice", dict) or {}
    if not choice:
        return choice
    kind = choice.get("type")
    if kind not in ("auto", "any", "tool", "none"):
        raise Refused(
            f"tool_choice: Input tag {kind!r:.80} found using 'type' does not match any of the expected tags: 'auto', "
            "'any', 'tool', 'none'"
        )
    if kind in ("any", "tool") and not tools:
        raise Refused("tool_choice may only be specified while providing tools")
    if kind == "tool" and not any(tool.name == _needed(choice, "name", "tool_choice.tool") for tool in tools):
        raise Refused(f"Tool '{choice['name']:.100}' not found in provided tools")
    return choice


def _schema(body: Mapping[str, Any]) -> Mapping[str, JSON] | None:
    config = _typed(body, "output_config", dict) or {}
    form = config.get("format") or body.get("output_format")
    if form is None:
        return None
    where = "output_config.format"
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        raise Refused(f"{where}.type: Input should be 'json_schema'")
    schema = form.get("schema")
    if not isinstance(schema, dict):
        raise Refused(f"{where}.schema: Input should be a valid dictionary")
    try:
        check_schema(schema, strict=False)
    except Unfillable as problem:
        raise Refused(f"{where}.schema: {problem}") from None
    return schema


def _stops(body: Mapping[str, Any]) -> list[str]:
    stops = _typed(body, "stop_sequences", list) or []
    for index, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise Refused(f"stop_sequences.{index}: Input should be a valid string")
        if not stop.strip():
            raise Refused("stop_sequences: each stop sequence must contain non-whitespace")
    return list(stops)


def _typed(body: Mapping[str, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        expected = {bool: "boolean", str: "string", dict: "dictionary", list: "list"}[kind]
        raise Refused(f"{name}: Input should be a valid {expected}")
    return value


def _needed(form: Mapping[str, Any], name: str, where: str) -> str:
    value = form.get(name)
    if value is None:
        raise Refused(f"{where}.{name}: Field required")
    if not isinstance(value, str):
        raise Refused(f"{where}.{name}: Input should be a valid string")
    return value


def _number(body: Mapping[str, Any], name: str, low: float, high: float, *, whole: bool = False) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise Refused(f"{name}: Input should be a valid {'integer' if whole else 'number'}")
    if value < low:
        raise Refused(f"{name}: Input should be greater than or equal to {low}")
    if not value <= high:
        raise Refused(f"{name}: Input should be less than or equal to {high}")
    return float(value)
