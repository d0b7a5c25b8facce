"""When the caller begins to speak and when they have finished: end-pointing by silence."""

from __future__ import annotations

from enum import Enum

from voice_agent.audio import FRAME_MS
from voice_agent.vad import Vad


class Edge(Enum):
    STARTED = "started"
    ENDED = "ended"


class TurnTaking:
    """Turns "this frame is speech" into the two edges of an utterance.

    It starts once `start_ms` of speech outweigh the silence between (a click or a breath does not), and ends after
    `stop_ms` without any speech.
    """

    def __init__(self, vad: Vad, *, start_ms: int, stop_ms: int) -> None:
        self._vad = vad
        self._start_ms = start_ms
        self._stop_ms = stop_ms
        self._evidence_ms = 0
        self._silence_ms = 0
        self.speaking = False
        self.spoken_ms = 0  # sound judged to be speech in the utterance in progress, or in the last one

    def hear(self, frame: bytes) -> Edge | None:
        """The edge that this frame of 20 ms brings about."""
        speech = self._vad.is_speech(frame)
        if self.speaking:
            return self._within(speech)
        self._evidence_ms = max(0, self._evidence_ms + (FRAME_MS if speech else -FRAME_MS))
        if self._evidence_ms < self._start_ms:
            return None
        self.speaking, self._silence_ms, self.spoken_ms = True, 0, self._evidence_ms
        return Edge.STARTED

    def _within(self, speech: bool) -> Edge | None:
        if speech:
            self._silence_ms = 0
            self.spoken_ms += FRAME_MS
            return None
        self._silence_ms += FRAME_MS
        if self._silence_ms < self._stop_ms:
            return None
        self.speaking, self._evidence_ms = False, 0
        return Edge.ENDED
