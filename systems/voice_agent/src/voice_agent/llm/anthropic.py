"""Anthropic's Messages API, streamed (https://docs.anthropic.com/en/api/messages-streaming)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from voice_agent.llm.model import ModelFailed, Part
from voice_agent.llm.question import CallPiece, Errand, Message, Question, Tool
from voice_agent.settings import Account

_VERSION = "2023-06-01"
_MAX_TOKENS = 1024  # the API wants a limit; a spoken reply is far below it


class Anthropic:
    name = "anthropic"

    def __init__(self, account: Account) -> None:
        self.base_url = account.base_url
        self.headers: Mapping[str, str] = {"x-api-key": account.api_key, "anthropic-version": _VERSION}
        self._model = account.model

    def request(self, question: Question) -> tuple[str, dict[str, Any]]:
        spoken = [message for said in question.conversation for message in _messages(said)]
        asked: dict[str, Any] = {"model": self._model, "max_tokens": _MAX_TOKENS, "messages": spoken, "stream": True}
        if system := question.system:
            asked["system"] = system
        if question.tools:
            asked["tools"] = [_tool(tool) for tool in question.tools]
            if question.barred:
                asked["tool_choice"] = {"type": "none"}
        if form := question.form:
            asked["tools"] = [_tool(form)]
            asked["tool_choice"] = {"type": "tool", "name": form.name}
        return "v1/messages", asked

    def read(self, event: str) -> Part:
        told = json.loads(event)
        match told["type"]:
            case "message_start":
                return Part(prompt_tokens=int(told["message"]["usage"]["input_tokens"]))
            case "content_block_start" if told["content_block"]["type"] == "tool_use":
                block = told["content_block"]
                return Part(pieces=[CallPiece(int(told["index"]), str(block["name"]), key=str(block["id"]))])
            case "content_block_delta":
                return Part(pieces=_pieces(int(told["index"]), told["delta"]))
            case "message_delta":
                usage = told.get("usage") or {}
                return Part(
                    complete=bool(told["delta"].get("stop_reason")),
                    completion_tokens=int(usage.get("output_tokens") or 0),
                )
            case "message_stop":
                return Part(last=True)
            case "error":
                raise ModelFailed("error event")
        return Part()  # ping, the ends of blocks, and whatever is new


def _pieces(index: int, delta: Mapping[str, Any]) -> Sequence[str | CallPiece]:
    if delta["type"] == "input_json_delta":
        return [CallPiece(index, arguments=str(delta["partial_json"]))]
    text = delta["text"] if delta["type"] == "text_delta" else ""
    return [str(text)] if text else []


def _tool(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def _messages(said: Message | Errand) -> Sequence[Mapping[str, Any]]:
    if not isinstance(said, Errand):
        return [said]
    text = [{"type": "text", "text": said.said}] if said.said else []
    calls = [{"type": "tool_use", "id": call.key, "name": call.name, "input": call.as_object()} for call in said.calls]
    results = [
        {"type": "tool_result", "tool_use_id": call.key, "content": result}
        for call, result in zip(said.calls, said.results, strict=True)
    ]
    return [{"role": "assistant", "content": [*text, *calls]}, {"role": "user", "content": results}]
