"""The text of a reply while it is being written."""

from __future__ import annotations

import asyncio
from collections import deque

from voice_agent.sentences import Sentences

FILLER = "One moment please."


class Draft:
    """One side writes it piece by piece, the other takes it sentence by sentence, or in less if it cannot wait.

    The writer must end it, and must bound its own waits.
    """

    def __init__(self, text: str = "") -> None:
        self._cut = Sentences()
        self._whole: deque[str] = deque()
        self._begun = self._ended = False
        self.filled = False  # whether it was held up by a filler
        self._news = asyncio.Event()
        if text:
            self.write(text)
            self.end()

    def write(self, piece: str) -> None:
        self._begun = True
        self._whole.extend(self._cut.feed(piece))
        self._news.set()

    def end(self) -> None:
        """There is no more to come. Harmless if it had ended."""
        if rest := self._cut.rest():
            self._whole.append(rest)
        self._ended = True
        self._news.set()

    def break_off(self, instead: str) -> None:
        """End it with something else in place of the sentence that is not complete."""
        self._cut.rest()
        self._whole.append(instead)
        self.end()

    def ready(self) -> list[str]:
        """Take all sentences that there are now."""
        whole = list(self._whole)
        self._whole.clear()
        return whole

    async def next(self, by: float) -> str | None:
        """Take the next sentence; None after the last.

        If there is none at `by` (on the loop's clock), whatever can be said then: the sentence in progress up to a
        comma; else "one moment please", once; after that, its words. A reply without any word is not given up here but
        by its writer. May be cancelled: nothing is lost.
        """
        loop = asyncio.get_running_loop()
        while not self._whole and not self._ended:
            if self._begun and loop.time() >= by:
                return self._stopgap()
            self._news.clear()
            try:
                async with asyncio.timeout_at(by if self._begun else None):
                    await self._news.wait()
            except TimeoutError:
                continue
        return self._whole.popleft() if self._whole else None

    def _stopgap(self) -> str:
        text = self._cut.clause() or (self._cut.words() if self.filled else "")
        if not text:
            self.filled = True
        return text or FILLER
