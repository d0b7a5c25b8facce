"""OpenAI chat completions, streamed (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from voice_agent.llm.model import ModelFailed, Part
from voice_agent.llm.question import CallPiece, Errand, Message, Question, Tool
from voice_agent.schema import without
from voice_agent.settings import Account

_NOT_STRICT = ("minLength", "maxLength")  # keywords that its strict mode does not promise to take


class OpenAI:
    name = "openai"

    def __init__(self, account: Account) -> None:
        self.base_url = account.base_url
        self.headers: Mapping[str, str] = {"Authorization": f"Bearer {account.api_key}"}
        self._model = account.model

    def request(self, question: Question) -> tuple[str, dict[str, Any]]:
        messages = [message for said in question.messages for message in _messages(said)]
        asked: dict[str, Any] = {"model": self._model, "messages": messages, "stream": True}
        asked["stream_options"] = {"include_usage": True}
        if question.tools:
            asked["tools"] = [{"type": "function", "function": _function(tool)} for tool in question.tools]
            if any(_is_strict(tool) for tool in question.tools):
                asked["parallel_tool_calls"] = False  # several at once are not strict
            if question.barred:
                asked["tool_choice"] = "none"
        if form := question.form:
            schema = without(form.parameters, _NOT_STRICT)
            asked["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": form.name, "description": form.description, "strict": True, "schema": schema},
            }
        return "chat/completions", asked

    def read(self, event: str) -> Part:
        if event == "[DONE]":
            return Part(last=True)
        chunk = json.loads(event)
        if "error" in chunk:
            raise ModelFailed("error event")
        usage = chunk.get("usage") or {}
        choices = chunk["choices"]
        choice = choices[0] if choices else {}  # the last chunk may carry only the usage
        return Part(
            pieces=_pieces(choice.get("delta") or {}),
            complete=bool(choice.get("finish_reason")),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )


def _messages(said: Message | Errand) -> Sequence[Mapping[str, Any]]:
    if not isinstance(said, Errand):
        return [said]
    calls = [
        {
            "id": call.key,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments if call.as_object() else "{}"},
        }
        for call in said.calls
    ]
    results = [
        {"role": "tool", "tool_call_id": call.key, "content": result}
        for call, result in zip(said.calls, said.results, strict=True)
    ]
    return [{"role": "assistant", "content": said.said or None, "tool_calls": calls}, *results]


def _is_strict(tool: Tool) -> bool:
    return tool.parameters.get("additionalProperties") is False


def _function(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": without(tool.parameters, _NOT_STRICT)}
    return {**function, "strict": True} if _is_strict(tool) else function


def _pieces(delta: dict[str, Any]) -> Sequence[str | CallPiece]:
    """Some text, or pieces of calls: a tool is named once, and its arguments come in parts."""
    content = delta.get("content")
    calls = [
        CallPiece(
            int(call.get("index") or 0),
            str(call["function"].get("name") or ""),
            str(call["function"].get("arguments") or ""),
            str(call.get("id") or ""),
        )
        for call in delta.get("tool_calls") or ()
    ]
    return [content, *calls] if isinstance(content, str) and content else calls
