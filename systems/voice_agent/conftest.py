"""Small fakes of the vendors and of the carrier, on loopback sockets, for `tests/`: the fixture `vendors`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pytest
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from voice_agent import audio

_TONE = 10 ** (-12 / 20) * np.sin(2 * np.pi * 300 * np.arange(160) / 8000)
VOICED = bytes(int(np.abs(audio.decode(bytes(range(256))) - sample).argmin()) for sample in _TONE)
SILENT = audio.SILENCE * 160
_PATIENCE_SECONDS = 60.0  # a guard against hanging


class Deepgram:
    """Answers a Finalize with the next of `transcripts`."""

    def __init__(self) -> None:
        self.transcripts: deque[str] = deque()
        self.mode = ""  # "no final", "drop" (once), "refuse", "frozen" (from the first sound)
        self.interim = ""
        self.connections = 0
        self.open = 0
        self.heard = bytearray()
        self.messages: list[str] = []
        self.heard_some = asyncio.Event()

    def refuse(self, connection: ServerConnection, _request: object) -> Any:
        return connection.respond(503, "down\n") if self.mode == "refuse" else None

    async def serve(self, socket: ServerConnection) -> None:
        self.connections += 1
        self.open += 1
        seconds, begun = 0.0, 0.0
        try:
            async for message in socket:
                if isinstance(message, bytes):
                    if self.mode == "frozen":
                        socket.transport.pause_reading()
                    self.heard += message
                    self.heard_some.set()
                    seconds += len(message) / 8000
                    if self.interim:
                        await socket.send(self._result(self.interim, begun, seconds, final=False))
                    continue
                kind = json.loads(message)["type"]
                self.messages.append(kind)
                if kind == "Finalize" and self.mode == "drop":
                    self.mode = ""
                    return
                if kind == "Finalize" and self.mode != "no final":
                    text = self.transcripts.popleft() if self.transcripts else ""
                    await socket.send(self._result(text, begun, seconds, final=True))
                    begun = seconds
        except ConnectionClosed:
            return
        finally:
            self.open -= 1

    @staticmethod
    def _result(text: str, begun: float, ended: float, *, final: bool) -> str:
        alternatives = [{"transcript": text, "confidence": 0.9, "words": []}]
        result = {"type": "Results", "channel_index": [0, 1], "start": begun, "duration": ended - begun}
        return json.dumps(
            {**result, "is_final": final, "from_finalize": final, "channel": {"alternatives": alternatives}}
        )


class Wire(Protocol):
    """How a language model's vendor puts a reply on the wire, in server-sent events."""

    def begin(self) -> list[str]: ...

    def word(self, word: str) -> list[str]: ...

    def tools(self, calls: Sequence[tuple[str, str]]) -> list[str]: ...

    def end(self, words: int, *, tool: bool) -> list[str]: ...


