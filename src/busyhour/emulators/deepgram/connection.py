"""One connection of the Deepgram twin: what comes is heard at once, what is said leaves at its time, in order."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import itemgetter

from aiohttp import WSMessage, WSMsgType, web

from busyhour.emulators.behaviour import HTTP_OUTCOMES, OK, Fate
from busyhour.emulators.deepgram import OUTCOMES, UNKNOWN_SPEECH
from busyhour.emulators.deepgram.messages import Ending, Fatal, Hearing, Piece, Said
from busyhour.emulators.deepgram.room import Room
from busyhour.emulators.listening import Event, Transcript
from busyhour.emulators.twin import Twin, reset
from busyhour.model import JSON, SECOND, Operation

CONNECTION_OUTCOMES = (*HTTP_OUTCOMES, "quota")
_SPEECH_OUTCOMES = tuple(outcome for outcome in OUTCOMES if outcome not in CONNECTION_OUTCOMES)
_QUEUED_AT_MOST = 1_000
"""Messages that wait for their time; interim results beyond are dropped, and at ten times as many the connection is."""
_PIECE_BYTES = 16_000
"""Of a long message, taken before others have their turn."""
_ARRIVALS_KEPT = 6_000
"""Messages whose arrival is remembered: two minutes of 20 ms frames."""


class _Failed(Exception):
    """The fate "error" befell an utterance."""


class _NotAudio(Exception):
    """Octets came, and nobody said how they are to be read."""


class _Gone(Exception):
    """The client is gone, and how it went."""


@dataclass(frozen=True, slots=True)
class _Utterance:
    """What befalls the utterance that is being spoken: drawn when it begins."""

    fate: Fate
    final_ns: int
    late_ns: int


@dataclass(frozen=True, slots=True)
class _Outgoing:
    due_ns: int
    message: Mapping[str, JSON]
    operation: Operation | None = None


class Connection:
    """One stream: what comes is heard at once, what is said leaves at its time, in order."""

    def __init__(
        self,
        twin: Twin,
        request: web.Request,
        socket: web.WebSocketResponse,
        *,
        stream: Hearing,
        request_id: str,
        room: Room,
    ) -> None:
        self._twin = twin
        self._room = room
        self._request = request
        self._socket = socket
        self._stream = stream
        self._id = request_id
        self._now = twin.clock.now_ns
        self._began_ns = self._now()
        self._heard_ns = self._began_ns  # when the client last gave a sign of life
        self._asked_ns = self._began_ns  # when it last said anything but audio
        self._arrivals: deque[tuple[int, int]] = deque(maxlen=_ARRIVALS_KEPT)  # samples so far, when
        self._outgoing: asyncio.Queue[_Outgoing | None] = asyncio.Queue()
        self._last_due_ns = 0
        self._spoken: dict[int, _Utterance] = {}  # by channel
        self._sending: _Outgoing | None = None
        self._mute = False
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._finals = 0
        self._told_samples = 0  # of the audio, in rows of finals

    async def serve(self) -> None:
        """Until the client closes, falls silent or goes away, or fate breaks the connection."""
        sender = asyncio.create_task(self._send_in_time())
        outcome = "client closed"
        try:
            outcome = await self._live(sender)
        except ConnectionAbortedError:
            outcome = "reset"
            reset(self._request)
        finally:
            sender.cancel()
            # Before anything is awaited: we may be cancelled already, the client being gone.
            self._witness_connection(outcome)
            await asyncio.wait({sender})
            if not sender.cancelled():
                sender.result()

    async def _live(self, sender: asyncio.Task[None]) -> str:
        """How the connection ended."""
        try:
            self._say(self._stream.greeting())
            if await self._read_until_idle():
                await self._finish(sender, self._stream.farewell(), flush=True)
                return OK
            await self._finish(sender, self._stream.silence(), flush=False)
            return "idle"
        except _Gone as gone:
            return str(gone)
        except _NotAudio:
            await self._finish(sender, self._stream.nonsense(), flush=False)
            return "not audio"
        except _Failed:
            await self._finish(sender, self._stream.failure(), flush=False)
            return "error"
        except Fatal as problem:
            await self._finish(sender, problem.ending, flush=False)
            return "not understood"

    async def _read_until_idle(self) -> bool:
        """True when the client wants to close; False when it has said nothing for too long."""
        # One timer for a connection: a timeout for each message costs as much as reading it.
        reading = asyncio.create_task(self._read())
        idle = asyncio.create_task(self._until_idle())
        try:
            with self._room.entered(self):
                await asyncio.wait({reading, idle, self._broken}, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.done():
                self._broken.result()
            if reading.done():
                reading.result()
            return reading.done()
        finally:
            for end in (reading, idle, self._broken):
                end.cancel()
            await asyncio.wait({reading, idle})
            # One of them has been told above; what ended the others as well is not told, and not warned of.
            for end in (reading, idle, self._broken):
                if not end.cancelled():
                    end.exception()

    async def _until_idle(self) -> None:
        while (until_ns := self._idle_at_ns()) > self._now():
            await self._twin.clock.sleep_until(until_ns)

    def _idle_at_ns(self) -> int:
        return self._heard_ns + round(self._twin.behaviour.numbers["idle_seconds"] * SECOND)

    async def _read(self) -> None:
        """Until the client asks to close, which an empty binary message does too. Raises what ends it otherwise."""
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY and message.data:
                if not self._stream.takes_audio:
                    raise _NotAudio
                if len(message.data) <= _PIECE_BYTES:
                    self._hear(message.data)
                else:
                    await self._hear_long(message.data)
            elif message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                raise _Gone(_closing(message))
            else:
                self._asked_ns = self._now()
                if message.type is WSMsgType.BINARY or not self._heed(message.data):
                    return

    async def _hear_long(self, octets: bytes) -> None:
        for at in range(0, len(octets), _PIECE_BYTES):
            self._hear(octets[at : at + _PIECE_BYTES])
            await asyncio.sleep(0)

    def _hear(self, octets: bytes) -> None:
        self._heard_ns = self._now()
        pieces = self._stream.take(octets)
        self._arrivals.append((self._stream.received, self._heard_ns))
        if pieces > 1:
            self._say(self._stream.listen())
        elif pieces:
            self._room.await_turn(self)

    def piece(self) -> list[Piece]:
        return self._stream.piece()

    def heard(self, events: Sequence[Sequence[Event]]) -> None:
        self._say(self._stream.heard(events))

    def fail(self, problem: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(problem)

    def _heed(self, text: str) -> bool:
        """Do what a text message asks; False if that is to close."""
        if self._stream.received:
            self._heard_ns = self._asked_ns  # KeepAlive alone keeps no stream open (documented)
        said = self._stream.heed(text)
        self._say(said or [])
        return said is not None

    # -- what is said

    def _say(self, said: Sequence[Said]) -> None:
        for one in said:
            if one.began:
                self._meet_fate(one.channel)
            at_ns = self._asked_ns if one.at is None else self._arrived_ns(one.at)
            if one.final and one.transcript is not None:
                self._say_final(one, one.transcript, at_ns)
            elif one.prompt and one.channel in self._spoken:
                self._queue(one.message, at_ns + self._spoken[one.channel].final_ns)
            elif one.transcript is None:
                if one.message:
                    self._queue(one.message, self._now())
            elif self._outgoing.qsize() < _QUEUED_AT_MOST:
                random = self._twin.draw("interim", ()).random
                self._queue(one.message, at_ns + self._twin.behaviour.delay_ns("interim", random))

    def _meet_fate(self, channel: int) -> None:
        self._spoken[channel] = self._utterance(self._twin.draw("utterance", _SPEECH_OUTCOMES))
        outcome = self._spoken[channel].fate.outcome
        if outcome in {"reset", "hang", "error"}:
            self._twin.count(outcome)
        if outcome == "reset":
            raise ConnectionAbortedError
        if outcome == "error":
            raise _Failed
        self._mute = self._mute or outcome == "hang"

    def _utterance(self, fate: Fate) -> _Utterance:
        behaviour = self._twin.behaviour
        final_ns = behaviour.delay_ns("final", fate.random)
        return _Utterance(fate, final_ns, behaviour.delay_ns("late", fate.random))

    def _say_final(self, said: Said, transcript: Transcript, at_ns: int) -> None:
        utterance = self._spoken.pop(said.channel, None) or self._utterance(self._twin.draw("silence", ()))
        outcome = utterance.fate.outcome
        unknown = outcome == OK and not transcript.words and transcript.speech_ended > transcript.speech_began
        if outcome != "hang":
            self._twin.count(UNKNOWN_SPEECH if unknown else outcome)
        operation = self._operation(transcript, outcome, at_ns) if transcript.words else None
        if outcome == "no_final" or self._mute:
            if operation is not None:
                self._twin.witness(operation)
            return
        late_ns = utterance.late_ns if outcome == "late_final" else 0
        self._queue(said.message, at_ns + utterance.final_ns + late_ns, operation)

    def _operation(self, transcript: Transcript, outcome: str, closed_ns: int) -> Operation:
        self._finals += 1
        heard = transcript.ended - self._told_samples
        self._told_samples = transcript.ended
        return Operation(
            id=f"{self._twin.name}/{self._id}/{self._finals}",
            kind="stt",
            phase="",
            who=self._twin.name,
            began_ns=self._arrived_ns(transcript.speech_began),
            due_ns=self._arrived_ns(transcript.speech_ended),
            outcome=outcome,
            detail={
                "connection": self._id,
                "transcript": transcript.text,
                "words": len(transcript.words),
                "audio_ms": round(heard / self._stream.received * self._stream.seconds * 1000),
                "model": self._stream.model,
                "closed_ns": closed_ns,
            },
        )

    def _arrived_ns(self, sample: int) -> int:
        """When the message with that sample arrived (the oldest one remembered, if that is forgotten)."""
        index = bisect_left(self._arrivals, sample + 1, key=itemgetter(0))
        return self._arrivals[min(index, len(self._arrivals) - 1)][1]

    def _queue(self, message: Mapping[str, JSON], due_ns: int, operation: Operation | None = None) -> None:
        """Send it then, but not before what was said before it. ConnectionAbortedError: the client never reads."""
        if self._outgoing.qsize() >= 10 * _QUEUED_AT_MOST:
            raise ConnectionAbortedError
        self._last_due_ns = max(self._last_due_ns, due_ns)
        if not self._mute:
            self._outgoing.put_nowait(_Outgoing(self._last_due_ns, self._stream.numbered(message), operation))

    async def _send_in_time(self) -> None:
        while (outgoing := await self._outgoing.get()) is not None:
            self._sending = outgoing
            await self._twin.clock.sleep_until(outgoing.due_ns)
            ended_ns = None
            with suppress(ConnectionResetError):  # the client went away; the next receive says so
                await self._socket.send_str(json.dumps(outgoing.message))
                ended_ns = self._now()
            self._sending = None
            self._witness(outgoing, ended_ns)

    def _witness(self, outgoing: _Outgoing, ended_ns: int | None) -> None:
        """Of a final: when it was sent, or that the client did not wait for it."""
        operation = outgoing.operation
        if operation is not None:
            outcome = operation.outcome if ended_ns is not None else "client closed"
            self._twin.witness(replace(operation, ended_ns=ended_ns, outcome=outcome))

    async def _finish(self, sender: asyncio.Task[None], ending: Ending, *, flush: bool) -> None:
        """Say what is left, then what ends it, then close; a hanging twin says nothing, and does not close."""
        if flush:
            self._say(self._stream.close())
        if ending.message is not None:
            self._queue(ending.message, self._now())
        if self._mute:
            await self._until_gone()
            return
        self._outgoing.put_nowait(None)
        gone = asyncio.create_task(self._until_gone())
        try:
            await asyncio.wait({sender, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            await asyncio.wait({gone})
        await self._socket.close(code=ending.code, message=ending.reason)

    async def _until_gone(self) -> None:
        """Read on, to no effect, until the client closes."""
        while (await self._socket.receive()).type in {WSMsgType.BINARY, WSMsgType.TEXT}:
            pass

    def _witness_connection(self, outcome: str) -> None:
        unsent = [self._sending]
        while not self._outgoing.empty():
            unsent.append(self._outgoing.get_nowait())
        for outgoing in unsent:
            if outgoing is not None:
                self._witness(outgoing, None)
        self._twin.witness_ended(
            self._id,
            kind="stt_connection",
            began_ns=self._began_ns,
            outcome="hang" if self._mute else outcome,
            detail={
                "connection": self._id,
                "audio_ms": round(self._stream.seconds * 1000),
                "finals": self._finals,
                "model": self._stream.model,
            },
        )


def _closing(message: WSMessage) -> str:
    """How a connection ended that the client closed, well or badly."""
    return "client closed" if message.type in {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED} else "lost"
