"""One context of Cartesia's voice API: inputs in, events out, in order.

Cancelling is documented twice, and not alike. The guide on contexts: only requests that have not begun to respond are
halted, and one that is responding goes on to its end. The API reference, and the SDK with it: no more messages are
generated for the context. The guide is followed, which is exact, and which an agent must stand in any case: it must
itself be silent after its cancel. Decided where the guide leaves it open: a request has begun to respond when its first
audio has been sent, text that waits for the rest of its sentence has not begun, what is sent to its end ends with
"done", and until then the context takes no input.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from busyhour.emulators.behaviour import Fate
from busyhour.emulators.cartesia.request import Asked, Refused, word_timestamps
from busyhour.emulators.synthesis import Chunk, Speech, cut
from busyhour.emulators.twin import Twin, hang
from busyhour.model import JSON, MS, SECOND

_EXPIRES_NS = 1 * SECOND
"""A context that waits for more input ends this long after its last audio (documented)."""
_INPUTS_AT_MOST = 1000

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
        self.speech = Speech(twin, fate, first.sound, model=first.model)  # the first input's hold for the whole context
        self._twin = twin
        self._fate = fate
        self._timestamps = first.add_timestamps
        self._id = first.context_id
        self._send = send
        self._inputs: asyncio.Queue[_Input] = asyncio.Queue(_INPUTS_AT_MOST)
        self._flushes = 0
        self._closed = False
        self._sending = False

    def give(self, asking: Asked) -> None:
        """Queue an input. Raises Refused after the last one or a cancel, and when too many wait."""
        if self._closed:
            raise Refused("The context has had its last input.", title="Context closed")
        try:
            self._inputs.put_nowait(_Input(self._twin.clock.now_ns(), asking))
        except asyncio.QueueFull:
            message = f"More than {_INPUTS_AT_MOST} inputs of one context are waiting."
            raise Refused(message, status=429, title="Too many inputs", code="concurrency_limited") from None
        self.speech.busy = True
        self._closed = not asking.goes_on

    def cancel(self) -> bool:
        """The client wants no more. True if an input is being answered, which is to go on to its end: "done". All else
        is dropped; a context that stalls has no end."""
        self.speech.cancelled = self._closed = True
        return self._sending and self._fate.outcome != "stall"

    async def speak(self) -> None:
        """Live to the end of the context: its last input, its expiry, its fate, or cancellation.

        Raises Refused for the fates "error" and "quota", ConnectionAbortedError for "reset".
        """
        with suppress(ConnectionResetError):  # the client went away while we sent
            await self._speak()
            self.speech.over = True

    async def _speak(self) -> None:
        if self._fate.outcome in {"hang", "error", "quota"}:
            await self._fail()
        waiting = ""
        oldest_ns = 0
        while True:
            got = await self._next(oldest_ns if waiting else None)
            if got is None:
                if not waiting:
                    return None  # expired
                pieces, waiting = cut(waiting, whole=True)
                await self._say(pieces, self._twin.clock.now_ns())
                if self.speech.cancelled:
                    return await self._done()
                continue
            asking = got.asked
            self.speech.note(asking.transcript)
            if not waiting:
                oldest_ns = got.arrived_ns + round(asking.max_buffer_delay_ms * MS)
            whole = asking.flush or not asking.goes_on or asking.max_buffer_delay_ms == 0
            pieces, waiting = cut(waiting + asking.transcript, whole=whole)
            await self._say(pieces, got.arrived_ns)
            if asking.flush:
                self._flushes += 1
                await self._send(event("flush_done", self._id, flush_done=True, flush_id=self._flushes))
            if not asking.goes_on or self.speech.cancelled:
                return await self._done()

    async def _done(self) -> None:
        await self._send(event("done", self._id, done=True))

    async def _fail(self) -> None:
        """Meet a fate that has no audio."""
        while not self._inputs.empty():
            self.speech.note(self._inputs.get_nowait().asked.transcript)
        if self._fate.outcome == "hang":
            await hang()
        if self._fate.outcome == "quota":
            message = "You have used all credits of your plan. Upgrade it, or enable overages, to go on."
            raise Refused(message, status=402, title="Quota exceeded", code="quota_exceeded")
        raise Refused("The voice could not be generated.", status=500, title="Internal server error")

    async def _next(self, until_ns: int | None) -> _Input | None:
        """The next input; None when the waiting text's time is up, or that of the whole context."""
        self.speech.busy = until_ns is not None or not self._inputs.empty()
        if until_ns is None and self.speech.first_audio_ns is not None:
            until_ns = max(self.speech.made_until_ns, self._twin.clock.now_ns()) + _EXPIRES_NS
        if until_ns is None:
            return await self._inputs.get()
        try:
            async with asyncio.timeout(max(0, until_ns - self._twin.clock.now_ns()) / SECOND):
                return await self._inputs.get()
        except TimeoutError:
            return None

    async def _say(self, pieces: Sequence[str], arrived_ns: int) -> None:
        await self.speech.say(pieces, arrived_ns=arrived_ns, shape=self._events, send=self._send_all)
        self._sending = False

    def _events(self, chunk: Chunk) -> list[Event]:
        flush_id = self._flushes + 1
        data = b64encode(chunk.octets).decode()
        sound = event("chunk", self._id, data=data, step_time=round(chunk.step_ms, 3), flush_id=flush_id)
        if chunk.at_ms > 0 or not self._timestamps:
            return [sound]
        began_ms = chunk.piece_began_ms + chunk.pause_ms
        words = word_timestamps(chunk.piece, began_ms=began_ms, lasts_ms=chunk.piece_ms - chunk.pause_ms)
        return [event("timestamps", self._id, word_timestamps=words, flush_id=flush_id), sound]

    async def _send_all(self, events: list[Event]) -> None:
        self._sending = True
        for one in events:
            await self._send(one)


def event(kind: str, context_id: str, **more: JSON) -> dict[str, JSON]:
    """A message of a context as it goes over the wire."""
    return {"type": kind, "done": False, "status_code": 206, "context_id": context_id, **more}
