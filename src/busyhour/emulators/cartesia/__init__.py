"""Cartesia's text to speech: the WebSocket with its contexts, and the bytes and SSE endpoints.

Source: Cartesia's API reference; judged by the official `cartesia` SDK. Text waits for the end of its sentence, at most
`max_buffer_delay_ms`; then it is spoken as `synthesis` says. A cancel does not silence what is being sent (see
`context`). Phoneme timestamps are not made.

Outcomes beside the common ones (the http_ ones befall connections and HTTP requests, all others contexts):
    zero_audio  success without a chunk: only "done"
    error       an error event instead of audio
    quota       the same, for want of credit: 402, "quota_exceeded"
    stall       half of the first sentence, then nothing, not even "done"
    hang        nothing, ever
    reset       the connection breaks
"""

from __future__ import annotations

from dataclasses import dataclass, field

from busyhour.emulators.behaviour import Constant, Latency
from busyhour.emulators.synthesis import OUTCOMES, VoiceTwin

__all__ = ["OUTCOMES", "Cartesia"]


@dataclass(kw_only=True, eq=False)
class Cartesia(VoiceTwin):
    """A twin of the Cartesia API as a Service, at http://127.0.0.1:PORT (ws:// for the socket).

    first_audio: from a sentence's text to its first chunk. The other settings are those of every VoiceTwin, the
    outcomes OUTCOMES. Raises PlanError for impossible settings.
    """

    _module = "busyhour.emulators.cartesia"
    first_audio: Latency = field(default_factory=lambda: Constant(90))