class LanguageModel:
    """Answers a request with the next of `replies`, word by word, or as the arguments of the tool that it forces; eight
    tokens of each prompt are counted."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.replies: deque[str] = deque()
        self.modes: deque[str] = deque()  # one a request: "", "no token", "truncate", "stall", "malformed", "tool",
        self.always = ""  # "call", "empty", "quota", "500", "401"; and the mode when there is none left
        self.calls: deque[list[tuple[str, str]]] = deque()  # tools and arguments, for "call"
        self.preface = ""  # said before a call
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.asked = asyncio.Event()
        self.hold: asyncio.Event | None = None  # no more until it is set, after so many words:
        self.hold_after = 0

    async def complete(self, request: Request) -> Response:
        self.requests.append(await request.json())
        self.headers.append(dict(request.headers))
        self.asked.set()
        mode = self.modes.popleft() if self.modes else self.always
        if mode.isdecimal():
            return Response('{"error":{"message":"no"}}', int(mode))
        if mode == "quota":
            return Response('{"error":{"message":"Please check your plan and billing details."}}', 429)
        calls = self._called(mode)
        stream = self._call(calls) if calls else self._stream(mode)
        return StreamingResponse(stream, media_type="text/event-stream")

    def _called(self, mode: str) -> Sequence[tuple[str, str]]:
        choice = self.requests[-1].get("tool_choice")
        if isinstance(choice, dict) and "name" in choice and not mode and self.replies:
            return [(choice["name"], self.replies.popleft())]
        return {"tool": lambda: [("transfer_call", "{}")], "call": self.calls.popleft}.get(mode, list)()

    async def _call(self, calls: Sequence[tuple[str, str]]) -> AsyncIterator[str]:
        said = self._wire.word(f"{self.preface} ") if self.preface else []
        for event in (*self._wire.begin(), *said):
            yield event
        for number, event in enumerate([*self._wire.tools(calls), *self._wire.end(1, tool=True)]):
            if self.hold is not None and number == self.hold_after:
                await self.hold.wait()
            yield event

    async def _stream(self, mode: str) -> AsyncIterator[str]:
        for event in self._wire.begin():
            yield event
        if mode == "no token":
            await asyncio.Event().wait()
        reply = self.replies.popleft() if self.replies else "We are open until six. Anything else?"
        words = [] if mode == "empty" else reply.split(" ")
        for number, word in enumerate(words):
            if self.hold is not None and number == self.hold_after:
                await self.hold.wait()
            if mode in ("truncate", "stall") and number == len(words) - 1:
                if mode == "stall":
                    await asyncio.Event().wait()
                return
            for event in ["data: {not json\n\n"] if mode == "malformed" else self._wire.word(word + " "):
                yield event
        for event in self._wire.end(len(words), tool=False):
            yield event


def _halves(text: str) -> list[str]:
    return [text[: len(text) // 2], text[len(text) // 2 :]]


def _event(data: dict[str, Any], name: str = "") -> str:
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"


class OpenAI:
    def begin(self) -> list[str]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def word(self, word: str) -> list[str]:
        return [self._chunk({"content": word})]

    def tools(self, calls: Sequence[tuple[str, str]]) -> list[str]:
        pieces: list[dict[str, Any]] = []
        for index, (name, arguments) in enumerate(calls):
            function = {"name": name, "arguments": ""}
            pieces += [{"index": index, "id": f"t{index}", "type": "function", "function": function}]
            pieces += [{"index": index, "function": {"arguments": half}} for half in _halves(arguments)]
        return [self._chunk({"tool_calls": [piece]}) for piece in pieces]

    def end(self, words: int, *, tool: bool) -> list[str]:
        usage = {"prompt_tokens": 8, "completion_tokens": words}
        finish = self._chunk({}, "tool_calls" if tool else "stop")
        return [finish, _event({"id": "c", "choices": [], "usage": usage}), "data: [DONE]\n\n"]

    @staticmethod
    def _chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        return _event({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None})


class Anthropic:
    def begin(self) -> list[str]:
        message = {"id": "m", "role": "assistant", "content": [], "usage": {"input_tokens": 8, "output_tokens": 1}}
        block = {"type": "text", "text": ""}
        return [
            self._told("message_start", message=message),
            self._told("content_block_start", index=0, content_block=block),
            self._told("ping"),
        ]

    def word(self, word: str) -> list[str]:
        return [self._told("content_block_delta", index=0, delta={"type": "text_delta", "text": word})]

    def tools(self, calls: Sequence[tuple[str, str]]) -> list[str]:
        events: list[str] = []
        for index, (name, arguments) in enumerate(calls, 1):
            block = {"type": "tool_use", "id": f"t{index}", "name": name, "input": {}}
            events.append(self._told("content_block_start", index=index, content_block=block))
            for half in _halves(arguments):
                delta = {"type": "input_json_delta", "partial_json": half}
                events.append(self._told("content_block_delta", index=index, delta=delta))
        return events

    def end(self, words: int, *, tool: bool) -> list[str]:
        delta = {"stop_reason": "tool_use" if tool else "end_turn", "stop_sequence": None}
        return [
            self._told("content_block_stop", index=0),
            self._told("message_delta", delta=delta, usage={"output_tokens": words}),
            self._told("message_stop"),
        ]

    @staticmethod
    def _told(kind: str, **fields: Any) -> str:
        return _event({"type": kind, **fields}, kind)


class Gemini:
    def begin(self) -> list[str]:
        return [self._chunk([], tokens=0)]

    def word(self, word: str) -> list[str]:
        return [self._chunk([{"text": word}], tokens=1)]

    def tools(self, calls: Sequence[tuple[str, str]]) -> list[str]:
        parts = [{"functionCall": {"name": name, "args": json.loads(arguments)}} for name, arguments in calls]
        return [self._chunk([{**part, "thoughtSignature": "s"}], tokens=1) for part in parts]

    def end(self, words: int, *, tool: bool) -> list[str]:
        return [self._chunk([], tokens=words, finishReason="STOP")]

    @staticmethod
    def _chunk(parts: list[dict[str, Any]], *, tokens: int, **fields: str) -> str:
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0, **fields}
        usage = {"promptTokenCount": 8, "candidatesTokenCount": tokens}
        return _event({"candidates": [candidate], "usageMetadata": usage})


class Cartesia:
    """Makes 10 ms of sound a word, at once."""

    def __init__(self) -> None:
        self.mode = ""  # "refuse", "hang", "no audio", "error", "drop", "stall" (after the first sentence)
        self.ms_per_word = 10
        self.said: list[str] = []
        self.cancelled: list[str] = []
        self.failed = asyncio.Event()
        self.open = 0
        self.news = asyncio.Event()
        self._socket: ServerConnection | None = None

    def refuse(self, connection: ServerConnection, _request: object) -> Any:
        return connection.respond(503, "down\n") if self.mode == "refuse" else None

    async def lose(self) -> None:
        """Close the connection, and wait until no other is to come for a while."""
        assert self._socket is not None
        await self._socket.close()

    async def serve(self, socket: ServerConnection) -> None:
        self.open += 1
        self._socket = socket
        at: dict[str, float] = {}
        try:
            async for message in socket:
                request = json.loads(message)
                context = request["context_id"]
                if request.get("cancel"):
                    self.cancelled.append(context)
                    self.news.set()
                elif self.mode == "drop":
                    return
                elif self.mode == "error":
                    self.failed.set()
                    await self._send(
                        socket, context, type="error", title="no", message="no", status_code=402, done=True
                    )
                elif self.mode != "hang":
                    await self._speak(socket, context, request, at)
        except ConnectionClosed:
            return
        finally:
            self.open -= 1

    async def _speak(
        self, socket: ServerConnection, context: str, request: dict[str, Any], at: dict[str, float]
    ) -> None:
        words = request["transcript"].split()
        if words:
            self.said.append(request["transcript"].strip())
            self.news.set()
        if words and self.mode != "no audio" and not (self.mode == "stall" and context in at):
            begun = at.setdefault(context, 0.0)
            ends = [begun + self.ms_per_word / 1000 * (n + 1) for n in range(len(words))]
            timed = {"words": words, "start": ends, "end": ends}
            await self._send(socket, context, type="timestamps", word_timestamps=timed, done=False, status_code=206)
            sound = (VOICED * (len(words) * self.ms_per_word // 20 + 1))[: len(words) * self.ms_per_word * 8]
            data = base64.b64encode(sound).decode()
            await self._send(socket, context, type="chunk", data=data, done=False, status_code=206, step_time=1)
            at[context] = ends[-1]
        if not request["continue"] and self.mode != "stall":
            await self._send(socket, context, type="done", done=True, status_code=200)

    async def _send(self, socket: ServerConnection, context: str, **message: Any) -> None:
        await socket.send(json.dumps({"context_id": context, **message}))


class ElevenLabs:
    """Makes 10 ms of sound a word, at once; a message of its times words from zero."""

    def __init__(self) -> None:
        self.mode = ""  # "no audio", "error", "refuse"
        self.ms_per_word = 10
        self.said: list[str] = []
        self.closed: list[str] = []
        self.requests: list[Any] = []  # the handshakes
        self.open = 0
        self.news = asyncio.Event()

    def refuse(self, connection: ServerConnection, request: Any) -> Any:
        self.requests.append(request)
        return connection.respond(401, "no\n") if self.mode == "refuse" else None

    async def serve(self, socket: ServerConnection) -> None:
        self.open += 1
        begun: set[str] = set()
        try:
            async for message in socket:
                request = json.loads(message)
                context = request["context_id"]
                if context not in begun:
                    assert request["text"] == " "  # as the vendor wants a context to begin
                    begun.add(context)
                elif request.get("close_context"):
                    self.closed.append(context)
                    await socket.send(json.dumps({"isFinal": True, "contextId": context}))
                elif self.mode == "error":
                    await socket.send(json.dumps({"message": "no", "error": "quota_exceeded", "code": 1008}))
                    await socket.close(1008, "quota_exceeded")
                else:
                    assert request["flush"]
                    await self._speak(socket, context, request["text"].strip())
        except ConnectionClosed:
            return
        finally:
            self.open -= 1

    async def _speak(self, socket: ServerConnection, context: str, text: str) -> None:
        self.said.append(text)
        self.news.set()
        if self.mode == "no audio":
            return
        words, starts = text.split(" "), [0.0]
        durations = [self.ms_per_word / (len(word) + 1) for word in words for _ in (*word, " ")]
        for duration in durations[:-1]:
            starts.append(starts[-1] + duration)
        alignment = {"chars": list(text + " "), "charStartTimesMs": starts, "charDurationsMs": durations}
        sound = (VOICED * (len(words) * self.ms_per_word // 20 + 1))[: len(words) * self.ms_per_word * 8]
        audio = base64.b64encode(sound).decode()
        await socket.send(json.dumps({"audio": audio, "alignment": alignment, "contextId": context}))


class Telnyx:
    """Takes commands. `failures`: how many more requests are answered with 500; `frozen`: not before it is set."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.news = asyncio.Event()
        self.failures = 0
        self.ended = False
        self.frozen: asyncio.Event | None = None
        self.on_command: Callable[[str, str], None] | None = None

    async def command(self, call_control_id: str, action: str, request: Request) -> Response:
        self.commands.append((action, {**await request.json(), "call": call_control_id}))
        self.news.set()
        if self.frozen is not None:
            await self.frozen.wait()
        if self.failures:
            self.failures -= 1
            return Response(status_code=500)
        if self.ended:
            return Response('{"errors":[{"code":"90018","title":"Call has already ended"}]}', 422)
        if self.on_command is not None:
            self.on_command(action, call_control_id)
        return Response('{"data":{"result":"ok"}}', media_type="application/json")

    async def commanded(self, action: str, call: str = "") -> dict[str, Any]:
        """The first such command, of any call unless told."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                for name, command in self.commands:
                    if name == action and call in ("", command["call"]):
                        return command
                self.news.clear()
                await self.news.wait()

    def names(self) -> list[str]:
        return [name for name, _ in self.commands]


class Company:
    """The company's own API of appointments; `hold`: not before it is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.done = 0
        self.news = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.answer = (201, '{"id":1}')

    async def book(self, request: Request) -> Response:
        return await self._answer("book", await request.json())

    async def cancel(self, request: Request) -> Response:
        return await self._answer("cancel", dict(request.query_params))

    async def _answer(self, what: str, told: dict[str, Any]) -> Response:
        self.asked.append((what, told))
        self.news.set()
        if self.hold is not None:
            await self.hold.wait()
        self.done += 1
        status, body = self.answer
        return Response(body, status, media_type="application/json")


@dataclass(kw_only=True)
class Vendors:
    """One of each, and what a caller sounds like."""

    deepgram: Deepgram = field(default_factory=Deepgram)
    deepgram_fallback: Deepgram = field(default_factory=Deepgram)
    openai: LanguageModel = field(default_factory=lambda: LanguageModel(OpenAI()))
    anthropic: LanguageModel = field(default_factory=lambda: LanguageModel(Anthropic()))
    gemini: LanguageModel = field(default_factory=lambda: LanguageModel(Gemini()))
    cartesia: Cartesia = field(default_factory=Cartesia)
    elevenlabs: ElevenLabs = field(default_factory=ElevenLabs)
    telnyx: Telnyx = field(default_factory=Telnyx)
    company: Company = field(default_factory=Company)
    voiced: bytes = VOICED
    silent: bytes = SILENT


@pytest.fixture
def vendors() -> Callable[[], Vendors]:
    """Makes a set of them."""
    return Vendors
