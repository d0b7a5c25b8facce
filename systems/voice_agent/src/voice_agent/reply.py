"""Something to be said, from its first sentence to the moment the caller has heard it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from voice_agent.draft import Draft
from voice_agent.llm.question import Errand, Message
from voice_agent.mouth import Mouth
from voice_agent.tts.speech import CHARACTERS_PER_SECOND, Speech
from voice_agent.tts.voice import Voice


class Reply:
    """`messages` are what the model is to answer; without any the draft is complete.

    Its parts in the order in which the caller hears them: what one voice after another has made into sound, what no
    voice has, and what the carrier says.
    """

    def __init__(
        self, draft: Draft, *, mouth: Mouth, owed_since: float, messages: Sequence[Message | Errand] = ()
    ) -> None:
        self.draft = draft
        self.messages = messages
        self.errands: list[Errand] = []  # what the model has had done for it
        self.owed_since = owed_since
        self.silent_from = owed_since  # when the caller will have heard all that there is to hear so far, we guess
        self.trouble = False
        self.exhausted = False  # every model of several failed, and the caller was told that a human takes over
        self.transfers = False
        self.lost = False  # by a defect: nobody is going to say it
        self.by_carrier = False
        self.response_seconds: float | None = None
        self._mouth = mouth
        self._loop = asyncio.get_running_loop()
        self._patience: asyncio.Timeout | None = None
        self._speeches: list[Speech] = []  # one a voice; all but the last have been given up
        self._voices: list[Voice] = []
        self._unsaid = ""  # by the voice that was given up last
        self._carrier_text: list[str] = []

    @property
    def text(self) -> str:
        """All of it, so far."""
        return " ".join(filter(None, (*(speech.text for speech in self._speeches), self._unsaid, *self._carrier_text)))

    @property
    def sounded(self) -> bool:
        """Whether any of it has become sound of ours."""
        return any(speech.sounded for speech in self._speeches)

    @property
    def sounding(self) -> bool:
        """Whether the caller has heard any of it."""
        return self.by_carrier or (self.sounded and self._mouth.played_ms > 0)

    @property
    def hands_over(self) -> bool:
        """Whether it tells the caller that a human takes over."""
        return self.transfers or self.exhausted

    def spoke(self, voice: Voice) -> bool:
        """Whether this voice has made any of it into sound."""
        return any(speech.sounded for speech, by in zip(self._speeches, self._voices, strict=True) if by is voice)

    def split(self) -> tuple[str, str]:
        """What the caller has heard of it, and what not."""
        played_ms = self._mouth.played_ms if self.sounded else 0.0
        heard, left = "", ""
        for speech in self._speeches:
            head, tail = speech.split(played_ms)
            heard, left = f"{heard} {head}", f"{left} {tail}"
            played_ms = max(0.0, played_ms - speech.received_ms)
        return heard.strip(), f"{left} {self._unsaid}".strip()

    async def synthesise(
        self, voice: Voice, *, trusting: bool, silence_seconds: float, sound_due: Callable[[], float]
    ) -> None:
        """Have all that is left of it made into sound, with something new to say after so much silence at the latest.

        Raises VoiceFailed; TimeoutError if there is no sound by the time that `sound_due` names when the first text is
        there. trusting: is a defect.
        """
        voice.want()
        speech = voice.speech(self._sound, trusting=trusting)
        self._speeches.append(speech)
        self._voices.append(voice)
        text: str | None = self._unsaid
        self._unsaid = ""
        try:
            async with asyncio.timeout(None) as self._patience:
                while text is not None:
                    if text:
                        if not speech.text and not trusting:
                            self._patience.reschedule(sound_due())
                        await speech.say(text)
                        self.silent_from = max(self.silent_from, self._loop.time()) + len(text) / CHARACTERS_PER_SECOND
                    text = await self.draft.next(self.silent_from + silence_seconds)
                if speech.text:
                    await speech.finish()
        finally:
            self._patience = None  # it knows its task, whose frames know us

    async def give_up(self) -> None:
        """The voice has failed: another is to say what has not become sound."""
        speech = self._speeches[-1]
        await speech.cancel()
        self._unsaid = speech.give_up()

    async def cancel(self) -> None:
        """Stop it at the vendor's. Harmless at any time."""
        if self._speeches:
            await self._speeches[-1].cancel()

    async def left_for_carrier(self, *, silence_seconds: float) -> str:
        """Take all that there is now of what has not become sound; "" when nothing more will come."""
        left, self._unsaid = self._unsaid, ""
        more = self.draft.ready()
        if not left and not more and (text := await self.draft.next(self.silent_from + silence_seconds)) is not None:
            more = [text, *self.draft.ready()]
        self._carrier_text += filter(None, (left, *more))
        return " ".join(filter(None, (left, *more)))

    def _sound(self, mulaw: bytes) -> None:
        if self._patience is not None and self._patience.when() is not None and not self._patience.expired():
            self._patience.reschedule(None)
        self._mouth.play(mulaw)
