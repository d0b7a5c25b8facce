"""The language model: OpenAI chat completions, streamed (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.settings import Settings

Message = dict[str, str]
Tool = dict[str, Any]  # as the API wants it

_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model wants a tool used. Ours take no arguments, so it is the name that counts."""

    name: str


class ModelFailed(Exception):
    """No answer, or not all of it. `reason`: "no token", "stalled", "truncated", "malformed", "HTTP 500", ..."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ChatModel:
    """Streams replies; one is shared by all calls, and so is its connection pool."""

    def __init__(self, client: httpx.AsyncClient, settings: Settings, *, metrics: Metrics) -> None:
        self._client = client
        self._model = settings.openai_model
        self._between_tokens_seconds = settings.between_tokens_seconds
        self._metrics = metrics

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, first_token_by: float, log: Log
    ) -> AsyncGenerator[str | ToolCall, None]:
        """The pieces of the model's reply as they come.

        A failure before the first piece is tried once more if time allows. first_token_by: on the loop's clock.
        Raises ModelFailed, also after some pieces: the reply is then incomplete.
        """
        for last_try in (False, True):
            spoken = False
            try:
                async with aclosing(self._attempt(messages, tools, first_token_by)) as pieces:
                    async for piece in pieces:
                        spoken = True
                        yield piece
                return
            except ModelFailed as failure:
                self._metrics.vendor_failed("openai", failure.reason)
                log.warning("language model", problem=failure.reason, spoken=spoken)
                if spoken or last_try or not _worth_another_try(failure, first_token_by):
                    raise

    async def _attempt(
        self, messages: Sequence[Message], tools: Sequence[Tool], first_token_by: float
    ) -> AsyncGenerator[str | ToolCall, None]:
        loop = asyncio.get_running_loop()
        asked: dict[str, Any] = {"model": self._model, "messages": list(messages), "stream": True}
        if tools:
            asked["tools"] = list(tools)
        request = self._client.build_request("POST", "chat/completions", json=asked)
        try:
            async with asyncio.timeout_at(first_token_by):
                response = await self._client.send(request, stream=True)
        except TimeoutError:
            raise ModelFailed("no token") from None
        except httpx.HTTPError as error:
            raise ModelFailed(type(error).__name__) from None
        try:
            if not response.is_success:
                raise ModelFailed(f"HTTP {response.status_code}")
            patience, complaint, complete = first_token_by, "no token", False
            async with aclosing(_events(response)) as events:
                while (event := await _next_by(events, patience, complaint)) is not None:
                    choice = _choice(event)
                    if piece := _piece(choice):
                        patience, complaint = loop.time() + self._between_tokens_seconds, "stalled"
                        yield piece
                    complete = complete or bool(choice.get("finish_reason"))
            if not complete:
                raise ModelFailed("truncated")
            if complaint == "no token":
                raise ModelFailed("empty")
        finally:
            await response.aclose()


def _worth_another_try(failure: ModelFailed, first_token_by: float) -> bool:
    """Whether it failed at once, in a way that may pass."""
    left = first_token_by - asyncio.get_running_loop().time()
    status = failure.reason.removeprefix("HTTP ")
    passing = failure.reason not in ("no token", "empty") if not status.isdecimal() else int(status) in _RETRIED
    return passing and left > 0.1


async def _next_by(events: AsyncGenerator[str, None], deadline: float, complaint: str) -> str | None:
    """The next event; None at the end of the stream."""
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(events, None)
    except TimeoutError:
        raise ModelFailed(complaint) from None
    except httpx.HTTPError as error:
        raise ModelFailed(type(error).__name__) from None


async def _events(response: httpx.Response) -> AsyncGenerator[str, None]:
    """The data of the server-sent events, up to [DONE] or the end."""
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            data = line[5:].strip()
            if data == "[DONE]":
                return
            yield data


def _choice(event: str) -> dict[str, Any]:
    """The first choice of a chunk; {} if it has none (the last chunk may carry only the usage)."""
    try:
        chunk = json.loads(event)
        if "error" in chunk:
            raise ModelFailed("error event")
        choices: list[dict[str, Any]] = chunk["choices"]
        return choices[0] if choices else {}
    except (ValueError, LookupError, TypeError):
        raise ModelFailed("malformed") from None


def _piece(choice: dict[str, Any]) -> str | ToolCall | None:
    """What a chunk adds: some text, or a tool (which is named once, in its first chunk)."""
    try:
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            if name := call["function"].get("name"):
                return ToolCall(str(name))
        content = delta.get("content")
    except (LookupError, TypeError, AttributeError):
        raise ModelFailed("malformed") from None
    return content if isinstance(content, str) and content else None
