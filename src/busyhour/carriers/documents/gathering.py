"""What a <Gather> gathers: the keys of the caller, until there are enough, or none come any more.

The first key ends the prompts; the time runs between keys, and from the end of the prompts to the first. Sources:
twilio.com/docs/voice/twiml/gather, developers.telnyx.com/docs/voice/programmable-voice/texml-verbs/gather.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from busyhour.carriers.documents.verbs import Gather


class Gathering:
    """One <Gather> that is being carried out. `hush` is called at the first key."""

    def __init__(self, verb: Gather, hush: Callable[[], None]) -> None:
        self.digits = ""
        self._verb = verb
        self._hush = hush
        self._begun = asyncio.Event()
        self._news = asyncio.Event()
        self._done = False

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def press(self, digit: str) -> None:
        if self._done:
            return
        if not self.begun:
            self._begun.set()
            self._hush()
        if digit in self._verb.finish_on_keys:
            self._done = True
        else:
            self.digits += digit
            self._done = len(self.digits) >= self._verb.digits_max
        self._news.set()

    async def pause(self, seconds: float) -> None:
        """So long, or until the first key."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._begun.wait()

    async def until_over(self) -> None:
        """The prompts are through: wait for keys, or for more."""
        while not self._done:
            self._news.clear()
            try:
                async with asyncio.timeout(self._verb.timeout_seconds):
                    await self._news.wait()
            except TimeoutError:
                return
