"""One conversation: from the first frame of the media stream to the last.

The caller's sound comes in on `_listen`; the edges of their speech begin, merge and interrupt turns. A turn waits for
the transcript, thinks, and speaks (`speaking.py`); at most one is in progress, and it is a task, so that interrupting
it is cancelling it.

    silence --speech--> listening --pause--> [transcript -> reply -> sound -> heard] --> silence
                            ^                      |                   |
                            +--- speech: merge ----+                   |
                            +--- speech: interrupt (clear, truncate) --+
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from voice_agent.audio import FRAME_BYTES, Reorder
from voice_agent.equipment import Equipment
from voice_agent.llm.question import Errand, Message
from voice_agent.log import Log
from voice_agent.media import MediaSocket, parse
from voice_agent.mouth import Mouth
from voice_agent.parting import broken_off
from voice_agent.reply import Reply
from voice_agent.speaking import TROUBLE, Speaker, said_goodbye
from voice_agent.stt import Recognizer
from voice_agent.telnyx import CommandFailed, Phone
from voice_agent.turn_taking import Edge, TurnTaking
from voice_agent.usage import Usage
from voice_agent.vad import EnergyVad, SileroVad

SAY_AGAIN = "I am sorry, could you say that again please?"
CUT_IN = "Let me stop you there for a moment."

_CLOSING_SECONDS = 1.0  # after our hang-up the carrier closes the stream; so long we wait for it
_TROUBLES = 3  # turns in a row that failed: then the call is given up
_SPEECH_MS = 300  # so much sound must have been speech before an unheard utterance is asked for again
_HISTORY = 40  # messages kept for the model
_CUT_IN_SECONDS = 0.6


@dataclass(eq=False, slots=True)
class Turn:
    """One time that it is ours to speak. `owed_since` is when the caller had finished, on the loop's clock."""

    owed_since: float
    words: str = ""
    task: asyncio.Task[None] | None = None  # while there is one
    reply: Reply | None = None

    @property
    def active(self) -> bool:
        return self.task is not None and not self.task.done()

    def begin(self, task: asyncio.Task[None]) -> None:
        self.task = task
        task.add_done_callback(self._over)

    def _over(self, _task: asyncio.Task[None]) -> None:
        self.task = None  # cancelled, it would keep its frames, and they this turn


