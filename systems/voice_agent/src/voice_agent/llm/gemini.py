"""Gemini's streamGenerateContent, as server-sent events (https://ai.google.dev/api/generate-content)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from voice_agent.llm.model import ModelFailed, Part
from voice_agent.llm.question import CallPiece, Errand, Message, Question, Tool, ToolCall
from voice_agent.schema import without
from voice_agent.settings import Account


class Gemini:
    name = "gemini"

    def __init__(self, account: Account) -> None:
        self.base_url = account.base_url
        self.headers: Mapping[str, str] = {"x-goog-api-key": account.api_key}
        self._path = f"v1beta/models/{account.model}:streamGenerateContent?alt=sse"

    def request(self, question: Question) -> tuple[str, dict[str, Any]]:
        contents = [content for said in question.conversation for content in _contents(said)]
        asked: dict[str, Any] = {"contents": contents}
        if system := question.system:
            asked["systemInstruction"] = {"parts": [{"text": system}]}
        if question.tools:
            asked["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in question.tools]}]
            if question.barred:
                asked["toolConfig"] = {"functionCallingConfig": {"mode": "NONE"}}
        if form := question.form:
            schema = _schema(form.parameters)
            asked["generationConfig"] = {"responseMimeType": "application/json", "responseSchema": schema}
        return self._path, asked

    def read(self, event: str) -> Part:
        told = json.loads(event)
        if "error" in told:
            raise ModelFailed("error event")
        usage = told.get("usageMetadata") or {}
        candidates = told.get("candidates") or ()
        candidate = candidates[0] if candidates else {}
        parts = (candidate.get("content") or {}).get("parts") or ()
        return Part(
            pieces=[piece for part in parts if (piece := _piece(part))],
            complete=bool(candidate.get("finishReason")),  # there is no other sign of the end than the end
            prompt_tokens=int(usage.get("promptTokenCount") or 0),
            completion_tokens=int(usage.get("candidatesTokenCount") or 0),
        )


def _contents(said: Message | Errand) -> Sequence[Mapping[str, Any]]:
    if not isinstance(said, Errand):
        role = "model" if said["role"] == "assistant" else "user"
        return [{"role": role, "parts": [{"text": said["content"]}]}]
    text = [{"text": said.said}] if said.said else []
    responses = [
        {"functionResponse": {"id": call.key, "name": call.name, "response": json.loads(result)}}
        for call, result in zip(said.calls, said.results, strict=True)
    ]
    calls = [_call(call) for call in said.calls]
    return [{"role": "model", "parts": [*text, *calls]}, {"role": "user", "parts": responses}]


def _call(call: ToolCall) -> dict[str, Any]:
    part: dict[str, Any] = {"functionCall": {"id": call.key, "name": call.name, "args": call.as_object()}}
    return {**part, "thoughtSignature": call.signature} if call.signature else part


def _declaration(tool: Tool) -> dict[str, Any]:
    declared = {"name": tool.name, "description": tool.description}
    return {**declared, "parameters": _schema(tool.parameters)} if tool.parameters["properties"] else declared


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """In the vendor's own dialect: what may be null is "nullable"."""
    kept = without(schema, ("additionalProperties",))
    if options := kept.get("anyOf"):
        kept = {**next(option for option in options if option["type"] != "null"), "nullable": True}
    if "properties" in kept:
        kept["properties"] = {name: _schema(inner) for name, inner in kept["properties"].items()}
        kept["propertyOrdering"] = list(kept["properties"])
    return kept


def _piece(part: dict[str, Any]) -> str | CallPiece | None:
    """Some text, or a call, which always comes whole."""
    if call := part.get("functionCall"):
        signature = str(part.get("thoughtSignature") or "")
        return CallPiece(
            None, str(call["name"]), json.dumps(call.get("args") or {}), str(call.get("id") or ""), signature
        )
    text = part.get("text")
    return text if isinstance(text, str) and not part.get("thought") else None
