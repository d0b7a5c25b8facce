"""One context of the voice API: text in, audio out, in order, at the pace of the twin's behaviour."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from busyhour.emulators.behaviour import OK, Fate
from busyhour.emulators.cartesia_request import Asked, Format, Refused, audio_of, cut, ends_sentence, word_timestamps
from busyhour.emulators.twin import Twin, hang
from busyhour.media.utterances import PAUSE_MS
from busyhour.model import JSON, MS, SECOND, Operation

CHUNK_MS = 100
_EXPIRES_NS = 1 * SECOND
"""A context that waits for more input ends this long after its last audio (documented)."""
_INPUTS_AT_MOST = 1000
_KEPT_CHARACTERS = 500
"""Of a text, in a witnessed row."""

Event = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class _Input:
    arrived_ns: int
    asked: Asked


class Context:
    """One stretch of speech: inputs in, events out, in order.

    `send` puts an event on the wire and waits until there is room for it.
    """

    def __init__(self, twin: Twin, fate: Fate, first: Asked, send: Callable[[Event], Awaitable[None]]) -> None:
        self._twin = twin
        self._fate = fate
        self._format: Format = first.format  # the first input's hold for the whole context
        self._timestamps = first.add_timestamps
        self._id = first.context_id
        self._send = send
        self._inputs: asyncio.Queue[_Input] = asyncio.Queue(_INPUTS_AT_MOST)
        self._began_ns = twin.clock.now_ns()
        self._made_until_ns = self._began_ns  # the pipeline is busy with earlier sentences until then
        self._first_audio_ns: int | None = None
        self._sent_octets = 0  # of audio
        self._after_sentence = False
        self._planned_ms = 0.0  # of audio, for the timestamps
        self._flushes = 0
        self._text = ""
        self._busy = False
        self._over = False
        self._closed = False
        self.cancelled = False
        twin.count(fate.outcome)

    def give(self, asking: Asked) -> None:
        """Queue an input. Raises Refused after the last one, and when too many wait."""
        if self._closed:
            raise Refused("The context has had its last input.", title="Context closed")
        try:
            self._inputs.put_nowait(_Input(self._twin.clock.now_ns(), asking))
        except asyncio.QueueFull:
            message = f"More than {_INPUTS_AT_MOST} inputs of one context are waiting."
            raise Refused(message, status=429, title="Too many inputs", code="concurrency_limited") from None
        self._busy = True
        self._closed = not asking.goes_on

    async def speak(self) -> None:
        """Live to the end of the context: its last input, its expiry, its fate, or cancellation.

        Raises Refused for the fate "error", ConnectionAbortedError for "reset".
        """
        with suppress(ConnectionResetError):  # the client went away while we sent
            await self._speak()
            self._over = True

    async def _speak(self) -> None:
        if self._fate.outcome == "hang":
            await hang()
        if self._fate.outcome == "error":
            raise Refused("The voice could not be generated.", status=500, title="Internal server error")
        waiting = ""
        oldest_ns = 0
        while True:
            got = await self._next(oldest_ns if waiting else None)
            if got is None:
                if not waiting:
                    return  # expired
                pieces, waiting = cut(waiting, whole=True)
                await self._say(pieces, self._twin.clock.now_ns())
                continue
            asking = got.asked
            self._text = (self._text + asking.transcript)[:_KEPT_CHARACTERS]
            if not waiting:
                oldest_ns = got.arrived_ns + round(asking.max_buffer_delay_ms * MS)
            whole = asking.flush or not asking.goes_on or asking.max_buffer_delay_ms == 0
            pieces, waiting = cut(waiting + asking.transcript, whole=whole)
            await self._say(pieces, got.arrived_ns)
            if asking.flush:
                self._flushes += 1
                await self._send(event("flush_done", self._id, flush_done=True, flush_id=self._flushes))
            if not asking.goes_on:
                await self._send(event("done", self._id, done=True))
                return

    async def _next(self, until_ns: int | None) -> _Input | None:
        """The next input; None when the waiting text's time is up, or that of the whole context."""
        self._busy = until_ns is not None or not self._inputs.empty()
        if until_ns is None and self._first_audio_ns is not None:
            until_ns = max(self._made_until_ns, self._twin.clock.now_ns()) + _EXPIRES_NS
        if until_ns is None:
            return await self._inputs.get()
        try:
            async with asyncio.timeout(max(0, until_ns - self._twin.clock.now_ns()) / SECOND):
                return await self._inputs.get()
        except TimeoutError:
            return None

    async def _say(self, pieces: Sequence[str], arrived_ns: int) -> None:
        for piece in pieces:
            audio = audio_of(piece, self._format, pause=self._after_sentence)
            if not audio:
                continue
            ready_ns = arrived_ns + self._twin.behaviour.delay_ns("first_audio", self._fate.random)
            due_ns = max(ready_ns, self._made_until_ns)
            if self._fate.outcome == "zero_audio":
                await self._twin.clock.sleep_until(due_ns)
                continue
            if self._fate.outcome == "reset":
                await self._twin.clock.sleep_until(due_ns)
                raise ConnectionAbortedError
            stalls = self._fate.outcome == "stall"
            await self._play(piece, audio[: len(audio) // 2] if stalls else audio, due_ns)
            if stalls:
                await hang()

    async def _play(self, piece: str, audio: bytes, due_ns: int) -> None:
        """Send the audio of a piece in chunks, the first one at `due_ns`."""
        pause_ms = PAUSE_MS if self._after_sentence else 0
        lasts_ms = self._format.ms(len(audio))
        self._after_sentence = ends_sentence(piece)
        step_octets = self._format.octets(CHUNK_MS)
        step_ns = round(CHUNK_MS * MS / self._twin.behaviour.numbers["realtime_factor"])
        for at in range(0, len(audio), step_octets):
            await self._twin.clock.sleep_until(due_ns)
            if at == 0 and self._timestamps:
                words = word_timestamps(piece, began_ms=self._planned_ms + pause_ms, lasts_ms=lasts_ms - pause_ms)
                await self._send(event("timestamps", self._id, word_timestamps=words, flush_id=self._flushes + 1))
            part = audio[at : at + step_octets]
            data = b64encode(part).decode()
            chunk = event("chunk", self._id, data=data, step_time=round(step_ns / MS, 3), flush_id=self._flushes + 1)
            await self._send(chunk)
            self._sent_octets += len(part)
            self._first_audio_ns = self._first_audio_ns or self._twin.clock.now_ns()
            due_ns += step_ns
        self._planned_ms += lasts_ms
        self._made_until_ns = due_ns

    def witness(self) -> None:
        """Tell the harness what came of it; to be called once, when it is over."""
        outcome = self._fate.outcome
        if outcome == OK and not self._over and not self.cancelled and self._busy:
            outcome = "client closed"
        self._twin.witness(
            Operation(
                id=f"{self._twin.name}/{self._fate.number}",
                kind="tts",
                phase="",
                due_ns=self._began_ns,
                began_ns=self._began_ns,
                ended_ns=self._twin.clock.now_ns(),
                outcome=outcome,
                who=self._twin.name,
                detail={
                    "text": self._text,
                    "first_audio_ns": self._first_audio_ns,
                    "audio_ms": round(self._format.ms(self._sent_octets), 3),
                    "cancelled": self.cancelled,
                },
            )
        )


def event(kind: str, context_id: str, **more: JSON) -> dict[str, JSON]:
    """A message of a context as it goes over the wire."""
    return {"type": kind, "done": False, "status_code": 206, "context_id": context_id, **more}
