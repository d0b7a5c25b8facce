"""Cuts a stream of text into sentences, so that the first can be spoken while the rest is being thought of."""

from __future__ import annotations

import re

_END = re.compile(r"[.!?…]+[\"')\]]*\s+")
_NO_END = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|St|No|vs|etc|e\.g|i\.e|a\.m|p\.m|[A-Z])\.\s+$")


class Sentences:
    """Feed it pieces of text; it gives whole sentences as soon as the next one begins.

    A full stop alone ends nothing ("3.50"), nor does one after an abbreviation ("Dr. Smith").
    """

    def __init__(self) -> None:
        self._text = ""
        self._searched = 0

    def feed(self, piece: str) -> list[str]:
        self._text += piece
        whole: list[str] = []
        while match := _END.search(self._text, self._searched):
            if _NO_END.search(self._text[: match.end()]):
                self._searched = match.end()
                continue
            whole.append(self._text[: match.end()].strip())
            self._text, self._searched = self._text[match.end() :], 0
        return whole

    def rest(self) -> str:
        """What is left when the stream has ended; "" if nothing is."""
        rest, self._text, self._searched = self._text.strip(), "", 0
        return rest
