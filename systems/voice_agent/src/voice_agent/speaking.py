"""Says things, and makes sure that the caller hears something: the fallbacks are here.

    model is slow        -> what there is up to a comma is spoken; else "one moment please"
    model fails          -> an apology takes the place of the reply, or of the rest of it
    synthesis fails      -> the carrier says it with its own voice; so it does for the next 15 s
    both fail            -> the carrier apologises

Whatever happens, something is heard within `dead_air_seconds` (and the carrier's delay) after the caller had finished,
and again after what we said last.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import aclosing

from voice_agent.draft import Draft
from voice_agent.llm import ChatModel, Message, ModelFailed, Tool, ToolCall
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.mouth import Mouth
from voice_agent.settings import Settings
from voice_agent.telnyx import Phone
from voice_agent.tts import CHARACTERS_PER_SECOND, Voice, VoiceFailed

TROUBLE = "I am sorry, I am having some trouble right now."
PUTTING_THROUGH = "One moment please, I am putting you through."
TRANSFER_CALL: Tool = {
    "type": "function",
    "function": {
        "name": "transfer_call",
        "description": "Put the caller through to a human, when they ask for one or need what you cannot do.",
        "parameters": {"type": "object", "properties": {}},
    },
}

_SYNTHESIS_SECONDS = 0.6  # of the caller's patience, kept for an apology to be synthesised in
_SUSPECT_SECONDS = 15.0
_CARRIER_SECONDS = 2.0
_CARRIER_SECONDS_PER_CHARACTER = 0.09


def said_goodbye(text: str) -> bool:
    return re.search(r"\bgood-?bye\W*$", text, re.IGNORECASE) is not None


class Reply:
    """Something to be said, from its first sentence to the moment the caller has heard it.

    `messages` are what the model is to answer; without any the draft is complete.
    """

    def __init__(
        self, draft: Draft, *, voice: Voice, mouth: Mouth, owed_since: float, messages: Sequence[Message] = ()
    ) -> None:
        self.draft = draft
        self.messages = messages
        self.owed_since = owed_since
        self.silent_from = owed_since  # when the caller will have heard all that there is to hear so far, we guess
        self.trouble = False
        self.transfers = False
        self.by_carrier = False
        self.response_seconds: float | None = None
        self.speech = voice.speech(self._sound)
        self._mouth = mouth
        self._loop = asyncio.get_running_loop()
        self._patience: asyncio.Timeout | None = None
        self._carrier_text: list[str] = []  # what the voice was not asked to say

    @property
    def text(self) -> str:
        """All of it, so far."""
        return " ".join(filter(None, (self.speech.text, *self._carrier_text)))

    @property
    def sounding(self) -> bool:
        """Whether the caller has heard any of it."""
        return self.by_carrier or (self.speech.sounded and self._mouth.played_ms > 0)

    def split(self) -> tuple[str, str]:
        """What the caller has heard of it, and what not."""
        return self.speech.split(self._mouth.played_ms) if self.speech.sounded else ("", self.text)

    async def synthesise(self, *, silence_seconds: float, sound_due: Callable[[], float]) -> None:
        """Have all of it made into sound, with something new to say after so much silence at the latest.

        Raises VoiceFailed; TimeoutError if there is no sound by the time that `sound_due` names when the first text is
        there.
        """
        async with asyncio.timeout(None) as self._patience:
            while (text := await self.draft.next(self.silent_from + silence_seconds)) is not None:
                if not self.speech.text:
                    self._patience.reschedule(sound_due())
                await self.speech.say(text)
                self.silent_from = max(self.silent_from, self._loop.time()) + len(text) / CHARACTERS_PER_SECOND
            await self.speech.finish()

    async def left_for_carrier(self, *, silence_seconds: float) -> str:
        """Take all that there is now of what has not become sound; "" when nothing more will come."""
        left = "" if self.by_carrier else self.speech.split(self.speech.received_ms)[1]
        more = self.draft.ready()
        if not left and not more and (text := await self.draft.next(self.silent_from + silence_seconds)) is not None:
            more = [text, *self.draft.ready()]
        self._carrier_text += more
        return " ".join(filter(None, (left, *more)))

    def _sound(self, mulaw: bytes) -> None:
        if self._patience is not None and self._patience.when() is not None and not self._patience.expired():
            self._patience.reschedule(None)
        self._mouth.play(mulaw)


class Speaker:
    """Makes replies and speaks them, one at a time."""

    def __init__(
        self,
        settings: Settings,
        *,
        model: ChatModel,
        voice: Voice,
        mouth: Mouth,
        phone: Phone,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._settings, self._metrics, self._log = settings, metrics, log
        self._model, self._voice, self._mouth, self._phone = model, voice, mouth, phone
        self._silence_seconds = max(settings.dead_air_seconds - _SYNTHESIS_SECONDS, _SYNTHESIS_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._carrier_done = asyncio.Event()
        self._voice_suspect_until = 0.0

    def recite(self, text: str, owed_since: float, *, trouble: bool = False) -> Reply:
        """A reply that is known already; `trouble`: it stands in for one that could not be had."""
        reply = Reply(Draft(text), voice=self._voice, mouth=self._mouth, owed_since=owed_since)
        reply.trouble = trouble
        return reply

    def think(self, messages: Sequence[Message], owed_since: float) -> Reply:
        """A reply of the model's. If the model fails, an apology takes the place of what it did not say."""
        return Reply(Draft(), voice=self._voice, mouth=self._mouth, owed_since=owed_since, messages=messages)

    async def speak(self, reply: Reply) -> None:
        """Say it; returns when the caller has heard it. Cancelled, it leaves behind only what is queued in the mouth.

        Raises CommandFailed when neither we nor the carrier can say it.
        """
        self._mouth.begin(lambda: self._first_sound(reply))
        # However late it is by now, the model gets as much time as the synthesis.
        reply.silent_from = max(reply.owed_since, self._loop.time() + _SYNTHESIS_SECONDS - self._silence_seconds)
        writing = self._loop.create_task(self._write(reply))
        try:
            if self._loop.time() < self._voice_suspect_until:
                await self._say_by_carrier(reply)
            else:
                await self._say(reply)
        finally:
            writing.cancel()
            await asyncio.wait({writing})
            await reply.speech.cancel()
            if reply.draft.filled:
                self._metrics.fell_back("filler")
        if not writing.cancelled():
            writing.result()  # a bug in there is one out here

    def carrier_spoke(self) -> None:
        """The carrier has finished saying what it was asked to."""
        self._carrier_done.set()

    async def _write(self, reply: Reply) -> None:
        """Have the model write the draft."""
        if not reply.messages:
            return
        tools = [TRANSFER_CALL] if self._settings.transfer_number else []
        patience = min(
            self._loop.time() + self._settings.first_token_seconds, reply.silent_from + self._silence_seconds
        )
        try:
            async with aclosing(
                self._model.reply(reply.messages, tools, first_token_by=patience, log=self._log)
            ) as pieces:
                async for piece in pieces:
                    reply.transfers = reply.transfers or isinstance(piece, ToolCall)
                    reply.draft.write(piece if isinstance(piece, str) else f" {PUTTING_THROUGH} ")
        except ModelFailed:
            reply.trouble = True
            self._metrics.fell_back("apology")
            reply.draft.break_off(TROUBLE)
        finally:
            reply.draft.end()

    async def _say(self, reply: Reply) -> None:
        problem = ""
        try:
            await reply.synthesise(
                silence_seconds=self._silence_seconds, sound_due=lambda: self._sound_due(reply.owed_since)
            )
        except VoiceFailed as failure:
            problem = failure.reason
        except TimeoutError:
            problem = "no audio in time"
        if reply.speech.sounded:
            self._mouth.end()
            await self._mouth.played()
        if problem:
            self._voice.failed(problem)
            self._voice_suspect_until = self._loop.time() + _SUSPECT_SECONDS
            await self._say_by_carrier(reply)

    def _sound_due(self, owed_since: float) -> float:
        """When the caller's patience with the synthesis ends, the first text being there now."""
        now = self._loop.time()
        owed = owed_since + self._settings.dead_air_seconds
        return min(now + self._settings.first_audio_seconds, max(owed, now + _SYNTHESIS_SECONDS))

    def _first_sound(self, reply: Reply) -> None:
        reply.response_seconds = self._loop.time() - reply.owed_since

    async def _say_by_carrier(self, reply: Reply) -> None:
        """The rest of it, piece by piece if the model is slow; an apology if there was nothing to say at all."""
        self._metrics.fell_back("carrier voice")
        while text := await reply.left_for_carrier(silence_seconds=self._silence_seconds):
            await self._carrier_says(text, reply)
        if not reply.by_carrier and not reply.speech.sounded:
            await self._carrier_says(TROUBLE, reply)

    async def _carrier_says(self, text: str, reply: Reply) -> None:
        reply.by_carrier = True
        self._carrier_done.clear()
        await self._phone.speak(text)
        if reply.response_seconds is None:
            self._first_sound(reply)
        try:
            async with asyncio.timeout(_CARRIER_SECONDS + len(text) * _CARRIER_SECONDS_PER_CHARACTER):
                await self._carrier_done.wait()
        except TimeoutError:
            self._log.warning("the carrier did not tell that it has spoken")
        reply.silent_from = self._loop.time()
