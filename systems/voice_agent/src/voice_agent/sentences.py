"""Cuts a stream of text into sentences, so that the first can be spoken while the rest is being thought of."""

from __future__ import annotations

import re

_END = re.compile(r"[.!?…]+[\"')\]]*\s+")
_NO_END = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|St|No|vs|etc|e\.g|i\.e|a\.m|p\.m|[A-Z])\.\s*$")
_PAUSE = re.compile(r"[,;:—.!?…]+[\"')\]]*\s+|(?<!\d)[,;:—.!?…]+[\"')\]]*$")  # "3," may yet become "3,000"


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
            whole.append(self._take(match.end()))
        return whole

    def clause(self) -> str:
        """Of the unfinished sentence, what there is up to the last place where a speaker may pause; "" if none."""
        for match in reversed(list(_PAUSE.finditer(self._text))):
            before = self._text[: match.end()]
            if not _NO_END.search(before):
                return self._take(match.end()) if any(map(str.isalnum, before)) else ""
        return ""

    def words(self) -> str:
        """Of the unfinished sentence, the words that are known to be whole; "" if none."""
        return self._take(self._text.rfind(" ") + 1)

    def rest(self) -> str:
        """What is left when the stream has ended; "" if nothing is."""
        return self._take(len(self._text))

    def _take(self, end: int) -> str:
        taken, self._text, self._searched = self._text[:end].strip(), self._text[end:], 0
        return taken
