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

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from busyhour.clock import wall_time
from busyhour.emulators.behaviour import COMMON_OUTCOMES, HTTP_OUTCOMES, OK, Fate
from busyhour.emulators.deepgram_request import Command, Unreadable, command
from busyhour.emulators.deepgram_stream import Said, Stream
from busyhour.emulators.listening import Transcript
from busyhour.emulators.twin import Twin, reset
from busyhour.model import JSON, SECOND, Operation

OUTCOMES = (*COMMON_OUTCOMES, "no_final", "late_final")
_SPEECH_OUTCOMES = tuple(outcome for outcome in OUTCOMES if outcome not in HTTP_OUTCOMES)
_QUEUED_AT_MOST = 1_000
"""Messages that wait for their time; interim results beyond are dropped, and at ten times as many the connection is."""
_PIECE_BYTES = 16_000
"""Of a long message, taken before others have their turn."""
_ARRIVALS_KEPT = 6_000
"""Messages whose arrival is remembered: two minutes of 20 ms frames."""
_NO_AUDIO = (
    b"Deepgram did not receive audio data or a text message within the timeout window. See https://dpgr.am/net0001"
)
_NOT_AUDIO = b"The payload cannot be decoded as audio. See https://dpgr.am/data0000"


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
        self, twin: Twin, request: web.Request, socket: web.WebSocketResponse, stream: Stream, request_id: str
    ) -> None:
        self._twin = twin
        self._request = request
        self._socket = socket
        self._stream = stream
        self._id = request_id
        self._created = wall_time()
        self._began_ns = twin.clock.now_ns()
        self._heard_ns = self._began_ns  # when the client last gave a sign of life
        self._arrivals: deque[tuple[int, int]] = deque(maxlen=_ARRIVALS_KEPT)  # samples so far, when
        self._outgoing: asyncio.Queue[_Outgoing | None] = asyncio.Queue()
        self._last_due_ns = 0
        self._spoken: dict[int, _Utterance] = {}  # by channel
        self._sending: _Outgoing | None = None
        self._mute = False
        self._finals = 0

    async def serve(self) -> None:
        """Until the client closes, falls silent or goes away, or fate breaks the connection."""
        sender = asyncio.create_task(self._send_in_time())
        outcome = "client closed"
        try:
            outcome = await self._listen(sender)
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

    async def _listen(self, sender: asyncio.Task[None]) -> str:
        """How the connection ended."""
        while True:
            left_ns = self._heard_ns + round(self._twin.behaviour.numbers["idle_seconds"] * SECOND) - self._now()
            try:
                message = await self._socket.receive(timeout=max(left_ns / SECOND, 0.001))
            except TimeoutError:
                if self._heard_ns + self._twin.behaviour.numbers["idle_seconds"] * SECOND > self._now():
                    continue
                await self._finish(sender, WSCloseCode.INTERNAL_ERROR, _NO_AUDIO, flush=False)
                return "idle"
            if message.type is WSMsgType.BINARY and message.data:
                if not self._stream.options.encoding:
                    await self._finish(sender, WSCloseCode.POLICY_VIOLATION, _NOT_AUDIO, flush=False)
                    return "not audio"
                await self._hear(message.data)
            elif message.type is WSMsgType.TEXT:
                if not self._heed(message.data):
                    await self._finish(sender, WSCloseCode.OK, b"", flush=True)
                    return OK
            elif message.type is WSMsgType.BINARY:
                await self._finish(sender, WSCloseCode.OK, b"", flush=True)
                return OK
            else:
                return _closing(message)

    async def _hear(self, octets: bytes) -> None:
        self._heard_ns = self._now()
        for at in range(0, len(octets), _PIECE_BYTES):
            if at:
                await asyncio.sleep(0)
            said = self._stream.feed(octets[at : at + _PIECE_BYTES])
            self._arrivals.append((self._stream.samples, self._heard_ns))
            self._say(said)

    def _heed(self, text: str) -> bool:
        """Do what a text message asks; False at CloseStream."""
        if self._stream.samples:
            self._heard_ns = self._now()  # KeepAlive alone keeps no stream open (documented)
        try:
            asked = command(text)
        except Unreadable as problem:
            self._queue(problem.as_json(text), self._now())
            return True
        if asked.kind == "Finalize":
            self._say(self._stream.finalize(asked.channel))
        elif asked.kind == "Configure":
            self._queue(self._configured(asked), self._now())
        return asked.kind != "CloseStream"

    def _configured(self, asked: Command) -> dict[str, JSON]:
        if asked.keyterms is not None and self._stream.options.architecture != "nova-3":
            return {
                "type": "ConfigureFailure",
                "request_id": self._id,
                "code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
                "description": "The stream's model does not support mid-stream keyterm updates.",
            }
        message: dict[str, JSON] = {"type": "ConfigureSuccess", "request_id": self._id}
        return message if asked.keyterms is None else {**message, "keyterms": asked.keyterms}

    # -- what is said

    def _say(self, said: Sequence[Said]) -> None:
        for one in said:
            if one.speech_began:
                self._meet_fate(one.channel)
            if one.transcript is None:
                if one.message:
                    self._queue(one.message, self._now())
            elif one.final:
                self._say_final(one, one.transcript)
            elif self._outgoing.qsize() < _QUEUED_AT_MOST:
                random = self._twin.draw("interim", ()).random
                self._queue(one.message, self._now() + self._twin.behaviour.delay_ns("interim", random))

    def _meet_fate(self, channel: int) -> None:
        self._spoken[channel] = self._utterance(self._twin.draw("utterance", _SPEECH_OUTCOMES))
        outcome = self._spoken[channel].fate.outcome
        if outcome in {"reset", "hang"}:
            self._twin.count(outcome)
        if outcome == "reset":
            raise ConnectionAbortedError
        self._mute = self._mute or outcome == "hang"

    def _utterance(self, fate: Fate) -> _Utterance:
        behaviour = self._twin.behaviour
        final_ns = behaviour.delay_ns("final", fate.random)
        return _Utterance(fate, final_ns, behaviour.delay_ns("late", fate.random))

    def _say_final(self, said: Said, transcript: Transcript) -> None:
        utterance = self._spoken.pop(said.channel, None) or self._utterance(self._twin.draw("silence", ()))
        outcome = utterance.fate.outcome
        if outcome != "hang":
            self._twin.count(outcome)
        operation = self._operation(transcript, outcome) if transcript.words else None
        if outcome == "no_final" or self._mute:
            if operation is not None:
                self._twin.witness(operation)
            return
        late_ns = utterance.late_ns if outcome == "late_final" else 0
        self._queue(said.message, self._now() + utterance.final_ns + late_ns, operation)

    def _operation(self, transcript: Transcript, outcome: str) -> Operation:
        self._finals += 1
        return Operation(
            id=f"{self._twin.name}/{self._id}/{self._finals}",
            kind="stt",
            phase="",
            who=self._twin.name,
            began_ns=self._arrived_ns(transcript.speech_began),
            due_ns=self._arrived_ns(transcript.speech_ended),
            outcome=outcome,
            detail={"connection": self._id, "transcript": transcript.text, "words": len(transcript.words)},
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
            self._outgoing.put_nowait(_Outgoing(self._last_due_ns, message, operation))

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

    async def _finish(self, sender: asyncio.Task[None], code: int, reason: bytes, *, flush: bool) -> None:
        """Say what is left, then the summary, then close; as long as a hanging twin says nothing, it does not close."""
        if flush:
            self._say(self._stream.close())
        self._queue(self._stream.summary(self._created), self._now())
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
        await self._socket.close(code=code, message=reason)

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
        self._twin.witness(
            Operation(
                id=f"{self._twin.name}/{self._id}",
                kind="stt_connection",
                phase="",
                who=self._twin.name,
                due_ns=self._began_ns,
                began_ns=self._began_ns,
                ended_ns=self._now(),
                outcome="hang" if self._mute else outcome,
                detail={"audio_ms": round(self._stream.seconds * 1000), "finals": self._finals},
            )
        )

    def _now(self) -> int:
        return self._twin.clock.now_ns()


def _closing(message: WSMessage) -> str:
    """How a connection ended that the client closed, well or badly."""
    return "client closed" if message.type in {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED} else "lost"
