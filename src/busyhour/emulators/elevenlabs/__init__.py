"""ElevenLabs' text to speech: the two WebSockets (stream-input, multi-stream-input) and the HTTP endpoints.

Source: ElevenLabs' API reference and its guides on WebSockets, errors as clients have met them on the wire; judged by
the official `elevenlabs` SDK. Text is spoken as `synthesis` says, in PCM, mu-law or A-law: MP3 and Opus, the vendor's
default among them, would need an encoder, and are refused with its "output_format_not_allowed". Any voice's ID will do.

Decided where the documentation leaves it open: text waits for `chunk_length_schedule` characters and is then spoken up
to the end of its last sentence, in auto mode at once; close_context and close_socket end what was set to be spoken,
and drop the rest; every chunk has its alignment, whose times begin at zero (over HTTP: at the request's first audio).

Outcomes beside the common ones (the http_ ones befall connections and HTTP requests, all others contexts):
    zero_audio  success without a chunk: only "isFinal", as over quota on a socket
    quota       quota_exceeded: 401 over HTTP, an error and close code 1008 on a socket
    error       something went wrong: 500 over HTTP, an error and close code 1008 on a socket
    stall       half of the first sentence, then nothing, not even "isFinal"
    hang        nothing, ever
    reset       the connection breaks
"""

from __future__ import annotations

from dataclasses import dataclass, field

from busyhour.emulators.behaviour import Constant, Latency
from busyhour.emulators.synthesis import OUTCOMES, VoiceTwin

__all__ = ["OUTCOMES", "ElevenLabs"]


@dataclass(kw_only=True, eq=False)
class ElevenLabs(VoiceTwin):
    """A twin of the ElevenLabs API as a Service, at http://127.0.0.1:PORT (clients swap the scheme to ws).

    first_audio: from text that is to be spoken to its first chunk. The other settings are those of every VoiceTwin, the
    outcomes OUTCOMES. Raises PlanError for impossible settings.
    """

    _module = "busyhour.emulators.elevenlabs"
    first_audio: Latency = field(default_factory=lambda: Constant(120))
