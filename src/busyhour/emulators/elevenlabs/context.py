"""One context of the ElevenLabs twin: text in, chunks and their alignment out, in order."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from busyhour.emulators.behaviour import Fate
from busyhour.emulators.elevenlabs.request import (
    SCHEDULE,
    TEXT_CHARACTERS_AT_MOST,
    TRIGGER_CHARACTERS,
    Message,
    Options,
    Refused,
    quota_exceeded,
    too_long,
    went_wrong,
)
from busyhour.emulators.synthesis import CHUNK_MS, Chunk, Speech, character_spans, cut
from busyhour.emulators.twin import Twin, hang
from busyhour.model import JSON, SECOND

_JOBS_AT_MOST = 1000
Send = Callable[[Mapping[str, JSON]], Awaitable[None]]


class Context:
    """One stretch of speech. `name` goes into its messages; None on a socket that has no contexts.

    `send` puts a message on the wire and waits until there is room for it; `bill` is told how many characters came.
    """

    def __init__(
        self,
        twin: Twin,
        fate: Fate,
        options: Options,
        *,
        name: str | None,
        first: Message,
        send: Send,
        bill: Callable[[int], None],
    ) -> None:
        self.speech = Speech(twin, fate, options.sound, model=options.model)
        self.fate = fate
        self.settings = first.settings
        self._twin = twin
        self._options = options
        self._name = name
        self._schedule: Sequence[float] = first.schedule or SCHEDULE
        self._send = send
        self._bill = bill
        self._jobs: asyncio.Queue[tuple[list[str], int] | None] = asyncio.Queue(_JOBS_AT_MOST)
        self._waiting = ""
        self._spoken = 0  # how many times text was taken to be spoken
        self._heard_ns = twin.clock.now_ns()

    @property
    def idle_at_ns(self) -> int:
        """When it ends if no message comes."""
        return self._heard_ns + self._options.inactivity_seconds * SECOND

    def give(self, message: Message) -> None:
        """Take a message with text, or with a flush. Raises Refused."""
        self._heard_ns = self._twin.clock.now_ns()
        text = message.text or ""
        if text.strip():
            self.speech.note(text)
            self._bill(len(text))
        self._waiting = (self._waiting + text).lstrip()
        if len(self._waiting) > TEXT_CHARACTERS_AT_MOST:
            raise too_long(len(self._waiting))
        if message.flush or self._options.auto_mode:
            self._take(*cut(self._waiting, whole=True))
        elif len(self._waiting) >= self._wanted(message):
            pieces, rest = cut(self._waiting, whole=False)
            # A sentence without end is spoken as far as it has come.
            self._take(*((pieces, rest) if pieces else ([rest], "")))
        self.speech.busy = self.speech.busy or bool(self._waiting) or not self._jobs.empty()

    def _wanted(self, message: Message) -> float:
        if message.trigger:
            return TRIGGER_CHARACTERS
        return self._schedule[min(self._spoken, len(self._schedule) - 1)]

    def _take(self, pieces: list[str], rest: str) -> None:
        self._waiting = rest
        if any(piece.strip() for piece in pieces):
            self._spoken += 1
            self._queue((pieces, self._heard_ns))

    def _queue(self, job: tuple[list[str], int] | None) -> None:
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            raise too_long(TEXT_CHARACTERS_AT_MOST + 1) from None

    def close(self, *, flush: bool) -> None:
        """No more will be given: end when what was taken is spoken; what waits is spoken too, or dropped. Refused."""
        if flush:
            self._take(*cut(self._waiting, whole=True))
        self.speech.cancelled = self.speech.cancelled or bool(self._waiting.strip())
        self._waiting = ""
        self._queue(None)

    async def speak(self) -> None:
        """Live to the end of the context. Raises Refused for "error" and "quota", ConnectionAbortedError: "reset"."""
        with suppress(ConnectionResetError):  # the client went away while we sent
            while (job := await self._next()) is not None:
                await self._say(*job)
                if self.fate.outcome == "zero_audio":
                    break
            self.speech.over = True
            await self._send(final_message(self._name))

    async def _next(self) -> tuple[list[str], int] | None:
        self.speech.busy = not self._jobs.empty() or bool(self._waiting.strip())
        return await self._jobs.get()

    async def _say(self, pieces: Sequence[str], arrived_ns: int) -> None:
        if self.fate.outcome == "hang":
            await hang()
        refuse_if_fated(self.fate, sum(map(len, pieces)))
        await self.speech.say(
            pieces, arrived_ns=arrived_ns, shape=lambda chunk: audio_message(chunk, self._name), send=self._send
        )


def refuse_if_fated(fate: Fate, characters: int) -> None:
    """Raise the refusal that was drawn for a context or a request, if it was one."""
    refusal: Refused | None = None
    if fate.outcome == "quota":
        refusal = quota_exceeded(characters)
    if fate.outcome == "error":
        refusal = went_wrong()
    if refusal is not None:
        raise refusal


def characters_of(chunk: Chunk) -> list[tuple[str, float, float]]:
    """The characters that begin in a chunk, and when they begin and end, in ms since it began."""
    spans = character_spans(chunk.piece, chunk.piece_ms - chunk.pause_ms)
    is_last = chunk.at_ms + CHUNK_MS >= chunk.piece_ms
    found = []
    for character, (began, ended) in zip(chunk.piece, spans, strict=True):
        at = began + chunk.pause_ms - chunk.at_ms
        if at >= 0 and (at < CHUNK_MS or is_last):
            found.append((character, at, ended + chunk.pause_ms - chunk.at_ms))
    return found


def audio_message(chunk: Chunk, name: str | None) -> dict[str, JSON]:
    """A chunk as it goes over a socket."""
    found = characters_of(chunk)
    alignment: dict[str, JSON] | None = None
    if found:
        alignment = {
            "chars": [character for character, _, _ in found],
            "charStartTimesMs": [round(began) for _, began, _ in found],
            "charDurationsMs": [round(ended) - round(began) for _, began, ended in found],
        }
    message: dict[str, JSON] = {
        "audio": b64encode(chunk.octets).decode(),
        "isFinal": None,
        "normalizedAlignment": alignment,  # nothing is normalised: numbers stay as they are written
        "alignment": alignment,
    }
    return message if name is None else {**message, "contextId": name}


def final_message(name: str | None) -> dict[str, JSON]:
    """What ends a context."""
    return {"isFinal": True, "audio": None} if name is None else {"isFinal": True, "contextId": name}