class Conversation:
    """`run` it; `end` it from outside; tell it what the carrier's webhooks say. `start` begins what may outlive it."""

    def __init__(
        self,
        equipment: Equipment,
        *,
        phone: Phone,
        socket: MediaSocket,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        log: Log,
    ) -> None:
        self._settings, self._metrics = equipment.settings, equipment.metrics
        self._defects = equipment.defects
        self._phone, self._socket, self._log = phone, socket, log
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._deaf_from = self._defects.deaf_from()
        vad = SileroVad(equipment.silero) if equipment.silero else EnergyVad()
        self._turn_taking = TurnTaking(vad, start_ms=self._settings.vad_start_ms, stop_ms=self._settings.vad_stop_ms)
        self._usage = Usage(self._metrics)
        self._ears = Recognizer(
            self._settings,
            equipment.hosts,
            metrics=self._metrics,
            defects=self._defects,
            usage=self._usage,
            log=log,
        )
        self._voices = equipment.voices(self._usage, log)
        self._tools = equipment.tools(start, log)
        self._mouth = Mouth(
            socket.send, metrics=self._metrics, gap_seconds=partial(self._defects.seconds, "gappy_audio")
        )
        self._speaker = Speaker(
            self._settings,
            models=equipment.models,
            tools=self._tools,
            voices=self._voices,
            mouth=self._mouth,
            phone=phone,
            metrics=self._metrics,
            defects=self._defects,
            usage=self._usage,
            log=log,
        )
        self._group = asyncio.TaskGroup()
        self._parts: set[asyncio.Task[None]] = set()  # its tasks
        self._over: asyncio.Future[str] = self._loop.create_future()
        self._turn: Turn | None = None
        self._history: list[Message | Errand] = []
        self._pending = ""  # words of the caller that have had no answer yet
        self._cut_off = ""  # what was left to say when the caller interrupted
        self._troubles = 0
        self._leaving = ""

    async def run(self) -> str:
        """Converse until the call is over; returns what ended it. A bug ends it too, as an ExceptionGroup."""
        async with self._group:
            for part in (self._mouth.run(), self._recognize(), self._listen(), self._limit()):
                self._go(part)
            for voice in self._voices:
                self._go(voice.run())
            await self._over
            for task in self._parts:  # an exception of ours would do it too, and keep all of this in its traceback
                task.cancel()
        return self._over.result()

    def end(self, why: str) -> None:
        """Hang up, and finish soon."""
        if not self._leaving and not self._over.done():
            self._go(self._leave(why))

    def drop(self, why: str) -> None:
        """Finish at once: there is no time left to hang up."""
        self._finish(self._leaving or why)

    def hung_up(self) -> None:
        """The carrier says that the call is over."""
        self._finish(self._leaving or "caller hung up")

    def carrier_spoke(self) -> None:
        """The carrier has said what we had it say."""
        self._speaker.carrier_spoke()

    def used(self) -> dict[str, float]:
        """What the call has used of its vendors so far, for the log."""
        return self._usage.fields()

    def said(self) -> Sequence[Message | Errand]:
        """The conversation as it is remembered, the newest last."""
        return [*self._history, *([{"role": "user", "content": self._pending}] if self._pending else [])]

    # ------------------------------------------------------------ the caller's sound

    async def _listen(self) -> None:
        order = Reorder()
        while True:
            try:
                async with asyncio.timeout(self._settings.media_idle_seconds):
                    text = await self._socket.receive()
            except TimeoutError:
                self._finish("media idle")
                return
            if text is None or not self._understand(text, order):
                self._finish(self._leaving or ("media lost" if text is None else "caller hung up"))
                return

    def _understand(self, text: str, order: Reorder) -> bool:
        """Take one message of the carrier; False after the last. What is malformed is counted and passed over."""
        try:
            event, value = parse(text)
        except (ValueError, LookupError, TypeError, AttributeError):
            self._metrics.vendor_failed("telnyx", "malformed media message")
            self._log.warning("malformed media message", told=text[:100])
            return True
        match event:
            case "media" if value is not None:
                for frame in order.push(*value):
                    self._hear(frame)
            case "start":
                self._start(value)
            case "mark":
                self._mouth.marked(value)
            case "dtmf":
                self._log.info("key pressed", digit=value)
            case "error":
                self._metrics.vendor_failed("telnyx", "media error")
                self._log.warning("media error", told=text[:300])
        return event != "stop"

    def _start(self, media_format: str) -> None:
        if media_format != "PCMU/8000":
            self._log.warning("unusable media format", media_format=media_format)
            self.end("unusable media format")
        elif self._turn is None:
            turn = Turn(self._loop.time())
            self._begin(turn, self._greet(turn))

    def _hear(self, sound: bytes) -> None:
        """The carrier may send frames of any length from 20 ms; ours are of 20 ms."""
        if self._loop.time() - self._began >= self._deaf_from:
            return
        for at in range(0, len(sound), FRAME_BYTES):
            frame = sound[at : at + FRAME_BYTES]
            if not self._defects.strikes("mishears"):
                self._ears.hear(frame)
            edge = self._turn_taking.hear(frame)
            if edge is Edge.STARTED:
                self._speech_started()
            elif edge is Edge.ENDED:
                self._speech_ended()

    def _speech_started(self) -> None:
        self._log.info("caller speaks")
        turn = self._turn
        if self._leaving:
            return  # hanging up, or handing over, is not to be interrupted
        if turn is not None and turn.active and not self._heard_out(turn):
            self._interrupt(turn)
        elif self._defects.strikes("interrupts"):
            turn = Turn(self._loop.time() + _CUT_IN_SECONDS)
            self._begin(turn, self._cut_in(turn))

    def _speech_ended(self) -> None:
        self._log.info("caller pauses", spoken_ms=self._turn_taking.spoken_ms)
        turn = Turn(self._loop.time() - self._settings.vad_stop_ms / 1000)
        self._begin(turn, self._take(turn, after=self._turn))

    # ------------------------------------------------------------ turns

    def _begin(self, turn: Turn, work: Coroutine[Any, Any, None]) -> None:
        if self._leaving or self._over.done():
            work.close()
            return
        self._turn = turn
        turn.begin(self._go(work))

    async def _greet(self, turn: Turn) -> None:
        await self._delay(turn, "slow_greeting")
        await self._speak(turn, self._speaker.recite(self._settings.greeting, turn.owed_since))

    async def _cut_in(self, turn: Turn) -> None:
        await asyncio.sleep(_CUT_IN_SECONDS)
        await self._speak(turn, self._speaker.recite(CUT_IN, turn.owed_since))

    async def _take(self, turn: Turn, *, after: Turn | None) -> None:
        """The caller has paused: learn what they said, and answer."""
        transcript = await self._ears.finish(self._settings.final_seconds)
        self._pending = f"{self._pending} {transcript.text}".strip()
        self._log.info("caller said", text=self._pending, heard=transcript.heard)
        if after is not None and after.task is not None and after.active:  # it is not to be interrupted
            await asyncio.wait({after.task})
            if self._leaving:
                return
        if self._defects.strikes("drop_turn"):
            self._pending = ""
            self._metrics.turn("dropped")
            return
        turn.words = self._pending
        await self._delay(turn, "slow_response")
        await self._delay(turn, "warm_up")
        if self._speaker.failed_over:
            await self._delay(turn, "failover_loses_settings")
        if turn.words or self._owes_result():
            await self._tools.settled()  # an interruption does not undo what was begun
            asked = [{"role": "user", "content": turn.words}] if turn.words else []
            messages = [{"role": "system", "content": self._settings.system_prompt}, *self._history, *asked]
            await self._speak(turn, self._speaker.think(messages, turn.owed_since))
        elif not transcript.heard and self._turn_taking.spoken_ms >= _SPEECH_MS:
            await self._speak(turn, self._speaker.recite(SAY_AGAIN, turn.owed_since, trouble=True))
        elif self._cut_off:  # a cough: take up what it interrupted
            await self._speak(turn, self._speaker.recite(self._cut_off, turn.owed_since))
        else:
            self._metrics.turn("noise")

    async def _speak(self, turn: Turn, reply: Reply) -> None:
        turn.reply = reply
        self._cut_off = ""
        try:
            await self._speaker.speak(reply)
        except CommandFailed:  # nor can the carrier: the caller hears nothing
            self._metrics.turn("unanswered")
            await self._leave("gave up")
            return
        if reply.lost:
            self._metrics.turn("lost")
            return
        self._remember(turn, reply.text)
        self._spoke(turn, reply)
        self._troubles = self._troubles + 1 if reply.trouble else 0
        if self._troubles >= _TROUBLES or reply.transfers or reply.exhausted:
            await self._hand_over()
        elif said_goodbye(reply.text):
            await self._leave("said goodbye")
        elif turn.words and self._defects.strikes("hang_up_early"):
            await self._leave("hung up early")

    def _spoke(self, turn: Turn, reply: Reply) -> None:
        response_seconds = reply.response_seconds or 0.0
        self._log.info("said", text=reply.text, response_ms=round(response_seconds * 1000), trouble=reply.trouble)
        if turn.words:
            self._metrics.responded(response_seconds)
            self._metrics.turn("troubled" if reply.trouble else "answered")

    def _interrupt(self, turn: Turn) -> None:
        """The caller speaks though it is our turn."""
        reply = turn.reply
        if reply is not None and reply.hands_over:
            return  # "thank you" is no reason to break the promise, of which the model knows
        if reply is None or not reply.sounding:
            self._stop(turn)  # nobody heard anything yet: what the caller says now belongs to the same turn
        elif reply.by_carrier or self._defects.strikes("no_clear"):
            return
        elif delay := self._defects.seconds("slow_barge_in"):
            self._go(self._stop_later(turn, delay))
        else:
            self._stop(turn)

    def _heard_out(self, turn: Turn) -> bool:
        """Whether the caller has heard all of it, so that the turn is just about to be over."""
        return turn.reply is not None and turn.reply.sounded and self._mouth.settle()

    async def _stop_later(self, turn: Turn, delay: float) -> None:
        await asyncio.sleep(delay)
        if turn.active:
            self._stop(turn)

    def _stop(self, turn: Turn) -> None:
        """Be silent at once; the history keeps of the reply what the caller has heard."""
        assert turn.task is not None
        heard, left = turn.reply.split() if turn.reply is not None else ("", "")
        self._mouth.clear()
        turn.task.cancel()
        if heard:
            self._log.info("interrupted", heard=heard, left=left)
            self._metrics.interrupted()
            self._metrics.turn("interrupted")
            self._remember(turn, heard)
            self._cut_off = left
        elif turn.reply is not None and turn.reply.errands:
            self._remember(turn, "")

    def _remember(self, turn: Turn, said: str) -> None:
        if turn.words:
            self._history.append({"role": "user", "content": turn.words})
            self._pending = self._pending.removeprefix(turn.words).strip()
        errands = turn.reply.errands if turn.reply is not None else []
        if errands and " ".join(errand.said for errand in errands).startswith(said):
            errands, said = [replace(errands[0], said=said), *(replace(errand, said="") for errand in errands[1:])], ""
        else:  # what was said in between is part of what was said
            errands = [replace(errand, said="") for errand in errands]
        self._history += errands
        if said:
            self._history.append({"role": "assistant", "content": said})
        del self._history[:-_HISTORY]

    def _owes_result(self) -> bool:
        """Whether something was done for the caller of which they were not told, as they interrupted."""
        return bool(self._history) and isinstance(self._history[-1], Errand)

    async def _delay(self, turn: Turn, defect: str) -> None:
        if seconds := self._defects.seconds(defect):
            turn.owed_since += seconds
            await asyncio.sleep(seconds)

    # ------------------------------------------------------------ the end

    async def _recognize(self) -> None:
        """If speech recognition is lost for good: say so, and give the call to somebody who can hear."""
        await self._ears.run()
        turn = Turn(self._loop.time())
        if self._turn is not None and self._turn.active:
            self._stop(self._turn)
        self._begin(turn, self._despair(turn))

    async def _despair(self, turn: Turn) -> None:
        self._metrics.fell_back("deaf")
        self._log.trouble("fallback", kind="deaf")
        self._troubles = _TROUBLES
        await self._speak(turn, self._speaker.recite(TROUBLE, turn.owed_since, trouble=True))

    async def _hand_over(self) -> None:
        """The caller wants a human, or too much failed: transfer them if there is a human."""
        number = self._settings.transfer_number
        if not number:
            await self._leave("gave up")
            return
        self._leaving = "transferred"
        try:
            await self._phone.transfer(number)
        except CommandFailed:
            await self._leave("gave up")

    async def _limit(self) -> None:
        await asyncio.sleep(self._settings.max_call_seconds)
        await self._leave("time limit")

    async def _leave(self, why: str) -> None:
        self._leaving = why
        self._log.info("hanging up", why=why)
        try:
            await self._phone.hang_up()
            await asyncio.sleep(_CLOSING_SECONDS)
        except CommandFailed:
            pass  # logged; the switchboard tries once more when the stream is closed
        self._finish(why)

    def _finish(self, why: str) -> None:
        if not self._over.done():
            self._over.set_result(why)

    def _go(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do it meanwhile; it does not outlive the conversation, and if it fails, that is the conversation's end."""
        task = self._group.create_task(work)
        self._parts.add(task)
        task.add_done_callback(self._part_over)
        return task

    def _part_over(self, task: asyncio.Task[None]) -> None:
        self._parts.discard(task)
        broken_off(task)
