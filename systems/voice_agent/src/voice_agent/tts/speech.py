"""One reply, or what is left of one, on its way from text to sound at one vendor's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from voice_agent.audio import BYTES_PER_MS

CHARACTERS_PER_SECOND = 15  # of speech, for want of a better measure
_CANCEL_SECONDS = 0.2


class VoiceFailed(Exception):
    """No sound, or not all of it. `reason`: "no audio", "stalled", "lost", "not connected", "error 402", ..."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Connection(Protocol):
    """What a speech needs of its voice. Both raise VoiceFailed."""

    async def say(self, context: str, text: str, *, first: bool) -> None: ...

    async def finish(self, context: str) -> None: ...

    async def cancel(self, context: str) -> None: ...

    def forget(self, context: str) -> None: ...


class Speech:
    """A context at the vendor's: sentences in, sound and the times of its words out."""

    def __init__(
        self,
        voice: Connection,
        context: str,
        heard: Callable[[bytes], None],
        *,
        stall_seconds: float,
        trusting: bool = False,
    ) -> None:
        self.id = context
        self.trusting = trusting  # the defect tts_zero_audio_trusted
        self._voice = voice
        self._heard: Callable[[bytes], None] | None = heard
        self._stall_seconds = stall_seconds
        self._said: list[str] = []
        self._words: list[tuple[str, float]] = []  # and when each has been said, in seconds from the beginning
        self._bytes = 0
        self._problem = ""
        self._done = False
        self._news = asyncio.Event()

    async def say(self, sentence: str) -> None:
        """The next sentence; returns when it is sent. Raises VoiceFailed: it counts as said, but not as heard."""
        self._said.append(sentence)
        self._check()
        await self._voice.say(self.id, sentence + " ", first=len(self._said) == 1)

    async def finish(self) -> None:
        """No more sentences: returns when all sound is there. Raises VoiceFailed, also if there was no sound."""
        self._check()
        await self._voice.finish(self.id)
        while not self._done:
            self._check()
            self._news.clear()
            # Before the first sound the caller's patience is the limit, not ours between two pieces of it.
            stall_seconds = self._stall_seconds if self._bytes else None
            try:
                async with asyncio.timeout(stall_seconds):
                    await self._news.wait()
            except TimeoutError:
                raise VoiceFailed("stalled") from None
        self._voice.forget(self.id)
        self._check()
        if not self._bytes and not self.trusting:
            raise VoiceFailed("no audio")

    async def cancel(self) -> None:
        """Stop it at the vendor's; what it still sends is dropped. Harmless at any time."""
        self._voice.forget(self.id)
        self._heard = None
        if not self._done and self._said:
            try:
                async with asyncio.timeout(_CANCEL_SECONDS):
                    await self._voice.cancel(self.id)
            except TimeoutError:
                return  # it does not listen any more

    def give_up(self) -> str:
        """The voice has failed: keep what has become sound, and hand back the text of the rest."""
        heard, left = self.split(self.received_ms)
        self._said, self._done = [heard] if heard else [], True
        return left

    @property
    def text(self) -> str:
        return " ".join(self._said)

    @property
    def sounded(self) -> bool:
        return self._bytes > 0

    @property
    def received_ms(self) -> float:
        """How much sound there is so far."""
        return self._bytes / BYTES_PER_MS

    def split(self, played_ms: float) -> tuple[str, str]:
        """Its text so far: what the caller has heard after so many milliseconds of its sound, and what not."""
        text = self.text
        if self._done and self._bytes and played_ms >= self.received_ms:
            return text, ""
        end = 0
        for word, until_seconds in self._words:
            found = text.find(word, end)
            if until_seconds * 1000 > played_ms or found < 0:
                break
            end = found + len(word)
        if not self._words:  # a guess, cut back to whole words
            end = text.rfind(" ", 0, int(played_ms / 1000 * CHARACTERS_PER_SECOND) + 1)
        while 0 < end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
            end -= 1  # some vendors time parts of words
        return text[: max(end, 0)].strip(), text[max(end, 0) :].strip()

    # What the connection tells.

    def sound(self, mulaw: bytes) -> None:
        if mulaw and self._heard is not None:
            self._bytes += len(mulaw)
            self._heard(mulaw)
            self._news.set()

    def timed(self, words: Sequence[tuple[str, float]]) -> None:
        self._words += words

    def timed_from_here(self, words: Sequence[tuple[str, float]]) -> None:
        """The same, for words whose sound comes next: their times begin where the sound has got to."""
        here = self.received_ms / 1000
        self._words += [(word, here + until) for word, until in words]

    def end(self) -> None:
        self._done = True
        self._news.set()

    def fail(self, reason: str) -> None:
        self._problem = self._problem or reason
        self._news.set()

    def _check(self) -> None:
        if self._problem:
            self._voice.forget(self.id)
            raise VoiceFailed(self._problem)
