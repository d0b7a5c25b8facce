"""Language models: from the request to the first token, and from token to token, in streamed replies.

What carries a token is told by the vendors' API references. A reply that is not streamed says nothing of either, and
counts only for the outcomes. One whose client leaves (a caller who talks over it, a time that is up) says that the next
token took longer than that: `waits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from busyhour.learn.lessons import Lessons, outcome_of
from busyhour.learn.student import Conversation, End, Events, Exchange, is_stream, read_object


@dataclass(frozen=True, kw_only=True)
class Format:
    """asks: whether a path asks for a reply, streamed: whether the path and the body ask for it as a stream; has_token,
    ends: whether an event carries a token, or is the last."""

    asks: Callable[[str], bool]
    streamed: Callable[[str, bytes], bool]
    has_token: Callable[[Mapping[str, Any]], bool]
    ends: Callable[[Mapping[str, Any]], bool]


class LanguageModel:
    def __init__(self, lessons: Lessons, format_: Format) -> None:
        self._lessons = lessons
        self._format = format_

    def exchange(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Exchange | None:
        if method != "POST" or not self._format.asks(path):
            return None
        return _Reply(self._lessons, self._format, streamed=self._format.streamed(path, body))

    def conversation(self, path: str, query: Mapping[str, str]) -> Conversation | None:
        return None


class _Reply:
    def __init__(self, lessons: Lessons, format_: Format, *, streamed: bool) -> None:
        self._lessons = lessons
        self._format = format_
        self._streamed = streamed  # as was asked for, and then as it is
        self._sent_ns = 0
        self._token_ns = 0
        self._events: Events | None = None
        self._status = 0
        self._complete = False

    def sent(self, at_ns: int) -> None:
        self._sent_ns = at_ns

    def answered(self, status: int, headers: Mapping[str, str], at_ns: int) -> None:
        self._status = status
        self._streamed = status == 200 and is_stream(headers)
        if self._streamed:
            self._events = Events(headers)

    def chunk(self, data: bytes, at_ns: int) -> None:
        for event in self._events.of(data) if self._events is not None else ():
            form = event.form or {}
            if event.done or self._format.ends(form):
                self._complete = True
            if self._format.has_token(form):
                if self._token_ns:
                    self._lessons.delay("between_tokens", at_ns - self._token_ns)
                else:
                    self._lessons.delay("first_token", at_ns - self._sent_ns)
                self._token_ns = at_ns

    def ended(self, how: End, at_ns: int) -> None:
        outcome = outcome_of(self._status)
        if how is End.LEFT and not outcome:
            self._abandoned(at_ns)
            if not self._token_ns:
                return  # nobody knows what would have come
        self._lessons.request()
        self._lessons.finished += 1
        if outcome:
            self._lessons.met(outcome)
        elif self._status == 0:
            self._lessons.met("reset")
        elif how is End.BROKEN or (how is End.WHOLE and self._events is not None and not self._complete):
            self._lessons.met("truncate")

    def _abandoned(self, at_ns: int) -> None:
        """It was awaited so far: if it had arrived, and was a stream."""
        if not self._sent_ns or not self._streamed or self._complete:
            return
        if self._token_ns:
            self._lessons.abandoned("between_tokens", at_ns - self._token_ns)
        else:
            self._lessons.abandoned("first_token", at_ns - self._sent_ns)


# ---------------------------------------------------------------- the formats


# What a model thinks to itself ("reasoning", "thinking") is no token that anybody hears.
_OPENAI_DELTAS = ("response.output_text.delta", "response.function_call_arguments.delta")


def _openai_token(event: Mapping[str, Any]) -> bool:
    if event.get("type") in _OPENAI_DELTAS:
        return True
    match event.get("choices"):
        case [{"delta": {"content": str(text)}}] if text:
            return True
        case [{"delta": {"tool_calls": [{"function": {"arguments": str(text)}}, *_]}}] if text:
            return True
    return False


def _anthropic_token(event: Mapping[str, Any]) -> bool:
    match event:
        case {"type": "content_block_delta", "delta": {"type": "text_delta" | "input_json_delta"}}:
            return True
    return False


def _gemini_parts(event: Mapping[str, Any]) -> bool:
    match event.get("candidates"):
        case [{"content": {"parts": [_, *_]}}, *_]:
            return True
    return False


def _gemini_ends(event: Mapping[str, Any]) -> bool:
    match event.get("candidates"):
        case [{"finishReason": str()}, *_]:
            return True
    return False


def _wants_stream(_path: str, body: bytes) -> bool:
    return read_object(body).get("stream") is True


OPENAI = Format(
    asks=lambda path: path.endswith(("/chat/completions", "/responses")),
    streamed=_wants_stream,
    has_token=_openai_token,
    ends=lambda event: event.get("type") in ("response.completed", "response.incomplete", "response.failed"),
)
ANTHROPIC = Format(
    asks=lambda path: path.endswith("/messages"),
    streamed=_wants_stream,
    has_token=_anthropic_token,
    ends=lambda event: event.get("type") == "message_stop",
)
GEMINI = Format(
    asks=lambda path: path.endswith((":generateContent", ":streamGenerateContent")),
    streamed=lambda path, _body: path.endswith(":streamGenerateContent"),
    has_token=_gemini_parts,
    ends=_gemini_ends,
)
