"""Says things, and makes sure that the caller hears something: the fallbacks are here.

    model fails          -> the next of the chain takes over; "one moment please" if that takes long
    all models fail      -> an apology takes the place of the reply, or of the rest of it
    voice fails          -> the next of the chain says the rest; whoever failed is not asked again for 15 s
    all voices fail      -> the carrier says it with its own voice
    all fail             -> the carrier apologises

Whatever happens, something is heard within `dead_air_seconds` (and the carrier's delay) after the caller had finished,
and again after what we said last.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import aclosing

from voice_agent.defects import Defects
from voice_agent.draft import Draft
from voice_agent.llm.chain import FailedOver, Models, TurnLost
from voice_agent.llm.model import ModelFailed
from voice_agent.llm.question import Errand, Message, Question, ToolCall
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.mouth import Mouth
from voice_agent.parting import broken_off
from voice_agent.reply import Reply
from voice_agent.settings import Settings
from voice_agent.telnyx import Phone
from voice_agent.tools import ROUNDS, Tools
from voice_agent.tts.chain import Voices
from voice_agent.tts.speech import VoiceFailed
from voice_agent.tts.voice import Voice
from voice_agent.usage import Usage

TROUBLE = "I am sorry, I am having some trouble right now."
PUTTING_THROUGH = "One moment please, I am putting you through."

_SYNTHESIS_SECONDS = 0.6  # of the caller's patience, kept for an apology to be synthesised in
_CARRIER_SECONDS = 2.0
_CARRIER_SECONDS_PER_CHARACTER = 0.09


def said_goodbye(text: str) -> bool:
    return re.search(r"\bgood-?bye\W*$", text, re.IGNORECASE) is not None


class Speaker:
    """Makes replies and speaks them, one at a time."""

    def __init__(
        self,
        settings: Settings,
        *,
        models: Models,
        tools: Tools,
        voices: Voices,
        mouth: Mouth,
        phone: Phone,
        metrics: Metrics,
        defects: Defects,
        usage: Usage,
        log: Log,
    ) -> None:
        self._settings, self._metrics, self._defects, self._log = settings, metrics, defects, log
        self._models, self._tools, self._usage = models, tools, usage
        self._voices, self._mouth, self._phone = voices, mouth, phone
        self._silence_seconds = max(settings.dead_air_seconds - _SYNTHESIS_SECONDS, _SYNTHESIS_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._carrier_done = asyncio.Event()
        self.failed_over = False  # at any time in this call

    def recite(self, text: str, owed_since: float, *, trouble: bool = False) -> Reply:
        """A reply that is known already; `trouble`: it stands in for one that could not be had."""
        reply = Reply(Draft(text), mouth=self._mouth, owed_since=owed_since)
        reply.trouble = trouble
        return reply

    def think(self, messages: Sequence[Message | Errand], owed_since: float) -> Reply:
        """A reply of the model's. If the model fails, an apology takes the place of what it did not say."""
        return Reply(Draft(), mouth=self._mouth, owed_since=owed_since, messages=messages)

    async def speak(self, reply: Reply) -> None:
        """Say it; returns when the caller has heard it. Cancelled, it leaves behind only what is queued in the mouth.

        Raises CommandFailed when neither we nor the carrier can say it.
        """
        self._mouth.begin(lambda: self._first_sound(reply))
        # However late it is by now, the model gets as much time as the synthesis.
        reply.silent_from = max(reply.owed_since, self._loop.time() + _SYNTHESIS_SECONDS - self._silence_seconds)
        writing = self._loop.create_task(self._write(reply))
        try:
            await self._say(reply)
        finally:
            writing.cancel()
            await asyncio.wait({writing})
            broken = broken_off(writing)
            await reply.cancel()
            if reply.draft.filled:
                self._fell_back("filler")
        if not broken:
            writing.result()  # a bug in there is one out here

    def carrier_spoke(self) -> None:
        """The carrier has finished saying what it was asked to."""
        self._carrier_done.set()

    # ------------------------------------------------------------ thinking

    async def _write(self, reply: Reply) -> None:
        """Have the models write the draft."""
        if not reply.messages:
            return
        try:
            await self._compose(reply)
            reply.draft.end()
            if not reply.draft.said:
                raise ModelFailed("empty")
        except ModelFailed as failure:
            reply.trouble = True
            self._fell_back("apology")
            reply.exhausted = failure.exhausted and bool(self._settings.transfer_number)
            reply.draft.break_off(f"{TROUBLE} {PUTTING_THROUGH}" if reply.exhausted else TROUBLE)
        except TurnLost:
            reply.lost = True
        finally:
            reply.draft.end()

    async def _compose(self, reply: Reply) -> None:
        """Ask, do what the model wants done, and ask again with what came of it."""
        patience = min(
            self._loop.time() + self._settings.first_token_seconds, reply.silent_from + self._silence_seconds
        )
        for rounds_left in reversed(range(ROUNDS + 1)):
            said_before = reply.draft.said
            calls = await self._continue(reply, patience, barred=not rounds_left)
            if not calls:
                return
            if not rounds_left:
                raise ModelFailed("tools without end")
            reply.draft.pause()
            errand = Errand(reply.draft.said.removeprefix(said_before).strip(), calls)
            reply.errands.append(errand)
            await self._tools.use(errand)
            if self._tools.transfers(errand):
                reply.transfers = True
                reply.draft.write(f" {PUTTING_THROUGH} ")
                return
            patience = self._loop.time() + self._settings.first_token_seconds  # there is a filler meanwhile

    async def _continue(self, reply: Reply, first_token_by: float, *, barred: bool) -> Sequence[ToolCall]:
        """Write what the model says next; what it calls for."""
        question = Question(messages=[*reply.messages, *reply.errands], tools=self._tools.offered, barred=barred)
        stream = self._models.reply(
            question,
            first_token_by=first_token_by,
            said=lambda: reply.draft.said,
            usage=self._usage,
            log=self._log,
        )
        calls: list[ToolCall] = []
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                match piece:
                    case str():
                        reply.draft.write(piece)
                    case ToolCall():
                        calls.append(piece)
                    case FailedOver():
                        self.failed_over = True
                        reply.draft.begin_anew()
        return calls

    # ------------------------------------------------------------ speaking

    async def _say(self, reply: Reply) -> None:
        """By the first voice that can; what it leaves unsaid by the next; and by the carrier when none is left."""
        if self._defects.strikes("speaking_mute"):
            await self._loop.create_future()  # until the caller speaks again
        failed: list[Voice] = []
        voice = self._voices.best()
        while voice is not None:
            last = self._voices.best([*failed, voice]) is None
            problem = await self._say_with(voice, reply, attempt=len(failed) + 1, last=last)
            if not problem:
                await self._hear_out(reply)
                return
            failed.append(voice)
            to = self._voices.best(failed)
            if to is not None and self._lost(reply, voice, problem):
                return
            if to is not None:
                self.failed_over = True
                self._metrics.failed_over(voice.name, to.name)
                self._log.trouble("failover", provider=voice.name, to=to.name, reason=problem)
            voice = to
        await self._hear_out(reply)
        await self._say_by_carrier(reply)

    async def _say_with(self, voice: Voice, reply: Reply, *, attempt: int, last: bool) -> str:
        """What went wrong; "" if nothing did."""
        with voice.breaker.attempt(self._log) as verdict:
            problem = ""
            trusting = self._defects.strikes("tts_zero_audio_trusted")
            try:
                await reply.synthesise(
                    voice,
                    trusting=trusting,
                    silence_seconds=self._silence_seconds,
                    sound_due=lambda: self._sound_due(reply.owed_since, last=last),
                )
            except VoiceFailed as failure:
                problem = failure.reason
            except TimeoutError:
                problem = "no audio in time"
            finally:
                if reply.spoke(voice) and not problem:
                    verdict.succeeded()  # though it may have been interrupted since
            if problem:
                verdict.failed(problem)
        if problem:
            voice.failed(problem, attempt=attempt, spoken=reply.sounded)
            self._voices.suspect(voice)
            await reply.give_up()
        return problem

    def _sound_due(self, owed_since: float, *, last: bool) -> float:
        """When the caller's patience with the synthesis ends, the first text being there now. Another voice that is to
        have its turn after this one gets its share."""
        now = self._loop.time()
        owed = owed_since + self._settings.dead_air_seconds
        if last:
            return min(now + self._settings.first_audio_seconds, max(owed, now + _SYNTHESIS_SECONDS))
        patience = min(self._settings.attempt_seconds, self._settings.first_audio_seconds)
        return min(now + patience, max(owed - _SYNTHESIS_SECONDS, now + _SYNTHESIS_SECONDS))

    def _lost(self, reply: Reply, voice: Voice, reason: str) -> bool:
        """The defect no_replay: nobody is going to say the rest."""
        reply.lost = self._defects.strikes("no_replay")
        if reply.lost:
            voice.breaker.trip(reason, self._log)
        return reply.lost

    async def _hear_out(self, reply: Reply) -> None:
        if reply.sounded:
            self._mouth.end()
            await self._mouth.played()

    def _first_sound(self, reply: Reply) -> None:
        reply.response_seconds = self._loop.time() - reply.owed_since

    def _fell_back(self, kind: str) -> None:
        self._metrics.fell_back(kind)
        self._log.trouble("fallback", kind=kind)

    async def _say_by_carrier(self, reply: Reply) -> None:
        """The rest of it, piece by piece if the model is slow; an apology if there was nothing to say at all."""
        self._fell_back("carrier voice")
        while text := await reply.left_for_carrier(silence_seconds=self._silence_seconds):
            await self._carrier_says(text, reply)
        if not reply.by_carrier and not reply.sounded and not reply.lost:
            await self._carrier_says(TROUBLE, reply)

    async def _carrier_says(self, text: str, reply: Reply) -> None:
        reply.by_carrier = True
        self._carrier_done.clear()
        await self._phone.speak(text)
        self._usage.spoke("telnyx", len(text))
        if reply.response_seconds is None:
            self._first_sound(reply)
        try:
            async with asyncio.timeout(_CARRIER_SECONDS + len(text) * _CARRIER_SECONDS_PER_CHARACTER):
                await self._carrier_done.wait()
        except TimeoutError:
            self._log.warning("the carrier did not tell that it has spoken")
        reply.silent_from = self._loop.time()
