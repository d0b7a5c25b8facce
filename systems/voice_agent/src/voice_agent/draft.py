"""The text of a reply while it is being written."""

from __future__ import annotations

import asyncio
from collections import deque

from voice_agent.sentences import Sentences

FILLER = "One moment please."


class Draft:
    """One side writes it piece by piece, the other takes it sentence by sentence, or in less if it cannot wait.

    The writer must end it, and must bound its own waits. It may begin anew, if another goes on with what it began.
    """

    def __init__(self, text: str = "") -> None:
        self._cut = Sentences()
        self._whole: deque[str] = deque()
        self._said: list[str] = []  # all that was ever in `_whole`, and what was taken in less
        self._repeats = ""  # what the writer may be going to write once more
        self._begun = self._ended = False
        self.filled = False  # whether it was held up by a filler
        self._news = asyncio.Event()
        if text:
            self.write(text)
            self.end()

    @property
    def said(self) -> str:
        """What the caller is going to hear in any case: all whole sentences so far, and what was taken in less."""
        return " ".join(self._said)

    def write(self, piece: str) -> None:
        """An empty piece tells that more is coming: the reader may be held up by a filler."""
        self._begun = True
        for sentence in self._cut.feed(piece):
            self._add(sentence)
        self._news.set()

    def begin_anew(self) -> None:
        """The writer has failed, and another goes on: the unfinished sentence is dropped, and what the other repeats of
        the finished ones is passed over. It takes its time: the reader may be held up by a filler meanwhile."""
        self._cut.rest()
        self._repeats = self.said
        self._begun = True
        self._news.set()

    def pause(self) -> None:
        """The writer has something done before it goes on: what it has begun is a sentence."""
        self._add(self._cut.rest())
        self._news.set()

    def end(self) -> None:
        """There is no more to come. Harmless if it had ended."""
        self._add(self._cut.rest())
        self._ended = True
        self._news.set()

    def break_off(self, instead: str) -> None:
        """End it with something else in place of the sentence that is not complete."""
        self._cut.rest()
        self._repeats = ""
        self._add(instead)
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
        text = self._fresh(self._cut.clause() or (self._cut.words() if self.filled else ""))
        if text:
            self._said.append(text)
        else:
            self.filled = True
        return text or FILLER

    def _add(self, text: str) -> None:
        if text := self._fresh(text):
            self._whole.append(text)
            self._said.append(text)

    def _fresh(self, text: str) -> str:
        """Of the next of what is written, that which is no repetition."""
        if not self._repeats:
            return text
        if self._repeats.startswith(text):
            self._repeats = self._repeats[len(text) :].lstrip()
            return ""
        fresh = text.removeprefix(self._repeats).strip()
        self._repeats = ""
        return fresh
